"""What README and the other pages say can be done: their commands, settings, links and code."""

import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import numpy as np
import pytest
from click.exceptions import Exit, NoArgsIsHelpError
from PIL import Image
from support.pages import PAGES, ROOT, blocks, commands, page_name, python

import launcher.cli
import rwp_dist.cli
from rwp_dist.config import Affects, Settings, known_keys, load_settings
from rwp_dist.perturb import METHODS
from rwp_dist.record.identity import differences, settings_identity

PROGRAMS = {"rwp-dist": rwp_dist.cli.main, "rwp-launch": launcher.cli.main}
FOREIGN = {
    ".",
    "apt",
    "cat",
    "cd",
    "date",
    "docker",
    "export",
    "git",
    "id",
    "mkdir",
    "pip",
    "pre-commit",
    "sky",
    "wandb",
    "xargs",
}
TRAINING = (("rwp-dist", ["train"]), ("rwp-launch", ["run"]), ("rwp-launch", ["submit"]))
PLACEHOLDERS = {"CONFIG", "RUN", "DIR"}
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=page_name)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the commands of the pages name, README's my.yaml too; work is there."""
    for name in ("configs", "slurm", "benchmarks", "docs", "docker", "examples", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    [text] = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "my.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- each command exists, with its options, settings and files ---


@EVERY_PAGE
def test_commands_in_shell_blocks_exist(page: Path, checkout: Path) -> None:
    for block in blocks(page, "sh"):
        for words in commands(block):
            check(words)


@EVERY_PAGE
def test_commands_in_the_text_exist(page: Path, checkout: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for command in re.findall(r"`((?:rwp-dist|rwp-launch|make|pip) [^`…]*)`", text):
        for words in commands(re.sub(r"\s+", " ", command)):
            # The text may name a command without what it acts on.
            with suppress(click.MissingParameter, NoArgsIsHelpError):
                check(words)


def check(words: list[str]) -> None:
    """Raise unless a command's program, options, settings and files are there."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, arguments = words[0], words[1:]
    for word in arguments:
        if re.match(r"(configs|slurm|benchmarks|docs|docker|examples)/", word):
            assert Path(word).exists(), word
    if program in PROGRAMS:
        check_settings(parse(PROGRAMS[program], arguments))
    elif program == "torchrun" and "rwp_dist" in arguments:
        check(["rwp-dist", *arguments[arguments.index("rwp_dist") + 1 :]])
    elif program == "torchrun":
        assert any(Path(word).is_file() for word in arguments), arguments
    elif program == "sbatch":
        script = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
        assert Path(arguments[script]).is_file()
        load_settings(Path(arguments[script + 1]), arguments[script + 2 :])
    elif program == "make":
        assert f"\n{arguments[0]}:" in Path("Makefile").read_text()
    elif program == "docker" and arguments[0] == "run" and "rwp-dist" in arguments:
        check(arguments[arguments.index("rwp-dist") + 1 :])
    elif program == "pip" and arguments[0] == "install":
        for extra in re.findall(r"rwp-dist\[(.*?)\]", arguments[-1]):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    elif program == "xargs":
        check([*arguments[2:], "RUN"])  # after -rd '\n'
    elif program == "python":
        assert Path(arguments[0]).is_file(), arguments
    else:
        assert program in FOREIGN or Path(program).is_file(), words


def parse(command: click.Command, arguments: list[str]) -> dict:
    """The parameters that a command line gives its command; nothing is run."""
    context, name = None, ""
    try:
        while isinstance(command, click.Group):
            context = command.make_context(name, arguments, parent=context)
            rest = [*context._protected_args, *context.args]
            name, command, arguments = command.resolve_command(context, rest)
        return command.make_context(name, arguments, parent=context).params
    except Exit:  # --help
        return {}


def check_settings(parameters: dict) -> None:
    config = parameters.get("config")
    if config is not None and str(config) not in PLACEHOLDERS:
        load_settings(config, parameters["overrides"])


def test_commands_of_the_pages_train_in_different_folders(checkout: Path) -> None:
    """Whoever types one after the other is refused nowhere."""
    trained: dict[str, Settings] = {}
    words = [words for page in PAGES for block in blocks(page, "sh") for words in commands(block)]
    for program, *arguments in words:
        if "rwp_dist" in arguments:  # under torchrun
            program, arguments = "rwp-dist", arguments[arguments.index("rwp_dist") + 1 :]
        if (program, arguments[:1]) in TRAINING:
            parameters = parse(PROGRAMS[program], arguments)
            if str(parameters["config"]) not in PLACEHOLDERS:
                settings = load_settings(parameters["config"], parameters["overrides"])
                other = trained.setdefault(str(settings.run.dir), settings)
                one, two = (settings_identity(s, None) for s in (other, settings))
                assert differences(one, two, {Affects.RESULT}) == [], arguments
    assert len(trained) > 5


# --- what else the text names exists ---


@EVERY_PAGE
def test_settings_in_the_text_exist(page: Path) -> None:
    keys = known_keys().keys()
    sections = {key.partition(".")[0] for key in keys}
    named = re.findall(r"`([a-z]+\.[a-z_0-9.]+)(?:=[^`]*)?`", page.read_text(encoding="utf-8"))
    missing = {name for name in named if name.partition(".")[0] in sections} - keys
    assert {name for name in missing if not any(k.startswith(f"{name}.") for k in keys)} == set()


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link, _ in links if not (page.parent / link).exists()] == []


@EVERY_PAGE
def test_files_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:rwp_dist|launcher|tests|benchmarks|docs|configs)/[^` ]*)`", text)
    folders = {path: path.rpartition("/")[0] if "NAME" in path else path for path in paths}
    missing = {path for path, there in folders.items() if not (ROOT / there).exists()}
    assert missing == set()


@pytest.mark.parametrize("page", ["README.md", "docs/perturb.md"])
def test_the_table_of_methods_has_every_method(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    [rows] = re.findall(r"^\|[^|\n]*method[^|\n]*\| gradient .*\n\|.*\n((?:\|.*\n)+)", text, re.M)
    cells = [row.split("|")[1] for row in rows.splitlines()]
    assert {name for cell in cells for name in re.findall(r"`(.*?)`", cell)} == METHODS.keys()


# --- code runs ---


@EVERY_PAGE
def test_python_runs(page: Path, checkout: Path) -> None:
    exec(compile(python(page), page_name(page), "exec"), {"__name__": "page"})


@pytest.mark.slow
def test_the_commands_to_train_run(tmp_path: Path, run_block: Callable[[str], str]) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    short = tmp_path / "configs" / "mnist.yaml"
    short.write_text(short.read_text().replace("steps: 300", "steps: 8"))
    run_block("rwp-dist shards mnist --out data/mnist")
    output = run_block(block_with("rwp-dist evaluate runs/mnist/m-rwp-s0"))
    assert "top-1" in output and (tmp_path / "runs" / "table" / "compare.png").is_file()


@pytest.mark.slow
def test_the_commands_for_own_images_run(tmp_path: Path, run_block: Callable[[str], str]) -> None:
    write_images(tmp_path / "imagenet")
    path = tmp_path / "imagenet" / "val" / "b" / "8.jpg"
    for folder in (tmp_path / "other" / "shards", tmp_path / "other" / "counted"):
        folder.mkdir(parents=True)
        with tarfile.open(folder / "0.tar", "w") as tar:
            (tmp_path / "0.cls").write_text("1")
            tar.add(path, "0.jpg")
            tar.add(tmp_path / "0.cls", "0.cls")
    (tmp_path / "other" / "counted" / "sizes.json").write_text('{"0.tar": 1}')
    lines = block_with("rwp-dist shards write  imagenet/train").splitlines()
    run_block("\n".join(line for line in lines if line.startswith("rwp-dist shards")))
    assert (tmp_path / "shards" / "val" / "manifest.json").is_file()
    assert list((tmp_path / "other" / "shards").glob("*.json"))
    assert (tmp_path / "sheet.png").is_file()


NOT_TYPED = {
    "make": "the demonstration takes ten minutes; the rest makes .venv, or runs these tests",
    "pip": "packages are there already",
    "git": "this is the checkout",
    "rwp-launch submit": "there is no cluster",
    "rwp-launch status --watch": "it ends with Ctrl-C alone",
    "rwp-dist shards index": "other/shards are the reader's own",
    "rwp-dist shards adopt": "other/counted are the reader's own",
    "rwp-dist train my.yaml": "a hundred epochs of ResNet-50",
    "rwp-dist shards write my_images": "the images are the reader's own",
    "rwp-launch run configs/finetune": "weights for ImageNet are downloaded",
    "rwp-dist predict runs/finetune": "of that run",
    "rwp-dist export runs/finetune": "of that run",
}
"""Beginnings of README's commands that are not typed here, and why."""


def test_readme_typed_from_top_to_bottom_in_a_fresh_checkout_works(
    tmp_path: Path, run_block: Callable[[str], str]
) -> None:
    """In the order in which the commands stand; what one has made may be in the way of the next."""
    for name in ("configs", "rwp_dist", "launcher", "slurm", "benchmarks", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    write_images(tmp_path / "imagenet")
    [text] = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "my.yaml").write_text(text.replace("https://host/shards/val", "shards/val"))
    run_block("rwp-dist shards mnist --out data/mnist")  # as `make demo` does first
    typed = 0
    for block in blocks(ROOT / "README.md", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = " ".join(line.split())
            if words and not any(words.startswith(beginning) for beginning in (*NOT_TYPED, ".")):
                run_block(line)
                typed += 1
    assert typed >= 11
    assert (tmp_path / "runs" / "table" / "compare.png").is_file()


def write_images(folder: Path) -> None:
    """A folder for each of two classes, for training and for validation."""
    random = np.random.default_rng(0)
    for side, name, number in [(s, n, i) for s in ("train", "val") for n in "ab" for i in range(9)]:
        path = folder / side / name / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (300, 320, 3), "uint8")).save(path)


@pytest.fixture
def run_block(tmp_path: Path) -> Callable[[str], str]:
    """Runs a shell block in the temporary folder, except for its line that activates .venv."""

    def run(block: str) -> str:
        text = "\n".join(line for line in block.splitlines() if not line.startswith(". "))
        done = subprocess.run(
            ["bash", "-euc", text], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def block_with(command: str) -> str:
    """README's shell block that has this command."""
    [block] = [text for text in blocks(ROOT / "README.md", "sh") if command in text]
    return block
