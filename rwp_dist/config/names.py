"""Names of runs and their folders. Each depends on its own run alone, so that a sweep that is
extended finds the runs that it has trained."""

import json
import re
from collections.abc import Sequence

from rwp_dist.base.text import shortened, with_digest
from rwp_dist.base.urls import shown
from rwp_dist.config.document import parse_document
from rwp_dist.config.keys import known_keys

MOST_NAME = 120
"""Bytes of a folder's name. File systems take 255."""
MOST_VALUE = 40
"""Bytes of one value in it."""
LABELS = ("method.name", "run.label")
"""Settings whose value may be the label, which the name begins with."""
_UNSAFE = re.compile(r"[^\w.,+=@-]")
Point = Sequence[tuple[str, str]]
"""Where a run lies in the grid of its sweep: keys, and values as they were written."""


def point_name(label: str, point: Point) -> str:
    """Label and point, for people: ``m-rwp-lr=0.1``. The seeds of a point share it."""
    told = [(key, text) for key, text in point if key not in LABELS or text != label]
    return "-".join([label, *(f"{_short(key)}={_word(_shown(text))}" for key, text in told)])


def folder_name(name: str, end: str = "") -> str:
    """The folder of a run, ``m-rwp-lr=0.1-s0``; it ends with ``end``, the seed."""
    plain, most = name.replace(" ", "_"), MOST_NAME - len(end.encode())
    safe = _UNSAFE.sub("_", plain).lstrip(".-") or "run"
    return (shortened(safe, most) if safe == plain else with_digest(safe, name, most)) + end


def wandb_group(text: str) -> str:
    """A text as the name of a W&B group, which has at most 128 characters."""
    return shortened(text, 128)


def _short(key: str) -> str:
    """The last part of a key, unless another key ends with it too."""
    last = key.rpartition(".")[2]
    others = [name for name in known_keys() if name != key and name.rpartition(".")[2] == last]
    return key if others else last


def _shown(text: str) -> str:
    """A value as a name says it: without quotes, the brackets of a flat list, and secrets."""
    value = parse_document(text)
    if isinstance(value, list) and value and not any(isinstance(v, list | dict) for v in value):
        return ",".join(shown(v) if isinstance(v, str) else json.dumps(v) for v in value)
    if value is None:
        return "null"
    return shown(value) if isinstance(value, str) else text


def _word(text: str) -> str:
    """A value as a part of a folder's name: the last part of a path, of characters that no folder
    or shell takes for something else. A digest follows if that is not the value as it stands, or a
    disk could confuse it with another."""
    last = text.rstrip("/").rpartition("/")[2]
    safe = _UNSAFE.sub("_", last.replace("=", "_")).strip("_")
    if text and safe == text == text.lower() and len(text.encode()) <= MOST_VALUE:
        return text
    return with_digest(safe, text, MOST_VALUE)
