"""User, password and signature of an address open manifest and shards, and are kept nowhere."""

import sys

import pytest
from support.locked_server import LOGIN, PASSWORD, QUERY, USER, locked_server
from support.shard_files import run, sample_members, tar_file

from rwp_dist.base.errors import DataError
from rwp_dist.config import dump_settings, load_settings
from rwp_dist.data.dataset import load_dataset, load_manifest
from rwp_dist.data.format.manifest import Manifest
from rwp_dist.data.remote import NodeCache, Shard, read_url
from rwp_dist.record.directory import RunDir
from rwp_dist.record.environment import environment
from rwp_dist.tracking.connection import config_of


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The host of a server with the shards of ``tmp_path / t``."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    tar_file(tmp_path / "t" / "a.tar", sample_members(3))
    run("index", tmp_path / "t")
    with locked_server(tmp_path) as host:
        yield host


def addresses(host):
    return [f"http://{LOGIN}@{host}/t", f"http://{host}/t?{QUERY}", f"http://{host}/t"]


def read_all(source, cache):
    dataset = load_dataset([load_manifest(source)], 3, cache)
    with cache.open(dataset.shards[0]) as file:
        return dataset, file.read()


def test_manifest_indexes_and_shards_are_read(site, tmp_path):
    for number, source in enumerate(addresses(site)[:2]):
        dataset, data = read_all(source, NodeCache(tmp_path / f"cache-{number}"))
        assert data == (tmp_path / "t" / "a.tar").read_bytes()
        assert dataset.name(0, 1) == "a.tar, sample 1"
        assert load_manifest(f"{source}".replace("/t", "/t/manifest.json", 1)).num_samples == 3


def test_a_password_may_be_in_netrc(site, tmp_path):
    open_address = addresses(site)[2]
    with pytest.raises(DataError, match=r"401 .*~/\.netrc"):
        load_manifest(open_address)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}")
    (tmp_path / "home" / ".netrc").chmod(0o600)
    assert load_manifest(open_address).num_samples == 3


def test_an_address_that_is_signed_anew_finds_what_is_cached(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"a")
    with locked_server(tmp_path) as host:
        cache = NodeCache(tmp_path / "cache")
        known = (1, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")
        for query in (QUERY, "sig=other"):
            cache.open(Shard(f"http://{host}/a.tar?{query}", *known)).close()
        assert cache.take_stats().misses == 1


def test_an_index_of_remote_shards_keeps_no_secret_and_works_beside_them(site, tmp_path):
    for source in (f"http://{LOGIN}@{site}/t/a.tar", f"http://{site}/t/a.tar?{QUERY}"):
        said = run("index", source, "--out", tmp_path / "u")
        assert "does not keep user, password or signature" in said
        assert [shard.name for shard in Manifest.load(tmp_path / "u").shards] == [
            f"http://{site}/t/a.tar"
        ]
        kept = b"".join(p.read_bytes() for p in (tmp_path / "u").rglob("*") if p.is_file())
        assert LOGIN.encode() not in kept and QUERY.encode() not in kept
        beside = source.replace("/t/a.tar", "/u")
        _, data = read_all(beside, NodeCache(tmp_path / "cache"))
        assert data == (tmp_path / "t" / "a.tar").read_bytes()


def test_a_failure_does_not_tell(site):
    for source in (f"http://me:{LOGIN}x@{site}/t", f"http://{site}/t?x{QUERY}"):
        with pytest.raises(DataError) as caught:
            read_url(source)
        assert LOGIN not in str(caught.value) and QUERY not in str(caught.value)
        assert f"http://{site}/t: the server answered 401" in str(caught.value)


def test_settings_and_command_are_recorded_without(tmp_path, monkeypatch):
    secret = f"http://{LOGIN}@h/t?{QUERY}"
    mix = f"{{'{secret}': 1}}"
    argv = [f"data.train={secret}", f"data.mix={mix}", f"data.val={secret}"]
    settings = load_settings(None, argv)
    monkeypatch.setattr(sys, "argv", argv)
    records = [
        dump_settings(settings),
        str(config_of(settings, RunDir(tmp_path))),
        str(environment(world_size=1)),
    ]
    for text in records:
        assert "http://h/t" in text and LOGIN not in text and QUERY not in text
    assert settings.data.train == secret  # the run itself has it
