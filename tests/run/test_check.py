"""Everything that is wrong with a run is found before it starts, and said at once."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from support.faulty_server import FaultyServer
from support.stream_sets import rename_classes, write_set

from rwp_dist.base.errors import ConfigError, DataError, SettingsError
from rwp_dist.config import Settings, dump_settings, load_settings
from rwp_dist.data import check as data_check
from rwp_dist.data.chosen import manifest_of, patience_of
from rwp_dist.record.directory import RunDir
from rwp_dist.run.check import RunCheck
from rwp_dist.shards.adopt import adopt_shards


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``val``, of five classes."""
    folder = tmp_path_factory.mktemp("made")
    for name, num in (("train", 60), ("val", 20)):
        write_set(folder / name, num=num)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "data"))


def of(data: Path, *more: str) -> list[str]:
    """Overrides of a run that can start."""
    names = (f"data.train={data}/train", f"data.val={data}/val", f"run.dir={data}/run")
    fitting = ("model.num_classes=5", "data.image_size=16", "data.channels=3", "batch.global=20")
    return [*names, *fitting, *more]


def wrong(data: Path, *more: str, ranks: int = 1, elsewhere: bool = False) -> list[str]:
    """The problems of a run, one text each."""
    _, errors = RunCheck(ranks, elsewhere=elsewhere).read(None, of(data, *more))
    for error in errors:
        assert isinstance(error, SettingsError) and error.exit_code == 2
        return [str(problem) for problem in error.problems]
    return []


def begin(settings: Settings) -> None:
    """A run that has begun with these settings."""
    run = RunDir(str(settings.run.dir))
    run.create()
    run.write_config(dump_settings(settings))
    (run.checkpoints / "step-00000001.pt").touch()


def test_a_run_that_can_start_has_no_problems(made: Path) -> None:
    assert wrong(made) == []
    assert wrong(made, elsewhere=True) == []


def test_all_that_is_wrong_comes_in_one_error_the_run_directory_last(data: Path) -> None:
    begin(load_settings(None, of(data, "optimizer.lr=0.2")))
    shutil.rmtree(data / "val")
    found = wrong(data, "method.sigma=-1", "batch.global=15", "deepspeed.extra.fp16={}", ranks=2)
    keys = [text.partition(":")[0] for text in found]
    assert keys == ["method.sigma", "batch.global", "deepspeed.extra.fp16", "data.val", "run.dir"]
    # Of the run that is there, nobody knows whether sigma differs: it was not given.
    assert "optimizer.lr" in found[-1] and "sigma" not in found[-1]


def test_what_follows_from_a_wrong_setting_is_not_said_as_well(data: Path) -> None:
    (only,) = wrong(data, "data={train: [1]}")
    assert only.startswith("data.train: [1] is not allowed")
    (only,) = wrong(data, "batch.global=none", ranks=3)
    assert only.startswith("batch.global: 'none' is not allowed")
    (only,) = wrong(data, "model.num_classes=1")
    assert only.startswith("model.num_classes: 1 is not allowed")


def break_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-40])


def adopt(folder: Path) -> None:
    known = json.loads((folder / "manifest.json").read_text())
    counts = {shard["name"]: shard["num_samples"] for shard in known["shards"]}
    (folder / "sizes.json").write_text(json.dumps(counts))
    shutil.rmtree(folder / ".written")
    for path in (folder / "manifest.json", *folder.glob("*.npy")):
        path.unlink()
    adopt_shards([str(folder)])


@pytest.mark.parametrize(
    ("harm", "more", "key", "word"),
    [
        (lambda data: shutil.rmtree(data / "train"), (), "data.train", "no shards here"),
        (lambda data: (data / "val" / "manifest.json").unlink(), (), "data.val", "no manifest"),
        (lambda data: break_manifest(data / "train"), (), "data.train", "no manifest"),
        (None, ("data.mix={nowhere: 1}",), "data.mix", "no shards here"),
        (None, ("data.train=s-{0..9}.tar",), "data.train", "a pattern of shards"),
        (None, ("model.num_classes=3",), "model.num_classes", "its label 3"),
        (None, ("batch.global=64",), "batch.global", "more than the 60 samples"),
        (
            lambda data: rename_classes(data / "val", *"edcba"),
            (),
            "data.val",
            "labels do not mean the same",
        ),
        (
            lambda data: adopt(data / "train"),
            ("data.sampling=balanced",),
            "data.sampling",
            "needs all labels",
        ),
    ],
)
def test_data_that_a_setting_is_wrong_about_are_a_wrong_setting(
    data: Path, harm, more: tuple[str, ...], key: str, word: str
) -> None:
    if harm:
        harm(data)
    found = wrong(data, *more)
    assert found and all(text.startswith(f"{key}: ") for text in found)
    assert any(word in text for text in found)


def test_every_data_set_of_a_mixture_is_looked_at(data: Path) -> None:
    found = wrong(data, f"data.mix={{{data}/train: 1, {data}/a: 1, {data}/b: 2}}")
    assert [text.partition(" there")[0] for text in found] == [
        f"data.mix: {data}/a:",
        f"data.mix: {data}/b:",
    ]


def test_a_disk_that_fails_is_no_wrong_setting(data: Path, monkeypatch) -> None:
    def fails(path: Path) -> bool:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "is_file", fails)
    settings = load_settings(None, of(data))
    with pytest.raises(DataError, match="Input/output"):
        manifest_of(settings, "data.train", settings.data.train, patience_of(settings))
    monkeypatch.setattr(Path, "is_file", lambda path: exec("raise PermissionError(13, 'no')"))
    with pytest.raises(ConfigError, match=r"data\.train"):
        manifest_of(settings, "data.train", settings.data.train, patience_of(settings))


# --- runs that train elsewhere ---


def test_what_is_not_here_may_be_where_the_run_trains(data: Path) -> None:
    shutil.rmtree(data / "train")
    shutil.rmtree(data / "val")
    (data / "val").mkdir()  # where nodes mount a disk
    check = RunCheck(1, elsewhere=True)
    assert check.read(None, of(data))[1] == []
    assert [text.partition(" is not there")[0] for text in check.warnings] == [
        f"{data}/train",
        f"{data}/val",
    ]


def test_what_is_here_and_wrong_is_wrong_elsewhere(data: Path) -> None:
    break_manifest(data / "train")
    (found,) = wrong(data, elsewhere=True)
    assert found.startswith("data.train: ")


def test_shards_that_are_here_are_looked_at_before_a_queue(data: Path) -> None:
    next((data / "train").glob("*.tar")).unlink()
    assert wrong(data) == []  # the run itself finds it at once
    with pytest.raises(DataError):
        RunCheck(1, elsewhere=True).load(None, of(data))


def test_a_server_that_does_not_answer_is_a_warning_and_a_wrong_address_an_error(
    data: Path, monkeypatch
) -> None:
    quick = data_check.QUICK.__class__(retries=0, stall_s=1.0)
    monkeypatch.setattr(data_check, "QUICK", quick)
    check = RunCheck(1, elsewhere=True)
    assert check.read(None, of(data, "data.train=http://127.0.0.1:9/t"))[1] == []
    assert len(check.warnings) == 1 and "127.0.0.1:9" in check.warnings[0]
    with FaultyServer({}) as server:
        (found,) = wrong(data, f"data.train={server.url('/gone')}", elsewhere=True)
    assert found.startswith("data.train: ") and "404" in found


def test_runs_of_a_sweep_read_their_data_once_and_say_what_they_share_once(
    data: Path, monkeypatch
) -> None:
    looked: list[str] = []
    really = data_check.manifest_of

    def count(settings, key, source, patience):
        looked.append(source)
        return really(settings, key, source, patience)

    monkeypatch.setattr(data_check, "manifest_of", count)
    runs = [load_settings(None, of(data, f"run.seed={seed}")) for seed in range(3)]
    assert RunCheck(1).errors(runs, "a sweep") == []
    assert sorted(looked) == [f"{data}/train", f"{data}/val"]
    shutil.rmtree(data / "val")
    (error,) = RunCheck(1).errors(runs, "a sweep")
    assert str(error).startswith("a sweep: 1 error\n  - data.val: ")


def test_what_is_wrong_with_some_runs_of_a_sweep_names_one(data: Path) -> None:
    runs = [
        load_settings(None, of(data, f"run.seed={seed}", f"run.name=r{seed}", *more))
        for seed, more in enumerate(([], ["data.train=/nowhere"], ["data.train=/nowhere"]))
    ]
    for count, which in ((2, "r1"), (3, "2 of 3 runs, such as r1")):
        (error,) = RunCheck(1).errors(runs[:count], "a sweep")
        assert f"(in {which}); " in str(error)


def test_one_of_several_ranks_looks_at_neither_data_nor_run_directory(data: Path) -> None:
    begin(load_settings(None, of(data, "optimizer.lr=0.2")))
    shutil.rmtree(data / "val")
    RunCheck(2, machine=False).load(None, of(data))
