"""What a method promises, as functions: a method's test is a list of those that it keeps.

Each takes a method's name and more settings; its own come from ``METHOD_SETTINGS``.
"""

import hashlib
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from rwp_dist.perturb import METHODS
from rwp_dist.process.replicas import check_replicas
from rwp_dist.run.evaluate import clean_network, evaluate_parts
from support.checkpoints import everything, load, save
from support.library import Library
from support.methods import overrides
from support.ranks import run_ranks
from support.small import (
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)

Cases = list[tuple[str, ...]]
STEPS = 8
P_VALUE = 1e-6
"""Seeds are fixed, so results are; a right method fails with this probability for another."""


def stages_of(method: str) -> tuple[int, ...]:
    """ZeRO stages that a method runs at."""
    return (0, 1, 2) if METHODS[method].needs_whole_weights else (0, 1, 2, 3)


def at_stages(method: str, stages: tuple[int, ...], *more: str) -> Cases:
    """A method's settings at each of some stages."""
    return [overrides(method, *more, f"deepspeed.zero_stage={stage}") for stage in stages]


# --- the engine ---


def _digests(cases: Cases) -> list[list[str]]:
    """After every step of every case a digest of this rank's weights."""
    found = []
    for case in cases:
        with small_parts(small_settings(*case, steps=STEPS)) as parts:
            digests = []
            for step in run_steps(parts, 0, STEPS):
                check_replicas(parts.engine.module, step)
                weights = b"".join(w.numpy().tobytes() for w in weights_of(parts).values())
                digests.append(hashlib.sha256(weights).hexdigest())
            found.append(digests)
    return found


def assert_replicas_equal(method: str, *more: str, world_size: int = 2) -> None:
    """All ranks have the same weights after every step, and the weights move."""
    ranks = run_ranks(_digests, world_size, at_stages(method, (0, 1, 2), *more))
    for case in zip(*ranks, strict=True):
        assert len(set(case[0])) == STEPS
        assert all(digests == case[0] for digests in case)


def _ends(cases: Cases) -> list[dict[str, Tensor]]:
    found = []
    for case in cases:
        with small_parts(small_settings(*case, steps=STEPS)) as parts:
            run_all(parts)
            found.append(parts.engine.full_weights())
    return found


def assert_stages_agree(method: str, *more: str) -> None:
    """Stages 1 and 2 compute the weights of stage 0, within rounding."""
    cases = at_stages(method, (0, 1, 2), *more, split_over(2, 2))
    for first, *others in run_ranks(_ends, 2, cases):
        for other in others:
            for name, wanted in first.items():
                torch.testing.assert_close(other[name], wanted, rtol=1e-4, atol=1e-6)


def _resumed(cases: Cases, at: tuple[int, ...], folder: Path) -> list[list[dict[str, Tensor]]]:
    """For every case and interruption: saved, loaded, the end undisturbed, the end resumed."""
    found = []
    for number, case in enumerate(cases):
        settings = small_settings(*case, steps=STEPS)
        saved = {}
        with small_parts(settings) as parts:
            for step in run_steps(parts, 0, STEPS):
                if step + 1 in at:
                    save(folder / f"{number}-{step + 1}", parts, step + 1)
                    saved[step + 1] = everything(parts)
            undisturbed = everything(parts)
        for stop, before in saved.items():
            # Another initialisation, so that nothing is right by chance.
            with small_parts(settings, small_net(seed=9)) as parts:
                assert load(folder / f"{number}-{stop}", parts) == (stop, [])
                loaded = everything(parts)
                run_all(parts, stop)
                found.append([before, loaded, undisturbed, everything(parts)])
    return found


def assert_resumes_exactly(
    method: str,
    folder: Path,
    *more: str,
    at: tuple[int, ...] = (3,),
    stages: tuple[int, ...] | None = None,
) -> None:
    """A run that was interrupted after some steps ends with the bits of an undisturbed one."""
    stages = stages_of(method) if stages is None else stages
    cases = at_stages(method, stages, *more, split_over(2, 2))
    for found in run_ranks(_resumed, 2, cases, at, folder):
        assert len(found) == len(cases) * len(at)
        for saved, loaded, undisturbed, resumed in found:
            assert same_bits(saved, loaded)
            assert same_bits(undisturbed, resumed)
            assert not same_bits(saved, resumed)


def _looked_at(case: tuple[str, ...], look: bool) -> dict[str, Tensor]:
    with small_parts(small_settings(*case, steps=STEPS)) as parts:
        for step in run_steps(parts, 0, STEPS):
            if look and step % 3 == 1:
                with clean_network(parts, step + 1):
                    result, bad = evaluate_parts(parts)
                assert math.isfinite(result["loss"]) and not bad
        return everything(parts)


def assert_evaluating_changes_nothing(method: str, *more: str) -> None:
    """A run that is evaluated in between computes what one that is not does."""
    looked, left = (run_ranks(_looked_at, 2, overrides(method, *more), x) for x in (True, False))
    assert all(same_bits(a, b) for a, b in zip(looked, left, strict=True))


# --- the library ---


def _library_and_engine(cases: Cases, steps: int) -> list[list[dict[str, Tensor]]]:
    """Clean weights and averaged statistics by a plain loop under DDP, and by the engine."""
    found = []
    for case in cases:
        settings = small_settings(*case, "deepspeed.zero_stage=0", steps=steps)
        library = Library(small_net(), settings)
        for step in range(steps):
            library.step(step)
            check_replicas(library.net, step)
        with library.noisy.evaluating():
            plain = library.weights() | library.buffers()
        library.close()
        with small_parts(settings) as parts:
            run_all(parts)
            with parts.perturbed.evaluating():
                module = parts.engine.module
                engine = {n: t.detach().clone() for n, t in module.state_dict().items()}
        found.append([plain, engine])
    return found


def assert_library_equals_engine(method: str, *more: str, steps: int = 20) -> None:
    """``Perturbed`` under plain DDP and the engine at stage 0 agree within 1e-6.

    With one pass of a rank in an update and with two.
    """
    cases = [overrides(method, *more, split_over(2, count)) for count in (1, 2)]
    ranks = run_ranks(_library_and_engine, 2, cases, steps)
    for case, results in zip(cases, zip(*ranks, strict=True), strict=True):
        for plain, engine in results:
            assert plain.keys() == engine.keys()
            for name, wanted in engine.items():
                rtol, where = 1e-5 if "running" in name else 1e-6, f"{name} of {case}"
                torch.testing.assert_close(plain[name], wanted, rtol=rtol, atol=1e-6, msg=where)
            assert same_bits(plain, results[0][0])


def library_of(method: str, *more: str, steps: int = STEPS) -> Library:
    """A plain loop on one process, with two passes an update unless settings say otherwise."""
    settings = overrides(method, split_over(1, 2), *more)
    return Library(small_net(), small_settings(*settings, steps=steps))


def assert_passes(method: str, count: int, *more: str) -> None:
    """So many forward passes compute a perturbed micro-batch, and one a clean one."""
    library = library_of(method, *more)
    perturbed = sum(slot.perturbed for slot in library.noisy.my_slots)
    library.step(0)
    assert library.num_forwards == count * perturbed + (2 - perturbed)
    library.close()


def assert_one_pass(method: str, *more: str) -> None:
    """A perturbed micro-batch passes through the network once."""
    assert_passes(method, 1, *more)


def assert_restores_exactly(method: str, *more: str) -> None:
    """Weights are perturbed in perturbed passes only, and clean to the last bit after each.

    Also after an error in the middle of a pass.
    """
    library = library_of(method, *more)
    noisy, perturbed = library.noisy, [slot.perturbed for slot in library.noisy.my_slots]
    places = [p.data_ptr() for p in library.net.parameters()]
    library.step(0)  # last-sam has no direction before
    for step in range(1, 4):
        clean = library.weights()
        moved = [not same_bits(library.weights(), clean) for _ in library.passes(step)]
        assert moved == perturbed
        assert same_bits(library.weights(), clean)
        assert [p.data_ptr() for p in library.net.parameters()] == places
        library.end_step(step)
        images, labels = library.batches(step)[0]
        for error in (RuntimeError, KeyboardInterrupt):
            number = perturbed.index(True)

            def loss(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return torch.nn.functional.cross_entropy(library.net(images), labels)

            clean = library.weights()
            with pytest.raises(error):
                for micro_batch in range(number + 1):
                    with noisy(step + 1, micro_batch, loss=loss):
                        assert same_bits(library.weights(), clean) == (micro_batch < number)
                        if micro_batch == number:
                            raise error("in the middle of a pass")
            assert same_bits(library.weights(), clean)
            assert [p.data_ptr() for p in library.net.parameters()] == places
    library.close()


def assert_zero_strength_is_clean(method: str, *more: str) -> None:
    """With strength 0 passes see clean weights, and there is one of each micro-batch.

    What a slot weighs, and whether BatchNorm learns from it, stays as the method says.
    """
    strong = library_of(method, *more)
    weak = library_of(method, *more, "method.sigma=0", "method.rho=0")
    for step in range(3):
        clean, shares = weak.weights(), []
        for number in weak.passes(step):
            assert same_bits(weak.weights(), clean)
            shares.append(weak.noisy.weight)
            before = weak.buffers()
            weak.net(weak.batches(step)[number][0])
            learned = not same_bits(weak.buffers(), before)
            slot = weak.noisy.my_slots[number]
            assert learned != (slot.perturbed and METHODS[method].mixed)
        weak.end_step(step)
        assert weak.num_forwards == 4 * (step + 1)  # two look whether BatchNorm learns
        assert shares == [strong.noisy.weight for _ in strong.passes(step)]
        strong.end_step(step)
    for library in (strong, weak):
        library.close()


def assert_unbiased(method: str, *more: str, count: int = 400) -> None:
    """The mean over many draws of the noise is 0, as far as chance goes."""
    library = library_of(method, *more, steps=10**6)
    noisy, number = library.noisy, [s.perturbed for s in library.noisy.my_slots].index(True)
    clean = library.weights()
    sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in clean.items()}
    squares = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in clean.items()}
    for step in range(count):
        for micro_batch in range(len(noisy.my_slots)):
            with noisy(step, micro_batch):
                if micro_batch == number:
                    for name, w in library.net.named_parameters():
                        noise = w.detach().double() - clean[name].double()
                        sums[name] += noise
                        squares[name] += noise.square()
        noisy.end_step()
    for name, total in sums.items():
        assert squares[name].min() > 0, f"{name} gets no noise"
        scores = total / squares[name].sqrt()
        chi2 = float(scores.square().sum())
        assert stats.chi2.sf(chi2, scores.numel()) > P_VALUE, name
    library.close()


def global_state() -> tuple[bytes, object, object]:
    """States of torch's, Python's and NumPy's global generators."""
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), (kind, keys.tobytes(), *rest)


def assert_leaves_generators_alone(method: str, *more: str) -> None:
    """Perturbing draws nothing from the global generators of random numbers."""
    library = library_of(method, *more)
    before = global_state()
    for step in range(2):
        library.step(step)
        assert global_state() == before
    library.close()
