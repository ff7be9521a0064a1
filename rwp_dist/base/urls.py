"""What kind of address a string is: a path, or a URL of some scheme. Imports no torch."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://...``, in lower case; empty for a path, which may hold a colon."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return match[1].lower() if match else ""


def local_path(url: str) -> Path | None:
    """The path that a plain path or a ``file:`` URL names. None: another kind of address."""
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    return None if scheme_of(url) else Path(url)


def shown(url: str) -> str:
    """The URL for a message: without a password and without a query, which may be a signature."""
    if scheme_of(url) not in {"http", "https"}:
        return url
    scheme, host, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, host.rpartition("@")[2], path, "", ""))


def shown_text(text: str) -> str:
    """A text in which every URL is ``shown``."""
    return re.sub(r"https?://[^\s,'\"]+", lambda match: shown(match[0]), text)
