import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rwp_dist.config import load_settings
from rwp_dist.doctor import login
from rwp_dist.doctor.case import Case
from rwp_dist.doctor.finding import Finding, Step, findings_of

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    if "wandb" in sys.modules:
        import wandb

        wandb.teardown()


def look(*overrides: str) -> Finding:
    case = Case(load_settings(None, overrides))
    [finding] = findings_of(Step("tracking", "W&B", lambda: login.wandb(case)))
    return finding


def test_without_a_login_it_says_offline_and_how_to_log_in() -> None:
    found = look()
    assert found.state == "ok" and "offline (no login found)" in found.seen
    assert "wandb login" in found.seen


def test_off_and_offline_are_as_set() -> None:
    assert look("tracking.wandb=off").seen.startswith("off (as set by tracking.wandb)")
    assert look("tracking.wandb=offline").seen.startswith("offline (as set by tracking.wandb)")


@pytest.mark.parametrize(
    "answer, state, words",
    [
        ('{"data": {"viewer": {"id": "x", "username": "me"}}}', "ok", "takes the login"),
        ('{"data": {"viewer": null}}', "warning", "does not know the login"),
    ],
)
def test_the_server_is_asked_and_no_key_is_shown(
    answer: str, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    found = look("tracking.wandb=online")
    server.shutdown()
    assert found.state == state and words in found.seen, found
    assert KEY not in found.seen + found.cure


def test_a_server_that_is_not_there_is_a_warning_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    found = look("tracking.wandb=online")
    assert found.state == "warning" and "http://127.0.0.1:9 does not answer" in found.seen
    assert KEY not in found.seen + found.cure
