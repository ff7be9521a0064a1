"""Imports go down only: a folder imports itself and those below it in FLOORS."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    *("launcher", "rwp_dist.__main__", "rwp_dist.cli", "rwp_dist.sweep", "rwp_dist.train"),
    *("rwp_dist.dashboard", "rwp_dist.plan", "rwp_dist.flatness"),  # tools
    *("rwp_dist.export", "rwp_dist.prediction"),
    *("rwp_dist.doctor", "rwp_dist.compare"),
    *("rwp_dist.evaluation", "rwp_dist.shards"),
    *("rwp_dist.run.check", "rwp_dist.run", "rwp_dist.tracking"),  # one run
    *("rwp_dist.engine", "rwp_dist.data", "rwp_dist.record", "rwp_dist.config"),  # machinery
    *("rwp_dist.perturb", "rwp_dist.process", "rwp_dist.base"),  # ideas
)
TOOLS = {  # none uses another; those of the line above them in FLOORS use some
    "rwp_dist.doctor",
    "rwp_dist.compare",
    "rwp_dist.evaluation",
    "rwp_dist.shards",
}
ONLY = {  # what these use besides themselves
    "launcher": {
        *("rwp_dist.run.check", "rwp_dist.config", "rwp_dist.record", "rwp_dist.process"),
        "rwp_dist.base",
    },
    "rwp_dist.perturb": {"rwp_dist.base"},
}
WITHOUT_TORCH = (
    "launcher",
    "rwp_dist.run.check",
    "rwp_dist.config",
    "rwp_dist.record",
    "rwp_dist.base",
)


def modules() -> dict[str, Path]:
    """Module names of both packages, and their files."""
    files = [path for top in ("launcher", "rwp_dist") for path in (ROOT / top).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return dict(zip((name.removesuffix(".__init__") for name in names), files, strict=True))


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """What a file imports, also inside functions. `from a import b` counts as a.b if a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: write the whole name"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inner}
    return found


def floor(module: str) -> str:
    """The entry of FLOORS that a module belongs to."""
    return next((f for f in FLOORS if f"{module}.".startswith(f"{f}.")), "none")


MODULES = modules()
GRAPH = {name: imports(path, MODULES) for name, path in MODULES.items()}
EDGES = {(a, b) for a in GRAPH for b in GRAPH[a]}


def top(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_is_in_a_folder_of_the_list() -> None:
    assert [name for name in MODULES if floor(name) == "none"] == ["rwp_dist"]  # the version


def test_imports_go_down() -> None:
    def allowed(here: str, there: str) -> bool:
        below = here in FLOORS[: FLOORS.index(there)] and not {here, there} <= TOOLS
        return here == there or (below and there in ONLY.get(here, FLOORS))

    inner = {(a, b) for a, b in EDGES if floor(b) != "none"}
    assert {(a, b) for a, b in inner if not allowed(floor(a), floor(b))} == set()


def test_there_is_no_circle() -> None:
    graph = {a: [b for b in MODULES if (a, b) in EDGES] for a in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


def test_deepspeed_is_known_to_the_engine_only() -> None:
    users = {a for a, b in EDGES if top(b) == "deepspeed"}
    assert {a for a in users if floor(a) != "rwp_dist.engine"} == set()


def test_perturb_needs_torch_and_numpy_alone() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "triton", "rwp_dist"}
    assert {
        (a, b) for a, b in EDGES if floor(a) == "rwp_dist.perturb" and top(b) not in allowed
    } == set()


def test_settings_and_launcher_import_no_torch() -> None:
    light = {name for name in MODULES if floor(name) in WITHOUT_TORCH}
    code = f"import sys, {', '.join(sorted(light))}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_benchmarks_and_examples_import_only_what_a_package_offers() -> None:
    def open_to_all(name: str) -> bool:
        public = name == "rwp_dist.perturb.reference"  # to read, and to test against
        top_level = MODULES[name].parent == ROOT / "rwp_dist"
        return public or top_level or MODULES[name].name == "__init__.py"

    files = [
        path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
    ]
    used = {(path.name, name) for path in files for name in imports(path, MODULES)}
    ours = {(file, name) for file, name in used if top(name) in ("launcher", "rwp_dist")}
    assert ours
    assert {(file, name) for file, name in ours if not open_to_all(name)} == set()
