"""``run.compile``: the passes of training are compiled, and nothing else becomes another thing."""

import os
from contextlib import contextmanager

import pytest
import torch
from support.checkpoints import everything, load, save
from support.ranks import run_ranks
from support.small import (
    NUM_CLASSES,
    SmallNet,
    buffers_of,
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)
from torch import nn

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.run.build import build_parts
from rwp_dist.run.evaluate import clean_network, evaluate_parts
from rwp_dist.shards.digits import write_digits

COMPILED = "run.compile=true"


@contextmanager
def graphs():
    """Networks are traced and run as they are, which takes no C++ compiler; yields the graphs."""
    found = []

    def backend(graph, inputs):
        found.append(graph)
        return graph.forward

    with torch.compiler.set_stance("default", force_backend=backend):
        yield found


def trained(compiled, *overrides):
    """The end of a run of 20 steps, its evaluations, and how many graphs were traced."""
    results = []
    settings = small_settings(f"run.compile={compiled}", split_over(1, 2), *overrides, steps=20)
    with graphs() as found, small_parts(settings) as parts:
        traced = len(found)
        for step in run_steps(parts, 0, 20):
            if step % 8 == 7:
                with clean_network(parts, step + 1):
                    results.append(evaluate_parts(parts)[0])
        assert len(found) == traced, "a pass was compiled anew"
        return everything(parts), results, traced


@pytest.mark.parametrize(
    ("count", "overrides"),
    [
        (1, ["method.name=sgd"]),
        (1, ["method.name=rwp", "deepspeed.zero_stage=1"]),
        (2, ["method.name=m-rwp", "deepspeed.zero_stage=2"]),
        (2, ["method.name=m-arwp", "precision=bf16"]),
        (2, ["method.name=sam"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_20_steps_and_evaluations_take_the_graphs_of_the_start(count, overrides):
    """One, or two where BatchNorm's statistics are frozen in some passes."""
    ((end, results, traced),) = run_ranks(trained, 1, "true", *overrides)
    ((plain, others, none),) = run_ranks(trained, 1, "false", *overrides)
    assert (traced, none) == (count, 0)
    assert same_bits(end, plain) and results == others


def sizes_in_turn():
    with graphs() as found:
        for size in range(1, 8):
            settings = small_settings("method.name=m-rwp", split_over(1, 2), COMPILED, steps=2)
            net = SmallNet()
            net.conv1 = nn.Conv2d(1, 4, 3, padding=1, stride=1, dilation=1, bias=size % 2 == 0)
            net.linear1, net.linear2 = nn.Linear(20, size), nn.Linear(size, NUM_CLASSES)
            with small_parts(settings, net) as parts:
                run_all(parts)
        return len(found)


def test_a_process_trains_more_networks_of_one_class_than_torch_keeps_graphs_for():
    assert run_ranks(sizes_in_turn, 1) == [14]


class Wide(nn.Module):
    """3 MB of weights: more than the first of DDP's buckets."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 600), nn.Linear(600, 600), nn.Linear(600, 600)
        )
        self.head = nn.Linear(600, NUM_CLASSES)

    def forward(self, images):
        return self.head(self.layers(images))


def traced_on_ranks(method):
    settings = small_settings(f"method.name={method}", COMPILED, steps=3)
    with graphs() as found, small_parts(settings, Wide()) as parts:
        run_all(parts)
        return len(found)


@pytest.mark.parametrize("method", ["m-rwp", "sam"])
def test_under_ddp_a_graph_ends_where_a_bucket_does_so_that_its_reduction_begins(method):
    assert run_ranks(traced_on_ranks, 1, "sgd") == [1]
    first, second = run_ranks(traced_on_ranks, 2, method)
    assert first == second > 1


class Random(SmallNet):
    def forward(self, images):
        return nn.functional.dropout(super().forward(images), 0.5, self.training)


def before_the_first_step(compiled):
    torch.manual_seed(0)
    net = Random()
    with graphs(), small_parts(small_settings(f"run.compile={compiled}"), net) as parts:
        state = weights_of(parts) | buffers_of(parts) | {"generator": torch.get_rng_state()}
        assert all(param.grad is None for param in net.parameters())
        return state, list(net.state_dict()), type(parts.engine.module).__name__


def test_what_tries_the_network_leaves_no_trace_in_it():
    ((state, *rest),) = run_ranks(before_the_first_step, 1, "true")
    ((plain, *others),) = run_ranks(before_the_first_step, 1, "false")
    assert same_bits(state, plain) and rest == others


class Branches(SmallNet):
    def forward(self, images):
        return super().forward(images) * (2 if images.sum() > 1e9 else 1)


class Counts(SmallNet):
    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, images):
        self.passes += 1
        return super().forward(images) * (1 + self.passes)


def start(network):
    with small_parts(small_settings(COMPILED), network()):
        pass


def start_without_a_compiler(cache):
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent")}):
        start(SmallNet)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Branches, r"cannot compile this network \(Data-dependent .*test_compiling.py line \d+\)"),
        (Counts, r"compiled anew, as the network changes \(self.passes == \d+ held once\)"),
    ],
)
def test_a_network_that_is_no_single_graph_is_refused_before_the_first_step(network, words):
    with pytest.raises(ConfigError, match=words) as caught:
        run_ranks(start, 2, network)
    assert caught.value.key == "run.compile" and "set it to false" in caught.value.cure


def test_without_a_compiler_it_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler.*set CXX to yours"):
        run_ranks(start_without_a_compiler, 1, tmp_path)


def attempt(folder, first, stop, cache):
    """Steps of a run; it saves before the step at which it stops, or resumes."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    settings = small_settings("method.name=m-arwp", split_over(1, 2), COMPILED, steps=6)
    with small_parts(settings, small_net(seed=first)) as parts:
        if first:
            assert load(folder, parts) == (first, [])
        for step in run_steps(parts, first, 6):
            if step + 1 == stop:
                save(folder, parts, stop)
        return everything(parts)


def test_a_resumed_run_compiles_the_same_code_in_another_process(tmp_path):
    (undisturbed,) = run_ranks(attempt, 1, tmp_path / "run", 0, 3, tmp_path / "first")
    (resumed,) = run_ranks(attempt, 1, tmp_path / "run", 3, None, tmp_path / "second")
    assert same_bits(undisturbed, resumed)


def trained_with_sizes(digits, compiled, method, sizes):
    settings = load_settings(
        None,
        [
            *(f"data.train={digits}/train", f"data.val={digits}/test", "batch.global=64"),
            *("batch.per_rank=32", "schedule.steps=6", "run.device=cpu", "data.workers=0"),
            *("tracking.wandb=off", f"data.sizes={sizes}"),
            *(f"run.compile={compiled}", f"method.name={method}"),
        ],
    )
    with graphs() as found:
        parts = build_parts(settings)
        traced = len(found)
        run_all(parts)
        assert len(found) == traced, "a pass was compiled anew"
        end = everything(parts)
        parts.close()
    return end, traced


@pytest.mark.parametrize(("method", "kinds", "count"), [("sgd", 1, 3), ("m-rwp", 2, 5)])
def test_every_size_of_the_images_has_its_own_graphs_from_the_start(tmp_path, method, kinds, count):
    """Of 5 sizes there are more than the 8 graphs that torch keeps of a function by default."""
    write_digits(tmp_path)
    sizes = [[place / count, 8 + place] for place in range(count)]
    ((end, traced),) = run_ranks(trained_with_sizes, 1, tmp_path, "true", method, sizes)
    ((plain, _),) = run_ranks(trained_with_sizes, 1, tmp_path, "false", method, sizes)
    assert traced == count * kinds and same_bits(end, plain)
