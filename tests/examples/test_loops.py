"""The loops of others, with the real packages: each gets the weights that the service gets."""

import importlib
import re
import subprocess
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
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from rwp_dist.config import split_batch
from rwp_dist.data.image import Normalise

EXAMPLES = Path(__file__).parents[2] / "examples"
WORLD_SIZE, STEPS = 2, 20
OPTIONS = {"sigma": 0.2, "scale": "filter", "exclude": (), "eta": 20.0, "beta": 0.7}
"""Strong enough that another noise or role would be seen."""
BF16_BOUND = 2e-3
"""Largest error of all weights under bf16 autocast, relative to their norm."""


def settings_of(method, passes, precision):
    """The service's settings for what the examples do."""
    return small_settings(
        *(f"method.name={method}", "method.sigma=0.2", "method.sigma_schedule=constant"),
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


# --- resuming, by each framework's own checkpoints ---


def lightning_in_two_epochs(folder):
    """Weights of a run of two epochs, and of one that goes on from its first epoch."""
    import lightning_trainer as example
    from lightning import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    ends = []
    for resume_from in (None, f"{folder}/epoch=0.ckpt"):
        net, saving = small_net().train(), ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        trainer = Trainer(
            accelerator="cpu",
            strategy="ddp",
            devices=WORLD_SIZE,
            max_epochs=2,
            callbacks=[saving] if resume_from is None else [],
            enable_checkpointing=resume_from is None,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = data_of(settings_of("m-arwp", 1, "fp32"), interleaved=True)
        options = {"method": "m-arwp", "trainer": trainer, "resume_from": resume_from, **OPTIONS}
        example.train(net, *data, **options)
        ends.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return ends


def huggingface_in_two_halves(folder):
    """Weights of a run, and of one that goes on from its middle."""
    import huggingface_trainer as example
    from transformers import TrainingArguments

    ends = []
    for resume_from in (None, f"{folder}/checkpoint-{STEPS // 2}"):
        net = small_net().train()
        dataset, size = data_of(settings_of("m-arwp", 1, "fp32"), interleaved=False)
        args = TrainingArguments(
            folder,
            per_device_train_batch_size=size,
            max_steps=STEPS,
            save_steps=STEPS // 2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        options = {"method": "m-arwp", "args": args, "resume_from": resume_from, **OPTIONS}
        example.train(net, dataset, **options)
        ends.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return ends


def accelerate_in_two_halves(folder):
    """Weights of a loop, and of one that goes on from its middle."""
    from accelerate import Accelerator

    from rwp_dist.perturb import Perturbed

    dataset, size = data_of(settings_of("m-arwp", 1, "fp32"), interleaved=False)
    ends = []
    for first in (0, STEPS // 2):
        net, accelerator = small_net().train(), Accelerator(cpu=True)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        loader = DataLoader(dataset, size)
        ddp, optimizer, loader = accelerator.prepare(net, optimizer, loader)
        noisy = Perturbed(ddp, "m-arwp", seed=0, **OPTIONS).attach(optimizer)
        accelerator.register_for_checkpointing(noisy)
        if first:
            accelerator.load_state(folder)
        for step, (images, labels) in enumerate(loader):
            if step < first:
                continue
            if not first and step == STEPS // 2:
                accelerator.save_state(folder)
            accelerator.backward(torch.nn.functional.cross_entropy(ddp(images), labels))
            optimizer.step()
            optimizer.zero_grad()
        ends.append({name: p.detach().clone() for name, p in net.named_parameters()})
    return ends


@pytest.mark.parametrize(
    "resumed", [lightning_in_two_epochs, huggingface_in_two_halves, accelerate_in_two_halves]
)
def test_a_loop_that_goes_on_from_its_checkpoint_ends_with_the_same_bits(resumed, tmp_path):
    for whole, halves in run_ranks(in_examples, WORLD_SIZE, resumed, str(tmp_path)):
        assert same_bits(whole, halves)


def in_examples(function, folder):
    sys.path.insert(0, str(EXAMPLES))
    return function(folder)


# --- as somebody types it ---


@pytest.mark.parametrize("name", LOOPS)
def test_its_command_trains_one_network_on_two_ranks(name, tmp_path):
    [command] = re.findall(r"^torchrun .*$", (EXAMPLES / f"{name}.py").read_text(), re.MULTILINE)
    command = command.replace("examples/", f"{EXAMPLES}/")
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [accuracy] = re.findall(r"top-1 ([\d.]+)%", done.stdout)
    assert float(accuracy) > 85
    assert "Perturbed:" not in done.stderr
