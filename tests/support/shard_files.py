"""Small images and tars for the tests of ``rwp_dist.shards``."""

import io
import tarfile

import numpy as np
import webdataset as wds
from click.testing import CliRunner
from PIL import Image

from rwp_dist.shards.cli import shards


def jpeg(number, size=(24, 16)):
    """A JPEG whose bytes differ from number to number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="jpeg")
    return buffer.getvalue()


def image_folder(root, *, classes=("ant", "bee", "cow"), per_class=10):
    """A folder per class; {content: label}."""
    labels = {}
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            content = jpeg(label * 1000 + i)
            (root / name / f"{name}_{i}.JPEG").write_bytes(content)
            labels[content] = label
    return labels


def tar_file(path, members, format=tarfile.GNU_FORMAT):
    """A tar of (name, content) by Python's own writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample_members(count, first=0):
    """Members of some good samples."""
    for i in range(first, first + count):
        yield f"{i:04d}.cls", b"%d" % (i % 3)
        yield f"{i:04d}.jpg", jpeg(i)


def tar_contents(path):
    """[(key, image, label)] by Python's own reader, in order."""
    images, labels = {}, {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, kind = member.name.rpartition(".")
            content = tar.extractfile(member).read()
            (labels if kind == "cls" else images)[key] = content
    assert list(images) == list(labels)
    return [(key, images[key], int(labels[key])) for key in images]


def files(folder):
    """{path: content} of all files, those that commands keep for themselves left out."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if ".written" not in path.parts
    }


def run(*arguments):
    """``rwp-dist shards ...``: its output, or its exception."""
    result = CliRunner().invoke(shards, [str(a) for a in arguments], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def load(folder):
    """Images and labels of a folder's shards, read as any other reader would."""
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    samples = list(wds.WebDataset(shards, shardshuffle=False))
    images = [np.array(Image.open(io.BytesIO(sample["png"]))) for sample in samples]
    return np.stack(images), np.array([int(sample["cls"]) for sample in samples])


def keys(folder):
    """Names of the samples in a folder's shards, in their order."""
    names = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += [name.removesuffix(".png") for name in tar.getnames() if name.endswith(".png")]
    return names
