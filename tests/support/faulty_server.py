"""A real HTTP server on loopback that misbehaves as told: per path, one fault per attempt."""

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_S = 120.0
"""How long a stall lasts: longer than any test waits."""


@dataclass
class FaultyServer:
    """Serves ``files``; ``faults[path]`` is used up one per request, then all is well.

    A fault is an HTTP status, or one of:
        truncate    the header promises everything, half of it comes
        shorter     a whole, shorter answer
        flip        one bit in the middle differs
        stall       a quarter comes, then nothing, and the connection stays open
        silent      not even a header comes
        dribble     a byte now and then
        reset       half comes, then the connection is reset

    Everything asked for stands in ``requests`` as (path, fault or "ok"). ``stalled`` is set once a
    stall has begun.
    """

    files: dict[str, bytes]
    faults: dict[str, list[int | str]] = field(default_factory=dict)
    always: dict[str, int | str] = field(default_factory=dict)
    requests: list[tuple[str, int | str]] = field(default_factory=list)

    def __enter__(self):
        self.stopping, self.stalled = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        handler = type("Bound", (_Handler,), {"site": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def asked(self, path):
        """Faults of the requests for a path, in order."""
        return [fault for where, fault in self.requests if where == path]

    def next_fault(self, path):
        with self.lock:
            planned = self.faults.get(path)
            fault = planned.pop(0) if planned else self.always.get(path, "ok")
            self.requests.append((path, fault))
        return fault


class _Handler(BaseHTTPRequestHandler):
    site: FaultyServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.partition("?")[0]
        fault = self.site.next_fault(path)
        data = self.site.files.get(path)
        if isinstance(fault, int) or data is None:
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        if fault == "silent":
            self.site.stopping.wait(STALL_S)
            return
        if fault == "shorter":
            data = data[: len(data) // 3]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(data, fault)

    def send(self, body, fault):
        half = len(body) // 2
        if fault == "truncate":
            self.wfile.write(body[:half])
        elif fault == "flip":
            self.wfile.write(body[:half] + bytes([body[half] ^ 16]) + body[half + 1 :])
        elif fault == "stall":
            self.wfile.write(body[: len(body) // 4])
            self.site.stalled.set()
            self.site.stopping.wait(STALL_S)
        elif fault == "dribble":
            for value in body:
                self.wfile.write(bytes([value]))
                if self.site.stopping.wait(0.02):
                    return
        elif fault == "reset":
            self.wfile.write(body[:half])
            time.sleep(0.05)  # a reset throws away what the reader has not fetched yet
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        else:
            self.wfile.write(body)
        self.close_connection = True
