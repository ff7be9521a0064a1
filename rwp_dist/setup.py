"""What a run consists of, built from its settings on every rank."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.config import Settings, Split, split_batch
from rwp_dist.data.plan import Plan
from rwp_dist.data.reader import Reader, Samples, load_shards, normalise
from rwp_dist.distributed import choose_device
from rwp_dist.engine import Engine
from rwp_dist.models import build_model
from rwp_dist.perturb.batchnorm import broadcast_buffers
from rwp_dist.perturb.filters import list_filters
from rwp_dist.perturb.methods import METHODS, Method
from rwp_dist.perturb.perturbation import Perturbation
from rwp_dist.perturb.roles import Slot, assign_slots
from rwp_dist.schedule import Timeline


@dataclass(frozen=True)
class Parts:
    """Everything that the loop works with."""

    settings: Settings
    method: Method
    device: torch.device
    split: Split
    slots: list[list[Slot]]
    """Slots of all ranks, ``[world_size][micro_batches]``."""
    reader: Reader
    val: Samples
    timeline: Timeline
    engine: Engine
    perturbation: Perturbation

    @property
    def my_slots(self) -> list[Slot]:
        """Slots of this rank in the order of their passes."""
        return self.slots[dist.get_rank()]

    @property
    def learns_statistics(self) -> bool:
        """Whether this rank's BatchNorm statistics come from clean passes."""
        return self.method.direction == "ascent" or any(not s.perturbed for s in self.my_slots)

    def to_input(self, images: Tensor) -> Tensor:
        """uint8 images ``[B, C, H, W]`` on the device to what the network takes."""
        return to_input(self.settings, images)


def to_input(settings: Settings, images: Tensor) -> Tensor:
    """uint8 images ``[B, C, H, W]`` to normalised ones, channels last on a GPU."""
    images = normalise(images, settings.data.mean, settings.data.std)
    # cuDNN is faster so; weights stay as they are, because ZeRO keeps them in flat buffers.
    return images.contiguous(memory_format=torch.channels_last) if images.is_cuda else images


def build_parts(settings: Settings, data: tuple[Samples, Samples] | None = None) -> Parts:
    """Read the shards, build the network and the engine; every rank calls it.

    Args:
        settings: everything the run depends on.
        data: samples to train and to evaluate with, in place of the settings' shards.

    Raises:
        ConfigError: settings do not fit the number of ranks or the machine.
        DataError: shards are not what the settings say.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    split = split_batch(settings, world_size)
    device = choose_device(settings.run.device)
    method = METHODS[settings.method.name]
    model = build_model(settings)
    train, val = data or (read_train(settings), read_val(settings))
    plan = Plan(
        num_samples=len(train.labels),
        global_batch=settings.batch.global_,
        slots=split.slots,
        seed=settings.run.seed,
    )
    slots = assign_slots(
        method,
        world_size,
        split.micro_batches,
        settings.method.lambda_,
        antithetic=settings.method.antithetic,
        shared_draws=settings.deepspeed.zero_stage == 3,
    )
    reader = Reader(train, plan, rank, split.micro_batches)
    perturbed = [sum(slot.perturbed for slot in row) for row in slots]
    # Parameters are listed before ZeRO stage 3 takes them apart.
    noisy = method.direction == "noise"
    filters = list_filters(model.named_parameters(), settings.method.exclude if noisy else ())
    engine = Engine(model, settings, split, device, num_perturbed=max(perturbed))
    broadcast_buffers(engine.module)
    m = settings.method
    perturbation = Perturbation(
        engine.module,
        filters if method.direction != "none" else [],
        method,
        engine.weights,
        device=device,
        seed=settings.run.seed,
        num_perturbed_slots=sum(perturbed),
        scale=m.scale,
        rho=m.rho,
        eta=m.eta,
        beta=m.beta,
        power=m.power,
    )
    engine.module.train()
    return Parts(
        settings=settings,
        method=method,
        device=device,
        split=split,
        slots=slots,
        reader=reader,
        val=val,
        timeline=Timeline.of(settings, reader.steps_per_epoch),
        engine=engine,
        perturbation=perturbation,
    )


def read_train(settings: Settings) -> Samples:
    """Training samples."""
    return _read(settings, settings.data.train)


def read_val(settings: Settings) -> Samples:
    """Evaluation samples."""
    return _read(settings, settings.data.val)


def _read(settings: Settings, url: str) -> Samples:
    d = settings.data
    return load_shards(
        url,
        image_size=d.image_size,
        channels=d.channels,
        num_classes=settings.model.num_classes,
    )


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters, whole ones also where ZeRO stage 3 has taken them apart."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
