"""The stream: the same global batches on any ranks and workers, from any step, whatever fails."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.faulty_server import FaultyServer
from support.small_shards import FORK, cache_in
from support.stream_sets import (
    BATCH,
    LANES,
    NUM,
    cropped,
    digest,
    digests,
    eval_streams,
    flip_bit,
    identities,
    joined,
    load,
    plain,
    served,
    train_streams,
    write_set,
)
from support.until import until_ended

from rwp_dist.base.errors import DataError
from rwp_dist.data import loader as module
from rwp_dist.data.selection import Balanced, Mixture

# Tests have more workers than cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

STEPS = 10  # two and a half epochs
WORLDS = [(1, 3), (2, 1), (3, 2), (4, 0), (6, 1), (8, 0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "train")


@pytest.fixture(scope="module")
def dataset(folder):
    return load(folder)


@pytest.fixture(scope="module")
def reference(dataset):
    """Digests of all steps, by one rank that was never interrupted."""
    found = digests(dataset, 0, STEPS)
    assert len(set(found)) == STEPS
    return found


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
def test_global_batches_and_their_pixels_do_not_depend_on_ranks_and_workers(
    dataset, reference, world_size, workers
):
    assert digests(dataset, 0, STEPS, world_size, workers) == reference


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_micro_batches_cut_the_same_global_batch(dataset, reference, micro_batches):
    assert digests(dataset, 0, 3, 2, 0, micro_batches=micro_batches) == reference[:3]


@pytest.mark.parametrize("stop", range(STEPS))
def test_a_run_stopped_at_any_step_goes_on_elsewhere_twice_as_if_never_stopped(
    dataset, reference, stop
):
    again = (stop + STEPS) // 2 + 1
    parts = [(0, stop), (stop, again), (again, STEPS)]
    worlds = [WORLDS[(stop + turn) % len(WORLDS)] for turn in (0, 1, 3)]
    found = []
    for (first, last), (world_size, workers) in zip(parts, worlds, strict=True):
        found += digests(dataset, first, last, world_size, workers)
    assert found == reference


def test_another_seed_takes_other_samples(dataset, reference):
    assert not set(digests(dataset, 0, STEPS, seed=8)) & set(reference)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (3, 2)])
def test_an_epoch_shows_every_sample_at_most_once_and_drops_others_each_time(
    dataset, world_size, workers
):
    streams = train_streams(dataset, world_size, workers, transform=plain())
    per_epoch = streams[0].steps_per_epoch
    steps = list(zip(*(s.steps(0, 3 * per_epoch) for s in streams), strict=True))
    left_out = []
    everything = set(identities(joined_eval(dataset)[0]))
    for epoch in range(3):
        own = steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        seen = [i for step in own for i in identities(joined(step)[0])]
        assert len(set(seen)) == len(seen) == per_epoch * BATCH
        assert NUM - len(seen) < BATCH + LANES
        left_out.append(frozenset(everything - set(seen)))
    assert len(set(left_out)) == 3


def joined_eval(dataset):
    """All images as they are, and their labels, by the samples' numbers."""
    stream = train_streams(dataset, transform=plain())[0]
    work = [stream.transform(read(dataset, sample), (0,)) for sample in range(NUM)]
    return np.stack(work), dataset.labels


def read(dataset, sample):
    (shard,), _ = dataset.locate(np.array([sample]))
    entry = dataset.index[sample]
    start = int(entry["offset"])
    return Path(dataset.shards[shard].url).read_bytes()[start : start + int(entry["size"])]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_evaluation_shows_every_sample_exactly_once_whatever_the_world_size(
    dataset, world_size, workers
):
    streams = eval_streams(dataset, world_size, workers)
    # strict: all ranks have equally many batches, or a collective would hang.
    steps = list(zip(*(stream.steps() for stream in streams), strict=True))
    seen, labels = [], []
    for step in steps:
        images, targets, weights = joined(step)
        seen += [i for i, w in zip(identities(images), weights, strict=True) if w]
        labels += targets[weights > 0].tolist()
    assert len(seen) == len(set(seen)) == NUM
    assert Counter(labels) == Counter(dataset.labels.tolist())
    assert len(steps) == -(-NUM // (4 * world_size))


def test_batches_are_channels_last_views_that_need_no_copy(dataset):
    (step,) = train_streams(dataset)[0].steps(0, 1)
    (batch,) = step.batches
    assert batch.images.shape == (BATCH, 3, 16, 16) and batch.images.dtype.itemsize == 1
    assert batch.images.permute(0, 2, 3, 1).is_contiguous()
    assert step.valid == [BATCH] and step.num_bytes > 100 * BATCH and not step.bad


# --- killed ---


def read_until_killed(dataset, connection):
    (stream,) = train_streams(dataset, workers=2)
    for step in stream.steps(0, STEPS):
        connection.send((digest([step]), [p.pid for p in multiprocessing.active_children()]))


def test_a_rank_killed_in_mid_epoch_leaves_no_worker_and_goes_on_identically(dataset, reference):
    ours, theirs = multiprocessing.Pipe()
    rank = FORK.Process(target=read_until_killed, args=(dataset, theirs))
    rank.start()
    found = [ours.recv() for _ in range(6)]
    os.kill(rank.pid, signal.SIGKILL)
    rank.join()
    workers = found[-1][1]
    assert len(workers) == 2
    until_ended(workers)
    resumed = digests(dataset, 6, STEPS, workers=2)
    assert [value for value, _ in found] + resumed == reference


# --- bad samples ---


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder with a flipped bit in one sample and another that is no image, and its data set."""
    folder = write_set(tmp_path_factory.mktemp("damaged") / "train", undecodable=(40,))
    dataset = load(folder)
    sample = int(dataset.firsts[2]) + 3
    flip_bit(folder, 2, sample, dataset.index)
    undecodable = [i for i in range(NUM) if read(dataset, i).startswith(b"this is not")]
    assert len(undecodable) == 1
    return dataset, sample, undecodable[0]


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (2, 3), (4, 1)])
def test_a_bad_sample_becomes_a_copy_of_a_good_row_with_weight_0_and_is_reported(
    damaged, world_size, workers
):
    dataset, flipped, undecodable = damaged
    streams = train_streams(dataset, world_size, workers, pad=True, transform=plain())
    per_epoch = streams[0].steps_per_epoch
    records, lost, padding = [], 0, 0
    for number, step in enumerate(zip(*(s.steps(0, per_epoch) for s in streams), strict=True)):
        for rank, (stream, share) in enumerate(zip(streams, step, strict=True)):
            images, labels, weights = joined([share])
            planned = stream.request(number).weights
            bad = [r.step for r in share.bad]
            assert bad == [number] * len(bad)
            assert share.valid == [int(weights.sum())]
            for row in np.flatnonzero(weights != planned):
                good = int(np.flatnonzero(weights == 1)[0])
                assert (images[row] == images[good]).all() and labels[row] == labels[good]
                assert images[row].any()
                lost += 1
            padding += int((planned == 0).sum())
            records += [(rank, record) for record in share.bad]
    assert lost == 2 and padding == per_epoch * BATCH - NUM
    reasons = {record.sample: record.reason for _, record in records}
    assert set(reasons) == {flipped, undecodable} and len(records) == 2
    for sample, words in ((flipped, "crc32"), (undecodable, "no decoder takes this image")):
        (shard,), (row,) = dataset.locate(np.array([sample]))
        name = dataset.shards[shard].url.rpartition("/")[2]
        assert f"{name}" in reasons[sample] and f"sample {row}" in reasons[sample]
        assert words in reasons[sample] and "\n" not in reasons[sample]


def test_the_same_samples_are_bad_on_any_ranks_and_workers(damaged):
    def bad(world_size, workers):
        streams = train_streams(damaged[0], world_size, workers)
        return sorted(
            (record.step, record.sample)
            for stream in streams
            for step in stream.steps(0, STEPS)
            for record in step.bad
        )

    expected = bad(1, 0)
    assert len(expected) >= 3  # two a full epoch
    assert bad(3, 1) == bad(8, 0) == expected


def test_a_batch_without_any_good_row_is_black_and_counts_nothing(damaged, monkeypatch):
    dataset, flipped, _ = damaged
    (stream,) = train_streams(dataset)
    request = stream.request(0)
    shards, rows = dataset.locate(np.full(BATCH, flipped))
    monkeypatch.setattr(stream, "request", lambda step: request._replace(shards=shards, rows=rows))
    (step,) = stream.steps(0, 1)
    images, labels, weights = joined([step])
    assert not images.any() and not labels.any() and not weights.any()
    assert step.valid == [0] and len(step.bad) == BATCH


def test_evaluation_leaves_bad_samples_out(damaged):
    steps = list(zip(*(s.steps() for s in eval_streams(damaged[0], 2)), strict=True))
    weights = [joined(step)[2].sum() for step in steps]
    assert sum(weights) == NUM - 2
    assert sum(len(share.bad) for step in steps for share in step) == 2


# --- other selections ---


def test_balanced_classes_come_equally_often_on_any_ranks(tmp_path):
    labels = [0] * 60 + [1] * 25 + [2] * 5
    dataset = load(write_set(tmp_path / "train", num=90, labels=labels))
    options = {"selection": Balanced(dataset.counts, dataset.labels, 3), "pad": True}
    expected = digests(dataset, 0, 6, **options)
    for world_size, workers in ((2, 1), (8, 0)):
        assert digests(dataset, 0, 6, world_size, workers, **options) == expected
    (stream,) = train_streams(dataset, transform=cropped(), **options)
    counted, pixels = Counter(), {2: []}
    for step in stream.steps(0, stream.steps_per_epoch):
        images, targets, weights = joined([step])
        counted.update(targets[weights == 1].tolist())
        pixels[2] += identities(images[(weights == 1) & (targets == 2)])
    assert counted == {0: 30, 1: 30, 2: 30}
    # Each of the five comes six times, augmented differently.
    assert len(set(pixels[2])) == 30


def test_a_mixture_takes_its_shares_on_any_ranks_and_repeats_with_other_pixels(tmp_path):
    large = write_set(tmp_path / "large", num=80, labels=[0] * 80)
    small = write_set(tmp_path / "small", num=16, first=80, labels=[1] * 16)
    dataset = load(large, small)
    selection = Mixture(dataset.counts, dataset.source, (1.0, 1.0))
    expected = digests(dataset, 0, 6, selection=selection)
    for world_size, workers in ((3, 1), (4, 3)):
        assert digests(dataset, 0, 6, world_size, workers, selection=selection) == expected
    (stream,) = train_streams(dataset, selection=selection, pad=True, transform=cropped())
    counted, pixels = Counter(), []
    for step in stream.steps(0, stream.steps_per_epoch):
        images, targets, weights = joined([step])
        counted.update(targets[weights == 1].tolist())
        pixels += identities(images[(weights == 1) & (targets == 1)])
    assert counted == {0: 48, 1: 48}
    assert len(set(pixels)) == 48


# --- state ---


def a_worker_that_hangs_at_its_start(monkeypatch, marks, times):
    """The first so many of them never begin; they do not hear SIGTERM either."""
    begin = module._begin

    def hang(begun, worker):
        if worker == 1 and len(list(marks.iterdir())) < times:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            (marks / str(os.getpid())).touch()
            time.sleep(3600)
        begin(begun, worker)

    monkeypatch.setattr(module, "_begin", hang)
    monkeypatch.setattr(module, "WORKER_START_S", 1.0)


def test_a_worker_that_never_begins_is_replaced_and_no_sample_is_lost(
    dataset, tmp_path, monkeypatch
):
    expected = digests(dataset, 0, STEPS)
    a_worker_that_hangs_at_its_start(monkeypatch, tmp_path, times=1)
    assert digests(dataset, 0, STEPS, workers=2) == expected
    (mark,) = tmp_path.iterdir()
    assert not Path(f"/proc/{mark.name}").exists()


def test_workers_that_never_begin_end_the_stream_with_the_cure(dataset, tmp_path, monkeypatch):
    a_worker_that_hangs_at_its_start(monkeypatch, tmp_path, times=9)
    monkeypatch.setattr(module, "WORKER_STARTS", 1)
    with pytest.raises(DataError, match=r"2 worker processes did not begin.*data\.workers=0"):
        digests(dataset, 0, STEPS, workers=2)
    assert not multiprocessing.active_children()


# --- remote shards ---


FAULTS = [["truncate", "flip"], [500, "reset"], ["stall"], [503], ["shorter", "truncate"], [429]]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_over_a_bad_connection_is_the_same_as_from_the_disk(
    folder, reference, tmp_path, workers
):
    with FaultyServer(served(folder)) as server:
        tars = sorted(path for path in server.files if path.endswith(".tar"))
        for path, faults in zip(tars, FAULTS, strict=False):
            server.faults[path] = list(faults)
        cache = cache_in(tmp_path, max_bytes=sum(len(server.files[p]) for p in tars) // 2)
        dataset = load(server.url("/train"), cache=cache)
        assert digests(dataset, 0, STEPS, 2, workers, cache=cache) == reference
        assert not any(server.faults.values())


def test_at_the_end_of_an_epoch_the_next_ones_shards_are_known(dataset):
    plan = train_streams(dataset)[0].plan
    last = plan.steps_per_epoch - 1
    soon = plan.upcoming_shards(0, last, 0, 6, 2)
    needed = [plan.step(0, last, 0, 6).shards, plan.step(1, 0, 0, 6).shards]
    assert set(soon) == set(np.concatenate(needed).tolist())
    assert set(soon[: len(set(needed[0].tolist()))]) == set(needed[0].tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_is_gone_ends_the_stream_with_its_name(folder, tmp_path, workers):
    with FaultyServer(served(folder)) as server:
        lost = sorted(path for path in server.files if path.endswith(".tar"))[3]
        server.always[lost] = 404
        cache = cache_in(tmp_path)
        (stream,) = train_streams(load(server.url("/train"), cache=cache), 1, workers, cache=cache)
        steps = list(stream.steps(0, STEPS))
        (record,) = steps[-1].bad
        assert record.fatal and record.step == len(steps) - 1 and steps[-1].valid == [0]
        assert lost in record.reason and "404" in record.reason and "\n" not in record.reason
        assert record.reason.endswith(".")
        with pytest.raises(DataError, match="404"):
            list(steps[-1].batches)
        assert not [r for step in steps[:-1] for r in step.bad]


# --- memory ---

EPOCHS, WARM_EPOCHS = 20, 4
GROWTH_BYTES = 1 << 20
MORE_FILES = 8


def memory_over_epochs(source, cache_folder, connection):
    """Resident bytes and open files of this process and its workers, after every epoch."""
    cache = None
    if cache_folder is not None:
        cache = cache_in(cache_folder, max_bytes=250_000)
    dataset = load(source, cache=cache)
    (stream,) = train_streams(dataset, workers=2, cache=cache)
    per_epoch = stream.steps_per_epoch
    for number, step in enumerate(stream.steps(0, EPOCHS * per_epoch), 1):
        del step
        if number % per_epoch == 0:
            time.sleep(0.05)  # both workers wait, their next steps done
            pids = [os.getpid(), *sorted(p.pid for p in multiprocessing.active_children())]
            connection.send([(resident_bytes(pid), open_files(pid)) for pid in pids])


def resident_bytes(pid):
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("remote", [False, True])
def test_memory_and_open_files_do_not_grow_over_20_epochs(folder, tmp_path, remote):
    """Measured: less than 0.1 MB a rank and 0.6 MB a worker over these 15 epochs, less than 0.2 MB
    over the next 270. Keeping one batch each step would be 1.3 MB.
    """
    with FaultyServer(served(folder)) as server:
        source = server.url("/train") if remote else folder
        ours, theirs = multiprocessing.Pipe()
        rank = FORK.Process(
            target=memory_over_epochs, args=(source, tmp_path if remote else None, theirs)
        )
        rank.start()
        epochs = [ours.recv() for _ in range(EPOCHS)]
        rank.join()
    # The last epoch's workers may have ended when it is measured.
    first, late = epochs[WARM_EPOCHS], epochs[EPOCHS - 5 : EPOCHS - 1]
    assert {len(epoch) for epoch in (first, *late)} == {3}
    for process, (num_bytes, num_files) in enumerate(first):
        # On a busy machine a worker may be in the middle of a step in one epoch or another.
        grown = min(epoch[process][0] for epoch in late) - num_bytes
        assert grown < GROWTH_BYTES, f"process {process} of rank and workers: {grown} bytes"
        assert min(epoch[process][1] for epoch in late) - num_files < MORE_FILES
