"""The identity of a run, and what differs between two of them."""

import json
from pathlib import Path

import pytest

from rwp_dist.config import Affects, known_keys, load_settings
from rwp_dist.record import identity
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import (
    OTHERS,
    affects_of,
    brief,
    changes,
    differences,
    digest,
    identity_in,
    identity_of,
    settings_identity,
)

DATA = {"data.train.id": "1", "data.train.classes": "2", "data.val.id": "3"}


def of(*overrides: str, ranks: int = 2) -> identity.Identity:
    git = {"commit": "abc"}
    return identity_of(load_settings(None, overrides), ranks=ranks, data=DATA, git=git)


def test_it_is_json_and_has_every_setting_and_what_else_tells_runs_apart() -> None:
    found = of()
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == known_keys().keys() - {"variant"} | OTHERS.keys()
    assert all(found[key] is not None for key in OTHERS)


def test_a_digest_depends_on_the_kinds_that_are_asked_for_alone() -> None:
    one = of()
    for kind in Affects:
        for key in one:
            other = one | {key: "other"}
            same = digest(one, {kind}) == digest(other, {kind})
            assert same == (affects_of(key) is not kind), key


def test_a_difference_names_the_key_and_both_values() -> None:
    [found] = differences(of(), of("optimizer.lr=0.2"))
    assert found.sentence("before", "now") == "optimizer.lr: 0.1 before, 0.2 now"
    [found] = differences(of(), of("optimizer.no_decay=['*.bias']"))
    assert found.sentence("here", "there") == 'optimizer.no_decay: null here, ["*.bias"] there'


def test_long_values_that_differ_at_their_end_stay_different() -> None:
    names = [f"model.options={{a: {'x' * 200}{end}}}" for end in "12"]
    [found] = differences(of(names[0]), of(names[1]))
    one, other = found.sentence("#", "#").split("#")[:2]
    assert one.strip("., ") != other.strip("., ") and len(one) < 100


def test_what_one_does_not_know_differs_from_nothing() -> None:
    older = {key: value for key, value in of().items() if key not in OTHERS}
    assert differences(older, of(ranks=3)) == []
    assert differences(of() | {"commit": None}, of()) == []


def test_a_setting_that_an_older_version_lacks_had_its_default() -> None:
    older = of()
    del older["data.pad_last"]
    assert differences(older, of()) == []
    assert [d.key for d in differences(older, of("data.pad_last=true"))] == ["data.pad_last"]


def test_of_a_mixture_the_weights_count_and_not_the_folders() -> None:
    one, other = of("data.mix={a: 1, b: 2}"), of("data.mix={c: 1, d: 2}")
    assert differences(one, other) == []
    [found] = differences(one, of("data.mix={a: 1, b: 3}"))
    assert (found.key, found.one, found.other) == ("data.mix", [1.0, 2.0], [1.0, 3.0])


def test_it_keeps_no_secrets() -> None:
    found = json.dumps(of("data.train=https://me:secret@host/a?token=1"))
    assert "https://host/a" in found
    assert "secret" not in found and "token=" not in found


def test_the_users_own_code_is_part_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = tmp_path / "my_network_of_this_test.py"
    own.write_text("def net(num_classes): ...\n")
    override = f"model.name={own.stem}:net"
    before = of(override)["code"]
    assert before not in (of()["code"], None) and of(override)["code"] == before
    own.write_text("def net(num_classes, wide=True): ...\n")
    assert of(override)["code"] != before


def test_why_the_commit_is_not_known_is_kept_and_makes_no_difference() -> None:
    git = {"commit": None, "dirty": None, "unknown": "git is not installed here"}
    found = identity_of(load_settings(None), ranks=2, data=DATA, git=git)
    assert found["commit.unknown"] == "git is not installed here"
    assert changes(found, of()) == changes(of(), found) == []


def test_a_run_of_an_earlier_version_has_what_its_files_say() -> None:
    run_dir = RunDir(Path(__file__).parents[1] / "fixtures" / "written_by_0_1" / "run")
    found = identity_in(run_dir)
    assert found is not None and "data.train.id" not in found
    assert (found["method.name"], found["ranks"]) == ("m-arwp", 2)
    assert found["torch"].count(".") >= 1
    assert found["optimizer.no_decay"] == []


def test_a_folder_without_a_run_has_none(tmp_path: Path) -> None:
    assert identity_in(RunDir(tmp_path)) is None
    (tmp_path / "config.yaml").write_text("{nonsense")
    assert identity_in(RunDir(tmp_path)) is None


def test_settings_alone_are_a_part_of_it() -> None:
    part = settings_identity(load_settings(None), 2)
    assert part.items() <= of().items()


@pytest.mark.parametrize("other", ["true", "1.0", "'1'"])
def test_values_that_python_takes_for_equal_differ(other: str) -> None:
    one, two = of("model.options={a: 1}"), of(f"model.options={{a: {other}}}")
    assert [found.key for found in differences(one, two)] == ["model.options"]


def test_of_class_names_the_first_that_differs_is_told_and_a_digest_is_brief() -> None:
    names = [f"class-{i}" for i in range(1000)]
    one, other = of() | {"data.train.classes": names}, of() | {"data.train.classes": names[:999]}
    [found] = differences(one, other)
    assert found.sentence("there", "here") == (
        "data.train.classes: label 999 is 'class-999' there, 'nothing' here"
    )
    assert len(json.dumps(brief(one))) < len(json.dumps(of())) + 100
    assert differences(brief(one), brief(other)) != []
    assert brief(brief(one)) == brief(one)


def test_another_teacher_is_another_run_also_for_a_run_of_a_version_without() -> None:
    plain = settings_identity(load_settings(None, []), 1)
    taught = plain | {"loss.teacher": "a.pt", "loss.teacher.id": "1"}
    old = {key: value for key, value in plain.items() if not key.startswith("loss.")}
    for before in (plain, old):
        assert identity.other_run(identity.changes(before, taught), taught) == (
            "loss.teacher.id: none there, 1 here"
        )
        assert "loss.teacher.id" in identity.other_run(identity.changes(taught, before), before)
    assert not identity.changes(old, plain)
    moved = taught | {"loss.teacher": "b.pt"}
    assert not identity.changes(taught, moved)
    unknown = moved | {"loss.teacher.id": None}  # before its file is read
    assert not identity.changes(taught, unknown)
