"""The loops of others, with the real packages: each gets the weights that the service gets."""

import importlib
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from support.ranks import run_ranks
from support.small import (
    MemoryTrain,
    memory_plan,
    run_all,
    same_bits,
    small_net,
    small_parts,
    small_samples,
    small_settings,
    split_over,
)
from torch.utils.data import DistributedSampler, TensorDataset

from rwp_dist.config import split_batch
from rwp_dist.data.image import Normalise

EXAMPLES = Path(__file__).parents[2] / "examples"
WORLD_SIZE, STEPS = 2, 20
OPTIONS = {"sigma": 0.2, "eta": 20.0, "beta": 0.7}
"""Strong enough that another noise or role would be seen."""
BF16_BOUND = 2e-3
"""Largest error of all weights under bf16 autocast, relative to their norm."""


def settings_of(method, passes, precision):
    """The service's settings for what the examples do."""
    return small_settings(
        *(f"method.name={method}", "method.sigma=0.2", "method.sigma_increase=0"),
        *("method.eta=20", "method.beta=0.7", "run.seed=0", f"precision={precision}"),
        *("optimizer.lr=0.05", "optimizer.momentum=0.9", "optimizer.weight_decay=0"),
        *("deepspeed.zero_stage=0", split_over(WORLD_SIZE, passes)),
        steps=STEPS,
    )


def by_service(method, passes, precision):
    with small_parts(settings_of(method, passes, precision)) as parts:
        run_all(parts)
        return parts.engine.full_weights()


@cache
def service(method, passes, precision):
    """Weights after all steps of the service at stage 0."""
    return run_ranks(by_service, WORLD_SIZE, method, passes, precision)[0]


def data_of(settings, *, interleaved):
    """What the service shows its ranks, in the order in which a loader deals it out to ranks.

    Accelerate deals out whole batches in turn; torch's DistributedSampler deals out samples.
    """
    split, samples = split_batch(settings, WORLD_SIZE), small_samples()
    normalise = Normalise(settings.data.mean, settings.data.std)
    plan = memory_plan(settings, samples)
    ranks = [
        MemoryTrain(samples, plan, rank, split.micro_batches, split.size)
        for rank in range(WORLD_SIZE)
    ]
    images, labels = [], []
    for steps in zip(*(rank.steps(0, STEPS) for rank in ranks), strict=True):
        for passes in zip(*(step.batches for step in steps), strict=True):
            of_ranks = torch.stack([normalise(b.images) for b in passes])
            labels_of_ranks = torch.stack([b.labels for b in passes])
            if interleaved:
                of_ranks, labels_of_ranks = of_ranks.transpose(0, 1), labels_of_ranks.T
            images.append(of_ranks.flatten(0, 1))
            labels.append(labels_of_ranks.flatten())
    return TensorDataset(torch.cat(images), torch.cat(labels)), split.size


def plain_loop(example, net, settings, passes, precision, options):
    example.train(net, *data_of(settings, interleaved=True), **options)


def timm_parts(example, net, settings, passes, precision, options):
    average = example.train(net, *data_of(settings, interleaved=True), **options)
    assert not same_bits(average.module.state_dict(), net.state_dict())


def accelerate_loop(example, net, settings, passes, precision, options):
    from accelerate import Accelerator

    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=passes,
        mixed_precision="no" if precision == "fp32" else "bf16",
    )
    data = data_of(settings, interleaved=False)
    example.train(net, *data, **options, accelerator=accelerator)


def huggingface_trainer(example, net, settings, passes, precision, options):
    from transformers import TrainingArguments

    dataset, size = data_of(settings, interleaved=False)
    args = TrainingArguments(
        "unused",
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        max_steps=STEPS,
        lr_scheduler_type="cosine",
        max_grad_norm=0.0,
        bf16=precision == "bf16",
        use_cpu=True,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    example.train(net, dataset, **options, args=args)


def lightning_trainer(example, net, settings, passes, precision, options):
    from lightning import Trainer

    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=WORLD_SIZE,
        max_epochs=1,
        accumulate_grad_batches=passes,
        precision="32-true" if precision == "fp32" else "bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    dataset, size = data_of(settings, interleaved=True)
    # Lightning shuffles, whatever the loader says: put samples where its sampler finds them.
    order = torch.tensor(list(DistributedSampler(dataset, 1, 0, seed=0))).argsort()
    dataset = TensorDataset(*(tensor[order] for tensor in dataset.tensors))
    example.train(net, dataset, size, **options, trainer=trainer)


LOOPS = {
    loop.__name__: loop
    for loop in (plain_loop, timm_parts, accelerate_loop, huggingface_trainer, lightning_trainer)
}


def by_example(name, method, passes, precision):
    sys.path.insert(0, str(EXAMPLES))
    example, net = importlib.import_module(name), small_net()
    net.train()
    settings = settings_of(method, passes, precision)
    LOOPS[name](example, net, settings, passes, precision, {"method": method, **OPTIONS})
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def weights_of(name, method="m-arwp", passes=1, precision="fp32"):
    first, *others = run_ranks(by_example, WORLD_SIZE, name, method, passes, precision)
    assert all(same_bits(first, other) for other in others), "replicas differ"
    return first


@pytest.mark.parametrize("name", LOOPS)
def test_an_example_gets_the_weights_of_the_service(name):
    torch.testing.assert_close(weights_of(name), service("m-arwp", 1, "fp32"), rtol=1e-6, atol=1e-6)


ACCUMULATING = ("accelerate_loop", "huggingface_trainer", "lightning_trainer")


@pytest.mark.parametrize("name", ACCUMULATING)
def test_so_it_does_with_two_passes_in_an_update(name):
    got = weights_of(name, passes=2)
    torch.testing.assert_close(got, service("m-arwp", 2, "fp32"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ACCUMULATING)
def test_in_bf16_it_is_as_near_as_that_can_be(name):
    got, wanted = weights_of(name, precision="bf16"), service("m-arwp", 1, "bf16")
    assert error(got, wanted) < BF16_BOUND
    assert error(got, service("m-rwp", 1, "bf16")) > 5 * BF16_BOUND


def error(got, wanted):
    """Of all weights, relative to their norm."""
    names = sorted(wanted)
    a, b = (torch.cat([weights[name].flatten() for name in names]) for weights in (got, wanted))
    return float((a - b).norm() / b.norm())
