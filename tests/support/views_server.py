"""A server on this machine that speaks as much of W&B's GraphQL as saving a view takes."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACCOUNT = {"id": "U1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
PAGE = 2
"""Views of one answer, few so that there are several pages."""


class ViewsServer:
    """Projects and their views, as a browser would see and change them."""

    def __init__(self) -> None:
        self.projects = {"me/rwp-dist", "team/vision"}
        self.views: dict[str, dict[str, Any]] = {}
        """By id: the variables that it was last saved with."""
        self.mutations = 0
        self.account: dict[str, Any] | None = ACCOUNT
        """Whose key it is; None: nobody's."""
        self.refusal: tuple[int, str] | None = None
        """Status and message with which every request for views is answered."""
        self.url = ""

    def view(self, name: str) -> dict[str, Any]:
        """The specification of the only view with a name."""
        [found] = [v for v in self.views.values() if v["displayName"] == name]
        return json.loads(found["spec"])

    def change(self, name: str, spec: dict[str, Any]) -> None:
        """What saving in a browser does."""
        [found] = [v for v in self.views.values() if v["displayName"] == name]
        found["spec"] = json.dumps(spec)

    def answer(self, query: str, variables: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        if "viewer" in query:
            if self.account is None:
                return 401, {"errors": [{"message": "user is not logged in"}]}
            return 200, {"data": {"viewer": self.account}}
        if self.refusal:
            status, message = self.refusal
            return status, {"errors": [{"message": message}], "data": None}
        if "upsertView" in query:
            return 200, {"data": {"upsertView": self._save(variables)}}
        if "allViews" in query:
            return 200, {"data": {"project": self._page(variables)}}
        return 200, {"data": {"view": self.views.get(variables["id"])}}

    def _save(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.mutations += 1
        project = f"{variables['entityName']}/{variables['projectName']}"
        assert project in self.projects
        key = variables.get("id") or f"VIEW{len(self.views)}"
        inserted = key not in self.views
        self.views[key] = self.views.get(key, {}) | variables | {"id": key, "project": project}
        return {"view": {"id": key, "name": variables["name"]}, "inserted": inserted}

    def _page(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        project = f"{asked['entity']}/{asked['project']}"
        if project not in self.projects:
            return None
        there = [
            {key: view[key] for key in ("id", "name", "displayName")}
            for view in self.views.values()
            if (view["project"], view["type"]) == (project, asked["viewType"])
        ]
        begin = int(asked["after"] or 0)
        end = begin + PAGE
        info = {"endCursor": str(end), "hasNextPage": end < len(there)}
        edges = [{"node": view} for view in there[begin:end]]
        return {"allViews": {"edges": edges, "pageInfo": info}}


@contextmanager
def views_server() -> Iterator[ViewsServer]:
    """A running server with two empty projects."""
    views = ViewsServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if not body:  # wandb's service also asks for what has nothing to do with views
                self.send_error(404)
                return
            asked = json.loads(body)
            status, answer = views.answer(asked["query"], asked.get("variables") or {})
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    views.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield views
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
