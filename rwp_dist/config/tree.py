"""The tree of settings: each field with its meaning, its unit and the meaning of null or 0.

A step is one update of the weights. Durations come as two fields, in epochs and in steps; where
the one in steps is set, it replaces the other. A tag says what another value affects (``Affects``);
a section's tag counts for its fields, and without any tag a field affects the result.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rwp_dist.base.files import expand_home
from rwp_dist.config.types import (
    MOST_PIXELS,
    MOST_PROCESSES,
    MOST_SAMPLES,
    Affects,
    BelowOne,
    Count,
    DifferentPlaces,
    Duration,
    Flag,
    Fraction,
    Hue,
    Integer,
    NoBool,
    NonNegativeFloat,
    Number,
    Place,
    PositiveFloat,
    Seed,
    Size,
    WandbId,
    WandbName,
    WandbPath,
    WandbTag,
    WeightsPlace,
    one_of_or_named,
)
from rwp_dist.perturb.methods import METHODS

Finite = ConfigDict(
    extra="forbid",
    frozen=True,
    use_attribute_docstrings=True,
    allow_inf_nan=False,
    protected_namespaces=(),
)


class Section(BaseModel):
    """A branch of the tree: unknown keys fail, values never change after loading."""

    model_config = Finite


class Run(Section):
    """Name, place and seed of a run, and where it computes."""

    label: Annotated[str | None, Affects.NOTHING] = None
    """Name that all seeds of one experiment share; its row in a table. null: the variant's name, or
    the method's."""

    name: Annotated[str | None, Affects.NOTHING] = None
    """Name of this one run. null: ``<label>-s<seed>``."""

    dir: Annotated[Place | None, Affects.NOTHING] = None
    """Run directory, which gets all that the run writes. null: ``runs/<file>/<name>``, with the
    name of the settings file."""

    seed: Seed = 0
    """Seed of the initial weights, the order of samples, augmentation and noise."""

    device: Annotated[Literal["auto", "cpu", "cuda"], Affects.ROUNDING] = "auto"
    """Where ranks compute. auto: on a GPU if there is one, else on the CPU."""

    threads: Annotated[Size, Field(le=MOST_PROCESSES), Affects.ROUNDING] = 1
    """CPU threads of each rank. More than 1 pays for large networks where cores are idle."""

    change: Annotated[tuple[str, ...], Affects.NOTHING] = ()
    """Settings that this start may change in a run that goes on, which is refused otherwise.
    ``--change KEY=VALUE`` sets it. The run does not keep it."""

    compile: Annotated[Flag, Affects.RESULT] = False
    """Train by code that torch.compile generates for this network, as one graph a pass and size of
    images. Evaluation takes the plain network. On a CPU it needs a C++ compiler. Not for ZeRO's
    stage 3."""

    check_replicas_every: Annotated[Count, Affects.NOTHING] = 0
    """Steps between two checks that all ranks have bit-identical weights; the run stops if they
    do not. 0: no checks."""

    allow_mixed_code: Annotated[Flag, Affects.NOTHING] = False
    """Train although ranks have different versions or commits of the code. What they compute may
    then differ, too."""


class Model(Section):
    """The network."""

    name: str = "small_cnn"
    """``small_cnn`` (8x8 to 32x32 images), ``cifar_resnet18``, ``vit_s_16``, ``vit_s_32``,
    ``plain_vit_s_16``, ``plain_vit_b_16`` (fixed positions, no class token), a classification model
    of torchvision, ``timm:NAME``, or ``module:function`` of yours: ``function(num_classes=...,
    **options)`` returns the network."""

    options: dict[str, Any] = {}
    """Keyword arguments of the network's function, such as ``{widths: [16, 32, 32]}`` of
    ``small_cnn``, ``{attention_dropout: 0.1}`` of torchvision's transformers, ``{drop_path_rate:
    0.1}`` of timm's networks."""

    num_classes: Annotated[Integer, Field(ge=2, le=MOST_SAMPLES)] = 10
    """Number of classes; labels are 0 to num_classes - 1."""

    init: Annotated[WeightsPlace | None, Affects.PLACE] = None
    """Weights to start from: a ``.pt`` or ``.pth`` file with a state dict, a checkpoint, a
    ``.safetensors`` file, another run's directory (its newest checkpoint, of an average the
    average), ``torchvision:DEFAULT`` or another name of its weights for this network, or
    ``timm:NAME``. The head is new for other classes; position embeddings are interpolated for
    another resolution. A run that goes on takes its checkpoint. null: weights drawn from
    ``run.seed``."""

    freeze: tuple[str, ...] = ()
    """Parameters that are not trained, as patterns of names: ``conv1.*``; ``ndim<2`` names every
    bias and normalisation parameter. They are not perturbed, reduced or decayed. A BatchNorm of
    which all parameters are frozen normalises by its running statistics, and these stay as they
    are. A pattern that matches nothing is an error."""

    checkpointing: Annotated[Flag, Affects.NOTHING] = False
    """Gradient checkpointing: keep of each block its input alone, and compute the block again in
    the backward pass. Less memory, about a third more computation, the same bits. For ResNets,
    ConvNeXts, ViTs and Swin transformers of torchvision and timm, and for a network of yours with
    a method ``checkpointed_blocks()`` that returns its modules to be computed again."""


def _default_cache() -> str:
    try:
        return expand_home("~/.cache/rwp-dist")
    except ValueError:  # a user without a home folder, who may need no cache
        return "~/.cache/rwp-dist"


class Data(Section):
    """Shards and how their images become tensors."""

    train: Annotated[Place, Affects.PLACE] = "data/digits/train"
    """Training shards: a folder or URL with a ``manifest.json`` (``rwp-dist shards``)."""

    mix: Annotated[dict[Place, Annotated[PositiveFloat, Field(le=1e9)]], DifferentPlaces] = {}
    """Several training sets and their weights, ``{folder: weight}``; replaces ``train``."""

    val: Annotated[Place, Affects.PLACE] = "data/digits/test"
    """Evaluation shards, named as ``train`` is."""

    image_size: Annotated[Size, Field(le=MOST_PIXELS)] = 8
    """Height and width of the images given to the model, in pixels."""

    sizes: tuple[tuple[BelowOne, Annotated[Size, Field(le=MOST_PIXELS)]], ...] = ()
    """Progressive resizing: sides of the training images, each with the fraction of the run from
    which on it counts, ``[[0, 128], [0.4, 160]]``. []: ``image_size`` throughout."""

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Every side that training images have, in pixels, in the order of the run."""
        return tuple(dict.fromkeys(side for _, side in self.sizes)) or (self.image_size,)

    channels: Annotated[Literal[1, 3], NoBool] = 1
    """Channels of the images given to the model: 1 grey, 3 RGB."""

    mean: tuple[Number, ...] = (0.5,)
    """Subtracted from pixels in [0, 1]; one value, or one for each channel."""

    std: tuple[PositiveFloat, ...] = (0.5,)
    """Divides what is left; one value, or one for each channel."""

    sampling: Literal["natural", "balanced"] = "natural"
    """natural: every sample once an epoch. balanced: every class equally often."""

    lanes: Size | None = None
    """Places of an epoch that a batch draws from at once; divides ``batch.global``. null: 8, or
    the largest of 4, 2 and 1 that does."""

    window: Size = 16384
    """Samples of a lane that are shuffled with each other."""

    pad_last: Flag = False
    """Show every sample in every epoch, with a last batch that is not full. false: leave out
    fewer than a batch and the lanes, others in every epoch."""

    workers: Annotated[
        Annotated[Count, Field(le=MOST_PROCESSES)] | Literal["auto"], Affects.NOTHING
    ] = "auto"
    """Processes of each rank that read and decode, or auto. 0: the rank itself does. auto: its
    share of the cores that its node allows, without ``run.threads`` of its own; at most 16."""

    prefetch: Annotated[Size, Field(le=MOST_PROCESSES), Affects.NOTHING] = 2
    """Steps that each worker keeps ready."""

    decoder: Annotated[
        Literal["auto", "libjpeg", "simplejpeg", "torchvision", "pil"], Affects.ROUNDING
    ] = "auto"
    """JPEG library. auto: the fastest that is installed; all give the same pixels. libjpeg decodes
    the crop only, with C files that are compiled at their first use."""

    interpolation: Literal["antialias", "fast"] = "antialias"
    """How images are resized. fast: OpenCV's linear, without antialiasing: other pixels
    (36 dB from Pillow's on random crops of noise like photographs, where antialias is 75 dB), not
    verified for accuracy."""

    eval_crop_ratio: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.875
    """Evaluation resizes the shorter side to image_size / this, and takes the centre."""

    max_pixels: Annotated[Size, Field(le=2**27)] = 2**27
    """Pixels of an image; one that has more is bad, and is not decoded."""

    max_bad_samples: Annotated[Count, Affects.NOTHING] = 100
    """Samples that may be unreadable, counted whenever one comes, before all ranks stop."""

    cache_dir: Annotated[Place, Affects.NOTHING] = Field(default_factory=_default_cache)
    """Where a node keeps remote shards; on a local disk, the same for all of its ranks. Default:
    ~/.cache/rwp-dist."""

    cache_gb: Annotated[PositiveFloat | None, Field(le=1e9), Affects.NOTHING] = None
    """Most that the cache may hold, in 10^9 bytes. null: the disk."""

    retries: Annotated[Count, Affects.NOTHING] = 8
    """Attempts at a remote shard after the first."""

    stall_s: Annotated[Duration, Field(gt=0.0), Affects.NOTHING] = 30.0
    """Seconds without a byte after which a connection is given up and tried again."""

    opener: Annotated[str | None, Affects.NOTHING] = None
    """``module:function`` that returns a binary file for a URL, instead of urllib (http, https) and
    fsspec (s3, gs and its other protocols). null: those."""


class Augment(Section):
    """What happens to training images, keyed by (seed, epoch, sample)."""

    crop: Literal["none", "pad", "random_resized"] = "none"
    """none: fitted. pad: padded by ``pad`` pixels, then cropped. random_resized: as torchvision."""

    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Share of the area that random_resized takes, least and most."""

    pad: Annotated[Count, Field(le=MOST_PIXELS)] = 4
    """Pixels on each side for ``crop: pad``."""

    flip: Flag = False
    """Mirror half of the images."""

    repeats: Annotated[Size, Field(le=MOST_PROCESSES)] = 1
    """Repeated augmentation: how often a batch has each of its samples, augmented differently
    (Hoffer et al. 2020). An epoch keeps its length, so it shows one in ``repeats`` of the samples,
    and as many epochs show each."""

    auto: Literal["none", "randaugment", "trivial", "three", "augmix"] = "none"
    """RandAugment, TrivialAugmentWide, 3-Augment (grey, solarised or blurred; Touvron et al. 2022),
    AugMix without its consistency loss (Hendrycks et al. 2020), or nothing."""

    num_ops: Annotated[Size, Field(le=MOST_PROCESSES)] = 2
    """Operations of RandAugment."""

    magnitude: Annotated[Integer, Field(ge=0, le=30)] = 9
    """Their strength."""

    severity: Annotated[Integer, Field(ge=1, le=10)] = 3
    """Strength of AugMix's operations."""

    jitter: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, Hue] = (0.0, 0.0, 0.0, 0.0)
    """Colour jitter after ``auto``, as torchvision's: of brightness, contrast, saturation and hue.
    The first three are factors of 1 ± this, hue is turned by ± this. 0: off."""

    cutout: Annotated[Count, Field(le=MOST_PIXELS)] = 0
    """Side of the square that Cutout fills, in pixels. 0: off."""

    erase: Fraction = 0.0
    """Probability of random erasing."""

    mixup: NonNegativeFloat = 0.0
    """Alpha of Mixup. 0: off. With cutmix, each batch takes one of the two."""

    cutmix: NonNegativeFloat = 0.0
    """Alpha of CutMix. 0: off."""

    label_smoothing: BelowOne = 0.0
    """Share of a target that is spread evenly over all classes."""


LOSSES: dict[str, tuple[str, ...]] = {"cross_entropy": (), "bce": ("threshold", "sum_classes")}
"""The losses of ``rwp_dist.run.losses``, with the settings that each has for itself."""


class Loss(Section):
    """What training minimises. Evaluation's ``loss`` is always the negative log-likelihood."""

    name: Literal["cross_entropy", "bce"] = "cross_entropy"
    """cross_entropy, or bce: a binary cross-entropy for each class (Wightman et al. 2021)."""

    threshold: Annotated[Number, Field(ge=0.0, lt=1.0)] | None = None
    """Targets of bce above this are 1, the others 0, after Mixup and label smoothing. null: they
    stay as they are."""

    sum_classes: Flag = False
    """Sum bce over the classes; its gradient is num_classes times larger. false: their mean."""

    teacher: Annotated[WeightsPlace | None, Affects.PLACE] = None
    """Distil from a frozen network: a run's directory, of which the newest checkpoint counts; or
    weights for ``teacher_model``, as ``model.init`` takes them: a file, ``torchvision:DEFAULT`` or
    ``timm:NAME``. A run's and a library's see pixels as they were trained, a file's as this run.
    null: none."""

    teacher_model: str | None = None
    """Network that the weights are of, named as ``model.name`` is. null: the teacher is a run, or
    timm's, which know it."""

    temperature: PositiveFloat = 1.0
    """Divides the logits of both networks in the teacher's term (Hinton et al. 2015)."""

    alpha: Fraction = 0.5
    """Weight of the teacher's term; the loss of the labels has 1 - alpha."""


class Batch(Section):
    """Samples of one update. Gradient accumulation follows from these and the number of ranks."""

    global_: Annotated[Size, Field(alias="global", le=MOST_SAMPLES)] = 64
    """Samples of one update over all ranks, clean and perturbed ones together."""

    per_rank: Annotated[Size, Field(le=MOST_SAMPLES), Affects.SPLIT] = 64
    """Most samples in one micro-batch, which a rank passes through the network at once."""


if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
ScaleName = Literal["filter", "rms", "tensor", "element"]


def _sigma_of_method(given: dict[str, Any]) -> float:
    """The default of ``method.sigma``, by the method's name; 0.0 for one without noise."""
    method = METHODS[given["name"]]  # pydantic asks only if the name is valid
    return method.default_strength if method.draws_noise else 0.0


class Method(Section):
    """Which gradient the optimizer gets (Li et al., TMLR 2024)."""

    name: Annotated[MethodName, Field(description=" | ".join(METHODS))] = "m-rwp"

    lambda_: Annotated[Fraction, Field(alias="lambda")] = 0.5
    """Weight of the perturbed loss in m-rwp and m-arwp; the clean loss has 1 - lambda."""

    sigma: NonNegativeFloat = Field(default_factory=_sigma_of_method)
    """Standard deviation of the noise, relative to what ``scale`` names. Default: 0.3 for rwp and
    arwp, 0.4 for m-rwp and m-arwp."""

    sigma_schedule: Literal["constant", "increase", "auto"] = "constant"
    """increase: sigma (1 + sigma_increase (1 - cos(pi t / T)) / 2). auto (the authors'): constant
    for m-rwp and m-arwp, increase for rwp and arwp."""

    sigma_increase: NonNegativeFloat = 10.0
    """How many times sigma is added to itself by the end of an increasing schedule."""

    warmup_epochs: Duration = 0.0
    """Epochs at the beginning in which weights stay clean: noise hurts a transformer's warm-up."""

    warmup_steps: Count | None = None
    """The same in steps; replaces warmup_epochs. null: warmup_epochs counts."""

    rho: NonNegativeFloat = 0.05
    """Radius of the step of sam, asam and last-sam."""

    every: Size = 1
    """Perturb in every k-th step, from step 0 on; weights stay clean in the others."""

    start: Fraction | Literal["decay"] = 0.0
    """Perturb from this fraction of the run on. decay: from where the learning rate's decay
    begins."""

    stop: Fraction | Literal["decay"] = 1.0
    """Perturb up to this fraction of the run. 0: never. decay: up to where the learning rate's
    decay begins."""

    eta: NonNegativeFloat = 0.1
    """How strongly arwp and m-arwp shrink the noise of rows with large gradients."""

    beta: BelowOne = 0.99
    """Decay of the sum of squared gradients in arwp and m-arwp."""

    power: PositiveFloat = 0.5
    """Noise is divided by (1 + eta F)^power: 0.5 as in the released code, 0.25 as in the paper."""

    scale: ScaleName = "rms"
    """Size of the noise. rms: root mean square of a row, the weights of one output channel.
    filter (the authors'): norm of a row, which is sqrt(n) times that for a row of n weights.
    tensor: root mean square of the whole tensor. element: absolute value of each weight."""

    exclude: tuple[str, ...] = ("ndim<2",)
    """Parameters without noise, as patterns of names: ``*.bias``, ``*bn*``. ``ndim<2`` names every
    bias and normalisation parameter. Another pattern that matches nothing is an error."""

    antithetic: Flag = False
    """Perturbed slots in pairs use +noise and -noise, which cancels its first-order effect."""


class Noise(Section):
    """How noise is made."""

    backend: Annotated[Literal["auto", "torch", "triton", "native"], Affects.ROUNDING] = "auto"
    """triton: one CUDA kernel draws noise in registers and perturbs all weights. native: the same
    noise on a CPU, by a C file that is compiled at its first use. torch: torch's generator; other
    values of the same distribution. auto: the fastest that runs here."""

    prefetch: Annotated[Flag, Affects.NOTHING] = True
    """Draw the next step's noise while gradients are reduced. It takes one buffer of the size of
    the parameters on perturbed ranks; false: none, and the drawing shows in the step's time. With
    triton there is nothing to draw ahead."""


OPTIMIZERS = {
    "sgd": ("momentum", "nesterov"),
    "adamw": ("betas", "eps"),
    "lamb": ("betas", "eps"),
    "lars": ("momentum", "nesterov", "trust_coefficient"),
    "lion": ("betas",),
    "muon": ("momentum", "nesterov", "betas", "eps"),
}
"""Names of ``rwp_dist.run.optimizers``, so that a wrong one is found before torch is loaded. With
the settings that each has for itself."""


def _by_optimizer(default: Any, **others: Any) -> Any:
    """A default that some optimizers have another of, by ``optimizer.name``."""
    return Field(default_factory=lambda given: others.get(given["name"], default))


class Optimizer(Section):
    """What turns the gradient into an update."""

    name: Annotated[str, one_of_or_named(*OPTIMIZERS)] = "sgd"
    """sgd (with momentum), adamw, or ``module:function`` of yours:
    ``function(groups, lr=..., **options)``. lamb, lars and lion are timm's (``rwp-dist[timm]``).
    muon is torch's, for the matrices of hidden layers; adamw has the rest. lamb, lars and muon
    look at whole parameters, which ZeRO's stages 1 to 3 do not have."""

    options: dict[str, Any] = {}
    """Keyword arguments of your own optimizer."""

    lr: PositiveFloat = 0.1
    """Peak learning rate, of a batch of ``base_batch``."""

    base_batch: Size | None = None
    """Size of the batch that ``lr`` is for: the peak is lr x batch.global / base_batch. null: it is
    lr for any batch."""

    lr_factors: dict[str, Annotated[PositiveFloat, Field(le=1e9)]] = {}
    """Factors of the learning rate by patterns of names: ``{"fc.*": 10}``. A parameter with several
    of them has their product; one without has 1."""

    layer_decay: Annotated[PositiveFloat, Field(le=1.0)] = 1.0
    """Factor of the learning rate from each layer to the one below it, for ResNets and vision
    transformers: the head has the whole rate, the embeddings or the stem the least. 1: all learn
    alike."""

    momentum: BelowOne = _by_optimizer(0.9, muon=0.95)
    """Momentum of sgd, lars and muon. Default: 0.9, of muon 0.95."""

    nesterov: Flag = _by_optimizer(False, muon=True)
    """Nesterov momentum of sgd, lars and muon. Default: false, of muon true."""

    betas: tuple[BelowOne, BelowOne] = _by_optimizer((0.9, 0.999), lion=(0.9, 0.99))
    """Decay of the two moments of adamw and lamb. Of lion: of the past in an update, and of its
    momentum. Default: [0.9, 0.999], of lion [0.9, 0.99]."""

    eps: PositiveFloat = _by_optimizer(1e-8, lamb=1e-6)
    """Added to the denominator of adamw and lamb. Default: 1e-8, of lamb 1e-6."""

    trust_coefficient: PositiveFloat = 0.001
    """Of lars: the norm of a parameter's update, relative to that of the parameter, at a learning
    rate of 1."""

    weight_decay: NonNegativeFloat = 5e-4
    """Decay of the weights: added to the gradient (sgd, lars), to the update before its norm is
    taken (lamb), or decoupled (adamw, lion, muon)."""

    no_decay: tuple[str, ...] | None = None
    """Parameters that are not decayed, as patterns of names: ``*.bias``; ``ndim<2`` names every
    bias and normalisation parameter. null: norms, biases, tokens and position embeddings of a
    transformer, and of any network for lamb and lars; else nothing; in a run that goes on, what it
    began with. lamb and lars take the rate as it is for these, without a norm."""

    clip_norm: NonNegativeFloat = 0.0
    """Largest norm of the gradient. 0: not clipped."""

    clip_value: NonNegativeFloat = 0.0
    """Largest absolute value of an element of the gradient; DDP alone. 0: not clipped."""

    clip_agc: NonNegativeFloat = 0.0
    """Adaptive gradient clipping: largest norm of a row of the gradient, relative to that row of
    the weights, such as 0.01; not of the last linear layer. DDP alone, and needs
    ``rwp-dist[timm]``. 0: not clipped."""


SCHEDULES = {
    "cosine": ("min_lr", "cooldown_epochs", "cooldown_steps"),
    "polynomial": ("min_lr", "cooldown_epochs", "cooldown_steps", "power"),
    "wsd": ("min_lr", "decay_epochs", "decay_steps", "power"),
    "step": ("decay_epochs", "decay_steps", "gamma"),
    "constant": (),
}
"""Names of ``rwp_dist.run.schedules``, with the settings that each has for itself."""

if TYPE_CHECKING:
    ScheduleName = str
else:
    ScheduleName = Literal[tuple(SCHEDULES)]


class Schedule(Section):
    """Length of the run and the learning rate along it."""

    name: ScheduleName = "cosine"
    """cosine: down to ``min_lr``. polynomial: likewise, as (1 - t)^power. wsd: warm-up, stable, and
    from ``decay_epochs`` on a decay to ``min_lr`` as (1 - t)^power. step: times ``gamma`` at each
    of ``decay_epochs``. constant: no decay."""

    epochs: Annotated[Duration, Field(gt=0.0)] = 20.0
    """Length of the run in epochs."""

    steps: Size | None = None
    """Length of the run in steps. null: ``epochs`` counts."""

    warmup_epochs: Duration = 0.0
    """Epochs in which the learning rate grows linearly to its peak. 0: no warm-up."""

    warmup_steps: Count | None = None
    """The same in steps. null: ``warmup_epochs`` counts."""

    warmup_from: Fraction = 0.0
    """What warm-up grows from, as a factor of the peak. 0: from zero; the first step has one part
    of it already."""

    min_lr: NonNegativeFloat = 0.0
    """Learning rate that cosine, polynomial and wsd end at, as it is: no factor of ``lr``. Groups
    multiply it by their factors, as they do ``lr``."""

    cooldown_epochs: Duration = 0.0
    """Epochs at the end of cosine and polynomial that stay at ``min_lr``; part of ``epochs``."""

    cooldown_steps: Count | None = None
    """The same in steps. null: ``cooldown_epochs`` counts."""

    decay_epochs: tuple[Annotated[Duration, Field(gt=0.0)], ...] = ()
    """Epochs after which a step schedule multiplies the learning rate by ``gamma``. Of wsd one: the
    epoch after which it decays."""

    decay_steps: tuple[Size, ...] | None = None
    """The same in steps. null: ``decay_epochs`` counts."""

    gamma: PositiveFloat = 0.1
    """Factor of the learning rate at each decay of a step schedule."""

    power: PositiveFloat = 1.0
    """Power of the decay of polynomial and wsd. 1: linear."""

    def total_steps(self, steps_per_epoch: int) -> int:
        """Length of the run in steps, of which an epoch has so many."""
        return self.steps or max(round(self.epochs * steps_per_epoch), 1)


AVERAGES: dict[str, tuple[str, ...]] = {"ema": ("decay", "warmup"), "swa": (), "lawa": ("newest",)}
"""Names of ``rwp_dist.run.average``, with the settings that each has for itself."""


class Average(Section):
    """An average of the weights along the run, evaluated beside the trained weights."""

    name: Literal["none", "ema", "swa", "lawa"] = "none"
    """ema: exponential moving average. swa: mean of the weights from ``start`` on. lawa: mean of
    the ``newest`` ones. BatchNorm's statistics are computed anew for it
    (``evaluation.recalibrate_batches``). Not for ZeRO's stage 3."""

    decay: BelowOne = 0.9999
    """Share of the old average that ema keeps each time."""

    warmup: Flag = True
    """ema keeps at most (1 + n) / (10 + n) of the average of n earlier weights, so that the random
    weights at the beginning are forgotten."""

    start: BelowOne | None = None
    """Fraction of the run after which weights are taken. null: 0.75 for swa, 0 for the others."""

    every: Size | None = None
    """Steps between two weights that are taken. null: 1 for ema, an epoch for the others."""

    newest: Annotated[Size, Field(le=MOST_PROCESSES)] = 5
    """Weights that lawa averages; each takes as much memory as the network."""

    device: Annotated[Literal["same", "cpu"], Affects.ROUNDING] = "same"
    """Where the average is kept. same: where the network is. cpu: in main memory, which takes time
    of the CPU whenever weights are taken."""

    result: Literal["average", "trained"] = "average"
    """Weights of the final result: those of ``top1``, of checkpoints that are evaluated, and of an
    export. The others are ``trained_top1`` or ``average_top1`` in the same records."""


class Engine(Section):
    """What computes gradients and averages them over the ranks."""

    name: Literal["auto", "ddp", "deepspeed"] = "auto"
    """``ddp``: torch's DistributedDataParallel, the faster one. ``deepspeed``: it can split memory
    over the ranks (``deepspeed.zero_stage``). ``auto``: deepspeed where ``deepspeed`` has settings
    that need it, or a GPU is too small without it; else ddp."""

    reduce_dtype: Annotated[Literal["fp32", "bf16"], Affects.RESULT] = "fp32"
    """Type in which gradients are averaged over the ranks. bf16 sends half the bytes, and rounds
    every sum to 8 bits: the more ranks, the less of a small gradient is left."""


class DeepSpeed(Section):
    """Options of DeepSpeed. The rest of its configuration follows from the other settings."""

    zero_stage: Annotated[Literal["auto", 0, 1, 2, 3], NoBool, Affects.SPLIT] = "auto"
    """What is split over the ranks. 0: nothing. 1: optimizer state. 2: gradients too. 3: weights
    too; all ranks then share one noise. auto: the first of 0, 1 and 2 that fits into the GPUs'
    memory, 0 on CPUs."""

    overlap_comm: Flag = False
    """Reduce gradients while the backward pass still runs. Stages 1 to 3."""

    extra: dict[str, Any] = {}
    """More of DeepSpeed's own configuration, as ``{key: value}``. What follows from other settings
    is refused here, and so are keys that DeepSpeed does not know."""


class Evaluation(Section):
    """When and how the model is evaluated."""

    every_epochs: Annotated[Duration, Affects.NOTHING] = 1.0
    """Epochs between evaluations. 0: at the end only."""

    image_size: Annotated[Size, Field(le=MOST_PIXELS)] | None = None
    """Height and width of evaluated images, in pixels. null: ``data.image_size``."""

    per_class: Annotated[Flag, Affects.NOTHING] = False
    """Write the accuracy of each class and the confusion matrix to ``per_class/`` in the run
    directory at every evaluation; at the last one also tables and a picture."""

    recalibrate_batches: Count = 50
    """Training batches from which BatchNorm's statistics are computed anew before an evaluation,
    at the weights that are evaluated. For methods without a clean pass, such as rwp and arwp, and
    for an average of the weights. 0: evaluate with the statistics of the passes that trained."""


class Checkpoint(Section):
    """Checkpoints, from which an interrupted run resumes."""

    every_epochs: Duration = 1.0
    """Epochs between checkpoints; the last one is written at the end. 0: only that one."""

    keep_last: Size = 2
    """Number of checkpoints that stay on disk."""


AlertKind = Literal[
    "diverged", "gave_up", "missed_checkpoint", "silent_rank", "bad_samples", "finished"
]


class Tracking(Section):
    """Where records go while a run trains. ``metrics.jsonl`` and the console get them always."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """auto: online if there is a W&B login, otherwise offline. online: even where WANDB_MODE says
    otherwise. offline: nothing is sent before `rwp-dist sync`. off: neither then, unless you name
    the run."""

    project: WandbPath = "rwp-dist"
    """W&B project. WANDB_PROJECT, if set, is the default."""

    entity: WandbPath | None = None
    """W&B entity: user or team. null: WANDB_ENTITY, or the login's own."""

    name: WandbName | None = None
    """Name of the run in W&B. null: WANDB_NAME, or ``run.name``."""

    group: WandbName | None = None
    """W&B group; seeds of one experiment share it. null: WANDB_RUN_GROUP, or ``run.label``, in a
    sweep with the point of its grid."""

    tags: tuple[WandbTag, ...] = ()
    """W&B tags, beside the method and the model. WANDB_TAGS, if set, is the default."""

    notes: str | None = None
    """Notes on the run in W&B. null: WANDB_NOTES, or none."""

    id: WandbId | None = None
    """Identity of a new run in W&B, and the end of its ``run.name``. null: WANDB_RUN_ID, which
    `wandb agent` sets, or a random one."""

    artifacts: tuple[Literal["settings", "checkpoint", "weights"], ...] = ("settings",)
    """Files that W&B gets: the settings; of a finished run also its newest checkpoint, or its
    weights alone, for ``load_state_dict``. Its end waits for these two, some minutes at most."""

    tensorboard: Flag = False
    """Write TensorBoard's files to ``tensorboard/`` in the run directory. Needs
    ``rwp-dist[tensorboard]``."""

    trackio: Flag = False
    """Log to trackio's database in ``trackio/`` beside the run directory: a dashboard on this
    machine, without an account. Needs ``rwp-dist[trackio]``."""

    log_every: Size = 50
    """Steps between two log lines."""

    alerts: tuple[AlertKind, ...] = (
        "diverged",
        "gave_up",
        "missed_checkpoint",
        "silent_rank",
        "bad_samples",
    )
    """What W&B and the webhook in the environment variable RWP_WEBHOOK tell a person at once. All
    but finished, unless said: a sweep has many runs. []: nothing."""

    silent_s: Annotated[Duration, Field(gt=0.0)] = 300.0
    """A rank that stays in one part of a step for so many seconds is reported as silent."""


class Settings(Section):
    """All settings of a run. ``load_settings`` fills in run.label, run.name, run.dir and
    tracking.group where they are null."""

    run: Run = Run()
    model: Model = Model()
    data: Data = Data()
    augment: Augment = Augment()
    loss: Loss = Loss()
    batch: Batch = Batch()
    method: Method = Method()
    noise: Noise = Noise()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    average: Average = Average()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """fp32: everything in 32 bits. bf16: convolutions and matrix products in bfloat16 by autocast;
    weights stay in fp32. fp16: likewise in float16, for GPUs without bfloat16, with losses scaled
    as torch's GradScaler does; DDP alone."""
    engine: Annotated[Engine, Affects.ROUNDING] = Engine()
    deepspeed: Annotated[DeepSpeed, Affects.ROUNDING] = DeepSpeed()
    evaluation: Evaluation = Evaluation()
    checkpoint: Annotated[Checkpoint, Affects.NOTHING] = Checkpoint()
    tracking: Annotated[Tracking, Affects.NOTHING] = Tracking()
    profile: Annotated[Flag, Affects.NOTHING] = False
    """Write a trace of a few steps to ``profile/`` in the run directory."""

    variant: Annotated[str | None, Affects.NOTHING] = None
    """Name of the chosen one of the file's ``variants``. null: none."""

    @property
    def eval_size(self) -> int:
        """Side of evaluated images, in pixels."""
        return self.evaluation.image_size or self.data.image_size

    @property
    def peak_lr(self) -> float:
        """Learning rate after warm-up, of the run's own batch.

        Source: the linear scaling rule of Goyal et al., 2017 (arXiv 1706.02677).
        """
        o = self.optimizer
        return o.lr if o.base_batch is None else o.lr * (self.batch.global_ / o.base_batch)
