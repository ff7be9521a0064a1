import gc

import pytest
import torch
from support.examining import look
from support.ranks import run_ranks

from rwp_dist.config import Settings, load_settings, split_batch
from rwp_dist.doctor import run
from rwp_dist.doctor.finding import Finding
from rwp_dist.doctor.machine import Machine
from rwp_dist.doctor.probe import Gpu, Probe
from rwp_dist.engine.memory import engine_bytes
from rwp_dist.perturb.memory import perturbation_bytes
from rwp_dist.perturb.methods import METHODS
from rwp_dist.run import memory
from rwp_dist.run.models import build_model, build_shapes

IMAGENET = ["data.channels=3", "data.image_size=224", "model.num_classes=1000"]


def settings_of(*overrides: str) -> Settings:
    return load_settings(None, ["tracking.wandb=off", "run.device=cpu", *overrides])


# --- against a real engine ---


def live_bytes() -> int:
    """Of all tensors in this process, each piece of memory once."""
    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):  # isinstance wakes lazy modules
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and tensor.device.type == "cpu":
                    storage = tensor.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def peak_of_engine(overrides: list[str]) -> tuple[int, dict[str, float]]:
    """Bytes after a backward pass of the second update, when all state is there; the estimate."""
    import torch.distributed as dist

    from rwp_dist.engine.start import start_engine
    from rwp_dist.perturb.ahead import DrawAhead
    from rwp_dist.perturb.normals.generator import TorchNormals
    from rwp_dist.perturb.rows import list_rows
    from rwp_dist.run.optimizers import build_optimizer

    settings = settings_of(*overrides)
    split = split_batch(settings, dist.get_world_size())
    before = live_bytes()
    model = build_model(settings)
    rows = list_rows(model.named_parameters())
    cpu, optimizer = torch.device("cpu"), build_optimizer(model, settings)
    engine = start_engine(model, optimizer, settings, split, cpu, num_perturbed=split.micro_batches)
    ahead = DrawAhead(TorchNormals(0, cpu), rows) if settings.noise.prefetch else None
    peak = 0
    for update in range(2):
        for number in range(split.micro_batches):
            params = [r.param for r in rows]
            with torch.no_grad(), engine.weights.perturbing(params) as targets:
                torch._foreach_copy_(targets, [p.clone() for p in params])
            images = torch.randn(2, 3, 32, 32)
            loss = engine.forward(images).logsumexp(1).mean()
            engine.backward(loss)
            if update == 1 and number == split.micro_batches - 1:
                peak = live_bytes() - before
            engine.weights.restore(last=number == split.micro_batches - 1)
        engine.weights.stepped(engine.step(0.1))
    parts = memory.estimate(settings, split, on_gpus=False)
    del ahead
    return peak, parts


SMALL_BUCKETS = "deepspeed.extra={zero_optimization: {reduce_bucket_size: 40000}}"


@pytest.mark.parametrize(
    "stage, more",
    [
        (0, ["optimizer.name=adamw", "engine.name=deepspeed"]),
        (0, ["optimizer.name=adamw"]),
        (1, ["optimizer.name=adamw", "batch.per_rank=32"]),
        (2, ["optimizer.momentum=0"]),
        (3, ["noise.prefetch=false"]),
    ],
)
def test_the_estimate_is_what_an_engine_holds(stage: int, more: list[str]) -> None:
    overrides = [
        *("model.name=small_cnn", "data.channels=3", "data.image_size=32", "batch.global=128"),
        *("batch.per_rank=64", "method.name=rwp", f"deepspeed.zero_stage={stage}"),
        *([SMALL_BUCKETS] if stage else []),
        *more,
    ]
    [peak, *_], [parts, *_] = zip(*run_ranks(peak_of_engine, 2, overrides), strict=True)
    held = dict(parts)
    del held["activations"]  # released by the backward pass
    if stage == 3:  # whose small parameters stay gathered: all of this network's
        del held["noise"]
    expected = sum(held.values())
    assert abs(peak - expected) < 0.12 * expected, (peak, parts)


# --- shapes ---


def test_every_network_has_shapes_without_values() -> None:
    for name in ("small_cnn", "resnet50", "vit_b_16", "swin_t", "googlenet", "convnext_tiny"):
        more = [] if name == "small_cnn" else IMAGENET
        model = build_shapes(settings_of(f"model.name={name}", *more))
        assert all(p.is_meta for p in model.parameters())


def test_activations_of_resnet50_are_those_that_autograd_saves() -> None:
    def real(batch: int) -> int:
        kept = {}
        settings = settings_of("model.name=resnet18", "data.channels=3", "data.image_size=32")
        model = build_model(settings).train()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            model(torch.zeros(batch, 3, 32, 32))
        return sum(t.untyped_storage().nbytes() for k, t in kept.items() if k not in own)

    settings = settings_of("model.name=resnet18", "data.channels=3", "data.image_size=32")
    estimated = memory.activation_bytes(settings, 16, build_shapes(settings))
    assert estimated == pytest.approx(real(16), rel=0.01)
    half = settings.model_copy(update={"precision": "bf16"})
    assert memory.activation_bytes(half, 16, build_shapes(half)) < 0.6 * estimated


def test_optimizer_state_is_counted_from_the_optimizer_itself() -> None:
    for options, copies in (
        (["optimizer.name=adamw"], 2),
        (["optimizer.momentum=0.9"], 1),
        (["optimizer.momentum=0"], 0),
    ):
        settings = settings_of(*options)
        model = build_shapes(settings)
        weights = sum(p.nbytes for p in model.parameters())
        assert memory.optimizer_bytes(settings, model) == copies * weights


# --- formulas ---


def engine(stage: int, micro_batches: int = 1, **zero) -> dict[str, float]:
    on_cpu = zero.pop("on_cpu", False)
    told = {"stage": stage, "reduce_bucket_size": 10} | zero
    return engine_bytes(800, 1600, told, world_size=4, micro_batches=micro_batches, on_cpu=on_cpu)


def test_stages_share_out_more_and_more() -> None:
    assert engine(0) == {"weights": 800, "gradients": 800, "optimizer state": 1600}
    shared = {"weights": 800, "fp32 shards": 200, "gradients": 200, "optimizer state": 400}
    assert engine(1) == engine(2) == {**shared, "reduction buckets": 40}
    assert engine(3) == {**shared, "weights": 1000, "reduction buckets": 40}


def test_stage_1_accumulates_whole_gradients() -> None:
    assert engine(1, micro_batches=2)["gradients"] == 800
    assert engine(2, micro_batches=2)["gradients"] == 200


def test_buckets_are_two_when_they_overlap_and_on_a_cpu_as_large_as_their_content() -> None:
    assert engine(1, overlap_comm=True)["reduction buckets"] == 80
    assert engine(1, reduce_bucket_size=1000)["reduction buckets"] == 4000
    assert engine(1, reduce_bucket_size=1000, on_cpu=True)["reduction buckets"] == 800


def perturbation(method: str, **more) -> dict[str, float]:
    told = {"num_perturbed": 1, "copy": False, "prefetch": True, "in_registers": False} | more
    return perturbation_bytes(METHODS[method], 100, 30, **told)


def test_what_perturbing_takes_depends_on_the_method() -> None:
    assert perturbation("sgd") == perturbation("m-rwp", num_perturbed=0, copy=True) == {}
    assert perturbation("rwp") == perturbation("m-arwp") == {"noise": 100}
    assert perturbation("rwp", prefetch=False) == {"noise": 30}
    assert perturbation("rwp", in_registers=True) == {}
    assert perturbation("rwp", copy=True) == {"perturbed copy": 100, "noise": 100}
    assert perturbation("sam") == {"perturbation": 200}
    assert perturbation("asam") == {"perturbation": 400}


# --- verdicts ---


def on_gpus(memory_gb: float, *overrides: str, count: int = 2) -> list[Finding]:
    machine = Machine(load_settings(None, ["run.device=cuda", *IMAGENET, *overrides]))
    gpu = Gpu("A card", "1", int(memory_gb * 1e9), 0)
    machine.__dict__["probe"] = Probe("13.2", (gpu,) * count)
    return look(run.memory, machine)


BIG = ["model.name=resnet50", "batch.global=512", "batch.per_rank=256"]


def test_a_network_that_does_not_fit_is_a_problem_with_the_settings_to_change() -> None:
    big = [*BIG, "deepspeed.zero_stage=1"]
    estimate, verdict = on_gpus(16, *big)
    assert "activations 22.0 GB" in estimate.seen and "2 ranks" in estimate.seen
    assert verdict.state == "problem" and "16.0 GB" in verdict.seen
    assert "batch.per_rank below 256" in verdict.cure and "bf16" in verdict.cure
    assert on_gpus(80, *big)[1].state == "ok"
    assert on_gpus(26, *big)[1].state == "warning"


def by_norm(groups, lr):
    """An optimizer that looks at whole parameters."""
    return torch.optim.SGD(groups, lr=lr)


def test_the_first_stage_that_fits_is_chosen() -> None:
    """64 ranks, so that each stage has a place between those of its neighbours."""
    told = [*IMAGENET, "model.name=vit_l_16", "batch.global=512", "batch.per_rank=4"]
    settings = settings_of(*told)
    split = split_batch(settings, 64)

    def need(stage: int) -> float:
        chosen = settings_of(*told, f"deepspeed.zero_stage={stage}")
        return sum(memory.estimate(chosen, split, on_gpus=True).values()) / memory.TIGHT

    for stage in (0, 1):
        enough = memory.with_zero_stage(settings, split, need(stage) + 1)
        assert enough.deepspeed.zero_stage == stage
    for too_little in (need(1) - 1, 1.0):
        assert memory.with_zero_stage(settings, split, too_little).deepspeed.zero_stage == 2
    assert memory.with_zero_stage(settings, split, None).deepspeed.zero_stage == 0
    for_ddp = ("engine.name=ddp", "precision=fp16", "optimizer.clip_agc=0.1")
    for whole in (*for_ddp, f"optimizer.name={__name__}:by_norm", "optimizer.name=lars"):
        asked = settings_of(*told, whole)
        assert memory.with_zero_stage(asked, split, 1.0).deepspeed.zero_stage == 0
    alone = split_batch(settings, 1)
    assert memory.with_zero_stage(settings, alone, 1.0).deepspeed.zero_stage == 0
    named = settings_of(*told, "deepspeed.zero_stage=1")
    assert memory.with_zero_stage(named, split, 1e15) is named


def test_a_batch_that_so_many_ranks_cannot_share_is_a_warning() -> None:
    [warning] = on_gpus(80, "model.name=resnet50", "batch.global=64", count=3)
    assert warning.state == "warning" and "with 3 ranks" in warning.seen
    assert "63" in warning.cure and "another number of ranks" in warning.cure
