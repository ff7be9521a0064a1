"""Lists of names that are kept by hand are true: ARCHITECTURE's tree, and the slow tests."""

from support.slow import SLOW
from test_layers import FLOORS, ROOT, modules

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def tree() -> list[str]:
    """Modules and packages in the order of ARCHITECTURE's first code block.

    A folder's line is `name/  # meaning`, its files are on the lines below it, indented.
    """
    found: list[str] = []
    folders: list[str] = []
    for line in TEXT.split("```")[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        for name in line.partition("#")[0].split():
            folders[depth:] = [name.rstrip("/")] if name.endswith("/") else []
            found.append(".".join([*folders, *([] if name.endswith("/") else [name])]))
    return found


def test_the_tree_names_every_module_and_nothing_else() -> None:
    named, there = tree(), set(modules())
    assert (there - set(named), set(named) - there) == (set(), set())  # missing; gone
    assert len(named) == len(set(named))


def test_the_tree_has_the_order_of_the_layers() -> None:
    folders = [
        name for name in tree() if name in FLOORS and (ROOT / name.replace(".", "/")).is_dir()
    ]
    assert folders == [name for name in FLOORS if name in folders]


def test_slow_tests_are_there() -> None:
    for name in SLOW:
        path, _, test = name.partition("[")[0].partition("::")
        assert (ROOT / "tests" / path).exists(), name
        assert not test or f"\ndef {test}" in (ROOT / "tests" / path).read_text(), name
