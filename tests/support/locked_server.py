"""A folder behind a password or a signature, on loopback."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

USER, PASSWORD, QUERY = "reader", "p@ss:w", "sig=a%2Fb"
LOGIN = "reader:p%40ss%3Aw"
"""As it stands in an address."""


@contextmanager
def locked_server(folder: Path) -> Iterator[str]:
    """Its host and port. Every request needs the password or the signature."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        login = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if login != self.headers.get("Authorization") and parts.query != QUERY:
            self.send_error(401)
            return
        self.path = parts.path
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass
