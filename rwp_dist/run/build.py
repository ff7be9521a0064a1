"""Build the parts of a run from its settings, on every rank."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.text import size
from rwp_dist.config import Settings, Split, split_batch
from rwp_dist.data.chosen import check_classes
from rwp_dist.data.classes import Note, notes
from rwp_dist.data.dataset import check_labels_again
from rwp_dist.data.image import Mixer, Normalise
from rwp_dist.data.open import Eval, Train, open_eval, open_train
from rwp_dist.data.stream import EvalStream, TrainStream
from rwp_dist.engine.deepspeed.config import check_energy_buckets
from rwp_dist.engine.engine import Engine
from rwp_dist.engine.sharding import zero_stage
from rwp_dist.engine.start import start_engine
from rwp_dist.perturb import METHODS, Perturbed
from rwp_dist.perturb.energy import ENERGY_BUCKET_BYTES
from rwp_dist.perturb.normals import Backend, choose_backend
from rwp_dist.perturb.slots import Slots
from rwp_dist.process.group import (
    all_equal,
    any_rank,
    choose_device,
    from_main,
    same_on_all_ranks,
    smallest,
)
from rwp_dist.process.stages import stage
from rwp_dist.run.flops import count_flops
from rwp_dist.run.freezing import freeze_parameters
from rwp_dist.run.initial import begin_from_weights
from rwp_dist.run.memory import with_stage, with_zero_stage
from rwp_dist.run.models import build_model, with_checkpointing
from rwp_dist.run.optimizers import build_optimizer
from rwp_dist.run.parts import EXTRAS, Parts
from rwp_dist.run.slots import most_perturbed, slots_of
from rwp_dist.run.task import Classification
from rwp_dist.run.timeline import Timeline
from rwp_dist.run.trial import check_trainable

SETTINGS = {"backend": "noise.backend", "exclude": "method.exclude", "model": "model.name"}
"""Arguments of the library, and the settings that they come from."""


def build_parts(settings: Settings, streams: tuple[Train, Eval] | None = None) -> Parts:
    """Open the shards, build the network and the engine; every rank calls it.

    Args:
        settings: everything the run depends on.
        streams: what to train and to evaluate with, in place of the settings' shards.

    Raises:
        ConfigError: settings do not fit the number of ranks or the machine.
        DataError: shards are not what the settings say.
    """
    split = split_batch(settings, dist.get_world_size())
    device = choose_device(settings.run.device)
    torch.set_num_threads(settings.run.threads)
    method = METHODS[settings.method.name]
    pin = device.type == "cuda"
    # What fails here may fail on one node alone; the others would wait for it in the engine.
    with stage("building the network"), same_on_all_ranks():
        model = build_model(settings, device)
        freeze_parameters(model, settings.model.freeze)
        unused = check_trainable(model, settings, split.size)
    asked, memory = settings, _least_memory(device)
    with same_on_all_ranks():
        settings = with_zero_stage(asked, split, memory)
    # Nodes may differ in what they have installed, so rank 0's choice counts, and only this choice.
    settings = with_stage(settings, from_main(lambda: zero_stage(settings)))
    with same_on_all_ranks():
        optimizer = build_optimizer(model, settings)
        # Before DeepSpeed adds hooks, or empties the parameters.
        flops = count_flops(model, settings.data.channels, settings.data.image_size)
        with_checkpointing(model, settings)  # what it computes again is no work of the network's
    with stage("opening the shards"), same_on_all_ranks():
        train, val = streams or _open_streams(settings, split, pin)
        timeline = Timeline.of(settings, train.steps_per_epoch)
    classes = train.dataset.classes if isinstance(train, TrainStream) else None
    began: list[Note] = []
    if settings.model.init is not None:
        with stage("reading the weights to start from"), same_on_all_ranks():
            if dist.get_rank() == 0:  # the engine gives rank 0's weights to all ranks
                began = begin_from_weights(model, settings, classes)
    with stage("compiling what draws the noise"), same_on_all_ranks(), keys_of_settings():
        backend = choose_backend(settings.noise.backend, device)
    backend = _common(backend)
    if backend == "triton" and method.observes_gradients:
        check_energy_buckets(settings, ENERGY_BUCKET_BYTES)
    slots = slots_of(settings, split)
    with stage("starting the engine"):
        engine = start_engine(
            model,
            optimizer,
            settings,
            split,
            device,
            num_perturbed=most_perturbed(slots),
            some_unused=any_rank(bool(unused)),
        )
    perturbed = _perturb(settings, engine, slots, timeline, backend)
    engine.module.train()
    normalise = Normalise(settings.data.mean, settings.data.std)
    if settings.run.compile:
        with stage("compiling the network"), same_on_all_ranks():
            shape = (split.size, settings.data.channels, *2 * (settings.data.image_size,))
            images = torch.zeros(shape, dtype=torch.uint8, device=device)
            from rwp_dist.run.compiling import compile_network  # torch's compiler takes seconds

            compile_network(engine, perturbed, normalise(images))
    extras = {name: build(settings, engine) for name, build in EXTRAS.items()}
    return Parts(
        settings=settings,
        method=method,
        device=device,
        split=split,
        train=train,
        val=val,
        mixer=build_mixer(settings),
        normalise=normalise,
        task=Classification(),
        timeline=timeline,
        engine=engine,
        perturbed=perturbed,
        extras={name: extra for name, extra in extras.items() if extra is not None},
        flops_per_image=flops,
        classes=classes,
        notes=(
            *began,
            *_stage_notes(asked, settings, memory),
            *_notes(settings, split, train, val),
        ),
    )


def _open_streams(settings: Settings, split: Split, pin: bool) -> tuple[TrainStream, EvalStream]:
    """The settings' shards, whose labels mean the same.

    Raises:
        DataError: they are not what the settings say.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    train = open_train(settings, split, rank, pin=pin)
    val = open_eval(settings, rank, world_size, pin=pin)
    check_classes(train.dataset.classes, val.dataset.classes)
    for stream in (train, val):
        check_labels_again(stream.dataset, rank, world_size)
    return train, val


def _stage_notes(asked: Settings, settings: Settings, memory: int | None) -> list[Note]:
    """What ``deepspeed.zero_stage: auto`` has chosen, if it is not the usual stage 0."""
    stage = settings.deepspeed.zero_stage
    if asked.deepspeed.zero_stage != "auto" or stage == 0 or memory is None:
        return []
    why = f"a smaller stage does not fit into the {size(memory)} of a GPU"
    problem = f"auto has chosen {stage}, because {why}"
    return [Note("deepspeed.zero_stage", problem, "set it to another if that is not meant")]


def _notes(settings: Settings, split: Split, train: Train, val: Eval) -> list[Note]:
    if not (isinstance(train, TrainStream) and isinstance(val, EvalStream)):
        return []
    return notes(settings, split, train.dataset.classes, val.dataset.classes)


def _perturb(
    settings: Settings,
    engine: Engine,
    slots: Slots,
    timeline: Timeline,
    backend: Backend,
) -> Perturbed:
    m, strength = settings.method, METHODS[settings.method.name].strength
    strengths: dict[str, Any] = {strength: timeline.strength} if strength else {}
    with keys_of_settings():
        return Perturbed(
            engine.module,
            m.name,
            **strengths,
            seed=settings.run.seed,
            exclude=m.exclude,
            scale=m.scale,
            eta=m.eta,
            beta=m.beta,
            power=m.power,
            backend=backend,
            draw_ahead=settings.noise.prefetch,
            weights=engine.weights,
            gradients=engine.gradients,
            slots=slots,
        )


@contextmanager
def keys_of_settings() -> Iterator[None]:
    """Have errors of the library name settings instead of arguments."""
    try:
        yield
    except ConfigError as error:
        key = SETTINGS.get(error.key or "", error.key)
        raise ConfigError(error.problem, key=key, cure=error.cure) from error


def _least_memory(device: torch.device) -> int | None:
    """Bytes of the smallest GPU of all ranks; None: this is no GPU. A collective."""
    if device.type != "cuda":
        return None
    return smallest(torch.cuda.get_device_properties(device).total_memory)


def _common(mine: Backend) -> Backend:
    """One backend for all ranks, or a run could not be repeated with its ranks on other nodes."""
    return mine if all_equal(hashlib.sha256(mine.encode()).digest()) else "torch"


def build_mixer(settings: Settings) -> Mixer | None:
    """Mixup, CutMix and label smoothing; None if all are off."""
    a = settings.augment
    if not (a.mixup or a.cutmix or a.label_smoothing):
        return None
    return Mixer(a.mixup, a.cutmix, settings.model.num_classes, a.label_smoothing)
