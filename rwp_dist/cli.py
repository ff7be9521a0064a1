"""The command line. Settings are checked before torch is imported, so errors come at once."""

import math
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from rwp_dist import __version__
from rwp_dist.base.errors import ConfigError
from rwp_dist.compare import AXES
from rwp_dist.compare import compare as make_comparison
from rwp_dist.config import (
    Settings,
    check_grid,
    describe_settings,
    dump_settings,
    expand,
    get_setting,
    left_out,
    load_settings,
    split_batch,
    with_changes,
)
from rwp_dist.process import launchers, signals, torchrun
from rwp_dist.process.commands import CHANGE, Commands
from rwp_dist.process.meeting import refused_together
from rwp_dist.process.paths import PATH, PLACE, is_override
from rwp_dist.process.stages import loading, stage
from rwp_dist.record.directory import RunDir
from rwp_dist.record.sweep import describe
from rwp_dist.run.check import RunCheck
from rwp_dist.shards.cli import shards


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Train vision models with random weight perturbation (RWP), and see what it does."""
    if ctx.invoked_subcommand == "shards":  # its commands remove unfinished files
        text = "Stopped; finished shards are kept: start the same command again."
        signals.say_on_ctrl_c(lambda: text)
        signals.raise_on_signals(signal.SIGINT)
    if ctx.invoked_subcommand in ("train", "sweep", "evaluate", "flatness"):  # as one of all ranks
        launchers.check_tasks()
        launchers.check_ranks()
        for text in launchers.leftovers():
            click.echo(f"{text}.", err=True)


@main.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@CHANGE
def train(config: Path, overrides: tuple[str, ...], change: tuple[str, ...]) -> None:
    """Train one run: alone as one process, under torchrun as one rank.

    Started again, it goes on from its newest checkpoint. section.key=value overrides a setting;
    variant=NAME chooses one of the file's variants. A finished run goes on for longer with --change
    schedule.epochs=120.
    """
    with refused_together():
        settings = _check().load(config, with_changes(overrides, change))
    from rwp_dist.sweep import run_all

    run_all([settings], session="")


@main.command(short_help="Train several variants and seeds, one after another.")
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--variants", help="Comma-separated variants of CONFIG; all, unless given.")
@click.option("--grid", multiple=True, metavar="KEY=V,V", help="Values to combine; repeatable.")
@click.option("--seeds", type=int, help="How many, from run.seed on.  [default: 3]")
@click.option("--dir", "folder", type=PATH, required=True, help="Where the runs go.")
@click.option("--dry-run", is_flag=True, help="Print the runs, and train nothing.")
def sweep(
    config: Path,
    overrides: tuple[str, ...],
    variants: str | None,
    grid: tuple[str, ...],
    seeds: int | None,
    folder: Path,
    dry_run: bool,
) -> None:
    """Train variants x grid x seeds, one after another, in one group of ranks.

    Variants take turns seed by seed, so that their step times may be compared. run.seed=100 makes
    seeds 100, 101, ...; --grid run.seed=10,20 takes these. A setting of the grid is left out of
    runs that have no use for it, such as method.sigma of sgd.
    """
    with refused_together():
        check_grid(grid, overrides)
        runs = expand(config, overrides, variants=variants, grid=grid, seeds=seeds, folder=folder)
        errors = _check().errors(runs, str(config))
        if torchrun.rank() == 0 and (dry_run or not errors):
            for line in (*(describe(runs) if dry_run else ()), *left_out(runs, grid)):
                click.echo(line)
        for error in errors:
            raise error
    if dry_run:
        return
    from rwp_dist.sweep import run_all

    run_all(runs, session=str(folder))


@main.command(short_help="Top-1, top-5, NLL and ECE of runs, also with noise and few bits.")
@click.argument("runs", nargs=-1, required=True, type=PLACE, metavar="RUN... [key=value]...")
@click.option("--checkpoint", type=PATH, help="A checkpoint file; each run's newest, unless given.")
@click.option("--corruptions", default="", metavar="KINDS", help="all, or some: noise,blur,...")
@click.option("--weight-noise", default="", metavar="S,S", help="Noise on the weights: 0.01,0.02.")
@click.option(
    "--draws", default=10, show_default=True, type=click.IntRange(1), help="Draws of the noise."
)
@click.option("--bits", default="", metavar="N,N", help="Weights of so many bits: 8,6,4.")
@click.option("--per-class", is_flag=True, help="Accuracy by class and confusion, with a picture.")
@click.option("--data", type=PLACE, metavar="DIR", help="Other shards than the run's data.val.")
@click.option(
    "--classes", type=PATH, metavar="MAP", help="What the classes of --data mean to the network."
)
def evaluate(
    runs: tuple[str, ...],
    checkpoint: Path | None,
    corruptions: str,
    weight_noise: str,
    draws: int,
    bits: str,
    per_class: bool,
    data: str | None,
    classes: Path | None,
) -> None:
    """Evaluate checkpoints of runs, or of all runs in a folder. Every sample counts once.

    Prints top-1, top-5, negative log-likelihood (NLL) and expected calibration error (ECE), and
    writes them into the run directory, where `rwp-dist compare` finds them. --corruptions: on
    corrupted images, five strengths of each kind. --weight-noise: with Gaussian noise on the
    weights, relative to the root mean square of each output channel. --bits: weights rounded by
    output channel. All runs get the same noise.

    --data: another data set for the same networks, such as ImageNet-V2. Its classes are the
    network's of the same name, or what MAP says: a file or folder of shards with the classes that
    it has (only these can be answered), a table of classes, or the right classes of each image.
    docs/evaluation.md has the commands for ImageNet-V2, ReaL, -A, -R and others.
    """
    from rwp_dist.evaluation.asked import parse_asked
    from rwp_dist.evaluation.class_map import read_class_map
    from rwp_dist.evaluation.targets import find_targets, unfinished

    asked = parse_asked(corruptions, weight_noise, draws, bits, per_class=per_class)
    if classes is not None and data is None:
        raise ConfigError("it is a map for other data", key="--classes", cure="give --data too")
    class_map = None if classes is None else read_class_map(classes)
    targets, left_out = find_targets(runs, checkpoint, data)
    for path, why in left_out.items():
        click.echo(f"Left out: {path} ({why})", err=True)
    for target in targets:
        if state := unfinished(target.run):
            what = f"{target.run.path} is {state}: its newest checkpoint is evaluated"
            click.echo(what, err=True)
    text = "Stopped before the evaluation was done; what was measured before is kept."
    signals.say_on_ctrl_c(lambda: text)
    with redirect_stdout(sys.stderr), loading():
        from rwp_dist.evaluation.command import evaluate_runs
        from rwp_dist.process.group import choose_device

        device = choose_device(targets[0].settings.run.device)

    evaluate_runs(targets, asked, device, other=data is not None, class_map=class_map)


@main.command(short_help="What a run's network sees in images: JSON, a line for each.")
@click.argument("run", type=PLACE)
@click.argument("images", nargs=-1, required=True, type=PLACE, metavar="IMAGE... [key=value]...")
@click.option(
    "--top-k", default=5, show_default=True, type=click.IntRange(1), help="Classes of an image."
)
@click.option("--checkpoint", type=PATH, help="A checkpoint file; the newest, unless given.")
def predict(run: str, images: tuple[str, ...], top_k: int, checkpoint: Path | None) -> None:
    """Print the most probable classes of images, as JSON lines with path, classes, probabilities.

    IMAGE is a file, a folder, of which all images at any depth count, or a pattern in quotes.
    Images are decoded, cropped and normalised as in the run's evaluation, and its average of the
    weights is taken if it has one. An image that cannot be read has an "error" in its line, and
    the exit code is 1 then. key=value overrides a setting: batch.per_rank, data.workers,
    run.device.
    """
    from rwp_dist.evaluation.targets import find_target
    from rwp_dist.prediction.images import find_images

    overrides = [word for word in images if is_override(word)]
    target = find_target(run, overrides, checkpoint)
    paths = find_images([word for word in images if word not in overrides])
    signals.say_on_ctrl_c(lambda: "Stopped; the lines before are whole.")
    with redirect_stdout(sys.stderr), loading():
        from rwp_dist.prediction.command import predict_images
        from rwp_dist.process.group import choose_device

        device = choose_device(target.settings.run.device)

    predict_images(target, paths, top_k, device)


@main.command(short_help="Tables, picture and report of several runs.")
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Folder for files.")
@click.option(
    "--by",
    metavar="KEY[,KEY]",
    help="Settings, or torch, commit and the like, that make rows of their own.",
)
@click.option("--against", metavar="ROW", help="Compare all other rows with this one, by seed.")
@click.option(
    "--columns",
    metavar="KEY[,KEY]",
    help="More columns: numbers of summary.json, or of what was measured.",
)
@click.option("--flatness", is_flag=True, help="Columns for all that `flatness` measured.")
@click.option(
    "--x",
    type=click.Choice(list(AXES)),
    default="device",
    show_default=True,
    help="What curves are drawn over: seconds of devices or of the wall clock, samples, updates.",
)
@click.option("--html", is_flag=True, help="Write a report as well, in one file.")
def compare(
    runs: tuple[Path, ...],
    out: Path,
    by: str | None,
    against: str | None,
    columns: str | None,
    flatness: bool,
    x: str,
    html: bool,
) -> None:
    """Compare several runs: accuracy over seeds with intervals, and time against sgd.

    Runs with one label are one row if they agree in all settings that affect the result and in the
    content of their data; with --by, if they agree in what it names and in their test set. Writes
    compare.md, .json, .csv (a line for each run), .tex and .png, with --html also compare.html.
    """
    stopped = f"Stopped; compare again: {out} may lack files of this comparison."
    signals.say_on_ctrl_c(lambda: stopped)
    with redirect_stdout(sys.stderr), stage("reading and drawing the runs"):
        text = make_comparison(
            runs, out, _listed(by), against, _listed(columns), flatness=flatness, x=x, html=html
        )
    click.echo(text)
    files = ("md", "json", "csv", "tex", "png", *(["html"] if html else []))
    click.echo(f"Written: {', '.join(str(out / f'compare.{file}') for file in files)}")


def _listed(keys: str | None) -> list[str]:
    """The keys of an option, which has commas between them."""
    return [key.strip() for key in keys.split(",")] if keys else []


@main.command(short_help="Send runs to W&B: what it lacks of them.")
@click.argument("runs", nargs=-1, required=True, type=PATH)
def sync(runs: tuple[Path, ...]) -> None:
    """Send runs to W&B, or all runs in a folder: what it lacks of them, and nothing twice.

    For runs that were offline or killed, finished or not, after any number of attempts. Prints how
    many records were sent, were there already, and are there in total. Exit code 0 only when W&B
    has all of them; the same command started again goes on.
    """
    signals.say_on_ctrl_c(lambda: "Stopped; start the same command again to go on.")
    from rwp_dist.tracking.sync import sync_all

    with stage("reading the runs and asking W&B"):
        sync_all(runs, click.echo)


@main.command(short_help="Panels for all runs in W&B, and a report with the table of compare.")
@click.argument("runs", nargs=-1, type=PATH, metavar="[RUN]...")
@click.option("--entity", help="W&B entity; that of the runs or of the login, unless given.")
@click.option("--project", help="W&B project; that of the runs or rwp-dist, unless given.")
@click.option("--out", type=PATH, metavar="FILE", help="Write a file, and save nothing in W&B.")
@click.option("--overwrite", is_flag=True, help="Also where you changed our sections by hand.")
def dashboard(runs: tuple[Path, ...], **request: Any) -> None:
    """Create or update the view "rwp-dist" of a W&B project: curves by method and seeds.

    With RUN, also a report with their table. Without a W&B login it writes
    runs/dashboard.json. A later call brings its own sections up to date and keeps all else that
    you changed in the view. docs/wandb.md shows every panel.
    """
    from rwp_dist.dashboard.command import make_dashboard

    signals.say_on_ctrl_c(lambda: "Stopped; start the same command again to go on.")
    with redirect_stdout(sys.stderr), stage("reading the runs and asking W&B"):
        lines = list(make_dashboard(runs, **request))
    for line in lines:
        click.echo(line)


@main.command(short_help="How flat the loss is around the weights of runs.")
@click.argument("runs", nargs=-1, required=True, type=PLACE, metavar="RUN... [key=value]...")
@click.option("--checkpoint", type=PATH, help="A checkpoint file; each run's newest, unless given.")
@click.option(
    "--images",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Training images, at most.",
)
@click.option(
    "--batch", default=100, show_default=True, type=click.IntRange(1), help="Images of a pass."
)
@click.option(
    "--directions",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    help="Random directions.",
)
@click.option("--hessian", is_flag=True, help="Its largest eigenvalue, trace and density too.")
@click.option(
    "--slice",
    "slices",
    type=click.Choice(["around", "between"]),
    multiple=True,
    help="Draw the loss around each run, or through the weights of two or three; repeatable.",
)
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Folder for files.")
def flatness(runs: tuple[str, ...], checkpoint: Path | None, out: Path, **request: Any) -> None:
    """Measure how flat the loss is around the weights of runs, on the same training images.

    Loss and top-1 against the radius of random and of adversarial perturbations. Started by
    torchrun, ranks share the work. What was computed is kept in RUN/measured, so that the same
    command started again goes on.
    """
    signals.say_on_ctrl_c(lambda: "Stopped; start the same command again to go on.")
    from rwp_dist.flatness.runs import find_runs

    overrides = [text for text in runs if is_override(text)]
    found = find_runs([Path(text) for text in runs if text not in overrides], overrides, checkpoint)
    with redirect_stdout(sys.stderr), loading():
        from rwp_dist.flatness.command import Request, measure

    text = measure(found, Request(**request), out)
    if torchrun.rank() == 0:
        click.echo(text)


@main.command(short_help="A run's network as a folder that torchvision, timm or ONNX load.")
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, metavar="DIR", help="The folder.  [default: RUN/export]")
@click.option("--checkpoint", type=PATH, help="A checkpoint file; the newest, unless given.")
@click.option("--onnx", is_flag=True, help="Write model.onnx too, compared with torch's outputs.")
def export(run: Path, out: Path | None, checkpoint: Path | None, onnx: bool) -> None:
    """Write a run's network as a folder that can be uploaded to a hub as it is.

    model.safetensors with the weights of the result, config.json, and README.md: a model card that
    says how it was trained and how to load it without this program. Needs rwp-dist[export].
    """
    from rwp_dist.export.command import check_packages, export_run

    check_packages(onnx=onnx)
    run_dir = RunDir(run)
    settings = _settings_of(run, ())
    path = checkpoint or run_dir.newest_checkpoint()
    if not run_dir.summary.is_file():
        click.echo(f"{run} is not finished: {path.name} is exported", err=True)
    signals.say_on_ctrl_c(lambda: "Stopped; start the same command again.")
    with redirect_stdout(sys.stderr), loading():
        import rwp_dist.run.evaluate  # noqa: F401 - torch takes seconds
    with redirect_stdout(sys.stderr), stage("exporting"):
        lines = list(export_run(run_dir, settings, path, out or run / "export", onnx=onnx))
    for line in lines:
        click.echo(line)


@main.command(short_help="What on this machine would stop a run, and the cure.")
@click.argument("config", type=PATH, required=False)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON document.")
@click.option(
    "--node", "quick", is_flag=True, help="Only this machine's own health, in some seconds."
)
def doctor(config: Path | None, overrides: tuple[str, ...], as_json: bool, quick: bool) -> None:
    """What on this machine would stop a run, and the cure; exit code 1 if there is a problem.

    torch and DeepSpeed, GPUs, limits and disks; with CONFIG also memory, noise, the data, and how
    many images/s this machine can feed. Takes some ten seconds, with --node a few. Started by
    torchrun, all ranks examine their machines and the network between them.
    """
    from rwp_dist.doctor.command import run

    settings = None
    if config is not None:
        if is_override(config):
            config, overrides = None, (str(config), *overrides)
        settings = load_settings(config, overrides)
    signals.say_on_ctrl_c(lambda: "Stopped; nothing was changed.")
    run(settings, quick=quick, as_json=as_json)


@main.command(short_help="What each method would take on a cluster: time, cost, memory, data.")
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option("--gpus", required=True, type=click.IntRange(1, 1_000_000), help="How many.")
@click.option("--gpu", required=True, metavar="NAME", help="a100, h100, h200, l40s, a10g or l4.")
@click.option("--link", required=True, metavar="RATE", help="Of a node to others: 400Gbit.")
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the peak in the GPU's data sheet that you reach, such as 0.12.",
)
@click.option(
    "--feed",
    type=click.FloatRange(0, min_open=True),
    help="Images/s that a node can read, as `rwp-dist doctor CONFIG` says there.",
)
@click.option(
    "--images", type=click.IntRange(1), help="Training images, where the data are not here."
)
@click.option("--price", type=click.FloatRange(0), help="Of a GPU for an hour, in any currency.")
@click.option("--out", type=PATH, help="Folder for plan.png: curves of 8 to 1,024 GPUs.")
def plan(
    config: Path,
    overrides: tuple[str, ...],
    gpus: int,
    gpu: str,
    link: str,
    mfu: float | None,
    feed: float | None,
    images: int | None,
    price: float | None,
    out: Path | None,
) -> None:
    """Predict a run of every method before anyone pays for it; nothing is trained.

    Step time, images/s, hours, GPU-hours, cost and what bounds them; memory of a GPU, images that a
    node must read, checkpoints. Every method takes batch.global images an update. Nodes have eight
    GPUs; --link is what one can send over all of its adapters. docs/scale.md has the model and how
    far it is off.
    """
    from rwp_dist.plan.hardware import gpu_of, rate_of

    for key, value in (("--mfu", mfu), ("--feed", feed), ("--price", price)):
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{value} is no number", key=key, cure="give a number")
    settings = load_settings(config, overrides)
    found, rate = gpu_of(gpu), rate_of(link)
    signals.say_on_ctrl_c(lambda: "Stopped; nothing was changed.")
    with redirect_stdout(sys.stderr), loading():
        from rwp_dist.plan.command import make_plan
        from rwp_dist.plan.forecast import Cluster

    with redirect_stdout(sys.stderr), stage("counting the network"):
        cluster = Cluster(gpu, found, gpus, rate, mfu, feed, images)
        lines = make_plan(settings, cluster, price, out)
    for line in lines:
        click.echo(line)


@main.command("settings", short_help="Every setting with its meaning, or the values of a run.")
@click.argument("config", type=PATH, required=False, metavar="[CONFIG|RUN]")
@click.argument("overrides", nargs=-1, metavar="[key=value]...")
@click.option(
    "--ranks", type=click.IntRange(1, 1_000_000), help="Check that so many can share a batch."
)
@click.option("--get", "key", metavar="KEY", help="Print one value alone, such as run.dir.")
def show_settings(
    config: Path | None, overrides: tuple[str, ...], ranks: int | None, key: str | None
) -> None:
    """List every setting: what it may be, its default, its meaning, and if it may change on resume.

    With CONFIG, check its settings and print their values; with RUN, a run directory, those of the
    run.
    """
    if config is None and key is None:
        click.echo("\n\n".join(describe_settings()))
        return
    if config is not None and is_override(config):
        config, overrides = None, (str(config), *overrides)
    if config is not None and config.is_dir():
        settings = _settings_of(config, overrides)
    else:
        settings = RunCheck(ranks or 1, machine=False).load(config, overrides)
    if ranks is not None:
        split_batch(settings, ranks)
    click.echo(get_setting(settings, key) if key else dump_settings(settings).rstrip())


def _settings_of(run: Path, overrides: tuple[str, ...]) -> Settings:
    """Those of a run directory."""
    path = RunDir(run).config
    if not path.is_file():
        raise ConfigError(f"{run} holds no run", cure="name a run directory or a settings file")
    if overrides:
        raise ConfigError(
            f"{run} is a run, whose settings are what they are",
            key=overrides[0].partition("=")[0],
            cure=f"leave it out, or name {path} to see other values",
        )
    return load_settings(path)


main.add_command(shards)


def _check() -> RunCheck:
    """Looks at the runs of this process; at its machine only if the process is alone."""
    ranks = torchrun.world_size()
    return RunCheck(ranks, machine=ranks == 1)
