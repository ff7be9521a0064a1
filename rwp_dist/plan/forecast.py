"""What each method would take: from settings and GPUs to step time, hours, memory and data."""

from dataclasses import dataclass

from rwp_dist.base.errors import ConfigError, RwpError
from rwp_dist.config import Settings, Split, split_batch
from rwp_dist.data.chosen import QUICK, manifests_of, plan_of_manifests
from rwp_dist.engine.memory import BUCKET_ELEMENTS, FP32_BYTES
from rwp_dist.engine.sharding import engine_name, uses_deepspeed, zero_stage
from rwp_dist.perturb.methods import METHODS
from rwp_dist.plan.hardware import (
    ASCENT_COPIES,
    DDP_BUCKET_BYTES,
    DDP_FIRST_BUCKET_BYTES,
    DEEPSPEED_S,
    FLOPS_PER_MEMORY_BYTE,
    HOST_S_PER_CALL,
    NOISE_COPIES,
    SPREAD,
    Gpu,
    fabric_of,
)
from rwp_dist.plan.model import Bucket, StepTime, Work, make_buckets, step_time
from rwp_dist.run.flops import PEAK_TFLOPS, Pass, profile_pass
from rwp_dist.run.memory import checkpoint_bytes, estimate, with_zero_stage
from rwp_dist.run.models import build_shapes
from rwp_dist.run.timeline import Timeline


@dataclass(frozen=True)
class Cluster:
    """What is rented."""

    gpu_name: str
    gpu: Gpu
    num_gpus: int
    node_bytes_per_s: float
    """What a node can send to others."""
    mfu: float | None = None
    """Share of the GPU's peak that is reached; None: what its memory allows."""
    node_images_per_s: float | None = None
    """Images that a node can read; None: not known."""
    epoch_images: int | None = None
    """Training images, where the data are not here."""

    @property
    def num_nodes(self) -> int:
        """The last one may have fewer GPUs."""
        return -(-self.num_gpus // self.gpu.per_node)

    @property
    def full_node(self) -> float:
        """Share of all images that a full node takes."""
        return min(self.gpu.per_node, self.num_gpus) / self.num_gpus

    def flops_per_s(self, precision: str) -> float:
        """Of one GPU, in passes of a network; fp32 moves twice the bytes of bf16."""
        if self.mfu is not None:
            return self.mfu * PEAK_TFLOPS[self.gpu.cuda_name] * 1e12
        bf16 = FLOPS_PER_MEMORY_BYTE * self.gpu.memory_bytes_per_s
        return bf16 / 2 if precision == "fp32" else bf16


@dataclass(frozen=True)
class Forecast:
    """One method on a cluster."""

    method: str
    settings: Settings
    split: Split
    step: StepTime
    """Without waiting for data."""
    compute_bound_by: str
    """What computing takes its time from: ``GPU`` or ``host``."""
    memory_bytes: float
    """Of a GPU."""
    fits: bool
    """Whether a GPU has so much."""
    step_s: float
    """With waiting for data."""
    steps: int | None
    """Of the run; None: not known."""

    @property
    def images_per_s(self) -> float:
        """Over all GPUs."""
        return self.settings.batch.global_ / self.step_s

    @property
    def hours(self) -> float | None:
        """Of the run without evaluations; None: not known, or it does not fit."""
        return self.steps * self.step_s / 3600 if self.steps and self.fits else None

    @property
    def bound_by(self) -> str:
        """What takes most of a step: ``GPU``, ``host``, ``network`` or ``data``.

        ``memory``, if there is too little.
        """
        if not self.fits:
            return "memory"
        if self.step_s > self.step.total_s:
            return "data"
        return "network" if self.step.wait_s > self.step.compute_s else self.compute_bound_by

    @property
    def engine(self) -> str:
        """``DDP``, or DeepSpeed and its stage."""
        return engine_name(self.settings)


def forecast_methods(settings: Settings, cluster: Cluster, profile: Pass) -> list[Forecast]:
    """Every method on as many images in an update; at stage 3 of ZeRO, those that it has.

    Raises:
        ConfigError: the GPUs cannot share the batch.
    """
    steps = total_steps(settings, cluster.epoch_images)
    return [
        forecast(with_method(settings, name), cluster, profile, steps)
        for name, method in METHODS.items()
        if not (method.needs_whole_weights and zero_stage(settings) == 3)
    ]


def profile_of(settings: Settings) -> Pass:
    """Operations and gradients of a pass through the network.

    Raises:
        ConfigError: there is no such model, or it needs values of images to count them.
    """
    model = build_shapes(settings)
    profile = profile_pass(model, settings.data.channels, max(settings.data.train_sizes))
    if profile is None or not profile.flops:
        raise ConfigError(
            f"the operations of {settings.model.name} cannot be counted from shapes alone",
            key="model.name",
            cure="write it so that its passes do not depend on values",
        )
    return profile


def with_method(settings: Settings, name: str) -> Settings:
    """The same run by another method, whose own settings do not matter here."""
    method = settings.method.model_copy(update={"name": name, "antithetic": False})
    return settings.model_copy(update={"method": method})


def with_auto_stage(settings: Settings) -> Settings:
    """The same run with the stage of ZeRO that ``auto`` chooses, and nothing for another stage."""
    extra = {k: v for k, v in settings.deepspeed.extra.items() if k != "zero_optimization"}
    changed = {"zero_stage": "auto", "overlap_comm": False, "extra": extra}
    deepspeed = settings.deepspeed.model_copy(update=changed)
    return settings.model_copy(update={"deepspeed": deepspeed})


def forecast(
    settings: Settings, cluster: Cluster, profile: Pass, steps: int | None = None
) -> Forecast:
    """The method of these settings; ``steps``: updates of the run, if they are known.

    Raises:
        ConfigError: the GPUs cannot share the batch.
    """
    split = split_batch(settings, cluster.num_gpus)
    settings = with_zero_stage(settings, split, cluster.gpu.memory_bytes)
    memory_bytes = sum(estimate(settings, split, on_gpus=True).values())
    step = step_of(settings, split, cluster, profile)
    step_s = step.total_s
    if cluster.node_images_per_s is not None:
        images = settings.batch.global_ * cluster.full_node
        step_s = max(step_s, images / cluster.node_images_per_s)
    on_host = _device_s(settings, split, cluster, profile) < HOST_S_PER_CALL * profile.calls
    return Forecast(
        settings.method.name,
        settings,
        split,
        step,
        "host" if on_host else "GPU",
        memory_bytes,
        memory_bytes <= cluster.gpu.memory_bytes,
        step_s,
        steps,
    )


def step_of(settings: Settings, split: Split, cluster: Cluster, profile: Pass) -> StepTime:
    """Time of an update of the method of these settings, by their engine."""
    return step_time(
        work_of(settings, split, cluster, profile),
        buckets_of(settings, profile),
        fabric_of(cluster.gpu, cluster.node_bytes_per_s),
        cluster.num_gpus,
        gathered_bytes=_gathered_bytes(settings, split, profile),
        spread=SPREAD,
    )


def work_of(settings: Settings, split: Split, cluster: Cluster, profile: Pass) -> Work:
    """What a GPU computes in an update: two thirds of a pass are its backward half.

    The host must start every operation, however small.
    """
    method = METHODS[settings.method.name]
    pass_s = max(_device_s(settings, split, cluster, profile), HOST_S_PER_CALL * profile.calls)
    copies = ASCENT_COPIES if method.ascends else NOISE_COPIES
    perturb_s = copies * _weight_bytes(profile) / cluster.gpu.memory_bytes_per_s
    return Work(
        split.micro_batches * (2 if method.ascends else 1),
        pass_s / 3,
        pass_s * 2 / 3,
        split.micro_batches * perturb_s * ("perturbed" in method.roles)
        + (DEEPSPEED_S[zero_stage(settings)] if uses_deepspeed(settings) else 0.0),
        # Whole gradients are added up over passes, and shards of them are not.
        split.micro_batches if zero_stage(settings) >= 2 else 1,
    )


def _device_s(settings: Settings, split: Split, cluster: Cluster, profile: Pass) -> float:
    """Seconds of a pass of one micro-batch, if the host were fast."""
    return split.size * profile.flops / cluster.flops_per_s(settings.precision)


def _weight_bytes(profile: Pass) -> float:
    """Of all weights that train."""
    return FP32_BYTES * sum(elements for elements, _ in profile.gradients)


def buckets_of(settings: Settings, profile: Pass) -> list[Bucket]:
    """What the engine reduces at once, in its order."""
    width = FP32_BYTES / (2 if settings.engine.reduce_dtype == "bf16" else 1)
    gradients = [(width * elements, ready) for elements, ready in profile.gradients]
    if uses_deepspeed(settings):
        if not settings.deepspeed.overlap_comm:  # it reduces when the backward pass is over
            gradients = [(num_bytes, 1.0) for num_bytes, _ in gradients]
        zero = settings.deepspeed.extra.get("zero_optimization", {})
        bytes_ = width * zero.get("reduce_bucket_size", BUCKET_ELEMENTS)
        return make_buckets(gradients, bytes_, bytes_)
    return make_buckets(gradients, DDP_FIRST_BUCKET_BYTES, DDP_BUCKET_BYTES)


def _gathered_bytes(settings: Settings, split: Split, profile: Pass) -> float:
    """Weights that ranks gather in an update: after the step, or twice in each pass at stage 3."""
    times = {0: 0, 1: 1, 2: 1, 3: 2 * split.micro_batches}[zero_stage(settings)]
    return times * _weight_bytes(profile)


def total_steps(settings: Settings, epoch_images: int | None = None) -> int | None:
    """Updates of the run; None: that depends on data that are not here.

    Args:
        settings: of the run.
        epoch_images: training images; None: ask the data.
    """
    if settings.schedule.steps is not None:
        return settings.schedule.steps
    if epoch_images is not None:
        return Timeline.of(settings, epoch_images // settings.batch.global_).total_steps
    try:
        plan = plan_of_manifests(settings, manifests_of(settings, "data.train", QUICK))
        return Timeline.of(settings, plan.steps_per_epoch).total_steps
    except RwpError:
        return None


def checkpoint_size(settings: Settings) -> float:
    """Bytes of one checkpoint."""
    return checkpoint_bytes(settings) / (settings.checkpoint.keep_last + 1)
