"""W&B without an account of anybody's, and with a server of its own."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.wandb_server import KEY, WandbServer, wandb_server

from rwp_dist.tracking import wandb as sink
from rwp_dist.tracking.connection import end_service


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the account that runs the tests, and a server that refuses connections."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    end_wandb()
    yield
    for thread in threading.enumerate():
        if isinstance(thread, sink.Sender):  # one that is late would disturb the next test
            thread.end("failed")
            thread.join(60)
    end_wandb()


def end_wandb() -> None:
    """Forget what another test has set up in this process."""
    if "wandb" in sys.modules:
        end_service()
    sink.Sender._unreachable.clear()


@pytest.fixture
def server(no_account: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        # Seconds between two tries of an upload.
        monkeypatch.setenv("WANDB__FILE_STREAM_RETRY_WAIT_MIN_SECONDS", "0.1")
        monkeypatch.setenv("WANDB__FILE_STREAM_RETRY_WAIT_MAX_SECONDS", "0.5")
        yield running
    assert not [name for name in running.unknown if "CoreWeave" not in name]
