"""What the settings of a run ask of a machine: data and noise; torch and DeepSpeed."""

from importlib import metadata

import pytest
from support.examining import look, machine
from support.stream_sets import rename_classes, write_set

from rwp_dist.doctor import run, software
from rwp_dist.doctor.machine import Machine
from rwp_dist.perturb.normals import native
from rwp_dist.process import limits
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import settings_identity
from rwp_dist.record.open import open_run
from rwp_dist.shards.digits import write_digits

# --- run directory ---


def test_another_run_in_the_run_directory_is_a_problem(tmp_path) -> None:
    here = f"run.dir={tmp_path}"
    assert look(run.earlier_run, machine(here)) == []
    settings = machine(here).settings
    open_run(settings, settings_identity(settings, 1))
    (tmp_path / "checkpoints" / "step-00000040.pt").touch()
    [same] = look(run.earlier_run, machine(here))
    assert same.state == "ok" and same.figures == {"step": 40}
    [other] = look(run.earlier_run, machine(here, "optimizer.lr=0.3"))
    assert other.state == "problem"
    assert "run.dir" in other.seen and "optimizer.lr" in other.seen and "run.label" in other.cure
    with RunDir(tmp_path).locked():
        [held] = look(run.earlier_run, machine(here))
    assert held.state == "problem" and "is being trained already (process" in held.seen
    RunDir(tmp_path).write_summary({})
    [finished] = look(run.earlier_run, machine(here))
    assert finished.state == "ok" and "finished" in finished.seen


# --- network ---


def test_a_missing_cpp_compiler_is_a_problem_of_a_run_that_compiles(monkeypatch) -> None:
    assert look(run.compiler, machine()) == []
    for program, state in (("sh", "ok"), ("/nonexistent", "problem")):
        monkeypatch.setenv("CXX", program)
        [found] = look(run.compiler, machine("run.compile=true"))
        assert found.state == state and program in found.seen


def test_a_missing_teacher_is_a_problem(tmp_path) -> None:
    assert look(run.weights, machine()) == []
    words = (f"loss.teacher={tmp_path}/a.pt", "loss.teacher_model=small_cnn")
    [missing] = look(run.weights, machine(*words))
    assert missing.state == "problem" and "a.pt is not there" in missing.seen
    (tmp_path / "a.pt").touch()
    [there] = look(run.weights, machine(*words))
    assert there.state == "ok" and "a.pt, 0 B" in there.seen


# --- data ---


def test_a_server_that_is_not_there_is_a_problem_soon(tmp_path) -> None:
    remote = machine("data.train=http://127.0.0.1:9/train", f"data.cache_dir={tmp_path}")
    [found] = look(run.training, remote)
    assert found.state == "problem"
    assert "http://127.0.0.1:9/train/manifest.json" in found.seen
    assert "2 attempts" in found.seen


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_shard_is_a_problem_that_names_it(damage, tmp_path) -> None:
    write_digits(tmp_path)
    shard = sorted((tmp_path / "test").glob("*.tar"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[:-512] if damage == "cut" else bytes(len(data)))
    [found] = look(run.evaluation, machine(f"data.val={tmp_path}/test"))
    assert found.state == "problem" and shard.name in found.seen
    assert "rwp-dist shards index" in found.seen + found.cure


def test_images_that_cannot_be_read_and_a_slow_decoder_are_warnings(tmp_path, monkeypatch) -> None:
    speed = {
        "images_per_s": 9.0,
        "images_per_s_core": 5.0,
        "cores": 2,
        "decoder": "pil",
        "bad": 3,
        "images": 7,
        "shard": "a.tar",
    }
    monkeypatch.setattr(run, "images_per_second", lambda settings: speed)
    write_digits(tmp_path)
    found = {f.name: f for f in look(run.training, machine(f"data.train={tmp_path}/train"))}
    assert found["training"].figures["samples"] == 1000
    assert found["speed"].figures == speed
    assert found["unreadable images"].state == "warning"
    assert "3 of 7 in a.tar" in found["unreadable images"].seen
    assert found["decoder"].state == "warning" and "libjpeg-dev" in found["decoder"].cure
    told = machine(f"data.train={tmp_path}/train", "data.decoder=pil")
    assert {f.name: f.state for f in look(run.training, told)}["decoder"] == "ok"


def test_other_classes_are_a_problem_and_doubtful_settings_warnings(tmp_path) -> None:
    train, val = (write_set(tmp_path / name, num=8) for name in ("train", "val"))
    shards = (f"data.train={train}", f"data.val={val}", "batch.global=4", "batch.per_rank=1")
    [found] = look(run.evaluation, machine(*shards, "model.num_classes=5"))
    assert found.state == "ok"
    found, outputs, mixing = look(run.evaluation, machine(*shards, "augment.cutmix=1"))
    assert (found.state, outputs.state, mixing.state) == ("ok", "warning", "warning")
    assert "10 outputs for the 5 classes" in outputs.seen and outputs.cure.startswith("set it to 5")
    assert (outputs.name, mixing.name) == ("model.num_classes", "augment.cutmix")
    rename_classes(val, "class-0", "class-1", "class-2", "class-4", "class-3")
    [_, other] = look(run.evaluation, machine(*shards, "model.num_classes=5"))
    assert other.state == "problem" and "3 is 'class-3' in" in other.seen
    assert f"--classes-of {train}" in other.cure


# --- noise ---


@pytest.fixture
def nothing_compiled(tmp_path, monkeypatch):
    """As on a machine that has compiled nothing yet."""

    def forget() -> None:
        native.library.cache_clear()
        native.is_fast.cache_clear()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield
    forget()


def test_a_machine_with_a_compiler_draws_noise_in_c(nothing_compiled) -> None:
    [found] = look(run.noise, machine("method.name=m-rwp", "noise.backend=native"))
    assert (found.state, found.seen) == ("ok", "normals.c")


@pytest.mark.parametrize(("backend", "state"), [("auto", "warning"), ("native", "problem")])
def test_without_a_compiler_noise_is_slower_or_impossible(
    monkeypatch, nothing_compiled, backend, state
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    [found] = look(run.noise, machine("method.name=arwp", f"noise.backend={backend}"))
    assert found.state == state and "no-such-compiler" in found.seen


def test_where_no_noise_is_drawn_or_torch_is_wanted_there_is_nothing_to_say() -> None:
    assert look(run.noise, machine("method.name=sam")) == []
    assert look(run.noise, machine("method.name=rwp", "noise.backend=torch")) == []


# --- software ---


def test_a_version_that_is_not_supported_is_a_problem(monkeypatch) -> None:
    real = metadata.version
    old = {"torch": "2.1.0+cu121"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or real(name))
    torch, deepspeed = look(software.versions, Machine())
    assert torch.state == "problem" and "2.1.0+cu121" in torch.seen
    assert "pip install 'torch>=" in torch.cure
    assert deepspeed.state == "ok"


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.19.7", False), ("0.19.8", True), ("0.19.10+cu128", True), ("0.20", False)],
)
def test_versions_are_compared_by_number(version, expected, monkeypatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    monkeypatch.setattr(metadata, "requires", lambda name: ["deepspeed<0.20,>=0.19.8"])
    [found] = look(software.versions, Machine())
    assert found.state == ("ok" if expected else "problem") and version in found.seen


def test_what_a_run_cannot_import_is_a_problem(monkeypatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(software.importlib, "import_module", broken)
    [found] = look(software.modules, Machine())
    assert found.state == "problem" and "libcudart.so" in found.seen


def test_a_limit_of_addresses_is_the_cure_where_it_keeps_torch_out(monkeypatch) -> None:
    def unloaded(name: str) -> None:
        raise ImportError("libtorch_cuda.so: failed to map segment from shared object")

    monkeypatch.setattr(software.importlib, "import_module", unloaded)
    monkeypatch.setattr(limits, "memory_limit", lambda: 3_072_000_000)
    [found] = look(software.modules, Machine())
    assert (found.state, found.cure) == (
        "problem",
        "raise the limit of 3.1 GB (ulimit -v unlimited)",
    )


def test_a_commit_that_is_not_known_is_a_warning_with_the_reason(monkeypatch) -> None:
    unknown = {"commit": None, "dirty": None, "unknown": "git is not installed here"}
    monkeypatch.setattr(software, "commit_here", lambda: unknown)
    [found] = look(software.commit, Machine())
    assert (found.state, found.seen) == ("warning", "not known: git is not installed here")
    assert "pip install git+" in found.cure


def test_a_locale_of_another_encoding_is_a_warning(monkeypatch) -> None:
    for name, state in (("UTF-8", "ok"), ("ANSI_X3.4-1968", "ok"), ("GB2312", "warning")):
        monkeypatch.setattr(software.locale, "nl_langinfo", lambda _, name=name: name)
        [found] = look(software.encoding, Machine())
        assert found.state == state and (state == "ok" or "LC_ALL=C.UTF-8" in found.cure)
