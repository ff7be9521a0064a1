"""A run whose images change their size: networks that cannot, operations, statistics, memory."""

from unittest.mock import patch

import pytest
from support.ranks import run_ranks
from support.small import run_steps

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings, split_batch
from rwp_dist.data.stream import TrainStream
from rwp_dist.run.build import build_parts
from rwp_dist.run.evaluate import clean_network, evaluate_parts
from rwp_dist.run.flops import count_flops
from rwp_dist.run.memory import estimate
from rwp_dist.run.models import build_model, small_cnn
from rwp_dist.run.progress import Progress
from rwp_dist.run.trial import check_trainable
from rwp_dist.shards.digits import write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


def settings_of(digits, *overrides):
    return load_settings(
        None,
        [
            *(f"data.train={digits}/train", f"data.val={digits}/test", "batch.global=64"),
            *("schedule.steps=10", "run.device=cpu", "data.workers=0", "tracking.wandb=off"),
            *("data.sizes=[[0,8],[0.6,12]]", "evaluation.image_size=10", *overrides),
        ],
    )


VIT = ("model.name=vit_s_16", "data.image_size=32", "data.channels=3")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["data.sizes=[[0,16],[0.5,32]]"],
            r"^data\.sizes: vit_s_16 does not take images of 16 pixels, as it is built for 32 "
            r"\(.*\); set it to \[\]",
        ),
        (
            ["evaluation.image_size=48"],
            r"^evaluation\.image_size: vit_s_16 does not take images of 48 .* set it to null",
        ),
    ],
)
def test_a_network_of_one_size_is_refused_with_the_reason(overrides, told):
    settings = load_settings(None, [*VIT, *overrides])
    with pytest.raises(ConfigError, match=told):
        check_trainable(build_model(settings), settings, 2)


def test_a_network_of_every_size_is_taken(digits):
    settings = settings_of(digits)
    assert check_trainable(build_model(settings), settings, 2) == []


def looked_at(digits, method, *overrides):
    """Sides of the images that the network gets, by what for; tflops and seconds of two records."""
    parts = build_parts(settings_of(digits, f"method.name={method}", *overrides))
    seen, records = [], []
    parts.engine.module.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[-1]), prepend=True
    )
    progress = Progress(parts)
    for step in run_steps(parts, 0, 10, progress):
        if step == 4 or step == 9:
            records.append(progress.train_record(step + 1, 0))
    training, again = list(seen), []
    seen.clear()
    steps = TrainStream.steps

    def asked(stream, first, last):
        again.append((first, last))
        return steps(stream, first, last)

    with patch.object(TrainStream, "steps", asked), clean_network(parts, 10):
        learning = list(seen)
        seen.clear()
        evaluate_parts(parts)
    per_image = [r["tflops"] * 1e12 / (64 / r["step_s"]) for r in records]
    return training, learning, seen, again, per_image


@pytest.fixture(scope="module")
def looked(digits):
    (found,) = run_ranks(looked_at, 1, digits, "rwp", "evaluation.recalibrate_batches=3")
    return found


def test_training_has_the_sizes_of_its_steps_and_evaluation_its_own(looked):
    training, _, evaluated, *_ = looked
    assert training == [8] * 6 + [12] * 4 and set(evaluated) == {10}


def test_statistics_are_renewed_on_the_latest_sizes(looked):
    _, learning, _, again, _ = looked
    assert again == [(7, 10)] and learning == [12] * 3


def test_operations_of_a_record_are_those_of_the_sizes_of_its_steps(looked):
    small, large = (count_flops(small_cnn(10, 1), 1, size) for size in (8, 12))
    *_, per_image = looked
    assert per_image[0] == pytest.approx(small)
    assert per_image[1] == pytest.approx((small + 4 * large) / 5)


def test_memory_is_that_of_the_largest_images_and_of_the_teacher(tmp_path):
    def parts_of(*overrides):
        settings = load_settings(None, ["data.image_size=16", *overrides])
        return estimate(settings, split_batch(settings, 1), on_gpus=True)

    alone = parts_of()
    assert parts_of("data.sizes=[[0,8],[0.5,16]]") == alone
    larger = parts_of("data.sizes=[[0,8],[0.5,32]]")
    assert larger["activations"] == pytest.approx(4 * alone["activations"], rel=0.05)
    taught = parts_of(f"loss.teacher={tmp_path}/a.pt", "loss.teacher_model=small_cnn")
    weights = sum(p.nbytes for p in small_cnn(10, 1).parameters())
    assert taught == alone | {"teacher": weights}
