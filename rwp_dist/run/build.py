"""What a run consists of, built from its settings on every rank."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rwp_dist.config import Settings, Split, split_batch
from rwp_dist.data.image import Mixer, Normalise
from rwp_dist.data.open import Eval, Train, open_eval, open_train
from rwp_dist.engine.engine import Engine
from rwp_dist.perturb.methods import METHODS, Method
from rwp_dist.perturb.normals.backend import Backend, check_buckets, choose_backend
from rwp_dist.perturb.perturbation import Perturbation
from rwp_dist.perturb.rows import check_patterns, list_filters
from rwp_dist.perturb.slots import Slot, assign_slots
from rwp_dist.perturb.statistics import broadcast_buffers
from rwp_dist.process.group import choose_device, gathered, same_on_all_ranks
from rwp_dist.run.models import build_model
from rwp_dist.run.timeline import Timeline


@dataclass(frozen=True)
class Parts:
    """Everything that the loop works with."""

    settings: Settings
    method: Method
    device: torch.device
    split: Split
    slots: list[list[Slot]]
    """Slots of all ranks, ``[world_size][micro_batches]``."""
    train: Train
    """This rank's training steps."""
    val: Eval
    """This rank's share of the evaluation samples."""
    mixer: Mixer | None
    timeline: Timeline
    engine: Engine
    perturbation: Perturbation
    backend: Backend | None
    """What draws the noise; None for a method without."""

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

    def close(self) -> None:
        """Let go of threads, hooks and buffers, so that a process can build other parts."""
        self.perturbation.close()
        self.engine.close()


def to_input(settings: Settings, images: Tensor) -> Tensor:
    """uint8 images ``[B, C, H, W]``, or mixed ones in 0..255, to normalised ones."""
    return _normalise(settings.data.mean, settings.data.std)(images)


_normalise = lru_cache(maxsize=8)(Normalise)  # its constants are on the device already


def build_parts(settings: Settings, streams: tuple[Train, Eval] | None = None) -> Parts:
    """Open the shards, build the network and the engine; every rank calls it.

    Args:
        settings: everything the run depends on.
        streams: what to train and to evaluate with, in place of the settings' shards.

    Raises:
        ConfigError: settings do not fit the number of ranks or the machine.
        DataError: shards are not what the settings say.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    split = split_batch(settings, world_size)
    device = choose_device(settings.run.device)
    torch.set_num_threads(settings.run.threads)
    method = METHODS[settings.method.name]
    model = build_model(settings)
    pin = device.type == "cuda"
    noisy = method.direction == "noise"
    # What fails here may fail on one node alone; the others would wait for it in the engine.
    with same_on_all_ranks():
        train, val = streams or (
            open_train(settings, split, rank, pin=pin),
            open_eval(settings, rank, world_size, pin=pin),
        )
        backend = choose_backend(settings.noise.backend, device) if noisy else None
    # One for all, or a run could not be repeated with its ranks on other nodes.
    if backend is not None and len(set(gathered(backend))) > 1:
        backend = "torch"
    slots = assign_slots(
        method,
        world_size,
        split.micro_batches,
        settings.method.lambda_,
        antithetic=settings.method.antithetic,
        shared_draws=settings.deepspeed.zero_stage == 3,
    )
    perturbed = [sum(slot.perturbed for slot in row) for row in slots]
    # Parameters are listed before ZeRO stage 3 takes them apart.
    check_patterns((name for name, _ in model.named_parameters()), settings.method.exclude)
    filters = list_filters(model.named_parameters(), settings.method.exclude if noisy else ())
    if backend is not None and method.adaptive:
        check_buckets(backend, settings.deepspeed.extra)
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
        ahead=slots[rank] if settings.noise.prefetch else (),
        backend=backend or "torch",
        scale=m.scale,
        rho=m.rho,
        eta=m.eta,
        beta=m.beta,
        power=m.power,
    )
    engine.when_reducing(perturbation.reducing)
    engine.module.train()
    return Parts(
        settings=settings,
        method=method,
        device=device,
        split=split,
        slots=slots,
        train=train,
        val=val,
        mixer=build_mixer(settings),
        timeline=Timeline.of(settings, train.steps_per_epoch),
        engine=engine,
        perturbation=perturbation,
        backend=backend,
    )


def build_mixer(settings: Settings) -> Mixer | None:
    """Mixup, CutMix and label smoothing; None if all are off."""
    a = settings.augment
    if not (a.mixup or a.cutmix or a.label_smoothing):
        return None
    return Mixer(a.mixup, a.cutmix, settings.model.num_classes, a.label_smoothing)


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters, whole ones also where ZeRO stage 3 has taken them apart."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)
