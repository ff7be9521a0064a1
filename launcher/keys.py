"""Files of keys: ``NAME=value`` on each line, such as ``WANDB_API_KEY=...``.

Also as other programs write them: with ``export``, quotes, comments, empty lines, blanks at the
ends, and line ends and a byte order mark of Windows. A value is taken as it stands: nothing in it
is expanded. Names have capitals, but for ``https_proxy`` and its like: those in small letters are
the job script's own variables. Blanks, quotes and invisible characters of Unicode, pasted with a
key, would spoil it: they are refused. ``slurm/imagenet_rwp.sh`` reads the same files without
Python, and one test holds for both.
"""

import os
import re
from pathlib import Path

from rwp_dist.base.errors import ConfigError

_LINE = re.compile(
    rb"""(?:export\s+)?(?P<name>[A-Z_][A-Z0-9_]*|[a-z]+_proxy)\s*=
    (?: \s*"(?P<double>[^"]*)"\s*(?:\#.*)?
      | \s*'(?P<single>[^']*)'\s*(?:\#.*)?
      | (?!\s*["'])(?P<plain>.*?)(?:\s\#.*)? )""",
    re.VERBOSE,
)

_PASTED = re.compile(rb"\xc2[\x80-\xa0]|\xe2[\x80\x81]|\xe3\x80\x80|\xef\xbb\xbf")
"""UTF-8 of control characters, of blanks, and of the block that has quotes and invisible ones."""

_OF_SHELLS = re.compile(rb"UID|EUID|PPID|IFS|SHELLOPTS|BASH.*")
"""Names that a shell does not let others set, or that change how it reads its script."""


def read_keys(path: Path) -> dict[str, str]:
    """The values by name.

    Raises:
        ConfigError: it cannot be read, or a line is something else. No value is part of the error.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}", key="--secrets", cure="name a file that you may read"
        ) from error
    found = dict[str, str]()
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            found.update(_read(line.strip()))
        except ConfigError as error:
            problem = f"line {number} of {path} {error.problem}"
            raise ConfigError(problem, key="--secrets", cure=error.cure) from None
    return found


def _read(line: bytes) -> dict[str, str]:
    """The name and value of a line, if it has them."""
    odd = ConfigError(
        "has a character that no key has",
        cure="type it anew, in a file of plain text (UTF-8, not UTF-16)",
    )
    if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", line):
        raise odd
    if not line or line.startswith(b"#"):
        return {}
    match = _LINE.fullmatch(line)
    if match is None:
        raise ConfigError(
            "is no NAME=value, with a NAME in capitals",
            cure="correct it; a value that begins with a quote must end with the same one",
        )
    value = match["double"] or match["single"] or (match["plain"] or b"").strip()
    if _PASTED.search(value) or b"\t" in value:
        raise odd
    if _OF_SHELLS.fullmatch(match["name"]):
        raise ConfigError("has a name that belongs to the shell", cure="leave it out")
    return {match["name"].decode(): os.fsdecode(value)}
