"""environment.json."""

import json
import os
import sys

from rwp_dist.record.environment import environment


def test_environment_is_json_and_names_versions() -> None:
    found = environment(world_size=4, gpus=["H200"])
    assert json.loads(json.dumps(found)) == found
    assert found["world_size"] == 4
    assert found["gpus"] == ["H200"]
    assert found["argv"] == sys.argv
    assert found["packages"]["torch"].count(".") >= 1
    assert found["num_cpus"] == os.cpu_count()
