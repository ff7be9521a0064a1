"""A webhook on loopback that keeps what is posted, and answers as told."""

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.until import until

TOKEN = "nobody-may-see-this-" + 8 * "x"
"""In the address, as Slack has one."""

STALL_S = 30.0
"""How long a server that never answers keeps a connection: longer than any test waits."""


@dataclass
class Receiver:
    """Keeps each posted document in ``posted``. ``answers``: the status of each request, by turns,
    the last one for ever; 0: no answer comes."""

    answers: list[int] = field(default_factory=lambda: [200])
    posted: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    """Number of requests."""

    def __enter__(self) -> "Receiver":
        self.stopping = threading.Event()
        handler = type("Bound", (_Handler,), {"site": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        options = {"poll_interval": 0.02}
        threading.Thread(target=self.server.serve_forever, kwargs=options, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/services/{TOKEN}"

    @property
    def kinds(self) -> list[str]:
        return [str(document["kind"]) for document in self.posted]

    def wait(self, count: int) -> None:
        """Return when so many documents have come."""
        until(lambda: len(self.posted) >= count, lambda: f"{count} alerts, but {self.posted}", 30.0)


class _Handler(BaseHTTPRequestHandler):
    site: Receiver

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        """Answer with the number of documents so far: for those in another process."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(len(self.site.posted)).encode())

    def do_POST(self) -> None:
        site = self.site
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = site.answers[min(site.asked, len(site.answers) - 1)]
        site.asked += 1
        assert self.headers["Content-Type"] == "application/json" and TOKEN in self.path
        if not answer:
            site.stopping.wait(STALL_S)
            return
        if answer == 200:
            site.posted.append(json.loads(body))
        self.send_response(answer)
        if answer in (301, 302, 307):
            self.send_header("Location", site.url)
        self.end_headers()
