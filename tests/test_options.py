"""Every setting that changes training: two ranks, interrupted, and resumed bit for bit.

A new setting gets a row here. Settings that do not hide each other share one.
"""

import pytest
import torch
from support.checkpoints import everything, load, save
from support.ranks import run_ranks
from support.small import run_all, same_bits
from torch import nn

from rwp_dist.config import load_settings
from rwp_dist.run.build import build_parts
from rwp_dist.run.evaluate import clean_network, evaluate_beside, evaluate_parts
from rwp_dist.run.models import small_cnn
from rwp_dist.shards import synthetic_listing, write_shards

METHODS = ("sgd", "sam", "m-arwp")
CLASSES, SIZE, STEPS, SAVED = 4, 16, 7, 4
"""An epoch is five steps: the run is saved in its first one, and ends in its second."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "clipping": ("optimizer.clip_norm=0.5", "optimizer.nesterov=true"),
    "adamw": ("optimizer.name=adamw", "optimizer.lr=0.01", "optimizer.no_decay=['ndim<2']"),
    "balanced": ("data.sampling=balanced", "data.pad_last=true"),
    "mixing": ("augment.mixup=0.2", "augment.cutmix=1", "augment.label_smoothing=0.1"),
    "cropping": ("augment.crop=random_resized", "augment.flip=true", "augment.erase=0.5"),
    "randaugment": ("augment.crop=pad", "augment.auto=randaugment", "augment.cutout=4"),
    "bce": (
        *("loss.name=bce", "loss.threshold=0.2", "augment.mixup=0.2", "augment.auto=three"),
        *("augment.label_smoothing=0.1", "augment.jitter=[0.3,0.3,0.3,0.1]"),
    ),
    "distillation": (
        *("loss.teacher=FOLDER/teacher.pt", "loss.teacher_model=small_cnn"),
        *("loss.temperature=2", "augment.cutmix=1", "data.pad_last=true"),
        "deepspeed.zero_stage=2",
    ),
    "sizes": (
        *("data.sizes=[[0,12],[0.6,16],[0.8,14]]", "evaluation.image_size=20"),
        *("augment.repeats=2", "augment.auto=augmix", "augment.crop=random_resized"),
        "engine.name=deepspeed",
    ),
    "summed": (
        *("loss.name=bce", "loss.sum_classes=true", "optimizer.lr=0.01", "optimizer.clip_norm=1"),
        *("average.name=ema", "average.device=cpu", "precision=fp16"),
    ),
    "timm": (
        *("model.name=timm:test_vit", "data.image_size=32", "optimizer.name=adamw"),
        "model.options={drop_path_rate: 0.3, attn_drop_rate: 0.2, global_pool: avg}",
        *("optimizer.lr=0.001", "optimizer.layer_decay=0.7", "evaluation.per_class=true"),
    ),
    "steps": ("schedule.name=step", "schedule.decay_steps=[2,5]", "schedule.warmup_steps=1"),
    "cooling": (
        *("schedule.name=polynomial", "schedule.min_lr=0.01", "schedule.cooldown_steps=2"),
        "schedule.power=2",
        *("schedule.warmup_steps=2", "schedule.warmup_from=0.5", "optimizer.base_batch=16"),
        "optimizer.lr_factors={'*bn*': 2, 'linear*': 0.5}",
    ),
    "wsd": ("schedule.name=wsd", "schedule.decay_steps=[4]", "optimizer.clip_value=0.01"),
    "lars": ("optimizer.name=lars", "optimizer.lr=1"),
    "lion": ("optimizer.name=lion", "optimizer.lr=0.001", "deepspeed.zero_stage=1"),
    "lamb-fp16-agc": (
        *("optimizer.name=lamb", "optimizer.lr=0.01", "optimizer.clip_agc=0.05"),
        "precision=fp16",
    ),
    "muon": (
        *("optimizer.name=muon", "optimizer.lr=0.01", "optimizer.layer_decay=0.8"),
        "model.name=torchvision.models:VisionTransformer",
        "model.options={image_size: 16, patch_size: 4, num_layers: 2, num_heads: 2, hidden_dim: 8,"
        " mlp_dim: 16}",
    ),
    "bf16": ("precision=bf16",),
    "starting": (
        f"model.name={__name__}:blocks",
        "model.options={width: 6}",
        "model.init=FOLDER/weights.pt",
        "model.freeze=['one.*']",
        "model.checkpointing=true",
    ),
    "ema": ("average.name=ema", "average.decay=0.8", "average.every=2"),
    "swa": ("average.name=swa", "average.start=0.2", "average.every=1", "average.result=trained"),
    "lawa": ("average.name=lawa", "average.newest=2", "average.every=2", "deepspeed.zero_stage=1"),
    "zero-1": ("deepspeed.zero_stage=1", "optimizer.clip_norm=0.5"),
    "zero-2": ("deepspeed.zero_stage=2", "optimizer.name=adamw", "optimizer.lr=0.01"),
}


class Blocks(nn.Module):
    """Two blocks with BatchNorm and dropout, which are computed again."""

    def __init__(self, num_classes, width):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.two = nn.Sequential(
            nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(width, num_classes)

    def checkpointed_blocks(self):
        return [self.one, self.two]

    def forward(self, images):
        return self.head(self.two(self.one(images)).mean((2, 3)))


def blocks(num_classes, width):
    return Blocks(num_classes, width)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    torch.save(blocks(num_classes=9, width=6).state_dict(), folder / "weights.pt")
    write_shards(synthetic_listing(40, 24, 20, CLASSES, seed=0), folder / "train")
    write_shards(synthetic_listing(10, 24, 20, CLASSES, seed=1), folder / "val")
    torch.save(small_cnn(CLASSES, 3).state_dict(), folder / "teacher.pt")
    return folder


def settings_of(shards, *overrides):
    return load_settings(
        None,
        [
            f"data.train={shards / 'train'}",
            f"data.val={shards / 'val'}",
            f"data.image_size={SIZE}",
            "data.channels=3",
            "data.workers=0",
            f"model.num_classes={CLASSES}",
            "model.options={widths: [4, 6]}",
            "batch.global=8",
            "batch.per_rank=2",
            "method.rho=0.3",
            "method.beta=0.7",
            f"schedule.steps={STEPS}",
            "run.device=cpu",
            "tracking.wandb=off",
            *(override.replace("FOLDER", str(shards)) for override in overrides),
        ],
    )


def ends_of(parts):
    """What a run has in its end, and how good its network is."""
    beside, _ = evaluate_beside(parts, STEPS)
    with clean_network(parts, STEPS):
        result, _ = evaluate_parts(parts)
    return everything(parts), {**result, **beside}


def interrupted_and_not(shards, folder, overrides):
    """What a run has in its end if it is never interrupted, and if it is resumed."""
    found = {}
    for method in METHODS:
        settings = settings_of(shards, f"method.name={method}", *overrides)
        parts = build_parts(settings)
        run_all(parts, 0, SAVED)
        save(folder / method, parts, SAVED)
        run_all(parts, SAVED)
        undisturbed = ends_of(parts)
        parts.close()
        parts = build_parts(settings)
        load(folder / method, parts)
        run_all(parts, SAVED)
        found[method] = undisturbed, ends_of(parts)
        parts.close()
    return found


@pytest.mark.parametrize("option", OPTIONS)
def test_a_resumed_run_is_an_undisturbed_one(option, shards, tmp_path):
    for method in METHODS:
        (tmp_path / method).mkdir()
    for found in run_ranks(interrupted_and_not, 2, shards, tmp_path, OPTIONS[option]):
        for method, (undisturbed, resumed) in found.items():
            assert same_bits(undisturbed[0], resumed[0]), method
            assert undisturbed[1] == resumed[1], method
