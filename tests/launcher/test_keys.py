"""Files of keys, as launcher/keys.py and the job script read them: in the same way."""

import subprocess
from pathlib import Path

import pytest

from launcher.keys import read_keys
from rwp_dist.base.errors import ConfigError

SCRIPT = Path(__file__).parents[2] / "slurm" / "imagenet_rwp.sh"

RIGHT = {
    b"KEY=0123\n": "0123",
    b"KEY=0123": "0123",
    b"KEY=0123\r\n": "0123",
    b"\xef\xbb\xbfKEY=0123\r\n": "0123",
    b"  KEY = 0123  \n": "0123",
    b"export KEY=0123\n": "0123",
    b"export\tKEY='0123'\n": "0123",
    b"\n\n# a comment = this\n   # and this\nKEY=0123 # mine\n": "0123",
    b'KEY="0 # 1"\r\n': "0 # 1",
    b"KEY='0 # 1' # mine\n": "0 # 1",
    b"KEY='a\"b'\n": 'a"b',
    b"KEY=a\"b'c\n": "a\"b'c",
    b"KEY=a#b\n": "a#b",
    b"KEY=#b\n": "#b",
    b"KEY=a=b=\n": "a=b=",
    b"KEY=a b\n": "a b",
    b"KEY=\n": "",
    b"KEY=''\n": "",
    b"KEY= # none\n": "",
    b"KEY=https://h/x?a=1&b=$2;`id`\\n*\n": "https://h/x?a=1&b=$2;`id`\\n*",
    b"KEY=old\nKEY=new\n": "new",
    b"\v\fKEY=0123\f\n": "0123",
    "# f\u00fcr mich\nKEY=0123 # f\u00fcr mich\n".encode(): "0123",
    "KEY=gr\u00fc\u00df\u2713\U0001f600\n".encode(): "gr\u00fc\u00df\u2713\U0001f600",
    "KEY=gr\u00fc\u00df\n".encode("latin-1"): "gr\udcfc\udcdf",
    b"KEY=0123\nexport https_proxy=http://h:1\nNUMBER=1\nLC_ALL=C.UTF-8\n": "0123",
}
NO_LINE, ODD = "is no NAME=value, with a NAME in capitals", "has a character that no key has"
SHELLS = "has a name that belongs to the shell"
WRONG = {
    b"KEY\n": 1,
    b"\n0123secret\n": 2,
    b"A=1\r\nB=2\r\nMY-KEY=secret\r\n": 3,
    b'KEY="secret\n': 1,
    b"KEY='secret\"\n": 1,
    b'KEY="sec"ret"\n': 1,
    b"1KEY=secret\n": 1,
    b"=secret\n": 1,
    b"export=\nexport secret\n": 1,
    b"A=1\nkey=secret\n": 2,
    b"A=1\nnumber=secret\n": 2,
    "\u00a0KEY=secret\n".encode(): 1,
    "KEY='secret'\u00a0\n".encode(): 1,
}
ODD_LINES = {
    "KEY=secret\n".encode("utf-16"): 1,
    "A=1\nKEY=secret\n".encode("utf-16-le"): 1,
    b"A=1\nKEY=sec\0ret\n": 2,
    b"KEY=secret\0": 1,
    b"A=1\rKEY=secret\r": 1,
    b"# mine\rKEY=secret\r": 1,
    b"KEY=secret\x1c\n": 1,
    b"KEY='sec\tret'\n": 1,
    "KEY=secret\u00a0\n".encode(): 1,
    "KEY=\u00a0secret # mine\n".encode(): 1,
    "KEY=secret\u0085\n".encode(): 1,
    "A=1\nKEY=secret\u2028\n".encode(): 2,
    "KEY=\u201csecret\u201d\n".encode(): 1,
}
OF_SHELLS = {b"A=1\nUID=7\n": 2, b"IFS=secret\n": 1, b"export BASH_ENV=secret\n": 1}
PROBLEMS = [
    (content, f"line {line} of", problem)
    for lines, problem in ((WRONG, NO_LINE), (ODD_LINES, ODD), (OF_SHELLS, SHELLS))
    for content, line in lines.items()
]


def in_job(file: Path, name: str = "KEY") -> tuple[int, str]:
    """Exit code and output of the job script's own reader, with the value of a key after it."""
    text = SCRIPT.read_text()
    functions, _, rest = text[text.index("keys() {") :].partition("\nload SITE")
    code = 'set -uo pipefail\nsay() { echo "$*"; }\nSECRETS=$1\n' + functions
    code += rest[rest.index("\nfound=()") : rest.index("\nexport ")] + f"\nprintenv {name}"
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-c", code, "-", str(file)],
        env=env,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    assert "secret" not in done.stderr and done.stderr.count("\n") <= 1, done.stderr
    return done.returncode, done.stdout.removesuffix("\n")


@pytest.mark.parametrize("content", RIGHT)
def test_a_value_is_what_a_person_means(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    assert read_keys(file)["KEY"] == RIGHT[content]
    assert in_job(file) == (0, RIGHT[content])


@pytest.mark.parametrize(("content", "line", "problem"), PROBLEMS)
def test_a_wrong_line_is_named_and_never_shown(
    content: bytes, line: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_keys(file)
    assert str(refused.value).startswith(f"--secrets: {line} {file} {problem}; ")
    assert "secret" not in str(refused.value).replace("--secrets", "")
    code, said = in_job(file)
    assert code == 2 and said.startswith(f"SECRETS: {line} {file} {problem}; ")
    assert "secret" not in said
    assert said.count("\n") == 0


def test_what_a_job_gets_is_not_changed_by_the_names_of_its_script(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"LC_ALL=C\nKEY=1\nNUMBER=2\n")
    assert in_job(file, "LC_ALL") == (0, "C")
