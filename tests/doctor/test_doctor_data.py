import pytest
from support.examining import CONFIG, doctor, findings

from rwp_dist.config import load_settings
from rwp_dist.doctor import shards
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding, Step, findings_of
from rwp_dist.shards.digits import write_digits


def reach(*overrides: str) -> list[Finding]:
    case = Case(load_settings(CONFIG, overrides))
    step = Step("data", "training", lambda: shards.reachable(case, case.training, "training"))
    return findings_of(step)


def test_a_whole_examination_ends_well_and_says_how_fast_the_data_is(tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    options = (f"data.train={folder}/train", f"data.val={folder}/test", f"run.dir={folder}/run")
    done = doctor(CONFIG, *options, "--json")
    found = findings(done)
    assert done.returncode == 0, done.stdout
    speed = found["speed"]["figures"]
    assert speed["images"] == 250 and speed["bad"] == 0
    assert speed["images_per_s"] > 0 and speed["images_per_s_core"] > 0
    assert found["training"]["figures"]["samples"] == 1000
    assert found["evaluation"]["figures"]["samples"] == 797
    assert found["all-reduce (gloo)"]["figures"]["bytes_per_s"] > 1e6
    assert not (folder / "run").exists()
    groups = {f["group"] for f in found.values()}
    assert groups == {
        *("software", "gpus", "compiler", "limits", "disks", "memory", "noise", "data"),
        *("tracking", "network", "clock"),
    }


def test_a_server_that_is_not_there_is_a_problem_soon(tmp_path) -> None:
    [problem] = reach("data.train=http://127.0.0.1:9/train", f"data.cache_dir={tmp_path}")
    assert problem.state == "problem"
    assert "http://127.0.0.1:9/train/manifest.json" in problem.seen
    assert "Connection refused" in problem.seen and "2 attempts" in problem.seen
    assert problem.cure


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_shard_is_a_problem_that_names_it(damage, tmp_path) -> None:
    write_digits(tmp_path)
    shard = sorted((tmp_path / "train").glob("*.tar"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:-512] if damage == "cut" else bytes(len(data)))
    [problem] = reach(f"data.train={tmp_path}/train")
    assert problem.state == "problem" and shard.name in problem.seen
    assert "rwp-dist shards index" in problem.cure
