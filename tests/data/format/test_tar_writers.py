"""The same samples, packed by GNU tar and Python in every format, are read the same."""

import io
import os
import shutil
import subprocess
import tarfile
from collections import Counter

import pytest
from support.shard_files import jpeg

from rwp_dist.base.errors import DataError
from rwp_dist.data.format.index import index_tar
from rwp_dist.data.format.sample import Fields, read_samples

SAMPLES = {f"set/{i % 2}/{i:04d}": (jpeg(i), i % 3) for i in range(4)}
LONG = {f"set/{'long' * 40}/{i:04d}": (jpeg(i), i % 3) for i in range(2)}


def unpacked(root, samples=SAMPLES):
    for key, (image, label) in samples.items():
        path = root / f"{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
        path.with_suffix(".cls").write_text(str(label))
        os.utime(path, ns=(1_700_000_000_123_456_789,) * 2)
    return root


def tar(root, *options):
    command = ["tar", "-C", root, *options, "-cf", root.parent / "x.tar", "."]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root.parent / "x.tar"


def has_gnu_tar():
    if shutil.which("tar") is None:
        return False
    return "GNU" in subprocess.run(["tar", "--version"], capture_output=True, text=True).stdout


gnu_tar = pytest.mark.skipif(not has_gnu_tar(), reason="needs GNU tar")


def samples_in(path, left_out=None, fields=None):
    """{key: (image, label)}, and what the index says is the same."""
    data = path.read_bytes() if hasattr(path, "read_bytes") else path
    stream = io.BytesIO(data)
    found = {}
    for sample in read_samples(stream, "x.tar", fields or Fields(), left_out):
        _, image = sample.image()
        assert data[image.offset : image.offset + image.size] == image.data
        found[sample.key.removeprefix("./")] = image.data, sample.label()
    index = index_tar(io.BytesIO(data), "x.tar", fields).index
    assert [data[r["offset"] : r["offset"] + r["size"]] for r in index] == [
        image for image, _ in found.values()
    ]
    return found


@gnu_tar
@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax", "posix"])
@pytest.mark.parametrize(
    "options",
    [
        ("--sort=name",),
        ("--sort=name", "--blocking-factor=1"),
        ("--sort=name", "--blocking-factor=2048"),
        ("--sort=name", "--owner=someone:3000000", "--group=some:2000000", "--mtime=@-1"),
        ("--sort=name", "--transform=s,^[.]/,,"),
    ],
    ids=["plain", "short end", "long end", "numbers beyond octal", "no ./"],
)
def test_formats_of_gnu_tar(tmp_path, form, options):
    if form in ("v7", "ustar") and "--mtime=@-1" in options:
        pytest.skip("it has no such numbers")
    assert samples_in(tar(unpacked(tmp_path / "in"), f"--format={form}", *options)) == SAMPLES


@gnu_tar
@pytest.mark.parametrize("form", ["oldgnu", "gnu", "ustar", "pax"])
def test_long_names_of_gnu_tar(tmp_path, form):
    samples = (
        LONG if form != "ustar" else {k.replace("long" * 40, "l" * 90): v for k, v in LONG.items()}
    )
    packed = tar(unpacked(tmp_path / "in", samples), f"--format={form}", "--sort=name")
    assert samples_in(packed) == samples


@gnu_tar
def test_volume_labels_and_incremental_dumps(tmp_path):
    root, left_out = unpacked(tmp_path / "in"), Counter()
    incremental = (f"--listed-incremental={tmp_path / 'snapshot'}", "--label=train")
    packed = tar(root, "--format=gnu", "--sort=name", *incremental)
    assert samples_in(packed, left_out) == SAMPLES
    assert set(left_out) == {"member of an unknown type"}


def holes(path, count):
    """A file with data between holes."""
    with path.open("wb") as file:
        for number in range(count):
            file.seek(number * 2**20)
            file.write(b"data" * 1024)
        file.truncate((count + 1) * 2**20)


@gnu_tar
@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax"])
@pytest.mark.parametrize("count", [1, 40])
def test_a_sparse_file_beside_samples_is_counted_and_a_sparse_image_named(tmp_path, form, count):
    root, left_out = unpacked(tmp_path / "in"), Counter()
    holes(root / "set" / "a_disk.img", count)
    options = (f"--format={form}", "--sort=name", "--sparse")
    assert samples_in(tar(root, *options), left_out) == SAMPLES
    assert left_out["link or sparse file"] == 1
    (root / "set" / "a_disk.img").rename(root / "set" / "0" / "0002.jpg")
    with pytest.raises(DataError, match=r"set/0/0002\.jpg is a sparse file; pack it without"):
        samples_in(tar(root, *options))


def members(samples=SAMPLES, **fields):
    for key, (image, label) in samples.items():
        for name, content in ((f"{key}.jpg", image), (f"{key}.cls", b"%d" % label)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            yield info, io.BytesIO(content)


def by_python(found, form=tarfile.PAX_FORMAT, **options):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, **options) as archive:
        for info, content in found:
            archive.addfile(info, content)
    return out.getvalue()


HEADERS = {
    "a global header": ({"pax_headers": {"comment": "made by git archive"}}, {}),
    "dates with fractions": ({}, {"mtime": 1234567890.123456}),
    "dates before 1970": ({}, {"mtime": -1.5}),
    "large numbers": ({}, {"uid": 2**40, "gid": 2**33}),
    "names of users": ({}, {"uname": "Jürgen", "gname": "ü" * 40}),
    "extended attributes": ({}, {"pax_headers": {"SCHILY.xattr.user.note": "a\nb=c\n10 path=x\n"}}),
    "another charset": ({}, {"pax_headers": {"hdrcharset": "BINARY"}}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_say_nothing_of_the_content(name):
    archive, fields = HEADERS[name]
    assert samples_in(by_python(members(**fields), **archive)) == SAMPLES


@pytest.mark.parametrize("uid", [2**40, -1])
def test_gnus_numbers_of_256(uid):
    packed = by_python(members(uid=uid, mtime=-5), tarfile.GNU_FORMAT)
    assert samples_in(packed) == SAMPLES


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_that_are_no_utf_8(form):
    name = os.fsdecode(b"set/caf\xe9-\xff/a")
    options = {"encoding": "utf-8", "errors": "surrogateescape"}
    found = samples_in(by_python(members({name: (jpeg(1), 2)}), form, **options))
    assert list(found.values()) == [(jpeg(1), 2)]


def directories():
    for name in ("a", "a/b.jpg", "c.cls"):
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE
        yield info, None


@pytest.mark.parametrize("found", [(), directories()], ids=["nothing", "directories"])
def test_tars_without_files_are_refused_in_a_sentence(found):
    with pytest.raises(DataError, match=r"x\.tar: this shard holds 0 samples; write it again"):
        samples_in(by_python(found))
