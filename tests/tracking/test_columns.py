import re

from rwp_dist.tracking.columns import COLUMNS, named

ALL = [column for columns in COLUMNS.values() for column in columns]


def test_names_follow_wandbs_rules() -> None:
    for column in ALL:
        assert re.fullmatch(r"[a-z][a-z0-9_]*/[a-z][a-z0-9_]*", column.name), column


def test_names_are_unique_without_regard_to_case() -> None:
    assert len({column.name.lower() for column in ALL}) == len(ALL)


def test_every_column_has_a_meaning_that_is_a_sentence() -> None:
    for column in ALL:
        assert column.meaning[0].isupper() or column.meaning.startswith("`"), column
        assert column.meaning.endswith("."), column


def test_a_record_is_named_without_what_it_does_not_have() -> None:
    record = {
        "kind": "train",
        "time": 1.0,
        "step": 10,
        "total_steps": 20,
        "sigma": 0.5,
        "mfu": None,
    }
    assert named("train", record) == {"perturb/sigma": 0.5}
    assert named("eval", {"step": 10, "top1": 71.0, "mine": 2}) == {
        "eval/top1": 71.0,
        "eval/mine": 2,
    }
