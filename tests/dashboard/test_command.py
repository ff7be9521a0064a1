"""The command as a user has it: without a login, and with a server that keeps views."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.comparisons import configure, make
from support.until import HANG_S
from support.views_server import ViewsServer, views_server

from rwp_dist.cli import main
from rwp_dist.dashboard import save
from rwp_dist.dashboard.workspace import sections_of, view_spec
from rwp_dist.tracking.connection import end_service

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the account that runs the tests, and a server that refuses connections."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    end_service()
    yield
    end_service()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewsServer]:
    with views_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running


def run(*arguments: str) -> Result:
    """Nothing on stdin, nor a key in what is printed."""
    result = CliRunner().invoke(main, ["dashboard", *arguments], input="")
    assert KEY not in result.output and "Traceback" not in result.output
    return result


def done(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str, code: int = 1) -> str:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- to a file ---


def test_without_a_login_a_file_has_the_specification() -> None:
    said = done()
    assert said.startswith("Written: runs/dashboard.json (W&B is offline: no login found)\n")
    assert "after `wandb login` saves it in W&B" in said
    text = Path("runs/dashboard.json").read_text()
    assert json.loads(text) == {
        "entity": None,
        "project": "rwp-dist",
        "view": {"name": "rwp-dist", "spec": view_spec("", "rwp-dist")},
    }
    done()
    assert Path("runs/dashboard.json").read_text() == text


def test_with_out_a_login_is_not_used(server: ViewsServer) -> None:
    said = done("--out", "d.json", "--entity", "team", "--project", "vision")
    assert said.startswith("Written: d.json\n") and "without --out" in said
    written = json.loads(Path("d.json").read_text())
    assert (written["entity"], written["project"]) == ("team", "vision")
    assert server.views == {}


def test_variables_name_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "vision")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    done("--out", "d.json")
    written = json.loads(Path("d.json").read_text())
    assert (written["entity"], written["project"]) == ("team", "vision")


def test_a_name_that_wandb_does_not_take_is_said() -> None:
    result = run("--project", "a/b")
    assert result.exit_code == 2
    assert "--project: 'a/b' is not allowed; it should have 1 to 128 characters" in result.stderr


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch, server: ViewsServer) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "(W&B is offline: WANDB_MODE is offline)" in done()


def test_runs_bring_the_report_and_their_project() -> None:
    run_dir = make(Path("runs"), "m-rwp", 0, 87.0, 0.1)
    configure(run_dir, "run.seed=0", "tracking.project=vision", "tracking.entity=team")
    done("runs")
    written = json.loads(Path("runs/dashboard.json").read_text())
    assert (written["entity"], written["project"]) == ("team", "vision")
    assert "87.0" in json.dumps(written["report"]["spec"])
    configure(make(Path("runs"), "sgd", 0, 87.0, 0.1), "tracking.project=other")
    result = run("runs")
    assert result.exit_code == 2 and "2 W&B projects; name one with --project" in result.stderr
    done("runs", "--project", "vision", "--entity", "team")


def test_a_file_that_cannot_be_written_is_said() -> None:
    Path("file").touch()
    said = refused("--out", "file/d.json", code=2)
    assert "give --out a folder, or remove what stands in its place" in said


# --- to W&B ---


def test_it_is_created_and_then_left_as_it_is(server: ViewsServer) -> None:
    said = done()
    assert re.fullmatch(rf"View created: {server.url}/me/rwp-dist\?nw=[a-z0-9]{{11}}\n", said)
    assert server.view("rwp-dist") == view_spec("me", "rwp-dist")
    assert done() == said.replace("created", "unchanged")
    assert (len(server.views), server.mutations) == (1, 1)


def test_a_second_save_keeps_a_section_and_a_setting_of_a_person(server: ViewsServer) -> None:
    done()
    spec = server.view("rwp-dist")
    del sections_of(spec)[1]  # for something to update
    sections_of(spec).insert(0, {"__id__": "m", "name": "Mine", "panels": [{"new": 1}]})
    spec["section"]["runSets"][0]["grouping"] = []
    server.change("rwp-dist", spec)
    assert done().startswith("View updated: ")
    now = server.view("rwp-dist")
    assert now["section"]["runSets"] == spec["section"]["runSets"]
    assert sections_of(now)[:-1] == sections_of(spec)
    assert sections_of(now)[-1]["name"] == "Perturbation"


def test_a_section_of_ours_that_was_changed_is_overwritten_only_if_asked(
    server: ViewsServer,
) -> None:
    done()
    spec = server.view("rwp-dist")
    sections_of(spec)[0]["panels"][0]["config"]["metrics"] = ["mine"]
    server.change("rwp-dist", spec)
    assert refused() == (
        "me/rwp-dist: this would overwrite what was changed by hand in the view rwp-dist "
        "(Results), so nothing was saved of it; add --overwrite, or move what you changed to a "
        "section of your own.\n"
    )
    assert server.view("rwp-dist") == spec and server.mutations == 1
    assert done("--overwrite").startswith("View updated: ")
    assert server.view("rwp-dist") == view_spec("me", "rwp-dist")


def test_the_report_is_created_and_its_table_brought_up_to_date(server: ViewsServer) -> None:
    make(Path("runs"), "sgd", 0, 85.0, 0.1)
    said = done("runs").splitlines()
    assert said[1].startswith(
        f"Report created: {server.url}/me/rwp-dist/reports/rwp-dist-comparison--"
    )
    make(Path("runs"), "m-rwp", 0, 87.0, 0.1)
    said = done("runs").splitlines()
    assert [line.split()[1] for line in said] == ["unchanged:", "updated:"]
    assert "m-rwp" in json.dumps(server.view("rwp-dist comparison"))


def test_it_is_found_on_a_later_page_and_only_where_there_is_one(server: ViewsServer) -> None:
    done("--entity", "team", "--project", "vision")
    [ours] = server.views.values()
    others = [{**ours, "id": f"O{i}", "displayName": f"view {i}"} for i in range(4)]
    server.views = {view["id"]: view for view in (*others, ours)}
    assert done("--entity", "team", "--project", "vision").startswith("View unchanged: ")
    server.views["O0"]["displayName"] = "rwp-dist"
    said = refused("--entity", "team", "--project", "vision")
    assert said == "team/vision: 2 views are called rwp-dist; rename all but one in W&B.\n"


def test_a_project_that_is_not_there_is_said(server: ViewsServer) -> None:
    assert refused("--project", "typo") == (
        "me/typo: W&B has no such project, or this login may not see it; name another with "
        "--entity and --project, or train a run with W&B online, which makes it.\n"
    )


@pytest.mark.parametrize(("status", "text"), [(200, "input: permission denied"), (403, "no")])
def test_a_refusal_is_a_sentence(server: ViewsServer, status: int, text: str) -> None:
    server.refusal = (status, text.removeprefix("input: "))
    assert refused() == (
        f"me/rwp-dist: a request to W&B failed ({text}); log in as somebody who may write there "
        "(`wandb login --relogin`), or name another project with --entity and --project.\n"
    )


def test_a_wrong_key_is_a_sentence(server: ViewsServer) -> None:
    server.account = None
    said = refused()
    assert said.startswith(f"W&B cannot be used (Failed to verify credentials with {server.url}: ")
    assert "`wandb login --relogin`" in said


def test_a_server_that_is_away_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(save, "TIMEOUT_S", 1)
    before = time.monotonic()
    assert refused() == (
        "W&B cannot be used (no answer of http://127.0.0.1:9 in 1 s); try again, or write the "
        "specification to a file with --out FILE.\n"
    )
    assert time.monotonic() - before < 60


DEAF = """
import psutil
from rwp_dist.dashboard.save import connect
from rwp_dist.tracking import connection
connection.end_service.__defaults__ = (0.5,)
connect(None, "project")
(service,) = [c for c in psutil.Process().children(True) if "wandb-core" in c.name()]
service.suspend()
"""


def test_the_command_ends_also_if_the_service_of_wandb_does_not(server: ViewsServer) -> None:
    subprocess.run([sys.executable, "-c", DEAF], check=True, timeout=HANG_S)


@pytest.mark.parametrize("spec", ["{}", "[]", "null", "no JSON"])
def test_a_view_of_an_unknown_form_is_left_alone(server: ViewsServer, spec: str) -> None:
    done()
    [view] = server.views.values()
    view["spec"] = spec
    refused("--overwrite")
    assert view["spec"] == spec
