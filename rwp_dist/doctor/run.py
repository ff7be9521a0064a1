"""What the settings of a run ask of this machine: memory, compilers, data and its speed."""

import os
import shutil
from collections.abc import Iterator

from rwp_dist.base.errors import ConfigError, DataError, RwpError
from rwp_dist.base.text import count, plural, size
from rwp_dist.base.urls import local_path, shown
from rwp_dist.config import Settings, split_batch
from rwp_dist.data.chosen import QUICK, Key, check_classes, classes_of, sources_of
from rwp_dist.data.classes import notes
from rwp_dist.data.open import open_dataset
from rwp_dist.data.reader import BadSample, ShardFiles
from rwp_dist.doctor import disks
from rwp_dist.doctor.finding import Check, Finding, from_error, ok, problem, warning
from rwp_dist.doctor.machine import Machine
from rwp_dist.doctor.speed import images_per_second
from rwp_dist.engine.sharding import engine_name
from rwp_dist.perturb.methods import METHODS
from rwp_dist.perturb.normals import native
from rwp_dist.record.directory import RunDir
from rwp_dist.record.resume import changed_settings, goes_on_changed
from rwp_dist.record.weights import init_file, teacher_file
from rwp_dist.run.memory import (
    PROCESS_BYTES,
    TIGHT,
    available_bytes,
    checkpoint_bytes,
    estimate,
    with_zero_stage,
)


def earlier_run(machine: Machine) -> Iterator[Finding]:
    """A run that the run directory holds already is this one, and nobody trains it.

    Raises:
        ConfigError: it is another one.
    """
    settings = machine.settings
    assert settings is not None
    run_dir = RunDir(machine.run_dir)
    changed_settings(run_dir, settings, machine.world_size)
    if holder := run_dir.holder():
        seen = f"{run_dir.path} is being trained already ({holder})"
        yield problem("earlier run", seen, "stop that, or choose another run.dir")
    elif run_dir.summary.is_file() and not goes_on_changed(run_dir, settings):
        yield ok("earlier run", f"{run_dir.path} is finished: nothing is left to train")
    elif step := run_dir.saved_step():
        yield ok("earlier run", f"{run_dir.path} goes on from step {step:,}", step=step)


def checkpoint_room(machine: Machine) -> Iterator[Finding]:
    """There is room for all checkpoints that the run keeps and the one being written."""
    assert machine.settings is not None
    yield disks.room("room for checkpoints", machine, checkpoint_bytes(machine.settings))


def memory(machine: Machine) -> Iterator[Finding]:
    """What a rank will hold at its peak, and whether it fits."""
    settings = machine.settings
    assert settings is not None
    try:
        split = split_batch(settings, machine.world_size)
    except ConfigError as error:
        found = from_error("batch", error)
        seen = f"with {plural(machine.world_size, 'rank')}, {found.seen}"
        yield warning("batch", seen, f"{found.cure}, or start another number of ranks")
        return
    memories = [gpu.memory_bytes for gpu in machine.gpus if gpu.memory_bytes]
    least = min(memories, default=None) if machine.on_gpus else None
    settings = with_zero_stage(settings, split, least)
    parts = estimate(settings, split, on_gpus=machine.on_gpus)
    total = sum(parts.values())
    text = ", ".join(f"{name} {size(n)}" for name, n in parts.items() if n >= 0.005 * total)
    figures = {f"{name.replace(' ', '_')}_bytes": n for name, n in parts.items()}
    yield ok(
        "estimate",
        f"{size(total)} a rank, with {plural(split.world_size, 'rank')} under "
        f"{engine_name(settings)}: {text}",
        total_bytes=total,
        **figures,
    )
    if not machine.on_gpus:
        need = machine.num_ranks * (total + PROCESS_BYTES)
        yield _fits("main memory", need, available_bytes(), split.size)
    elif memories:
        yield _fits("GPU memory", total, min(memories), split.size)


def _fits(name: str, need: float, have: float, micro_batch: int) -> Finding:
    figures = {"need_bytes": need, "have_bytes": have}
    if need <= TIGHT * have:
        return ok(name, f"{size(have)}, {size(need)} needed", **figures)
    what = "too little" if need > have else "little more than the estimate"
    seen = f"{size(have)} is {what}: {size(need)} needed, and some that cannot be estimated"
    cure = (
        f"set batch.per_rank below {micro_batch}, precision to bf16 or deepspeed.zero_stage "
        "higher, or use more ranks"
    )
    return (problem if need > have else warning)(name, seen, cure, **figures)


def weights(machine: Machine) -> Iterator[Finding]:
    """The weights of ``model.init`` and ``loss.teacher`` are there.

    Raises:
        ConfigError: they are not.
    """
    assert machine.settings is not None
    for name, find in (("weights", init_file), ("teacher", teacher_file)):
        path = find(machine.settings)
        if path is not None:
            yield ok(name, f"{path}, {size(path.stat().st_size)}")


def noise(machine: Machine) -> Iterator[Finding]:
    """What will draw the noise of a run on a CPU; on GPUs Triton draws it."""
    assert machine.settings is not None
    backend = machine.settings.noise.backend
    noisy = METHODS[machine.settings.method.name].draws_noise
    if machine.on_gpus or not noisy or backend not in ("auto", "native"):
        return
    try:
        native.library()
    except ConfigError as error:
        if backend == "native":
            yield from_error("generator", error)
        else:
            seen = f"torch's generator, which takes two to four times as long ({error.problem})"
            cure = "install a C compiler, or set CC to yours"
            yield warning("generator", seen, cure)
        return
    fast = backend == "native" or native.is_fast()
    yield ok("generator", "normals.c" if fast else "torch's generator: there is no AVX2 here")


def compiler(machine: Machine) -> Iterator[Finding]:
    """What compiles the network on a CPU, if the run asks for it."""
    assert machine.settings is not None
    if machine.on_gpus or not machine.settings.run.compile:
        return
    program = os.environ.get("CXX", "g++")
    if shutil.which(program):
        yield ok("C++ compiler", program)
    else:
        seen = f"there is no {program}, and run.compile needs it"
        cure = "install one (apt install g++), set CXX to yours, or set run.compile to false"
        yield problem("C++ compiler", seen, cure)


def training(machine: Machine) -> Iterator[Finding]:
    """The training data can be read; how many images/s this machine's cores make of it."""
    settings = _impatient(machine)
    yield from _readable("training", settings, "data.train")
    found = images_per_second(settings)
    seen = f"{count(found['images_per_s'])} images/s on this machine's {found['cores']} cores"
    yield ok("speed", seen, **found)
    decoder = found["decoder"]
    if settings.data.decoder == "auto" and decoder != "libjpeg":
        seen = f"{decoder}; libjpeg, which decodes the crop alone, takes about a third less time"
        cure = "install a C compiler and libjpeg-turbo's headers (apt install gcc libjpeg-dev)"
        yield warning("decoder", seen, cure)
    else:
        yield ok("decoder", decoder)
    if found["bad"]:
        seen = f"{found['bad']} of {found['images']} in {shown(found['shard'])}"
        cure = "see which ones and why: rwp-dist shards verify"
        yield warning("unreadable images", seen, cure)


def evaluation(machine: Machine) -> Iterator[Finding]:
    """The evaluation data can be read, and their labels mean what those of training do."""
    settings = _impatient(machine)
    yield from _readable("evaluation", settings, "data.val")
    try:
        train = classes_of(settings, "data.train")
        split = split_batch(settings, machine.world_size)
    except RwpError:
        return  # other checks say so
    val = classes_of(settings, "data.val")
    check_classes(train, val)
    for note in notes(settings, split, train, val):
        yield warning(note.key, note.problem, note.cure)


def _readable(name: str, settings: Settings, key: Key) -> Iterator[Finding]:
    """Manifest and indexes are whole, and the first sample of the first shard is the indexed one.

    Raises:
        DataError: they are not.
    """
    cache, dataset = open_dataset(settings, key)
    files = ShardFiles(1, cache)
    try:
        files.sample(dataset.shards[0], dataset.rows_of(0), 0)
    except BadSample as error:
        cure = "restore the shard, or index it again with `rwp-dist shards index`"
        raise DataError(str(error), cure=cure) from None
    finally:
        files.close()
    num_bytes = sum(shard.num_bytes or 0 for shard in dataset.shards)
    yield ok(
        name,
        f"{dataset.num_samples:,} images, {len(dataset.shards):,} shards, {size(num_bytes)}: "
        f"{', '.join(shown(source) for source in sources_of(settings, key))}",
        samples=dataset.num_samples,
        shards=len(dataset.shards),
        bytes=num_bytes,
    )
    if cache is not None:
        remote = [s.num_bytes or 0 for s in dataset.shards if local_path(s.url) is None]
        yield disks.cache_room(settings, sum(remote))


def _impatient(machine: Machine) -> Settings:
    """The settings, but a server gets two attempts and some seconds."""
    assert machine.settings is not None
    data = machine.settings.data
    quick = {
        "retries": min(data.retries, QUICK.retries),
        "stall_s": min(data.stall_s, QUICK.stall_s),
    }
    return machine.settings.model_copy(update={"data": data.model_copy(update=quick)})


CHECKS = (
    Check("disks", "earlier run", earlier_run),
    Check("disks", "room for checkpoints", checkpoint_room),
    Check("memory", "estimate", memory),
    Check("noise", "generator", noise, 90.0),
    Check("network", "C++ compiler", compiler),
    Check("network", "weights", weights),
    Check("data", "training", training, 600.0),
    Check("data", "evaluation", evaluation, 300.0),
)
"""Only for a machine with settings."""
