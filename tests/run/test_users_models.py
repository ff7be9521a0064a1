"""Networks as people write them: they train and resume exactly, or one sentence names the cure."""

import re

import pytest
import torch
from support.checkpoints import everything, load, save
from support.methods import METHOD_SETTINGS, overrides
from support.properties import stages_of
from support.ranks import run_ranks
from support.small import (
    GLOBAL_BATCH,
    NUM_CLASSES,
    buffers_of,
    run_all,
    run_steps,
    same_bits,
    small_parts,
    small_settings,
    split_over,
    weights_of,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from rwp_dist.base.errors import ConfigError
from rwp_dist.config import load_settings
from rwp_dist.engine.deepspeed.engine import prepare_for_stage_3
from rwp_dist.perturb import METHODS, Perturbed
from rwp_dist.process.replicas import check_replicas
from rwp_dist.run.checkpoint import read_checkpoint
from rwp_dist.run.evaluate import clean_network, evaluate_parts, load_network
from rwp_dist.run.flops import count_flops
from rwp_dist.run.models import build_model
from rwp_dist.run.trial import check_trainable

STEPS, STOP = 5, 3


class Base(nn.Module):
    """A small network, which the others add to."""

    def __init__(self, num_classes=NUM_CLASSES):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(torch.tanh(self.bn(self.conv(x))).flatten(1))


# --- networks that train ---


class NoDimensions(Base):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return super().forward(x) * self.scale


class ScalarsAlone(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x):
        mean, most, least = x.mean((1, 2, 3)), x.amax((1, 2, 3)), x.amin((1, 2, 3))
        return torch.stack([mean * self.a, most * self.b, least * self.a], 1)


class NoElements(Base):
    def __init__(self):
        super().__init__()
        self.none = nn.Parameter(torch.empty(0))
        self.no_rows = nn.Parameter(torch.empty(0, 5))
        self.no_columns = nn.Parameter(torch.empty(5, 0))


class Unused(nn.Module):
    """The unused parameters come first."""

    def __init__(self):
        super().__init__()
        self.unused, self.net = nn.Linear(5, 7), Base()

    def forward(self, x):
        return self.net(x)


class Frozen(Base):
    """All but the head, with the statistics of BatchNorm."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(False)
        self.head.requires_grad_(True)
        self.bn.running_var.fill_(2.0)

    def train(self, mode=True):
        super().train(mode)
        self.bn.eval()
        return self


class TiedTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(36, 36), nn.Linear(36, 36)
        self.two.weight = self.one.weight
        self.head = nn.Linear(36, NUM_CLASSES, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x.flatten(1))))))


class SharedModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)
        self.again, self.bn_again = self.conv, self.bn
        self.head = nn.Linear(36, NUM_CLASSES)

    def forward(self, x):
        x = torch.tanh(self.bn(self.conv(x)))
        return self.head(torch.tanh(self.bn_again(self.again(x))).flatten(1))


class Buffers(Base):
    """Of many types and layouts; one that is not persistent and changes."""

    def __init__(self):
        super().__init__()
        for dtype in (torch.bool, torch.uint8, torch.int16, torch.int64, torch.complex64):
            self.register_buffer(str(dtype)[6:], torch.ones(3, dtype=dtype))
        self.register_buffer("no_dimensions", torch.tensor(3))
        self.register_buffer("no_elements", torch.empty(0))
        self.register_buffer("transposed", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("nothing", None)
        self.register_buffer("passes", torch.zeros(1), persistent=False)

    def forward(self, x):
        if self.training:
            self.passes += 1
        return super().forward(x) + 0.01 * self.passes


class Strided(nn.Module):
    """Parameters whose memory is not in the order of their elements."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3)
        self.weight = nn.Parameter(torch.randn(NUM_CLASSES, 20).t() / 5)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        return torch.tanh(self.two(torch.tanh(self.one(x)))).flatten(1) @ self.weight


class Parametrized(nn.Module):
    """The spectral norm has buffers that a perturbed pass changes."""

    def __init__(self):
        super().__init__()
        self.one = parametrizations.weight_norm(nn.Linear(36, 8))
        self.two = parametrizations.orthogonal(nn.Linear(8, 8))
        self.three = parametrizations.spectral_norm(nn.Linear(8, NUM_CLASSES))

    def forward(self, x):
        return self.three(torch.tanh(self.two(torch.tanh(self.one(x.flatten(1))))))


class LooksAtValues(Base):
    """So no pass without values can be made; and it has a tensor that is no buffer."""

    def __init__(self):
        super().__init__()
        self.constant = torch.full((1,), 0.5)

    def forward(self, x):
        return super().forward(-x if float(x.mean()) > 9 else x) * self.constant


class Norms(Base):
    """With statistics as plain means, without, and of other norms; and dropout."""

    def __init__(self):
        super().__init__()
        self.bn = nn.Sequential(
            nn.BatchNorm2d(4, momentum=None, affine=False),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            nn.GroupNorm(2, 4),
            nn.Dropout(0.2),
        )


class FrozenOfOtherTypes(Base):
    def __init__(self):
        super().__init__()
        self.short = nn.Linear(36, NUM_CLASSES).to(torch.bfloat16)
        self.long = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.whole = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
        self.short.requires_grad_(False)
        self.long.requires_grad_(False)

    def forward(self, x):
        return super().forward(x).bfloat16() + self.short(x.flatten(1).bfloat16())


class Everything(nn.Module):
    """All of it, for each method."""

    def __init__(self):
        super().__init__()
        parts = (NoDimensions, NoElements, Unused, Frozen, TiedTensors, SharedModules, Buffers)
        self.parts = nn.ModuleList(part() for part in parts)
        self.strided = Strided()

    def forward(self, x):
        return sum((part(x) for part in self.parts), self.strided(x))


TRAINED = (
    *(NoDimensions, ScalarsAlone, NoElements, Unused, Frozen, TiedTensors, SharedModules, Buffers),
    *(Strided, Parametrized, LooksAtValues, Norms, FrozenOfOtherTypes),
)


def drawn(network, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network()


def undisturbed_and_resumed(network, cases, folder):
    """For every case the end of a run that is saved on its way, and of one that is resumed."""
    found = []
    for number, case in enumerate(cases):
        settings = small_settings(*case, steps=STEPS)
        with small_parts(settings, drawn(network)) as parts:
            for step in run_steps(parts, 0, STEPS):
                check_replicas(parts.engine.module, step)
                if step + 1 == STOP:
                    save(folder / str(number), parts, STOP)
            ends = [everything(parts)]
            with clean_network(parts, STEPS):
                assert evaluate_parts(parts)[0]["num_samples"]
        with small_parts(settings, drawn(network, seed=9)) as parts:
            assert load(folder / str(number), parts) == (STOP, [])
            run_all(parts, STOP)
            found.append([*ends, everything(parts)])
    return found


def assert_resumes(network, method, world_size, folder):
    stages = [stage for stage in stages_of(method) if stage < 3]
    split = split_over(world_size, 2)
    cases = [overrides(method, f"deepspeed.zero_stage={stage}", split) for stage in stages]
    for found in run_ranks(undisturbed_and_resumed, world_size, network, cases, folder):
        for undisturbed, resumed in found:
            assert same_bits(undisturbed, resumed)


@pytest.mark.parametrize("network", TRAINED, ids=lambda network: network.__name__)
def test_a_users_network_trains_and_resumes_exactly(network, tmp_path):
    assert_resumes(network, "m-arwp", 1, tmp_path)


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_every_method_trains_every_oddity(method, tmp_path):
    assert_resumes(Everything, method, 1, tmp_path)


@pytest.mark.parametrize("network", [Everything, Parametrized], ids=["everything", "parametrized"])
def test_ranks_agree_about_oddities(network, tmp_path):
    assert_resumes(network, "m-arwp", 2, tmp_path)


def ends_of_all(engine):
    """Of every network after training on this rank: all that has elements.

    DDP's optimizer has a state for a parameter without elements, and DeepSpeed's has none.
    """
    ends = []
    for network in (*TRAINED, Everything):
        settings = small_settings(*overrides("m-arwp", engine, split_over(2, 2)), steps=STEPS)
        with small_parts(settings, drawn(network)) as parts:
            run_all(parts)
            ends.append({key: value for key, value in everything(parts).items() if value.numel()})
    return ends


def test_oddities_have_the_same_bits_under_ddp_and_deepspeed_at_stage_0():
    names = [network.__name__ for network in (*TRAINED, Everything)]
    engines = (run_ranks(ends_of_all, 2, f"engine.name={name}") for name in ("ddp", "deepspeed"))
    for here, there in zip(*engines, strict=True):
        for name, a, b in zip(names, here, there, strict=True):
            assert same_bits(a, b), name


def stage_3(network):
    with small_parts(small_settings("method.name=rwp", "deepspeed.zero_stage=3"), network()) as p:
        before = p.engine.full_weights()
        run_all(p, stop=2)
        return before, p.engine.full_weights()


@pytest.mark.parametrize("network", [Frozen, Strided])
def test_stage_3_has_frozen_parameters_and_those_of_other_layouts(network):
    for before, after in run_ranks(stage_3, 2, network):
        trained = {name: p.requires_grad for name, p in network().named_parameters()}
        moved = {name: not torch.equal(before[name], after[name]) for name in trained}
        assert moved == trained


def test_stage_3_refuses_what_it_cannot_share_out():
    for network, words in (
        (NoDimensions, "scale, which has no dimensions"),
        (NoElements, "none, which has no elements"),
        (FrozenOfOtherTypes, "long, which has the type torch.float64"),
        (lambda: torch.compile(Base()), "a compiled network"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            prepare_for_stage_3(network())
        assert caught.value.key == "deepspeed.zero_stage" and "set it to 2" in caught.value.cure


@pytest.mark.parametrize("network", [*TRAINED, Everything], ids=lambda network: network.__name__)
def test_the_library_perturbs_what_is_trained_and_brings_it_back(network):
    x, y = torch.rand(4, 1, 6, 6), torch.arange(4) % NUM_CLASSES
    for method in [name for name in METHODS if METHODS[name].move]:
        net = drawn(network)

        def loss(net=net):
            return F.cross_entropy(net(x).float(), y)

        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        strength = {METHODS[method].strength: 0.1}
        noisy = Perturbed(net, method, micro_batches=2, exclude=[], **strength)
        for step in range(2):
            for number in range(2):
                with noisy(step, number, loss=loss):
                    loss().backward()
                    now = {name: p.detach().clone() for name, p in net.named_parameters()}
                assert same_bits(before, {n: p.detach() for n, p in net.named_parameters()})
            noisy.end_step()
        trained = {n for n, p in net.named_parameters() if p.requires_grad and p.numel()}
        moved = {name for name in now if not torch.equal(now[name], before[name])}
        assert noisy.perturbs and moved and moved <= trained
        noisy.close()


def test_the_noise_of_a_weight_does_not_depend_on_its_layout():
    strided, plain = drawn(Strided), drawn(Strided)
    for param in plain.parameters():
        param.data = param.data.contiguous()
    found = []
    for net in (strided, plain):
        noisy = Perturbed(net, "rwp", exclude=[], seed=5)
        with noisy(0):
            found.append({name: p.detach().clone() for name, p in net.named_parameters()})
        noisy.close()
    assert not plain.two.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].move])
def test_the_library_takes_weights_of_any_real_type(method, dtype):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, NUM_CLASSES))
    net[1].to(dtype)
    net.insert(2, _As(torch.float32))
    net.insert(1, _As(dtype))
    x, y = torch.rand(4, 1, 6, 6), torch.arange(4) % NUM_CLASSES
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    options = {METHODS[method].strength: 0.3}
    noisy = Perturbed(net, method, micro_batches=2, **options)
    for step in range(2):
        for number in range(2):
            with noisy(step, number, loss=lambda: F.cross_entropy(net(x), y)):
                F.cross_entropy(net(x), y).backward()
                name = "2.weight"
                change = (net.get_parameter(name) - before[name]).float().norm()
            if noisy.perturbs:
                assert 0 < change < 1.5
            assert same_bits(before, {n: p.detach() for n, p in net.named_parameters()})
        noisy.end_step()
    noisy.close()


class _As(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


# --- statistics, checkpoints ---


def frozen_statistics():
    settings = small_settings("method.name=rwp", "evaluation.recalibrate_batches=3")
    with small_parts(settings, drawn(Frozen)) as parts:
        before = buffers_of(parts)
        run_all(parts, stop=2)
        with clean_network(parts, 2):
            return before, buffers_of(parts)


def test_an_evaluation_leaves_frozen_statistics_alone():
    ((before, evaluated),) = run_ranks(frozen_statistics, 1)
    assert same_bits(before, evaluated) and (before["bn.running_var"] == 2).all()


def saved_network(network, folder):
    with small_parts(small_settings("method.name=m-rwp"), drawn(network)) as parts:
        run_all(parts, stop=2)
        path = save(folder, parts, 2)
        parts.engine.module.eval()
        return path, parts.engine.module(torch.ones(2, 1, 6, 6)).detach()


@pytest.mark.parametrize("network", [TiedTensors, SharedModules, Buffers, Parametrized])
def test_a_checkpoint_is_loaded_by_its_names_here_and_by_plain_torch(network, tmp_path):
    ((path, wanted),) = run_ranks(saved_network, 1, network, tmp_path)
    name = [
        f"model.name={__name__}:without_arguments",
        f"model.options={{name: {network.__name__}}}",
    ]
    settings = small_settings(*name)
    net = load_network(settings, path, torch.device("cpu")).eval()
    assert torch.equal(net(torch.ones(2, 1, 6, 6)), wanted)
    plain, state = drawn(network, seed=9).eval(), read_checkpoint(path)
    plain.load_state_dict(state["weights"] | state["buffers"])  # strict
    if network is not Buffers:
        assert torch.equal(plain(torch.ones(2, 1, 6, 6)), wanted)


def without_arguments(num_classes, name):
    assert num_classes == NUM_CLASSES
    return globals()[name]()


@pytest.mark.parametrize("network", [SharedModules, TiedTensors])
def test_counting_operations_leaves_no_trace(network):
    net, same = drawn(network), drawn(network)
    assert count_flops(net, 1, 6)
    assert all(not p.is_meta for p in net.parameters())
    assert same_bits(net.state_dict(), same.state_dict())


# --- networks that are refused ---


def refused(build, *more, size=6, micro_batch=4):
    """The error for a network of the user's, in the order of a run."""
    name = [f"model.name={__name__}:{build}", f"model.num_classes={NUM_CLASSES}"]
    settings = load_settings(None, [*name, f"data.image_size={size}", *more])
    with pytest.raises(ConfigError) as caught:
        check_trainable(build_model(settings), settings, micro_batch)
    assert caught.value.cure and "\n" not in str(caught.value)
    return caught.value


def changed(forward):
    """A function that makes a network with another forward pass."""

    def build(num_classes):
        net = Base(num_classes)
        plain = net.forward
        net.forward = lambda x: forward(net, plain(x))
        return net

    return build


returns_tuple = changed(lambda net, y: (y, y))
returns_dict = changed(lambda net, y: {"logits": y})
returns_classes = changed(lambda net, y: y.argmax(1, keepdim=True).expand_as(y))
returns_a_map = changed(lambda net, y: y[..., None, None])
returns_detached = changed(lambda net, y: y.detach())
returns_a_pair_in_evaluation = changed(lambda net, y: y if net.training else (y, y))
returns_no_batch = changed(lambda net, y: y.mean(0))
raises = changed(lambda net, y: {}["a key"])


def too_many(num_classes):
    return Base(num_classes + 2)


def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def frozen(num_classes):
    return Base(num_classes).requires_grad_(False)


def no_parameters(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, num_classes)), nn.Flatten(), nn.Dropout(0.5))


def meta(num_classes):
    return Base(num_classes).to("meta")


def double(num_classes):
    net = Base(num_classes)
    net.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
    return net


def half(num_classes):
    return Base(num_classes).to(torch.bfloat16)


def complex_(num_classes):
    net = Base(num_classes)
    net.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return net


def sparse(num_classes):
    net = Base(num_classes)
    net.table = nn.Embedding(3, 4, sparse=True)
    return net


def parallel(num_classes):
    return nn.DataParallel(Base(num_classes))


def synchronised(num_classes):
    return nn.SyncBatchNorm.convert_sync_batchnorm(Base(num_classes))


def scripted(num_classes):
    with pytest.warns(FutureWarning):
        return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(36, num_classes)))


def no_arguments():
    return Base()


def one_value(num_classes):
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), pool, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def expanded(num_classes):
    net = Base(num_classes)
    net.extra = nn.Parameter(torch.zeros(1).expand(3))
    return net


REFUSED = {
    "expanded": ("model.name", "extra is expanded", "clone"),
    "returns_tuple": ("model.name", "returns a tuple", "return the logits alone"),
    "returns_dict": ("model.name", "returns a dict", "return the logits alone"),
    "returns_classes": ("model.name", "returns int64", "logits, not classes"),
    "returns_a_map": ("model.name", r"returns \[2, 3, 1, 1\] for 2 images", "a row of num_classes"),
    "returns_no_batch": ("model.name", r"returns \[3\] for 2 images", "a row of num_classes"),
    "returns_detached": ("model.name", "no trained parameter has a part", "detach nothing"),
    "returns_a_pair_in_evaluation": ("model.name", "a tuple in evaluation mode", "logits alone"),
    "raises": ("model.name", "fails with images of shape .*a key", "mend its forward"),
    "too_many": ("model.name", r"returns \[2, 5\]", "set model.num_classes to 5"),
    "lazy": ("model.name", "1.weight has no shape", "pass a batch through the network first"),
    "frozen": ("model.name", "all parameters are frozen, such as conv.weight", "requires_grad"),
    "no_parameters": ("model.name", "it has no parameters", "give the network to train"),
    "meta": ("model.name", "conv.weight is on the meta device", "with values"),
    "double": ("model.name", "scale is of float64", "network.float()"),
    "half": ("model.name", "conv.weight is of bfloat16", "network.float()"),
    "complex_": ("model.name", "phase is complex", "torch.view_as_complex"),
    "sparse": ("model.name", "table has sparse gradients", "leave out sparse=True"),
    "parallel": ("model.name", "wrapped in DataParallel", "return the network itself"),
    "synchronised": ("model.name", "bn is a SyncBatchNorm", "run.device to cuda"),
    "scripted": ("model.name", "it is a ScriptModule", "without torch.jit"),
    "no_arguments": ("model.name", "called with num_classes and model.options", "mend it"),
}


@pytest.mark.parametrize("build", REFUSED)
def test_a_network_that_cannot_train_is_refused_in_one_sentence(build):
    key, words, cure = REFUSED[build]
    error = refused(build)
    assert error.key == key
    assert re.search(words, error.problem), error
    assert re.search(cure, error.cure), error


def test_one_value_per_channel_is_refused_by_the_batch_and_the_module():
    error = refused("one_value", micro_batch=1)
    assert error.key == "batch.per_rank"
    assert "(BatchNorm2d 2: Expected more than 1 value" in error.problem
    settings = load_settings(None, [f"model.name={__name__}:one_value", "model.num_classes=3"])
    check_trainable(build_model(settings), settings, 2)


def test_a_batch_of_one_trains_where_the_map_is_larger():
    settings = small_settings(f"model.name={__name__}:Base")
    check_trainable(build_model(settings), settings, 1)


def test_the_library_refuses_what_it_cannot_perturb():
    apart = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).to("meta"))
    for net, words in (
        (lazy(3), "1.weight has no shape"),
        (frozen(3), "all parameters are frozen"),
        (no_parameters(3), "it has no parameters"),
        (complex_(3), "phase is complex"),
        (meta(3), "on the meta device"),
        (scripted(3), "it is a ScriptModule"),
        (apart, "0.bias is on cpu and 1.bias on meta"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            Perturbed(net, "rwp")
        assert caught.value.key == "model" and caught.value.cure


def run_refused():
    settings = small_settings(f"batch.per_rank={GLOBAL_BATCH // 2}")
    with small_parts(settings, frozen(NUM_CLASSES)) as parts:
        return weights_of(parts)


def test_a_run_is_refused_on_all_ranks_before_its_engine_starts():
    with pytest.raises(ConfigError, match=r"model\.name: all parameters are frozen"):
        run_ranks(run_refused, 2)
