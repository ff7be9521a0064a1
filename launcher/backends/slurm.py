"""A Slurm cluster, 22.05 or newer, with or without accounting."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from launcher.backends import Found, LaunchError, refuse
from launcher.job import Job

SETTINGS_LINE, JOB_LINE = "# --- settings ---", "# --- job ---"
"""Between them the job script has its settings; before them its header, after them its body."""

QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED"}
QUEUED |= {"SPECIAL_EXIT", "RESV_DEL_HOLD", "STOPPED"}
RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"}

LEAD_S = 600
"""How long before the time limit the job script's own header asks for a checkpoint."""

SBATCH_NAMES = {"time": "TIMELIMIT", "array": "ARRAY_INX", "mem": "MEM_PER_NODE"}
"""Variables of sbatch that are not named as its options are."""

SBATCH_NEVER = {"SBATCH_COMMENT", "SBATCH_SIGNAL", "SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE"}
SLURM_ALWAYS = {"SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS"}
"""They say which cluster, and who asks."""


class Slurm:
    """``sbatch``, ``squeue``, ``scontrol`` and ``scancel``; ``sacct`` where it answers."""

    def render(self, jobs: Sequence[Job]) -> str:
        """The project's job script with another header and other settings; its body is verbatim."""
        template = resources.files("launcher").joinpath("imagenet_rwp.sh").read_text("utf-8")
        head, rest = template.split(f"{SETTINGS_LINE}\n", 1)
        settings, body = rest.split(f"{JOB_LINE}\n", 1)
        wants = jobs[0].resources
        if wants.container:
            refuse(wants, ("venv",), "a container has a Python of its own")
        else:
            refuse(wants, ("container_runtime",), "there is no --container for it")
        settings = _assign(settings, _values(jobs[0]))
        return (
            f"{_header(head, _options(jobs))}{SETTINGS_LINE}\n{settings}{_choose(jobs)}\n"
            f"{JOB_LINE}\n{body}"
        )

    def command(self, jobs: Sequence[Job]) -> list[str]:
        """The token is a comment, which Slurm keeps with the job whether or not it accounts."""
        return ["sbatch", "--parsable", f"--comment={jobs[0].token}"]

    def submit(self, jobs: Sequence[Job], script: str) -> str:
        """Queue it; returns the job's number."""
        environment = _environment(os.environ, _options(jobs))
        printed = _run(self.command(jobs), stdin=script, env=environment)
        return printed.strip().splitlines()[-1].partition(";")[0]  # id;cluster

    def find(self, jobs: Sequence[Job]) -> list[Found | None]:
        """From the queue; what has left it ``scontrol`` knows for minutes, ``sacct`` for good."""
        found: list[Found | None] = [None] * len(jobs)
        for source in (_squeue, _scontrol, _sacct):
            left = [job for job, known in zip(jobs, found, strict=True) if known is None]
            if not left:
                break
            listed = list(source(left))
            found = [
                known or next(_matching(job, listed), None)
                for job, known in zip(jobs, found, strict=True)
            ]
        return found

    def cancel(self, jobs: Sequence[Job]) -> None:
        """``scancel``: the job script hands the signal to the ranks and does not requeue."""
        ids = [job.full_id for job in jobs if job.id is not None]
        if ids:
            _run(["scancel", *ids])

    def output(self, job: Job) -> list[Path]:
        """One file for a job, which its further attempts append to."""
        name = f"slurm-{job.full_id}.out" if job.id else "slurm-*.out"
        return sorted(job.output.glob(name), key=lambda path: path.stat().st_mtime)


# --- the script ---


def _options(jobs: Sequence[Job]) -> dict[str, str | None]:
    """Options of the header; None takes one out."""
    job, wants = jobs[0], jobs[0].resources
    is_array = job.task is not None
    options: dict[str, str | None] = {
        "job-name": job.folder.name if is_array else job.name,
        "output": f"{job.output}/slurm-{'%A_%a' if is_array else '%j'}.out",
        # Where Python looks first, before it is told to look elsewhere (3.11).
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
        options[name] = value
    limit_s = _seconds(options.get("time") or "")
    if limit_s and limit_s < 4 * LEAD_S:  # else it would be told to stop as soon as it starts
        options.setdefault("signal", f"B:USR1@{max(1, limit_s // 4)}")
    return options


def _seconds(limit: str) -> int | None:
    """A time limit in seconds: ``minutes[:seconds]``, ``h:m:s`` or ``days-h[:m[:s]]``."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not match:
        return None  # UNLIMITED, or what sbatch will refuse
    days, first, second, third = (int(text or 0) for text in match.groups())
    if match[1] is None and match[4] is None:  # minutes:seconds
        return 60 * first + second
    return 86_400 * days + 3_600 * first + 60 * second + third


def _environment(inherited: Mapping[str, str], options: Mapping[str, str | None]) -> dict[str, str]:
    """What sbatch gets: Slurm would put SBATCH_* before what the script says.

    A person's own option comes first, and so does what the script cannot do without. SLURM_* are
    those of a job that this is called from, and would become those of the new one.
    """
    drop = {f"SBATCH_{SBATCH_NAMES.get(o, o.upper().replace('-', '_'))}" for o in options}
    return {
        name: value
        for name, value in inherited.items()
        if name not in drop | SBATCH_NEVER
        and (not name.startswith("SLURM_") or name in SLURM_ALWAYS)
    }


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
    """The header with these options in place of its own, new ones below the last."""
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
    # A value with spaces is quoted as a shell would; sbatch takes quotes off.
    return f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else "")


def _values(job: Job) -> dict[str, str]:
    """Settings of the job script that are known here."""
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
    """``NAME="${NAME:-default}"`` becomes ``NAME=value`` or ``NAME="default"``.

    So no variable of the environment that happens to have such a name changes a job.
    """
    left = dict(values)

    def replaced(match: re.Match[str]) -> str:
        default = f'"{match[2]}"' if match[2] else ""
        return f"{match[1]}={left.pop(match[1], default)}{match[3] or ''}"

    text = re.sub(r'^(\w+)="\$\{\1:-(.*?)\}"(  #.*)?$', replaced, settings, flags=re.MULTILINE)
    assert not left, f"the job script has no setting {', '.join(left)}"
    return text


def _choose(jobs: Sequence[Job]) -> str:
    """The run's own arguments; those of an array by the task's number."""
    job = jobs[0]
    cache = ""
    if job.resources.container and job.cache:  # what is not there cannot be mounted
        cache = f"srun mkdir -p {shlex.quote(job.cache)}\n"
    if job.task is None:
        return f"{cache}set -- {shlex.quote(str(job.settings))}\n"
    cases = [
        f"    {job.task}) RUN_DIR={shlex.quote(str(job.run_dir))} "
        f"&& set -- {shlex.quote(str(job.settings))} ;;\n"
        for job in jobs
    ]
    return f'{cache}case "$SLURM_ARRAY_TASK_ID" in\n{"".join(cases)}esac\n'


# --- what Slurm knows ---


def _squeue(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """This user's jobs of the queue, whichever are asked for, as far as this needs them."""
    for job in json.loads(_run(["squeue", "--me", "--json"])).get("jobs", []):
        states = job["job_state"]
        yield {
            "id": str(_number(job.get("array_job_id")) or _number(job["job_id"])),
            "task": _number(job.get("array_task_id")),
            "tasks": job.get("array_task_string") or "",
            "comment": job.get("comment") or "",
            "states": {states} if isinstance(states, str) else set(states),
            "nodes": job.get("nodes") or "",
            "reason": job.get("state_reason") or "",
            "exit": "",
        }


def _scontrol(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """The same of ``scontrol``, which knows ended jobs for some minutes more."""
    for line in _run(["scontrol", "--oneliner", "show", "jobs"]).splitlines():
        words = dict(re.findall(r"(\w+)=(\S*)", line))
        comment = re.search(r" Comment=(.*?)(?= \w+=|$)", line)
        if "JobId" not in words:
            continue
        task = words.get("ArrayTaskId", "")
        yield {
            "id": words.get("ArrayJobId", words["JobId"]),
            "task": int(task) if task.isdigit() else None,
            "tasks": "" if task.isdigit() else task,
            "comment": comment[1] if comment else "",
            "states": {words["JobState"]},
            "nodes": "" if words.get("NodeList") == "(null)" else words.get("NodeList", ""),
            "reason": words.get("Reason", ""),
            "exit": words.get("ExitCode", ""),
        }


def _sacct(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """What the accounts say of jobs whose number is known; nothing where there are none."""
    ids = sorted({job.id for job in jobs if job.id is not None})
    for line in _accounts(",".join(ids)).splitlines() if ids else ():
        number, state, code, nodes, comment = line.split("|", 4)
        job, _, task = number.partition("_")
        yield {
            "id": job,
            "task": int(task) if task.isdigit() else None,
            "tasks": "" if task.isdigit() else task,
            "comment": comment,
            "states": {state.partition(" ")[0]},  # CANCELLED by 1000
            "nodes": "" if nodes == "None assigned" else nodes,
            "reason": "",
            "exit": code,
        }


@lru_cache(maxsize=1)  # what has ended stays as it is, and `status --watch` asks again and again
def _accounts(ids: str) -> str:
    fields = "JobID,State,ExitCode,NodeList,Comment"
    command = ["sacct", "--allocations", "--noheader", "--parsable2", f"--format={fields}"]
    try:
        return _run([*command, f"--jobs={ids}"])
    except LaunchError:
        return ""


def _ending(states: set[str], code: str) -> str:
    """``FAILED, exit code 65`` or ``FAILED, signal 9``, of Slurm's ``65:0`` and ``0:9``."""
    status, _, number = code.partition(":")
    more = f", exit code {status}" if status not in ("", "0") else ""
    more += f", signal {number}" if number not in ("", "0") else ""
    return " ".join(sorted(states)) + more


def _number(value: Any) -> int | None:
    """A number of Slurm's JSON, which newer versions wrap: ``{"set": true, "number": 3}``."""
    if isinstance(value, dict):
        return int(value["number"]) if value.get("set", True) else None
    return None if value is None else int(value)


def _matching(job: Job, listed: Sequence[dict[str, Any]]) -> Iterator[Found]:
    """Entries of a job: its own task before what is said of several tasks that wait."""
    # A cluster's plugins may put more into the comment.
    own = [j for j in listed if job.token in j["comment"]]
    own = own or [j for j in listed if j["id"] == job.id and not j["comment"]]
    if job.task is None:
        chosen = own
    else:
        chosen = [j for j in own if j["task"] == job.task and not j["tasks"]]
        chosen += [j for j in own if j["tasks"]]
    for entry in chosen:
        states = entry["states"]
        state = "queued" if states & QUEUED else "running" if states & RUNNING else "ended"
        reason = entry["reason"] if state == "queued" else _ending(states, entry["exit"])
        yield Found(entry["id"], state, entry["nodes"], reason)  # type: ignore[arg-type]


def _run(command: list[str], stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, input=stdin, env=env, capture_output=True, text=True)
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]}: there is no such program here; log in to a node of the cluster, or "
            "choose another --backend."
        ) from None
    if done.returncode:
        words = done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}"
        raise LaunchError(f"{command[0]} refused: {words}")
    return done.stdout
