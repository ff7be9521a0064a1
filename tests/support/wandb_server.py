"""A server on loopback that speaks as much of W&B's protocol as its client needs for runs."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Artifact:
    """Files of a run, in one version."""

    type: str
    digest: str
    files: list[str] = field(default_factory=list)
    committed: bool = False


@dataclass
class Recorded:
    """What the server knows of a run."""

    id: str
    project: str
    upserts: list[dict[str, Any]] = field(default_factory=list)
    """Variables of every UpsertBucket: name, group, tags, notes, config, ..."""
    lines: dict[int, str] = field(default_factory=dict)
    """Rows of the history by offset, as W&B stores them."""
    came: dict[int, float] = field(default_factory=dict)
    """When each row came, in seconds."""
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    exit_code: int | None = None
    preempting: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[n]) for n in sorted(self.lines)]

    def shown(self, lag_s: float) -> list[str]:
        """Rows that the server shows by now, in their order."""
        until = time.monotonic() - lag_s
        return [self.lines[n] for n in sorted(self.lines) if self.came[n] <= until]

    def seen(self) -> list[tuple[str, int]]:
        """Kind and ``global_step`` of each row: perturb/... and data/... belong to train."""
        kinds = []
        for row in self.rows:
            sections = {name.partition("/")[0] for name in row if "/" in name}
            kind = next(iter(sections & {"eval", "checkpoint"}), "train")
            kinds.append((kind, row["global_step"]))
        return kinds

    def setting(self, name: str) -> Any:
        """The newest value of a variable of UpsertBucket."""
        return next((u[name] for u in reversed(self.upserts) if u.get(name) is not None), None)


@dataclass
class Sweep:
    """A sweep of W&B's own, which `wandb agent` asks for its points."""

    config: str
    """YAML."""
    program: str
    points: list[dict[str, Any]]


class WandbServer:
    """Runs by identity. ``broken``: an HTTP status that every request gets instead of an answer."""

    def __init__(self, port: int = 0) -> None:
        self.runs: dict[str, Recorded] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.unknown: list[str] = []
        """First lines of queries that it could not answer."""
        self.requests = 0
        self.broken: int | None = None
        self.delay_s = 0.0
        self.lag_s = 0.0
        """How late rows are shown, in seconds."""
        self.released = threading.Event()
        """Ends all delays."""
        self._lock = threading.Lock()
        self._start(port)

    def _start(self, port: int) -> None:
        self._http = _Quiet(("127.0.0.1", port), _handler(self))
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Be away: connections are refused."""
        self._http.shutdown()
        self._http.server_close()

    def restart(self) -> None:
        """Come back on the same port, with all runs."""
        self._start(self.port)

    def environment(self) -> dict[str, str]:
        """Variables with which W&B's client finds this server, and has a login."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The answer's ``data``."""
        found = re.search(r"(query|mutation)\s+(\w+)", query)
        name = found[2] if found else query[:80]
        # UpsertBucket is answered by upsert_bucket.
        answer = getattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", f"{name}").lower(), None)
        if answer is None:
            self.unknown.append(f"{name} {json.dumps(variables)[:300]} {query[:1500]}")
            return {}
        with self._lock:
            return answer(variables)

    def viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "u", "entity": "team", "username": "user", "email": "u@example.com"}
        return {"viewer": {**viewer, "flags": "{}", "teams": {"edges": []}, "admin": False}}

    get_default_entity = viewer

    def run_resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        if run is None:
            return {"model": {"id": "p", "name": variables["project"], "bucket": None}}
        bucket = {
            "name": run.id,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.setting("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps([run.lines[n] for n in sorted(run.lines)[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": run.setting("tags") or [],
            "wandbConfig": json.dumps({"t": 1}),
        }
        entity = {"id": "e", "name": "team"}
        return {"model": {"id": "p", "name": run.project, "entity": entity, "bucket": bucket}}

    def upsert_bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        identity = variables.get("name") or variables.get("id")
        created = identity not in self.runs
        run = self.runs.setdefault(identity, Recorded(identity, variables.get("project") or ""))
        run.upserts.append(variables)
        if variables.get("config"):
            run.config |= json.loads(variables["config"])
        project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": "team"}}
        bucket = {
            "id": f"storage-{identity}",
            "name": identity,
            "displayName": run.setting("displayName"),
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.lines),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": created}}

    def create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables.get("files", [])
        ]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        if run is None:
            return {"project": {"internalId": "1", "run": None}}
        fragment = {
            "id": f"storage-{run.id}", "projectId": "1", "tags": [], "name": run.id,
            "displayName": run.setting("displayName"), "sweepName": None, "state": "running",
            "config": json.dumps(run.config), "group": None, "jobType": None, "commit": None,
            "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": None,
            "description": None, "notes": None, "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.lines),
            "historyKeys": {"lastStep": len(run.shown(self.lag_s)) - 1},
            "user": {"id": "u", "username": "user", "name": "user"},
        }  # fmt: skip
        return {"project": {"internalId": "1", "run": fragment}}

    def run_history_keys(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[variables.get("run") or variables.get("name")]
        keys = {"lastStep": len(run.lines) - 1, "keys": {}, "sets": []}
        return {"project": {"run": {"historyKeys": keys}}}

    def run_parquet_history(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[variables.get("runName") or variables.get("name")]
        rows = [json.loads(line) for line in run.shown(self.lag_s)]
        history = {"parquetUrls": [], "liveData": rows}
        return {"project": {"run": {"parquetHistory": history}}}

    def history_page(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[variables["run"]]
        low, high = variables.get("minStep", 0), variables.get("maxStep", 1 << 60)
        rows = [line for line in run.shown(self.lag_s) if low <= json.loads(line)["_step"] < high]
        return {"project": {"run": {"history": rows}}}

    def server_features_query(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def artifact_type(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def create_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables["input"]
        name = asked.get("artifactCollectionName") or asked["artifactCollectionNames"][0]
        run = self.runs[asked["runName"]]
        known = run.artifacts.get(name)
        same = known is not None and known.digest == asked["digest"]
        if not same:
            run.artifacts[name] = Artifact(asked["artifactTypeName"], asked["digest"])
        sequence = {"id": "s", "name": name, "latestArtifact": {"id": "l", "versionIndex": 0}}
        state = "COMMITTED" if same else "PENDING"
        artifact = {"id": f"{run.id}/{name}", "state": state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def create_artifact_manifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "uploadUrl": f"{self.url}/upload/manifest", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def create_artifact_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in variables["input"]["artifactFiles"]:
            run, name = spec["artifactID"].split("/", 1)
            self.runs[run].artifacts[name].files.append(spec["name"])
            node = {
                "storagePath": "x",
                "uploadUrl": f"{self.url}/upload/{spec['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def commit_artifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        run, name = variables["artifactID"].split("/", 1)
        artifact = self.runs[run].artifacts[name]
        artifact.committed = True
        committed = {"id": variables["artifactID"], "digest": artifact.digest}
        return {"commitArtifact": {"artifact": committed}}

    def artifact_by_i_d(self, variables: dict[str, Any]) -> dict[str, Any]:
        run, name = variables["id"].split("/", 1)
        artifact = self.runs[run].artifacts[name]
        entity = {"id": "e", "name": "team"}
        project = {"id": "p", "internalId": "1", "name": self.runs[run].project, "entity": entity}
        sequence = {"__typename": "ArtifactSequence", "name": name, "project": project}
        known = {
            "__typename": "Artifact", "id": variables["id"], "versionIndex": 0,
            "artifactSequence": sequence,
            "artifactType": {"name": artifact.type}, "description": None, "metadata": "{}",
            "ttlDurationSeconds": -2, "ttlIsInherited": True, "tags": [], "historyStep": None,
            "state": "COMMITTED" if artifact.committed else "PENDING", "size": 1,
            "digest": artifact.digest, "commitHash": "c", "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00", "updatedAt": None, "aliases": [],
        }  # fmt: skip
        return {"artifact": known}

    def sweep_with_runs(self, variables: dict[str, Any]) -> dict[str, Any]:
        sweep = {
            "id": variables["sweep"],
            "name": variables["sweep"],
            "method": "grid",
            "state": "RUNNING",
            "config": self.sweeps[variables["sweep"]].config,
            "runs": {"edges": []},
        }
        return {"project": {"sweep": sweep}}

    def create_agent(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"createAgent": {"agent": {"id": variables["sweep"]}}}

    def heartbeat(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The next run of the sweep when the last one has ended, then the end."""
        sweep, busy = self.sweeps[variables["id"]], json.loads(variables["runState"])
        commands: list[dict[str, Any]] = []
        if not busy and sweep.points:
            args = {key: {"value": value} for key, value in sweep.points.pop(0).items()}
            run_id = f"point{len(sweep.points)}"
            commands = [{"type": "run", "run_id": run_id, "program": sweep.program, "args": args}]
        elif not busy:
            commands = [{"type": "exit"}]
        agent = {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": agent}

    def notify_scriptable_run_alert(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.runs[variables["runName"]].alerts.append(variables)
        return {"notifyScriptableRunAlert": {"success": True}}

    def file_stream(self, identity: str, body: dict[str, Any]) -> None:
        """Rows are kept by their offset: what is sent twice is stored once."""
        with self._lock:
            run = self.runs[identity]
            for name, part in (body.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    for number, line in enumerate(part["content"], part["offset"]):
                        run.lines[number] = line
                        run.came.setdefault(number, time.monotonic())
                elif name == "wandb-summary.json":
                    for text in part["content"]:
                        run.summary = json.loads(text)
            run.preempting |= bool(body.get("preempting"))
            if body.get("complete"):
                run.exit_code = body.get("exitcode")


class _Quiet(ThreadingHTTPServer):
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of a request is no news."""


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.requests += 1
            if server.delay_s:
                server.released.wait(server.delay_s)
            if server.broken is not None:
                self.answer({"error": "broken"}, server.broken)
            elif self.path.endswith("/graphql"):
                asked = json.loads(body)
                data = server.graphql(asked["query"], asked.get("variables") or {})
                self.answer({"data": data})
            elif self.path.endswith("/file_stream"):
                server.file_stream(self.path.split("/")[-2], json.loads(body))
                self.answer({})
            else:
                self.answer({})

        do_PUT = do_GET = do_POST  # noqa: N815

        def answer(self, content: Any, status: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    try:
        yield server
    finally:
        server.broken, server.delay_s = None, 0.0
        server.released.set()
        server.stop()


if __name__ == "__main__":  # for benchmarks: a server until it is killed
    for name, value in WandbServer().environment().items():
        print(f"{name}={value}", flush=True)
    threading.Event().wait()
