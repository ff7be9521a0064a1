"""A run as a SkyPilot task, for any cloud."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from rwp_dist.config import load_settings

RUNS = "/runs"
"""A bucket, so that a run outlives its nodes. Cached, because only then files can be appended to
(``metrics.jsonl``, ``attempts.tsv``) and a checkpoint does not wait for its upload."""

SETUP = "pip install --quiet -c constraints.txt '.[fast,cloud]'\n"

RUN = """\
torchrun --nnodes "$SKYPILOT_NUM_NODES" --node-rank "$SKYPILOT_NODE_RANK" \\
  --nproc-per-node "$SKYPILOT_NUM_GPUS_PER_NODE" \\
  --master-addr "$(head -n1 <<<"$SKYPILOT_NODE_IPS")" --master-port 29500 \\
  -m rwp_dist train {arguments}
"""


def task(config: Path, overrides: Sequence[str], nodes: int, accelerators: str, spot: bool) -> str:
    """The task as YAML, with this checkout as working directory and run directories in a bucket.

    Raises:
        ConfigError: the settings are wrong.
    """
    settings = load_settings(config, overrides)
    place = f"run.dir={RUNS}/{config.stem}/{settings.run.name}"
    resources: dict[str, object] = {"accelerators": accelerators}
    if spot:
        resources["use_spot"] = True
    known = {
        "name": _name(str(settings.run.name)),
        "num_nodes": nodes,
        "resources": resources,
        "workdir": ".",
        "file_mounts": {RUNS: {"name": "rwp-runs", "mode": "MOUNT_CACHED"}},
        # Given at launch (`sky launch --secret WANDB_API_KEY`), so never in this file.
        "secrets": {"WANDB_API_KEY": None},
        "setup": SETUP,
        "run": RUN.format(arguments=shlex.join([str(config), *overrides, place])),
    }
    return yaml.dump(known, Dumper=_Blocks, sort_keys=False, allow_unicode=True)


def _name(text: str) -> str:
    """A name as SkyPilot wants it: small letters, digits and hyphens, a letter first."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return name if name[:1].isalpha() else f"run-{name}".strip("-")


class _Blocks(yaml.SafeDumper):
    """Writes text of several lines as a block, not as one quoted line."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Blocks.add_representer(str, _text)
