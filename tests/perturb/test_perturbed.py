"""The library: ``Perturbed`` in plain loops, in one process and under DistributedDataParallel.

``test_methods.py`` shows for every method that it computes what the engine does.
"""

import io
import os
import runpy
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
import torch.distributed as dist
from support.ranks import run_ranks
from support.small import same_bits, small_net
from support.until import HANG_S
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb import METHODS, Perturbed

STEPS = 20
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ddp.py"


def batches(count, seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        labels = torch.randint(3, (size,), generator=generator)
        images = torch.randn(size, 1, 6, 6, generator=generator)
        images[torch.arange(size), 0, labels] += 2
        yield images, labels


def train(noisy, model, optimizer, first, data, scaler=None, autocast=False):
    """A plain loop; each item of ``data`` is one micro-batch."""
    micro_batches = len(noisy.my_slots)
    for number, (x, y) in enumerate(data):
        step, micro_batch = first + number // micro_batches, number % micro_batches
        last = micro_batch == micro_batches - 1
        cast = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
        with cast, noisy(step, micro_batch, loss=lambda x=x, y=y: F.cross_entropy(model(x), y)):
            loss = noisy.weight * F.cross_entropy(model(x), y)
            waits = nullcontext() if last or noisy.ddp is None else noisy.ddp.no_sync()
            with waits:
                (scaler.scale(loss) if scaler else loss).backward()
        if last:
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            optimizer.zero_grad()
            noisy.end_step()


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def copies(net):
    return {name: t.detach().clone() for name, t in net.state_dict().items()}


def parameters(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def test_importing_it_brings_torch_and_numpy_and_nothing_else_of_this_project():
    code = """
import sys
import rwp_dist.perturb
assert "torch" not in sys.modules, "names of methods must cost no torch"
rwp_dist.perturb.Perturbed
names = {name.partition(".")[0] for name in sys.modules}
others = {"deepspeed", "webdataset", "wandb", "torchvision", "pydantic", "click", "yaml", "fsspec"}
assert not others & names, others & names
ours = {".".join(n.split(".")[:2]) for n in sys.modules if n.startswith("rwp_dist.")}
assert ours <= {"rwp_dist.base", "rwp_dist.perturb", "rwp_dist.process"}, ours
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S, cwd=ROOT)


def with_and_without_a_scaler():
    ends = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=7)):
        net = small_net()
        ddp = DistributedDataParallel(net)
        noisy = Perturbed(ddp, "m-arwp", sigma=0.05, eta=20.0, seed=1, scaler=scaler)
        train(noisy, ddp, sgd(net), 0, batches(STEPS, dist.get_rank()), scaler)
        ends.append((copies(net), noisy.move.energy.value.clone()))
    return ends


def test_a_grad_scaler_changes_neither_the_energy_nor_the_weights():
    for (plain, energy), (scaled, its_energy) in run_ranks(with_and_without_a_scaler, 2):
        torch.testing.assert_close(its_energy, energy, rtol=1e-5, atol=1e-6)
        for name, weight in plain.items():
            torch.testing.assert_close(scaled[name], weight, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("method", ["sam", "asam"])
def test_a_grad_scaler_does_not_change_an_ascent(method):
    ends = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=7)):
        net = small_net()
        noisy = Perturbed(net, method, rho=0.3, scaler=scaler)
        train(noisy, net, sgd(net), 0, batches(STEPS), scaler)
        ends.append(copies(net))
    plain, scaled = ends
    for name, weight in plain.items():
        torch.testing.assert_close(scaled[name], weight, rtol=1e-5, atol=1e-6, msg=name)


def skip_one_step():
    net = small_net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    noisy = Perturbed(DistributedDataParallel(net), "m-arwp", eta=20.0, scaler=scaler)
    optimizer, data = sgd(net), list(batches(4, dist.get_rank()))
    train(noisy, noisy.ddp, optimizer, 0, data[:2], scaler)
    weights = parameters(net)
    energy = noisy.move.energy.value.clone()
    x, y = data[2]
    train(noisy, noisy.ddp, optimizer, 2, [(x * float("inf"), y)], scaler)
    same = same_bits(weights, parameters(net))
    kept = torch.equal(noisy.move.energy.value, energy)
    train(noisy, noisy.ddp, optimizer, 3, data[3:], scaler)
    return same, kept, same_bits(weights, parameters(net))


def test_a_step_that_the_scaler_skips_leaves_weights_and_energy_on_all_ranks():
    assert run_ranks(skip_one_step, 2) == [(True, True, False)] * 2


def test_autocast_does_not_reuse_the_casts_of_other_weights():
    """Inside one autocast block, sam's second pass must see the weights of its ascent."""
    x, y = next(batches(1))
    net, seen = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3)), []
    net.register_forward_hook(lambda *args: seen.append(args[2].detach().float()))
    noisy = Perturbed(net, "sam", rho=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        with noisy(0, loss=lambda: F.cross_entropy(net(x), y)):
            (noisy.weight * F.cross_entropy(net(x), y)).backward()
        net(x)
    ascent, perturbed, after = seen
    assert (ascent - perturbed).abs().max() > 0.1, "the cast of the clean weights was used again"
    assert torch.equal(after, ascent), "the cast of the perturbed weights was used again"


@pytest.mark.parametrize("method", ["rwp", "sam", "m-rwp"])
def test_accumulated_micro_batches_give_the_gradient_of_the_mean(method):
    """Without noise: what two weighted micro-batches add up to is one batch's mean gradient."""
    net, data = small_net().eval(), list(batches(2))
    noisy = Perturbed(net, method, **{METHODS[method].strength: 0.0}, micro_batches=2)
    for micro_batch, (x, y) in enumerate(data):
        with noisy(0, micro_batch, loss=lambda: torch.zeros(())):
            (noisy.weight * F.cross_entropy(net(x), y)).backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    F.cross_entropy(net(x), y).backward()
    for name, param in net.named_parameters():
        torch.testing.assert_close(found[name], param.grad, rtol=1e-5, atol=1e-7, msg=name)


def resume(method, folder):
    """Twelve steps undisturbed, and six steps, a checkpoint, and six more by another object."""
    ends, options = [], {METHODS[method].strength: 0.1, "eta": 20.0}
    for interrupted in (False, True):
        net = small_net()
        noisy = Perturbed(DistributedDataParallel(net), method, **options)
        optimizer, data = sgd(net), list(batches(12, dist.get_rank()))
        train(noisy, noisy.ddp, optimizer, 0, data[:6])
        if interrupted:
            with noisy.evaluating():
                state = {"net": net.state_dict(), "noisy": noisy.state_dict()}
                path = folder / f"{method}.pt"
                if dist.get_rank() == 0:
                    torch.save(state | {"optimizer": optimizer.state_dict()}, path)
            dist.barrier()
            saved = torch.load(path, weights_only=True)
            net = small_net(seed=9)
            net.load_state_dict(saved["net"])
            noisy = Perturbed(DistributedDataParallel(net), method, **options)
            noisy.load_state_dict(saved["noisy"])
            optimizer = sgd(net)
            optimizer.load_state_dict(saved["optimizer"])
        train(noisy, noisy.ddp, optimizer, 6, data[6:])
        ends.append(copies(net))
    return ends


@pytest.mark.parametrize("method", ["m-arwp", "sam", "last-sam"])
def test_a_loop_that_goes_on_from_a_state_dict_is_bit_identical(method, tmp_path):
    for undisturbed, resumed in run_ranks(resume, 2, method, tmp_path):
        assert same_bits(undisturbed, resumed)


def statistics_of_ranks():
    net = small_net()
    noisy = Perturbed(DistributedDataParallel(net), "m-rwp", sigma=0.1)
    train(noisy, noisy.ddp, sgd(net), 0, batches(3, dist.get_rank()))
    own = net.bn1.running_mean.clone()
    with noisy.evaluating():
        shared = net.bn1.running_mean.clone()
    return own, shared, torch.equal(net.bn1.running_mean, own)


def test_batchnorm_learns_from_clean_ranks_and_evaluation_sees_theirs_everywhere():
    (clean, first, kept), (perturbed, second, also) = run_ranks(statistics_of_ranks, 2)
    assert torch.equal(perturbed, torch.zeros(4)) and not torch.equal(clean, torch.zeros(4))
    assert torch.equal(first, clean) and torch.equal(second, clean)
    assert kept and also


def test_an_exception_in_the_loop_leaves_the_clean_weights():
    net = small_net()
    clean = copies(net)
    noisy = Perturbed(net, "rwp", sigma=0.1)
    with pytest.raises(KeyboardInterrupt), noisy(0):
        assert not same_bits(clean, copies(net))
        raise KeyboardInterrupt
    assert same_bits(clean, copies(net))


def refuse_fsdp2():
    net = small_net()
    fully_shard(net)
    with pytest.raises(ConfigError) as refused:
        Perturbed(net, "rwp")
    return refused.value.key, "FSDP2" in str(refused.value), refused.value.cure


def test_sharded_parameters_are_refused_by_name():
    for key, named, cure in run_ranks(refuse_fsdp2, 2):
        assert key == "model" and named and "DistributedDataParallel" in cure


def test_fsdp_1_is_refused_although_its_parameters_may_look_whole():
    class FullyShardedDataParallel(torch.nn.Module):  # the real one needs an accelerator
        def __init__(self):
            super().__init__()
            self.module = small_net()

    with pytest.raises(ConfigError, match="FSDP shards SmallNet"):
        Perturbed(FullyShardedDataParallel(), "rwp")


def with_a_subgroup():
    groups = [dist.new_group([rank]) for rank in range(2)]  # every rank makes every group
    ddp = DistributedDataParallel(small_net(), process_group=groups[dist.get_rank()])
    with pytest.raises(ConfigError) as refused:
        Perturbed(ddp, "rwp")
    return refused.value.key, str(refused.value)


def test_a_ddp_over_some_of_the_ranks_is_refused():
    for key, text in run_ranks(with_a_subgroup, 2):
        assert key == "model" and "1 of 2 ranks" in text


def test_what_cannot_work_is_refused_with_the_cure():
    net = small_net()
    with pytest.raises(ConfigError) as refused, Perturbed(net, "m-rwp")(0):
        pass
    assert (refused.value.key, "micro_batches=2" in refused.value.cure) == ("micro_batches", True)
    with pytest.raises(ConfigError) as refused:
        Perturbed(net, "rmp")
    assert refused.value.key == "method" and "m-arwp" in refused.value.cure
    with pytest.raises(ConfigError) as refused, Perturbed(net, "sam")(0):
        pass
    assert refused.value.key == "loss" and "lambda" in refused.value.cure


WRONG = [
    {"lambda_": 2.0},
    {"micro_batches": 0},
    {"sigma": float("nan")},
    {"sigma": -1},
    {"rho": 0.5},  # rwp has none
    {"seed": "x"},
    {"eta": -1.0},
    {"beta": 1.5},
    {"power": 0.0},
    {"scale": "filters"},
    {"backend": "nativ"},
    {"backend": "triton"},  # on a CPU
    {"exclude": ["head.*"]},
    {"exclude": "ndim<2"},
    {"exclude": ["*"]},
]


@pytest.mark.parametrize("option", WRONG, ids=str)
def test_a_value_that_is_not_allowed_is_refused_by_its_name(option, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError) as refused:
        Perturbed(small_net(), "arwp" if "eta" in option else "rwp", **option)
    assert [refused.value.key] == list(option) and refused.value.cure


@pytest.mark.parametrize(("method", "option"), [("sam", "sigma"), ("m-rwp", "rho"), ("sgd", "rho")])
def test_a_strength_that_the_method_does_not_have_is_refused(method, option):
    with pytest.raises(ConfigError, match="this method has none") as refused:
        Perturbed(small_net(), method, micro_batches=2, **{option: 0.5})
    assert refused.value.key == option


def test_a_function_that_returns_no_strength_is_refused():
    noisy = Perturbed(small_net(), "rwp", sigma=lambda step: -0.1)
    with pytest.raises(ConfigError, match="for step 3") as refused, noisy(3):
        pass
    assert refused.value.key == "sigma"


def test_synchronised_batchnorm_is_refused_for_mixed_methods_only():
    net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(small_net())
    with pytest.raises(ConfigError, match="SyncBatchNorm"):
        Perturbed(net, "m-rwp", micro_batches=2)
    Perturbed(net, "rwp").close()


def test_passes_out_of_turn_are_refused():
    net = small_net()
    noisy = Perturbed(net, "m-rwp", micro_batches=2)
    with noisy(0, 0):
        pass
    for problem, micro_batch in (("pass 0 comes where pass 1", 0), ("pass 2 comes where", 2)):
        with pytest.raises(ConfigError, match=problem), noisy(0, micro_batch):
            pass
    with pytest.raises(ConfigError, match="took 1 of 2 passes"):
        noisy.end_step()
    with noisy(0, 1):
        with pytest.raises(ConfigError, match="inside another"), noisy(0, 0):
            pass
        with pytest.raises(ConfigError, match="a pass is under way"), noisy.evaluating():
            pass
    with pytest.raises(ConfigError, match="end_step was not called"), noisy(1, 0):
        pass
    noisy.end_step()
    with noisy(1, 0):
        pass


def test_a_pass_that_raised_leaves_no_energy_behind():
    x, y = next(batches(1))
    found = []
    for fails in (False, True):
        net = small_net()
        noisy = Perturbed(net, "arwp", sigma=0.1, eta=20.0)
        if fails:
            with pytest.raises(KeyboardInterrupt), noisy(0):
                F.cross_entropy(net(x), y).backward()
                raise KeyboardInterrupt
            net.zero_grad()
        train(noisy, net, sgd(net), 0, [(x, y)])
        found.append(noisy.move.energy.value.clone())
    assert torch.equal(*found)


def test_a_schedule_may_end_with_the_run():
    table = [0.1, 0.0, 0.1]
    net = small_net()
    noisy = Perturbed(net, "rwp", sigma=lambda step: table[step])
    train(noisy, net, sgd(net), 0, batches(3))
    noisy.close()


@pytest.mark.parametrize("method", ["rwp", "sam"])
def test_an_optimizer_that_steps_inside_the_block_is_refused(method):
    net, (x, y) = small_net(), next(batches(1))
    optimizer, noisy, before = sgd(net), Perturbed(net, method, exclude=()), parameters(net)
    wrong = pytest.raises(ConfigError, match="changed in the middle of a pass")
    with wrong as refused, noisy(0, loss=lambda: F.cross_entropy(net(x), y)):
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert "after the block" in refused.value.cure
    assert same_bits(before, parameters(net))


def test_a_state_of_another_method_is_refused():
    state = Perturbed(small_net(), "rwp").state_dict()
    with pytest.raises(ConfigError) as refused:
        Perturbed(small_net(), "last-sam").load_state_dict(state)
    assert refused.value.key == "state"


def test_the_example_runs_on_two_ranks():
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*launch, str(EXAMPLE), "--steps=30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert top1_of(done.stdout) > 50, done.stdout


def top1_of(output):
    return float(output.partition("top-1 ")[2].partition(" %")[0])


def example(commands):
    """What the script prints with each of some arguments; the ranks of the tests are in a group."""
    found = []
    for command in commands:
        arguments = patch.object(sys, "argv", [str(EXAMPLE), "--steps=30", *command])
        group = patch.multiple(dist, init_process_group=Mock(), destroy_process_group=Mock())
        ranks = {"RANK": str(dist.get_rank()), "WORLD_SIZE": str(dist.get_world_size())}
        output = io.StringIO()
        with arguments, group, patch.dict(os.environ, ranks), redirect_stdout(output):
            runpy.run_path(str(EXAMPLE), run_name="__main__")
        found.append(output.getvalue())
    return found


def test_the_example_perturbs():
    """Each method ends elsewhere than sgd, and m-rwp without noise where sgd does."""
    sgd, *others = ["--method=sgd"], ["--sigma=0"], ["--sigma=0.5"], ["--method=sam"]
    plain, still, noisy, sam = map(top1_of, run_ranks(example, 2, [sgd, *others])[0])
    assert still == plain
    assert len({plain, noisy, sam}) == 3


def test_what_is_no_network_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match="a generator is no network") as refused:
        Perturbed(small_net().parameters(), "rwp")
    assert refused.value.key == "model"


@pytest.mark.parametrize("method", METHODS)
def test_it_says_of_a_pass_whether_its_weights_are_perturbed(method):
    net, name = small_net(), METHODS[method].strength
    strengths = {name: lambda step: 0.0 if step == 1 else 0.1} if name else {}
    noisy = Perturbed(net, method, micro_batches=2, **strengths)
    said, seen = [], []
    for step, (x, y) in enumerate(batches(5)):
        clean = parameters(net)
        for micro_batch in range(2):
            with noisy(step, micro_batch, loss=lambda x=x, y=y: F.cross_entropy(net(x), y)):
                (noisy.weight * F.cross_entropy(net(x), y)).backward()
                seen.append(not same_bits(parameters(net), clean))
            said.append(noisy.perturbs)
        noisy.end_step()
    assert said == seen and any(seen) == bool(name)
