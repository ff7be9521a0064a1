"""Standard streams that are closed, full, not UTF-8, or without a reader."""

import fcntl
import io
import os
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from support.until import HANG_S

from rwp_dist.process import progress, streams

CONFIG = Path(__file__).parents[2] / "configs/digits.yaml"
RUN = f"{CONFIG} variant=rwp data.train=file:/nowhere data.val=s3://bucket/val --gpus 0"
BEGIN = "import os, sys; from rwp_dist.process import streams; streams.prepare()\n"
BASE = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
BASE |= {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}


def execute(code: str, redirected: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run code after ``prepare``, with redirections of a shell."""
    command = ["bash", "-c", f'exec "$@" {redirected}', "bash", sys.executable, "-c", BEGIN + code]
    return subprocess.run(command, env=BASE | environment, capture_output=True, timeout=HANG_S)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_is_gone_costs_what_it_would_have_read(
    name: str, unbuffered: str, tmp_path: Path
) -> None:
    code = (
        f"for _ in range(20000): print('a line', file=sys.{name})\n"
        f"sys.{name}.flush(); open({str(tmp_path / 'done')!r}, 'x')\n"
        "assert streams.unwritten() is None\n"
        f"print(streams.nobody_reads(), file=sys.{'stderr' if name == 'stdout' else 'stdout'})"
    )
    reading, writing = os.pipe()
    os.close(reading)
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, name: writing}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        env=BASE | {"PYTHONUNBUFFERED": unbuffered},
        timeout=HANG_S,
        **given,
    )
    os.close(writing)
    assert done.returncode == 0 and (tmp_path / "done").exists()
    other = done.stderr if name == "stdout" else done.stdout
    assert other.decode() == f"{name == 'stdout'}\n"


def test_a_terminal_that_is_closed_does_too(tmp_path: Path) -> None:
    primary, secondary = os.openpty()
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "print('here')\n"
        "try: os.read(0, 1)\n"
        "except OSError: pass\n"
        "print('nobody reads this'); print(streams.nobody_reads(), file=open('done', 'w'))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code],
        env=BASE,
        cwd=tmp_path,
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        start_new_session=True,
    )
    os.close(secondary)
    assert os.read(primary, 100) == b"here\r\n"
    os.close(primary)
    assert process.wait(timeout=HANG_S) == 0
    assert (tmp_path / "done").read_text() == "True\n"


def test_a_stream_that_is_closed_at_the_start_is_nobodys_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    code = (
        f"file = open({str(kept)!r}, 'w'); print('out'); print('error', file=sys.stderr)\n"
        "import subprocess; subprocess.run(['sh', '-c', 'echo of a child; echo more >&2'])\n"
        "sys.stdout.flush(); sys.stderr.isatty(); assert sys.stdin.read() == ''\n"
        "file.write('mine')"
    )
    done = execute(code, "<&- >&- 2>&-")
    assert done.returncode == 0
    assert kept.read_text() == "mine"


def test_a_slow_reader_of_a_stream_that_does_not_block_gets_all_of_it() -> None:
    code = "os.set_blocking(1, False)\nfor _ in range(100000): print('a line')"
    done = execute(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"a line\n" * 100000


@pytest.mark.parametrize("asked", ["status .", f"submit {RUN} --dry-run", "--help", "--version"])
def test_a_command_whose_output_does_not_fit_on_its_disk_has_failed(
    tmp_path: Path, asked: str
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *asked.split()],
            env=BASE,
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=HANG_S,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("the output could not be written (No space left on device); ")


# --- encodings ---


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Environments by name: Latin-1 and GB2312, as far as they can be made here, and C."""
    folder = tmp_path_factory.mktemp("locales")
    found = {"C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}
    for name, characters in (("en_US", "ISO-8859-1"), ("zh_CN", "GB2312")):
        if shutil.which("localedef"):
            make = ["localedef", "-i", name, "-f", characters, str(folder / name)]
            subprocess.run(make, capture_output=True)
        if (folder / name / "LC_CTYPE").exists():
            found[name] = {"LOCPATH": str(folder), "LC_ALL": name}
    return found


@pytest.mark.parametrize("name", ["C", "en_US", "zh_CN"])
def test_arguments_names_files_and_pipes_are_utf8_in_every_locale(
    name: str, locales: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    if name not in locales:
        pytest.skip("this locale cannot be made here")
    code = (
        "from pathlib import Path\n"
        "word = sys.argv[1]; assert word == 'B\\xe4r \\u6a21\\u578b', ascii(word)\n"
        "Path(word).mkdir(); Path(word, 'text').write_text(word)\n"
        "import subprocess\n"
        "child = 'import sys; print(sys.argv[1], sys.getfilesystemencoding())'\n"
        "print(word, subprocess.check_output([sys.executable, '-c', child, word], text=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, "Bär 模型"],
        env=BASE | locales[name],
        cwd=tmp_path,
        capture_output=True,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "Bär 模型 Bär 模型 utf-8\n\n"
    assert os.listdir(os.fsencode(tmp_path)) == ["Bär 模型".encode()]  # noqa: PTH208
    assert (tmp_path / "Bär 模型" / "text").read_bytes() == "Bär 模型".encode()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", b"B?r ? \n"), ("latin-1", b"B\xe4r ? \n"), ("gb2312:strict", b"B?r \xc4\xa3 \n")],
)
def test_what_a_stream_cannot_show_is_replaced(encoding: str, shown: bytes) -> None:
    done = execute(r"print('B\xe4r \u6a21 ')", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (0, shown)


def test_names_that_are_not_utf8_are_printed_as_they_are(tmp_path: Path) -> None:
    done = execute("print(os.fsdecode(b'a \\xff'), '\\ud800 b')")
    assert (done.returncode, done.stdout) == (0, b"a \xff ? b\n")


def terminal(code: str, columns: int = 80, **environment: str) -> bytes:
    """What code shows on a terminal."""
    primary, secondary = os.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(secondary, "wb") as shown:
        subprocess.run(
            [sys.executable, "-c", BEGIN + code],
            env=BASE | environment,
            stdout=shown,
            stderr=shown,
            check=True,
            timeout=HANG_S,
        )
    found = os.read(primary, 4000)
    os.close(primary)
    return found


def test_a_terminal_gets_the_characters_of_its_locale(locales: dict[str, dict[str, str]]) -> None:
    if "zh_CN" not in locales:
        pytest.skip("this locale cannot be made here")
    assert (
        terminal(r"print('\u6a21\xe9\u2014')", **locales["zh_CN"])
        == "模é—".encode("gb2312", "replace") + b"\r\n"
    )
    assert terminal(r"print('\u6a21\xe9\u2014')", LC_ALL="C") == "模é—\r\n".encode()


# --- bars ---

BAR = """
import time
from rwp_dist.process.progress import progress_bar
with progress_bar("img", "title") as show:
    for done in range(101):
        show(done, 100)
"""


@pytest.mark.parametrize("columns", [0, 1, 20, 200])
def test_a_bar_fits_any_terminal(columns: int) -> None:
    shown = terminal(BAR, columns, TERM="xterm")
    assert b"\r" in shown and b"title" in shown
    if columns > 1:
        lines = shown.decode().strip("\r\n").split("\r")
        assert max(map(len, lines)) <= columns


def test_a_bar_is_lines_where_it_cannot_be_drawn_again(tmp_path: Path) -> None:
    for shown in (terminal(BAR, TERM="dumb"), terminal(BAR, TERM="")):
        assert b"\r" not in shown.replace(b"\r\n", b"")
    said = execute(BAR).stderr
    assert b"\r" not in said and 1 <= said.count(b"\n") <= 3
    assert said.startswith(b"title:   0%") and b"title: 100%" in said


def test_lines_of_a_bar_have_no_empty_ones() -> None:
    file = io.StringIO()
    lines = progress._Lines(file)
    for text in ("\r  1%", "\n", "\r 50%   ", ""):
        lines.write(text)
    assert file.getvalue() == "1%\n50%\n"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, None),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_as_the_user_says(
    environment: dict[str, str], wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert streams.in_colour() is wanted
