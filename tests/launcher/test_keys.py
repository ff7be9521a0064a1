"""Files of keys, as launcher/keys.py and the job script read them: in the same way."""

import re
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
    "KEY=gr\u00fc\u00df\n".encode(): "gr\u00fc\u00df",
}
WRONG = {
    b"KEY\n": 1,
    b"\n0123secret\n": 2,
    b"A=1\r\nB=2\r\nMY-KEY=secret\r\n": 3,
    b'KEY="secret\n': 1,
    b"KEY='secret\"\n": 1,
    b'KEY="sec"ret"\n': 1,
    b"1KEY=secret\n": 1,
    b"=secret\n": 1,
    b"export=\nexport secret\n": 2,
    "KEY=secret\n".encode("utf-16"): 1,
}


def in_job(file: Path) -> tuple[int, str]:
    """Exit code and output of the job script's own reader, with the value of KEY after it."""
    text = SCRIPT.read_text()
    functions = re.findall(r"^keys\(\) \{.*?^\}$|^trim\(\)[^\n]*", text, re.MULTILINE | re.DOTALL)
    code = 'set -uo pipefail\nsay() { echo "$*"; }\n' + "\n".join(functions)
    code += '\nkeys "$1"\nprintenv KEY'
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-c", code, "-", str(file)], env=env, capture_output=True, text=True
    )
    assert "secret" not in done.stderr and done.stderr.count("\n") <= 1, done.stderr
    return done.returncode, done.stdout.removesuffix("\n")


@pytest.mark.parametrize("content", RIGHT)
def test_a_value_is_what_a_person_means(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    assert read_keys(file)["KEY"] == RIGHT[content]
    assert in_job(file) == (0, RIGHT[content])


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_line_is_named_and_never_shown(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_keys(file)
    assert str(refused.value).startswith(f"--secrets: line {WRONG[content]} of {file} is no NAME")
    assert "secret" not in str(refused.value).replace("--secrets", "")
    said = f"SECRETS: line {WRONG[content]} of {file} is no NAME=value; correct it."
    assert in_job(file) == (2, said)
