"""Code on pages of Markdown: the blocks, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docker/*.md"), *ROOT.glob("rwp_dist/**/*.md")]),
]


def page_name(page: Path) -> str:
    """How a page is called in the name of a test."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code blocks of a language, without the indentation of the fence."""
    fence = re.compile(rf"^( *)```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    found = fence.findall(page.read_text(encoding="utf-8"))
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def python(page: Path) -> str:
    """All Python of a page, in its order.

    A block may use what blocks above it define. What a reader need not see stands in a comment,
    `<!-- python ... -->`. Of a `diff` block its lines after the change count.
    """
    code = re.compile(r"^(?:```(python|diff)\n(.*?)^```$|<!-- python\n(.*?)-->$)", re.M | re.S)
    parts = []
    for language, block, hidden in code.findall(page.read_text(encoding="utf-8")):
        if language == "diff":
            block = re.sub(r"^[+ ]", "", re.sub(r"^-.*\n", "", block, flags=re.M), flags=re.M)
        parts.append(block or hidden)
    return "\n".join(parts)


def commands(shell: str) -> Iterator[list[str]]:
    """The words of each command; also of those in `$(...)` and after `&&`.

    The brackets of optional arguments and all but the first of `this|that` are left out.
    """
    shell = re.sub(r" <<EOF\n.*?^EOF$", "", shell, flags=re.M | re.S)
    shell = re.sub(r"<[a-z ]+>", "PLACEHOLDER", shell)
    shell = re.sub(r"(?<!\S)\[(.*?)\]", r"\1", shell.replace(" ...", ""))
    shell = re.sub(r"(\w)\|[\w|]+", r"\1", shell)
    for inner in re.findall(r"\$\((.*?)\)", shell):
        yield from commands(inner)
    shell = re.sub(r"\$\(.*?\)", "SUBSTITUTED", shell).replace("\\\n", " ")
    for line in shell.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in ("&&", ">", "|")), len(words))
            if words[:end]:
                yield words[:end]
            words = words[end + 1 :] if words[end : end + 1] != [">"] else words[end + 2 :]
