import ast
import pickle
from pathlib import Path

from rwp_dist.base.errors import ConfigError, RwpError

ROOT = Path(__file__).parents[2]
NO_CURE = {  # where an error may be made without a cure
    "SettingsError",  # each of its problems has one
    "UndecodableImage",  # ends no run: it becomes the reason of a bad sample
    "_try_split",  # its caller adds the nearest batch that can be split
    "interrupted",  # nothing is left to do when all runs of a series are finished
}


def test_an_error_has_its_key_and_its_cure_as_fields_and_in_its_text() -> None:
    error = ConfigError("there is no model 'resnet5'", key="model.name", cure="use resnet50")
    assert (error.key, error.cure) == ("model.name", "use resnet50")
    assert str(error) == "model.name: there is no model 'resnet5'; use resnet50."
    assert str(RwpError("All is lost.")) == "All is lost."


def test_an_error_survives_its_way_to_another_rank() -> None:
    error = ConfigError("too large", key="batch.global", cure="lower it")
    error.shared = True
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ConfigError and str(copy) == str(error)
    assert (copy.key, copy.cure, copy.shared) == ("batch.global", "lower it", True)


def test_every_error_of_a_user_has_a_cure() -> None:
    files = [path for top in ("rwp_dist", "launcher") for path in (ROOT / top).rglob("*.py")]
    trees = {str(path.relative_to(ROOT)): ast.parse(path.read_text("utf-8")) for path in files}
    family = {"RwpError"}
    while more := {name for tree in trees.values() for name in derived(tree, family)} - family:
        family |= more
    assert {"ConfigError", "DataError", "LaunchError"} <= family
    made, without = 0, set()
    for path, tree in trees.items():
        for function, call in calls(tree, ""):
            if call.func.id in family:
                made += 1
                if not has_cure(call) and not {call.func.id, function} & NO_CURE:
                    without.add(f"{path}:{call.lineno}")
    assert made > 100 and without == set()


def derived(tree: ast.Module, family: set[str]) -> set[str]:
    """Classes whose base is one of the family."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {node.name for node in found if {getattr(b, "id", None) for b in node.bases} & family}


def calls(node: ast.AST, function: str) -> list[tuple[str, ast.Call]]:
    """Calls of a name below a node, each with the innermost function around it."""
    if isinstance(node, ast.FunctionDef):
        function = node.name
    mine = [(function, node)] if isinstance(node, ast.Call) and hasattr(node.func, "id") else []
    return mine + [
        found for child in ast.iter_child_nodes(node) for found in calls(child, function)
    ]


def has_cure(call: ast.Call) -> bool:
    cures = [keyword.value for keyword in call.keywords if keyword.arg == "cure"]
    return bool(cures) and not (isinstance(cures[0], ast.Constant) and not cures[0].value)
