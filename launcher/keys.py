"""Files of keys: ``NAME=value`` on each line, such as ``WANDB_API_KEY=...``.

Also as other programs write them: with ``export``, quotes, comments, empty lines, blanks at the
ends, and line ends and a byte order mark of Windows. A value is taken as it stands: nothing in it
is expanded. ``slurm/imagenet_rwp.sh`` reads the same files without Python, and one test holds for
both.
"""

import re
from pathlib import Path

from rwp_dist.base.errors import ConfigError

_LINE = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=
    (?: \s*"(?P<double>[^"]*)"\s*(?:\#.*)?
      | \s*'(?P<single>[^']*)'\s*(?:\#.*)?
      | (?!\s*["'])(?P<plain>.*?)(?:\s\#.*)? )""",
    re.VERBOSE | re.ASCII,
)


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
    text = content.decode("utf-8-sig", errors="surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(
                f"line {number} of {path} is no NAME=value",
                key="--secrets",
                cure="correct it; a value that begins with a quote must end with the same one",
            )
        value = match["double"] or match["single"] or (match["plain"] or "").strip()
        found[match["name"]] = value
    return found
