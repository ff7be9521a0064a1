"""What kind of address a string is: a path, or a URL of some scheme. Imports no torch."""

import posixpath
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_IN_TEXT = re.compile(
    r"""[A-Za-z][A-Za-z0-9+.-]*://
    (?:[^\s/?#"]*@)?                # user and password
    [^\s,'"?]*
    (?:\?[^\s'"]*?(?=[:;,.)\]}]*(?:[\s'"]|$)))?   # a query, without what ends a sentence""",
    re.VERBOSE,
)


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://...``, in lower case; empty for a path, which may hold a colon."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return match[1].lower() if match else ""


def is_address(text: str) -> bool:
    """Whether a string is a URL, also one of a local file; otherwise it is a path."""
    return text.startswith("file:") or bool(scheme_of(text))


def local_path(url: str) -> Path | None:
    """The path that a plain path or a ``file:`` URL names. None: another kind of address."""
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    return None if scheme_of(url) else Path(url)


def joined(base: str, name: str) -> str:
    """The address of a file in a folder; the folder's user and query go along."""
    address, query = _cut(base)
    return posixpath.join(address, name) + query


def parent(url: str) -> str:
    """The folder of an address; user and query go along."""
    address, query = _cut(url)
    return posixpath.dirname(address) + query


def with_login_of(url: str, base: str) -> str:
    """``url`` with the user and query of ``base``, if it lies on the same host and has none."""
    if not scheme_of(url) or shown(url) != url or not same_host(url, base):
        return url
    address, query = _cut(base)
    start = address.index("://") + 3
    user, at, _ = address[start:].partition("/")[0].rpartition("@")
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}{at}{rest}{query}"


def same_host(url: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port, or name the same bucket."""
    return _origin(url) == _origin(other)


def shown(url: str) -> str:
    """The URL for a message or a file: without user, password and query (perhaps a signature)."""
    scheme = scheme_of(url)
    if not scheme:
        return url
    start = len(scheme) + 3
    authority, slash, path = _cut(url)[0][start:].partition("/")
    user, at, host = authority.rpartition("@")
    if at and (scheme in {"http", "https"} or ":" in user):  # of abfs, it is the container
        authority = host
    return url[:start] + authority + slash + path


def shown_text(text: str) -> str:
    """A text in which every URL is ``shown``."""
    return _IN_TEXT.sub(lambda match: shown(match[0]), text)


def shown_tree(value: Any) -> Any:
    """A copy of nested dicts and lists in which every key and every text is ``shown_text``."""
    if isinstance(value, dict):
        return {shown_tree(key): shown_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shown_tree(item) for item in value]
    return shown_text(value) if isinstance(value, str) else value


def _cut(url: str) -> tuple[str, str]:
    """An address, and its query with the question mark, which in names of objects is a letter."""
    if scheme_of(url) in {"", "file", "s3", "gs", "gcs"}:
        return url, ""
    address, mark, query = url.partition("?")
    return address, mark + query


def _origin(url: str) -> tuple[str, str]:
    return scheme_of(url), shown(url).partition("://")[2].partition("/")[0].lower()
