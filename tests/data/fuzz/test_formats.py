"""Any bytes are read, or refused in one sentence: tars, indexes, manifests and settings.

How long each is searched, see ``support.fuzzing``.
"""

import contextlib
import hashlib
import io
import json
import tarfile
from dataclasses import astuple, replace

import pytest
import yaml
from hypothesis import strategies as st
from support.fuzzing import ANYWHERE, SECONDS, mutants, search
from support.shard_files import jpeg, sample_members, tar_file

from rwp_dist.base.errors import RwpError
from rwp_dist.config import dump_settings, known_keys, load_settings
from rwp_dist.data.format.index import index_bytes, index_tar, load_index
from rwp_dist.data.format.manifest import Manifest, describe
from rwp_dist.data.format.sample import Fields
from rwp_dist.data.format.tar import BLOCK_BYTES

FIELDS = {"name": (0, 100), "size": (124, 136), "type": (156, 157), "linkname": (157, 257)}
FIELDS |= {"magic": (257, 265), "prefix": (345, 500)}


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Contents of good tars of all formats, with links, long names and strays."""
    folder = tmp_path_factory.mktemp("tars")
    members = [*sample_members(3), ("README", b"x" * 700), ("b.json", b'{"y": 2}')]
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for prefix in ("", "\u00fc" * 60 + "/"):
            if prefix and form == tarfile.USTAR_FORMAT:
                continue
            path = tar_file(folder / "a.tar", [(prefix + n, c) for n, c in members], form)
            with tarfile.open(path, "a", format=form) as tar:
                for name, kind, target in (
                    ("z.jpg", tarfile.LNKTYPE, "0001.jpg"),
                    ("z.cls", tarfile.LNKTYPE, "0001.cls"),
                    ("z.txt", tarfile.SYMTYPE, "0001.txt"),
                    ("pipe", tarfile.FIFOTYPE, ""),
                    ("folder", tarfile.DIRTYPE, ""),
                ):
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = kind, prefix + target
                    tar.addfile(info)
            found.append(path.read_bytes())
            assert len(index_tar(io.BytesIO(found[-1]), "a.tar").index) == 4
    return found


@st.composite
def changed_tars(draw, originals):
    """Mutants, and tars with a header field of any content under a good checksum."""
    data = bytearray(draw(mutants(originals, [b"ustar\0", b"ustar  \0", b"\x80", b"\xff" * 8])))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(ANYWHERE) % (len(data) // BLOCK_BYTES + 1) * BLOCK_BYTES
        start, end = FIELDS[draw(st.sampled_from(sorted(FIELDS)))]
        new = draw(
            st.one_of(
                st.binary(min_size=end - start, max_size=end - start),
                st.integers(0, 8 ** (min(end - start, 12) - 1) - 1).map(lambda n: b"%o" % n),
                st.integers(-(2**40), 2**62).map(lambda n: n.to_bytes(12, "big", signed=True)),
                st.sampled_from([b"g", b"x", b"L", b"K", b"S", b"1", b"7"]),
            )
        )
        data[at + start : at + end] = new[: end - start].ljust(end - start, b"\0")
        header = data[at : at + BLOCK_BYTES]
        if len(header) == BLOCK_BYTES:
            header[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_tar_is_indexed_within_its_bounds_or_refused(tars, seconds):
    def holds(data):
        for key in (None, "y"):
            for stream in (io.BytesIO(data), _Pipe(data)):
                with contextlib.suppress(RwpError):
                    indexed = index_tar(stream, "a.tar", Fields(label_key=key))
                    index = indexed.index
                    assert indexed.num_bytes <= len(data) and len(index) > 0
                    assert (index["offset"] + index["size"] <= len(data)).all()
                    assert (index["label"] >= 0).all()

    search(holds, changed_tars(tars), seconds)


@pytest.mark.parametrize("seconds", SECONDS)
def test_an_index_is_whole_or_refused(seconds):
    good = [index_bytes(index_tar(io.BytesIO(data), "a.tar").index) for data in small_tars()]

    def holds(data):
        with contextlib.suppress(RwpError):
            index = load_index(data, "x.npy")
            assert index_bytes(index)[-20 * len(index) :] == data[len(data) - 20 * len(index) :]

    words = [b"(1000000000000,)", b"(2,2)", b"True", b"|O", b"L", b"((((((((", b"'<u8'"]
    search(holds, mutants(good, words), seconds)


ANY_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**12, -1, 2**63, 10**4000]),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(["../a.tar", "/etc/passwd", "pipe:x", "http://h/a", "a\0b", "\ud800", ""]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def changed_manifests(draw, good):
    """Manifests with other values and an id that fits, and mutants of the text."""
    adopted = replace(good, fields=Fields(draw(st.sampled_from([None, "y"])))).to_json()
    content = json.loads(draw(st.sampled_from([good.to_json(), adopted])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([content, content["shards"][0], content["shards"][-1]]))
        place[draw(st.sampled_from(sorted(place)))] = draw(ANY_JSON)
        if not isinstance(content["shards"], list) or not all(
            isinstance(shard, dict) and shard for shard in content["shards"] or [0]
        ):
            break
    with contextlib.suppress(TypeError, AttributeError, KeyError):
        for key in ("num_samples", "num_bytes"):
            content[key] = sum(shard[key] for shard in content["shards"])
    content.pop("id", None)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    text = json.dumps(content | {"id": hashlib.sha256(canonical.encode()).hexdigest()})
    return draw(st.one_of(st.just(text.encode()), mutants([text.encode()], [b"[" * 50, b"NaN"])))


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_manifest_names_what_a_shard_can_be_or_is_refused(seconds):
    indexed = [index_tar(io.BytesIO(data), f"{i}.tar") for i, data in enumerate(small_tars())]
    good = Manifest(
        3, ("a", "b", "c"), tuple(describe(f"{i}.tar", x) for i, x in enumerate(indexed))
    )

    def holds(data):
        for location in ("there", "http://host/there"):
            with contextlib.suppress(RwpError):
                manifest = Manifest.from_json(data, location)
                assert 0 <= manifest.num_samples <= manifest.num_bytes
                assert manifest.classes is None or "".join(manifest.classes).encode() is not None
                for shard in manifest.shards:
                    assert ".." not in shard.name.split("/") or "://" in shard.name
                    if location != "there":
                        assert manifest.shard_location(shard).startswith("http://host/")
                    assert shard.sha256 is not None or manifest.fields is not None
                for key in astuple(manifest.fields or Fields()):
                    assert key is None or isinstance(key, str)

    search(holds, changed_manifests(good), seconds)


SETTINGS = """
method: &m {name: m-rwp, sigma: 0.1}
batch: {global: 64, per_rank: 32}
data: {train: a, mix: {x: 1, y: 2.5}, mean: [0.5], image_size: 32}
augment: {scale: [0.1, 1.0], pad: 4}
optimizer: {lr: 1.0e-3, options: {a: [1, {b: 2}]}}
schedule: {epochs: 3, decay_epochs: [1, 2], name: step}
variants: {a: {method.sigma: 0.2}, b: {method: *m}}
"""
WORDS = [
    b"*m",
    b"&m ",
    b"<<: ",
    b"!!binary ",
    b"!!python/name:os.system ",
    b"1_0",
    b"1:30",
    b".nan",
]
WORDS += [
    b"? ",
    b"- ",
    b"{",
    b"[",
    b"9" * 5000,
    b"1e400",
    b"\0",
    b"\xff",
    b"'",
    b"2024-13-45",
    b"0x1f",
]


@pytest.mark.parametrize("seconds", SECONDS)
def test_settings_are_loaded_and_written_or_refused(tmp_path, seconds):
    path = tmp_path / "c.yaml"

    def holds(data):
        path.write_bytes(data)
        with contextlib.suppress(RwpError):
            settings = load_settings(path)
            path.write_text(dump_settings(settings))
            assert load_settings(path).model_dump() == settings.model_dump()

    search(holds, st.one_of(mutants([SETTINGS.encode()], WORDS), other_settings()), seconds)


@st.composite
def other_settings(draw):
    """Known keys with values of any type."""
    number = st.one_of(st.integers(-2, 300), st.floats(), st.sampled_from([10**12, 2**31, 1e308]))
    tree = {}
    for key in draw(st.lists(st.sampled_from(sorted(known_keys())), max_size=4)):
        section, _, name = key.rpartition(".")
        value = draw(st.one_of(number, st.lists(number, max_size=3), ANY_JSON))
        if section and isinstance(tree.setdefault(section, {}), dict):
            tree[section][name] = value
        elif not section:
            tree[name] = value
    return yaml.safe_dump(tree, allow_unicode=draw(st.booleans())).encode(errors="replace")


class _Pipe:
    """A stream such as a connection: short reads, no seeking."""

    def __init__(self, data):
        self.rest = io.BytesIO(data)

    def read(self, size):
        return self.rest.read(min(size, 1000))


def small_tars():
    """Contents of some small good tars."""
    for count in (1, 2, 5):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for i in range(count):
                for name, content in ((f"{i}.jpg", jpeg(i)), (f"{i}.cls", b"%d" % (i % 3))):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        yield buffer.getvalue()
