"""The job script that is submitted: ``slurm/imagenet_rwp.sh`` with another header and settings."""

import re
import shlex
from collections.abc import Sequence
from importlib import resources

from launcher.job import Job
from launcher.limit import SAVE_S, limit_seconds, save_seconds
from rwp_dist.base.errors import ConfigError

SETTINGS_LINE, JOB_LINE = "# --- settings ---", "# --- job ---"
"""The script's settings are between these lines, its header before them, its body after them."""

ASK_FOR_GPUS = ("gpus-per-node", "gres", "gpus", "gpus-per-task")
"""Options of sbatch of which one is enough."""


def render(jobs: Sequence[Job]) -> str:
    """The script of one job, or of several as one array. Its body is the project's, verbatim."""
    template = resources.files("launcher").joinpath("imagenet_rwp.sh").read_text("utf-8")
    head, rest = template.split(f"{SETTINGS_LINE}\n", 1)
    settings, body = rest.split(f"{JOB_LINE}\n", 1)
    return (
        f"{_header(head, options_of(jobs))}{SETTINGS_LINE}\n"
        f"{_assign(settings, _values(jobs[0]))}{_choose(jobs)}\n{JOB_LINE}\n{body}"
    )


def options_of(jobs: Sequence[Job]) -> dict[str, str | None]:
    """Options of sbatch for the header; None removes one that the header has."""
    job, wants = jobs[0], jobs[0].resources
    is_array = job.task is not None
    options: dict[str, str | None] = {
        "job-name": job.folder.name if is_array else job.name,
        # Of a per cent sign, sbatch makes numbers and names.
        "output": f"{job.output}/".replace("%", "%%")
        + f"slurm-{'%A_%a' if is_array else '%j'}.out",
        # Python before 3.11 imports from the working directory first.
        "chdir": str(job.code),
        "nodes": str(wants.nodes),
        "gpus-per-node": str(wants.gpus) if wants.gpus else None,
    }
    given = {
        "cpus-per-task": wants.cpus,
        "time": wants.time,
        "partition": wants.partition,
        "account": wants.account,
    }
    options |= {name: str(value) for name, value in given.items() if value is not None}
    if is_array:
        limit = f"%{wants.parallel}" if wants.parallel else ""
        options["array"] = f"{_ranges([int(j.task or 0) for j in jobs])}{limit}"
    for option in wants.options:
        name, _, value = option.partition("=")
        if name in ASK_FOR_GPUS:  # as a cluster wants it that does not know the usual option
            options["gpus-per-node"] = None
        options[name] = value
    asked = options.get("time")
    limit_s = limit_seconds(asked) if asked else None
    if limit_s and save_seconds(limit_s) < SAVE_S:  # else it would be told to stop as it starts
        options.setdefault("signal", f"B:USR1@{save_seconds(limit_s)}")
    return options


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3,7`` of increasing numbers."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(f"{g[0]}-{g[-1]}" if len(g) > 1 else f"{g[0]}" for g in groups)


def _header(head: str, options: dict[str, str | None]) -> str:
    """The header with these options in place of its own; new ones follow its last."""
    left = dict(options)
    lines: list[str] = []
    last = 0
    for line in head.splitlines():
        match = re.match(r"#SBATCH --([\w-]+)", line)
        if match and match[1] in left:
            value = left.pop(match[1])
            line = "" if value is None else _sbatch(match[1], value)
            if not line:
                continue
        lines.append(line)
        last = len(lines) if match else last
    new = [_sbatch(name, value) for name, value in left.items() if value is not None]
    return "\n".join([*lines[:last], *new, *lines[last:]]) + "\n"


def _sbatch(name: str, value: str) -> str:
    if "\n" in value:
        raise ConfigError(
            f"{value!r} has a line break, which sbatch takes for the end of --{name}",
            key="run.dir" if name in ("output", "chdir") else None,
            cure="choose a name without one",
        )
    # sbatch removes a shell's quotes.
    return f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else "")


def _values(job: Job) -> dict[str, str]:
    """Values for the settings of the job script."""
    wants = job.resources
    given = {
        "CODE": job.code,
        "RUN_DIR": job.run_dir,
        "RANKS_PER_NODE": wants.ranks_per_node,
        "SECRETS": wants.secrets,
        "CONTAINER": wants.container,
        "CONTAINER_RUNTIME": wants.container_runtime,
        "VENV": wants.venv,
        "MAX_ATTEMPTS": wants.max_attempts,
    }
    values = {name: shlex.quote(str(value)) for name, value in given.items() if value is not None}
    if wants.container:
        folders = (*job.data, *([job.cache] if job.cache else []))
        values["CONTAINER_MOUNTS"] = shlex.quote(",".join(f"{f}:{f}" for f in folders))
    return values


def _assign(settings: str, values: dict[str, str]) -> str:
    """Replace ``NAME="${NAME:-default}"`` by ``NAME=value`` or ``NAME="default"``.

    So a variable of the environment that happens to have such a name does not change the job.
    """
    left = dict(values)

    def replaced(match: re.Match[str]) -> str:
        default = f'"{match[2]}"' if match[2] else ""
        return f"{match[1]}={left.pop(match[1], default)}{match[3] or ''}"

    text = re.sub(r'^(\w+)="\$\{\1:-(.*?)\}"(  #.*)?$', replaced, settings, flags=re.MULTILINE)
    assert not left, f"the job script has no setting {', '.join(left)}"
    return text


def _choose(jobs: Sequence[Job]) -> str:
    """Lines that set the run's arguments; for an array, by the number of the task."""
    job = jobs[0]
    cache = ""
    if job.resources.container and job.cache:  # a missing folder cannot be mounted
        cache = f"srun mkdir -p {shlex.quote(job.cache)}\n"
    if job.task is None:
        return f"{cache}set -- {shlex.quote(str(job.settings))}\n"
    cases = [
        f"    {job.task}) RUN_DIR={shlex.quote(str(job.run_dir))} "
        f"&& set -- {shlex.quote(str(job.settings))} ;;\n"
        for job in jobs
    ]
    return f'{cache}case "$SLURM_ARRAY_TASK_ID" in\n{"".join(cases)}esac\n'
