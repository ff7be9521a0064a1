"""The files in configs/: their models, batches, headers and first steps are what they say."""

import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from support.ranks import run_ranks
from torch.utils.flop_counter import FlopCounterMode

from launcher.cli import main as launch
from rwp_dist.config import list_variants, load_settings, split_batch
from rwp_dist.run.models import draw_model
from rwp_dist.shards.synthetic import synthetic_listing
from rwp_dist.shards.write import write_shards
from rwp_dist.train import train

CONFIGS = Path(__file__).parents[2] / "configs"
FINETUNING = ("finetune_resnet50", "finetune_vit_s16")
NAMES = sorted(
    path.stem
    for path in CONFIGS.glob("*.yaml")
    if path.stem not in ("digits", "mnist", *FINETUNING)
)
OF_TODAY = (
    *("imagenet_resnet50_90", "imagenet_resnet50_600"),
    *("imagenet_vit_s16", "imagenet_vit_s16_basic"),
)
"""Recipes with more variants than the authors'."""
VARIANTS = ("sgd", "sam", "rwp", "arwp", "m-rwp", "m-arwp")
MORE = ("sgd", "sam", "late-sam", "asam", "rwp", "arwp", "multiplicative", "m-rwp", "m-arwp")
LATE = 0.2
"""Share of a run of late-sam that takes two passes."""

PARAMETERS = {  # of the published networks
    "cifar100_resnet18": 11_220_132,
    "imagenet_resnet18": 11_689_512,
    "imagenet_resnet50": 25_557_032,
    "imagenet_resnet50_90": 25_557_032,
    "imagenet_resnet50_600": 25_557_032,
    "imagenet_vit_s16": 21_974_632,
    "imagenet_vit_s16_basic": 21_974_632,
    "imagenet_vit_s32": 22_878_952,
}
SAMPLES = {"cifar100": (50_000, 10_000), "imagenet": (1_281_167, 50_000)}

each_config = pytest.mark.parametrize("name", NAMES)


def header(name):
    lines = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def settings_of(name, variant, *overrides):
    return load_settings(CONFIGS / f"{name}.yaml", [f"variant={variant}", *overrides])


def variants_of(name):
    return MORE if name in (*OF_TODAY, *FINETUNING) else VARIANTS


def samples_of(name):
    return SAMPLES[name.partition("_")[0]]


def steps(settings, num_samples):
    """Updates of a run, by the plan's rule: as many as whole slices of every lane."""
    batch = settings.batch.global_
    lanes = settings.data.lanes or math.gcd(8, batch)
    return num_samples // lanes // (batch // lanes) * settings.schedule.epochs


@cache
def built(name):
    """The network without numbers, and FLOP of a forward and backward pass of one image."""
    settings = settings_of(name, "sgd")
    with torch.device("meta"):
        model = draw_model(settings)
    sizes = settings.data.sizes or ((0.0, settings.data.image_size),)
    ends = [*(start for start, _ in sizes[1:]), 1.0]
    return model, sum(
        (end - start) * flop_of(model, settings, size)
        for (start, size), end in zip(sizes, ends, strict=True)
    )


def flop_of(model, settings, size):
    images = torch.empty(2, 3, size, size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        logits = model(images)
        logits.sum().backward()
    assert logits.shape == (2, settings.model.num_classes)
    return counter.get_total_flops() / 2


def test_every_recipe_is_there():
    assert set(NAMES) == set(PARAMETERS)


@pytest.mark.parametrize("name", (*NAMES, *FINETUNING))
def test_a_recipe_has_every_method_as_a_variant(name):
    assert list_variants(CONFIGS / f"{name}.yaml") == variants_of(name)
    for variant in variants_of(name):
        settings = settings_of(name, variant)
        assert settings.run.label == variant
        method = {"late-sam": "sam", "multiplicative": "rwp"}.get(variant, variant)
        assert settings.method.name == method


@each_config
def test_its_network_has_the_published_number_of_parameters(name):
    model, _ = built(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n in NAMES for v in variants_of(n)])
def test_its_batch_splits_on_the_hardware_that_it_names(name, variant):
    world_size = int(re.search(r"Hardware: (\d+) GPUs", header(name))[1])
    assert f"--nproc {world_size} " in header(name)
    settings = settings_of(name, variant)
    split = split_batch(settings, world_size)
    assert split.micro_batches == 1 and split.size <= settings.batch.per_rank
    for other in (1, 2, 4, 8, 16):
        split_batch(settings, other)


@each_config
def test_mixed_variants_take_as_many_updates_and_twice_the_samples(name):
    num_train, _ = samples_of(name)
    plain, mixed = settings_of(name, "sgd"), settings_of(name, "m-arwp")
    assert mixed.batch.global_ == 2 * plain.batch.global_
    counts = [int(steps(settings, num_train)) for settings in (plain, mixed)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    for count in counts:
        assert f"{count:,}" in header(name)
    for key in ("warmup_epochs", "epochs"):  # warm-up in steps is the same for both
        assert getattr(mixed.schedule, key) == 2 * getattr(plain.schedule, key)
    assert mixed.method.warmup_epochs == 2 * plain.method.warmup_epochs


@each_config
def test_its_header_says_what_one_needs_to_know(name):
    text = header(name)
    for number in samples_of(name):
        assert f"{number:,}" in text
    assert "No result of this file has been verified yet." in text
    commands = [f"configs/{name}.yaml", "rwp-dist shards", "rwp-launch run", "rwp-launch submit"]
    for part in (*commands, "sbatch --nodes=1 ", "slurm/imagenet_rwp.sh", "estimate"):
        assert part in text


@each_config
def test_its_header_says_how_it_is_submitted(name, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    command = re.search(r"rwp-launch (submit .*?) +#", header(name))[1].split()
    result = CliRunner().invoke(launch, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    gpus = re.search(r"Hardware: (\d+) GPUs", header(name))[1]
    assert f"--gpus-per-node={gpus}\n" in result.output


@each_config
def test_the_cost_in_its_header_follows_from_the_network_and_the_schedule(name):
    text, (_, flop) = header(name), built(name)
    rate = float(re.search(r"assumed (\d+) TFLOP/s", text)[1]) * 1e12
    images = float(re.search(r"about ([\d,]+) images/s", text)[1].replace(",", ""))
    assert images == pytest.approx(rate / flop, rel=0.05)
    lines = re.findall(
        r"#   ([a-z, -]+?) +([\d.]+) M passes x ([\d.]+) GFLOP = ([\d.]+) GPU-hours", text
    )
    priced = [variant for variants, *_ in lines for variant in variants.split(", ")]
    assert sorted(priced) == sorted(variants_of(name))
    for variants, passes, gflop, hours in lines:
        for variant in variants.split(", "):
            settings = settings_of(name, variant)
            twice = {"sam": 1.0, "asam": 1.0, "late-sam": LATE}.get(variant, 0.0)
            count = settings.schedule.epochs * samples_of(name)[0] * (1 + twice)
            assert float(passes) == pytest.approx(count / 1e6, rel=0.001)
            assert float(gflop) == pytest.approx(flop / 1e9, rel=0.01)
            assert float(hours) == pytest.approx(count * flop / rate / 3600, rel=0.05)


@pytest.mark.parametrize("name", FINETUNING)
def test_a_recipe_for_fine_tuning_says_what_one_needs_to_know(name, monkeypatch):
    text = header(name)
    for part in ("No result of this file has been verified yet.", "rwp-dist shards", "estimate"):
        assert part in text
    monkeypatch.chdir(CONFIGS.parent)
    command = re.search(r"rwp-launch (submit .*?) +#", text)[1].split()
    result = CliRunner().invoke(launch, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    settings = settings_of(name, "m-arwp")
    assert settings.model.init and settings.batch.global_ == 2 * 128


def small_colour_shards(folder, num_classes):
    for split, num in (("train", 24), ("val", 6)):
        write_shards(synthetic_listing(num, 48, 40, num_classes, seed=0), folder / split)


@pytest.mark.parametrize(
    ("name", "size", "more"),
    [
        ("cifar100_resnet18", 32, ()),
        ("imagenet_vit_s32", 64, ()),
        ("imagenet_vit_s16", 32, ()),
        ("imagenet_resnet50_90", 64, ("data.sizes=[[0,48],[0.5,64]]", "optimizer.lr=0.0001")),
        ("imagenet_resnet50_600", 64, ()),
        ("finetune_vit_s16", 32, ("model.init=null",)),
    ],
)
def test_a_recipe_trains_a_step_on_two_ranks(tmp_path, name, size, more):
    small_colour_shards(tmp_path, num_classes=4)
    settings = settings_of(
        name,
        "m-arwp",
        f"data.train={tmp_path}/train",
        f"data.val={tmp_path}/val",
        f"data.image_size={size}",
        "data.workers=0",
        "model.num_classes=4",
        "batch.global=8",
        "batch.per_rank=4",
        "schedule.steps=2",
        "schedule.warmup_steps=0",
        "method.warmup_steps=0",
        "run.device=cpu",
        f"run.dir={tmp_path}/run",
        "tracking.wandb=off",
        "tracking.log_every=1",
        *more,
    )
    summary, _ = run_ranks(train, 2, settings)
    assert summary["steps"] == 2 and summary["skipped_steps"] == 0
    assert math.isfinite(summary["loss"]) and summary["samples"] == 16
