"""Property 6 of checkpoints: whole, clean, portable, and a resumed run is an undisturbed one."""

import re
import resource
import zipfile
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from support.checkpoints import everything, load, save
from support.methods import overrides
from support.mounts import small_disk
from support.properties import assert_resumes_exactly
from support.ranks import run_ranks
from support.small import (
    SmallNet,
    run_all,
    run_steps,
    same_bits,
    small_net,
    small_parts,
    small_settings,
    split_over,
)

from rwp_dist.base.errors import CheckpointError, CheckpointWriteError
from rwp_dist.run.checkpoint import (
    FORMAT,
    _newest_readable,
    list_checkpoints,
    read_checkpoint,
)
from rwp_dist.run.progress import Progress

ADAMW = ("optimizer.name=adamw", "optimizer.lr=0.01")


@pytest.mark.parametrize("method", ["sgd", "m-arwp"])
def test_a_run_with_adamw_resumes_exactly_at_every_stage(method, tmp_path):
    """``tests/perturb/test_methods.py`` does so for every method with sgd."""
    assert_resumes_exactly(method, tmp_path, *ADAMW)


def progress_over_a_resume(folder):
    settings = small_settings("method.name=m-rwp")
    with small_parts(settings) as parts:
        progress = Progress(parts)
        for step in run_steps(parts, 0, 3, progress):
            before = progress.state_dict()  # its clock is read before the checkpoint's
            save(folder, parts, step + 1, progress=progress)
    with small_parts(settings, small_net(seed=9)) as parts:
        progress = Progress(parts)
        load(folder, parts, progress)
        return before, progress.state_dict()


def test_counters_go_on_where_they_were(tmp_path):
    ((before, after),) = run_ranks(progress_over_a_resume, 1, tmp_path)
    for state in (before, after):  # no log step, so no loss was shown yet
        assert all(value != value for value in state.pop("shown").values())
    assert before.pop("wall_s") < after.pop("wall_s")
    assert before == after and before["samples"] == 36 and before["step_s"] > 0


def save_on_two(cases, folder):
    for number, case in enumerate(cases):
        with small_parts(small_settings(*case, "deepspeed.zero_stage=1")) as parts:
            run_all(parts, 0, 3)
            save(folder / str(number), parts, 3)


def load_elsewhere(cases, stages, folder):
    states = []
    for number, case in enumerate(cases):
        for stage in stages:
            settings = small_settings(
                *case,
                f"deepspeed.zero_stage={stage}",
                split_over(dist.get_world_size(), 2),
            )
            with small_parts(settings, small_net(seed=9)) as parts:
                load(folder / str(number), parts)
                loaded = everything(parts)
                run_all(parts, 3, 5)
                moved = everything(parts)
            states.append((number, stage, loaded, moved))
    return states


def test_a_checkpoint_of_2_ranks_at_stage_1_resumes_anywhere(tmp_path):
    """And goes on alike: after two more steps weights differ between places by rounding only."""
    cases = [overrides("m-arwp"), overrides("sgd", *ADAMW)]
    run_ranks(save_on_two, 2, cases, tmp_path)
    ends = {}
    for world_size in (1, 2, 3):
        for states in run_ranks(load_elsewhere, world_size, cases, (0, 1, 2, 3), tmp_path):
            for number, stage, loaded, moved in states:
                (path,) = list_checkpoints(tmp_path / str(number))
                saved, where = read_checkpoint(path), f"{world_size} ranks, stage {stage}"
                got = {n: v for n, v in loaded.items() if n.startswith("weight ")}
                wanted = {f"weight {n}": w for n, w in saved["weights"].items()}
                assert same_bits(got, wanted), where
                for name, values in saved["optimizer"].items():
                    for key, value in values.items():
                        assert same_bits({"": loaded[f"{key} {name}"]}, {"": value}), where
                for name, energy in saved["parts"]["perturbed"]["move"].get("energy", {}).items():
                    assert same_bits({"": loaded[f"energy {name}"]}, {"": energy}), where
                end = ends.setdefault((number, world_size, stage == 3), moved)
                for name in (n for n in end if n.startswith("weight ")):
                    torch.testing.assert_close(moved[name], end[name], rtol=1e-3, atol=1e-5)


def save_three(folder, keep_last):
    with small_parts(small_settings("method.name=m-arwp")) as parts:
        for step in (1, 2, 3):
            run_all(parts, step - 1, step)
            save(folder, parts, step, keep_last)
        return everything(parts)


def load_newest(folder, net=None):
    with small_parts(small_settings("method.name=m-arwp"), net) as parts:
        return load(folder, parts)[0]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_keep_last_checkpoints_stay_and_nothing_else(tmp_path):
    run_ranks(save_three, 1, tmp_path, 2)
    assert names(tmp_path) == ["step-00000002.pt", "step-00000003.pt"]


def test_a_checkpoint_holds_tensors_and_numbers_only(tmp_path):
    (state,) = run_ranks(save_three, 1, tmp_path, 1)
    loaded = torch.load(tmp_path / "step-00000003.pt", weights_only=True)
    assert loaded["step"] == 3 and loaded["parts"].keys() == {"perturbed", "history", "progress"}
    assert loaded["weights"].keys() == dict(small_net().named_parameters()).keys()
    assert {n: v for n, v in state.items() if n.startswith("weight ")}.keys() == {
        f"weight {n}" for n in loaded["weights"]
    }


def test_its_weights_load_into_a_plain_network(tmp_path):
    (state,) = run_ranks(save_three, 1, tmp_path, 1)
    content = torch.load(tmp_path / "step-00000003.pt", weights_only=True)
    net = small_net(seed=9)
    missing, unexpected = net.load_state_dict(content["weights"], strict=False)
    assert not unexpected and set(missing) <= dict(net.named_buffers()).keys()
    net.load_state_dict(content["weights"] | content["buffers"])
    for name, param in net.named_parameters():
        assert torch.equal(param, state[f"weight {name}"])


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
    """Of the right size, but with a hole where the first tensor was, as after a power failure."""
    data = bytearray(path.read_bytes())
    data[-200:] = bytes(200)
    path.write_bytes(data)


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before(tmp_path):
    run_ranks(save_three, 1, tmp_path, 3)
    assert run_ranks(load_newest, 2, tmp_path) == [3, 3]
    truncate(tmp_path / "step-00000003.pt")
    assert run_ranks(load_newest, 2, tmp_path) == [2, 2]
    damage(tmp_path / "step-00000002.pt")
    assert run_ranks(load_newest, 2, tmp_path) == [1, 1]
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of 1 checkpoints can be read"):
        run_ranks(load_newest, 2, tmp_path)


def go_on_after_a_torn_one(folder):
    with small_parts(small_settings("method.name=m-arwp")) as parts:
        step, troubles = load(folder, parts)
        save(folder, parts, step + 1, 1)
        return troubles


def test_what_is_saved_after_a_torn_checkpoint_stays(tmp_path):
    run_ranks(save_three, 1, tmp_path, 2)
    (tmp_path / "step-00000003.pt").replace(tmp_path / "step-00000009.pt")
    truncate(tmp_path / "step-00000009.pt")
    (troubles,) = run_ranks(go_on_after_a_torn_one, 1, tmp_path)
    assert "step-00000009.pt" in troubles[0]
    assert names(tmp_path) == ["step-00000003.pt", "step-00000009.bad"]


def test_without_checkpoints_there_is_nothing_to_resume(tmp_path):
    (tmp_path / "step-00000004.part").write_bytes(b"half written")
    assert run_ranks(load_newest, 1, tmp_path) == [0]
    assert run_ranks(load_newest, 1, tmp_path / "nowhere") == [0]


def wider_net():
    net = SmallNet()
    net.linear1, net.linear2 = torch.nn.Linear(20, 7), torch.nn.Linear(7, 3)
    return net


@pytest.mark.parametrize(
    ("net", "differs"),
    [
        (wider_net(), "linear1.bias"),
        (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3)), "1.bias"),
    ],
    ids=["another shape", "other names"],
)
def test_a_checkpoint_of_another_network_is_refused_by_its_name(tmp_path, net, differs):
    run_ranks(save_three, 1, tmp_path, 1)
    with pytest.raises(CheckpointError, match=f"another network \\({re.escape(differs)} differs"):
        run_ranks(load_newest, 1, tmp_path, net)


def save_on_a_full_disk(folder):
    def fail_with(error):
        def write_a_part(state, path):
            path.write_bytes(b"the beginning")
            raise error

        return patch("rwp_dist.run.checkpoint.torch.save", write_a_part)

    with small_parts(small_settings("method.name=sgd")) as parts:
        for error, said in (
            (OSError(28, "No space left on device"), r"\.pt.*\(No space .*; free space there"),
            (RuntimeError("file write failed"), r"\.pt.*\(file write failed\); check that disk"),
        ):
            with fail_with(error), pytest.raises(CheckpointWriteError, match=said):
                save(folder, parts, 1)


def save_where_torch_does_not_say_why(folder):
    with small_parts(small_settings("method.name=sgd")) as parts:
        with pytest.raises(CheckpointWriteError, match=r"\(No space left on device\); free space"):
            save(folder, parts, 1)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(CheckpointWriteError, match=r"\(File too large\); .*ulimit -f"):
                save(folder.parent, parts, 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_and_a_limit_of_files_sizes_have_their_own_cures(tmp_path):
    with small_disk(tmp_path / "disk", "size=8k") as folder:
        run_ranks(save_where_torch_does_not_say_why, 1, folder)
        assert names(folder) == []


def test_a_full_disk_is_reported_and_leaves_nothing_behind(tmp_path):
    run_ranks(save_on_a_full_disk, 1, tmp_path)
    assert names(tmp_path) == []


def save_after_a_skipped_first_step(folder):
    """A run whose first step after resuming is skipped, and which is then asked to stop."""
    for stage in (0, 1, 2, 3):
        settings = small_settings("method.name=sgd", f"deepspeed.zero_stage={stage}")
        with small_parts(settings) as parts:
            run_all(parts, 0, 2)
            save(folder / str(stage), parts, 2)
        with small_parts(settings) as parts:
            load(folder / str(stage), parts)
            parts.task.loss = lambda logits, *_: logits.sum(1) * float("inf")
            run_all(parts, 2, 3)
            assert parts.engine.skipped_steps == 1
            save(folder / str(stage), parts, 3)
        first, second = map(read_checkpoint, list_checkpoints(folder / str(stage)))
        assert same_bits(first["weights"], second["weights"])
        for name, values in first["optimizer"].items():
            assert same_bits(values, second["optimizer"][name])


def test_a_run_whose_first_step_after_resuming_was_skipped_can_be_saved(tmp_path):
    run_ranks(save_after_a_skipped_first_step, 2, tmp_path)


def save_while_perturbed(folder):
    outcomes = []
    for stage in (0, 1, 2):
        with small_parts(small_settings("method.name=rwp", f"deepspeed.zero_stage={stage}")) as p:
            run_all(p, 0, 2)
            clean = p.engine.full_weights()
            try:
                with p.perturbed(2):
                    raise RuntimeError("in a perturbed pass")
            except RuntimeError:
                save(folder / str(stage), p, 2)
            (path,) = list_checkpoints(folder / str(stage))
            outcomes.append(same_bits(read_checkpoint(path)["weights"], clean))
    return outcomes


def test_a_checkpoint_never_holds_perturbed_weights(tmp_path):
    assert run_ranks(save_while_perturbed, 2, tmp_path) == [[True, True, True]] * 2


def test_one_damaged_byte_inside_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "step-00000001.pt"
    torch.save({"format": FORMAT, "weights": {"w": torch.ones(10_000)}}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    chosen, trouble = _newest_readable(tmp_path)
    assert chosen is None
    assert "is damaged in" in trouble[0]


class Anything:
    """Of a kind that a checkpoint may not hold."""


def test_a_checkpoint_that_unpacks_to_more_than_it_has_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "step-00000001.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    assert path.stat().st_size < 10**5
    chosen, trouble = _newest_readable(tmp_path)
    assert chosen is None and "it is compressed" in trouble[0]


@pytest.mark.parametrize("kind", ["text", "objects", "another program's", "a part", "nothing"])
def test_what_is_no_checkpoint_is_refused_with_our_cure_and_not_torchs(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "text":
        path.write_text("# A page\n" * 100)
    elif kind == "objects":
        torch.save({"format": FORMAT, "model": Anything()}, path)
    elif kind == "a part":
        torch.save({"format": FORMAT, "step": 3}, path)
    elif kind == "another program's":
        torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(path)
    assert refused.value.cure and "step-*.pt" in refused.value.cure
    assert str(path) in refused.value.problem and "\n" not in refused.value.problem
    assert not any(word in str(refused.value) for word in ("torch.", "trust", "weights_only"))
