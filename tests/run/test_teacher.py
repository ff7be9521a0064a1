"""A frozen teacher: where it comes from, what it is asked, and what a run keeps of it."""

import shutil

import pytest
import torch
from support.ranks import run_ranks
from support.small import run_steps, same_bits

from rwp_dist.base.errors import ConfigError, DataError, SettingsError
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.data.classes import Classes
from rwp_dist.record.identity import settings_identity
from rwp_dist.record.weights import NO_TEACHER, teacher_file, teacher_identity
from rwp_dist.run.build import build_parts
from rwp_dist.run.check import RunCheck
from rwp_dist.run.checkpoint import list_checkpoints, read_checkpoint
from rwp_dist.run.models import small_cnn
from rwp_dist.run.teacher import Teacher
from rwp_dist.shards.digits import write_digits
from rwp_dist.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    torch.manual_seed(0)
    torch.save(small_cnn(10, 1).state_dict(), folder / "teacher.pt")
    return folder


def overrides(digits, *more):
    return [
        *(f"data.train={digits}/train", f"data.val={digits}/test", "batch.global=64"),
        *("schedule.steps=2", "evaluation.every_epochs=0", "run.device=cpu", "data.workers=0"),
        *("tracking.wandb=off", "method.name=sgd", *more),
    ]


def of_file(digits, *more):
    return load_settings(
        None,
        overrides(
            digits,
            f"loss.teacher={digits}/teacher.pt",
            "loss.teacher_model=small_cnn",
            *more,
        ),
    )


def plain(images):
    return (images.float() / 255 - 0.5) / 0.5


def test_a_file_of_weights_gives_its_networks_logits_in_evaluation_mode(digits):
    net = small_cnn(10, 1)
    net.load_state_dict(torch.load(digits / "teacher.pt"))
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    found = Teacher(of_file(digits), CPU)(images)
    with torch.no_grad():
        expected = net.eval()(plain(images))
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_may_lie_below_a_key(digits, tmp_path, key):
    torch.save({key: torch.load(digits / "teacher.pt"), "epoch": 3}, tmp_path / "wrapped.pt")
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    settings = of_file(digits, f"loss.teacher={tmp_path}/wrapped.pt")
    assert torch.equal(Teacher(settings, CPU)(images), Teacher(of_file(digits), CPU)(images))


def train_both(digits, folder):
    """A teacher's run, then a student's of it; both summaries, and the logits of both loaders."""
    first = load_settings(
        None, overrides(digits, f"run.dir={folder}/teacher", "data.mean=[0.3]", "data.std=[0.2]")
    )
    summary = train(first)
    second = load_settings(
        None, overrides(digits, f"run.dir={folder}/student", f"loss.teacher={folder}/teacher")
    )
    return summary, train(second)


def test_a_run_may_be_the_teacher_and_keeps_its_own_normalisation(digits, tmp_path):
    ((first, second),) = run_ranks(train_both, 1, digits, tmp_path)
    assert first["steps"] == second["steps"] == 2
    (path,) = list_checkpoints(tmp_path / "teacher" / "checkpoints")
    state = read_checkpoint(path)
    net = small_cnn(10, 1)
    net.load_state_dict(state["weights"] | state["buffers"])
    settings = load_settings(None, overrides(digits, f"loss.teacher={tmp_path}/teacher"))
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        expected = net.eval()((images.float() / 255 - 0.3) / 0.2)
    torch.testing.assert_close(Teacher(settings, CPU)(images), expected)
    student = read_checkpoint(list_checkpoints(tmp_path / "student" / "checkpoints")[-1])
    assert (
        student["parts"]["history"]["identity"]["loss.teacher.id"]
        == (teacher_identity(settings)["loss.teacher.id"])
    )
    assert student["parts"].keys() == state["parts"].keys()  # nothing of the teacher
    assert student["weights"].keys() == state["weights"].keys()


def count_forwards(digits, methods):
    counts = {}
    for method in methods:
        settings = of_file(digits, f"method.name={method}", "batch.per_rank=16")
        parts = build_parts(settings)
        teacher = parts.task._loss._teacher
        before = {name: w.clone() for name, w in teacher._model.state_dict().items()}
        calls = []
        teacher._model.register_forward_pre_hook(lambda module, args, to=calls: to.append(args))
        for _ in run_steps(parts, 0, 2):
            pass
        counts[method] = len(calls)
        assert same_bits(before, teacher._model.state_dict())
        assert not any(p.grad is not None for p in teacher._model.parameters())
        assert not {id(p) for p in teacher._model.parameters()} & {
            id(p) for p in parts.engine.module.parameters()
        }
        parts.close()
    return counts


def test_the_teacher_is_asked_once_a_slot_also_where_the_student_passes_twice(digits):
    methods = ("sgd", "sam", "m-arwp")
    for counts in run_ranks(count_forwards, 2, digits, methods):
        assert counts == dict.fromkeys(methods, 2 * 2)  # updates, micro-batches


def train_one(words):
    train(load_settings(None, words))


def test_a_run_whose_labels_mean_something_else_is_refused(digits, tmp_path):
    run_ranks(train_one, 1, overrides(digits, f"run.dir={tmp_path}/run"))
    settings = load_settings(None, overrides(digits, f"loss.teacher={tmp_path}/run"))
    names = tuple("abcdefghij")
    Teacher(settings, CPU, Classes(10, None, "here"))
    with pytest.raises(DataError, match="labels do not mean the same: 0 is"):
        Teacher(settings, CPU, Classes(10, names, "here"))


class TestRefused:
    @pytest.mark.parametrize(
        ("more", "told"),
        [
            (["loss.teacher={f}/nothing"], "nothing is not there"),
            (["loss.teacher=https://a.b/c.pt"], "is an address"),
            (["loss.teacher={f}/teacher.pt"], "does not say what network it is of"),
            (["loss.teacher={f}/train"], "no run directory"),
        ],
    )
    def test_what_is_no_teacher_before_torch_is_loaded(self, digits, tmp_path, more, told):
        words = overrides(digits, f"run.dir={tmp_path}/run", *(m.format(f=digits) for m in more))
        with pytest.raises(SettingsError, match=told):
            RunCheck(1).load(None, words)

    def test_weights_of_another_network(self, digits):
        settings = of_file(digits, "data.channels=3", "loss.teacher_model=resnet18")
        with pytest.raises(ConfigError, match=r"conv1.weight is .* here and .* there"):
            Teacher(settings, CPU)

    def test_a_file_of_something_else(self, digits, tmp_path):
        (tmp_path / "file.pt").write_text("no weights")
        with pytest.raises(ConfigError, match="holds more than tensors and numbers"):
            Teacher(of_file(digits, f"loss.teacher={tmp_path}/file.pt"), CPU)

    def test_a_run_of_other_classes(self, digits, tmp_path):
        own = load_settings(None, overrides(digits, "model.num_classes=12"))
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "step-00000002.pt").touch()
        (tmp_path / "config.yaml").write_text(dump_settings(own))
        settings = load_settings(None, overrides(digits, f"loss.teacher={tmp_path}"))
        with pytest.raises(ConfigError, match=r"trained with model\.num_classes=12, and this run"):
            Teacher(settings, CPU)

    def test_one_that_does_not_take_a_size_of_the_run(self, tmp_path, digits):
        settings = of_file(
            digits,
            *("data.channels=3", "data.image_size=32", "data.sizes=[[0,16],[0.5,32]]"),
            *("loss.teacher_model=vit_s_16", f"loss.teacher={tmp_path}/vit.pt"),
        )
        from rwp_dist.run.models import vit_s

        torch.save(vit_s(10, 32, 16).state_dict(), tmp_path / "vit.pt")
        with pytest.raises(ConfigError, match="vit_s_16 does not take images of 16 pixels"):
            Teacher(settings, CPU)


class TestIdentity:
    def test_it_changes_with_the_file_and_not_with_its_place(self, digits, tmp_path):
        shutil.copy(digits / "teacher.pt", tmp_path / "moved.pt")
        here = teacher_identity(of_file(digits))
        assert teacher_identity(of_file(digits, f"loss.teacher={tmp_path}/moved.pt")) == here
        with (tmp_path / "moved.pt").open("ab") as file:
            file.write(b"0")
        assert teacher_identity(of_file(digits, f"loss.teacher={tmp_path}/moved.pt")) != here

    def test_a_run_without_has_none(self):
        settings = load_settings(None, [])
        assert teacher_file(settings) is None
        assert teacher_identity(settings) == {}
        assert settings_identity(settings, 1)["loss.teacher.id"] == NO_TEACHER
