"""``rwp-dist evaluate``: numbers that ranks and batches do not change, kept with the run."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from support.evaluations import evaluated, measured_numbers, untrained_run, write_checkpoint
from support.ranks import run_ranks
from support.stream_sets import rename_classes, write_set
from torch.nn import functional as F

from rwp_dist.base.errors import ConfigError
from rwp_dist.cli import main
from rwp_dist.config import load_settings
from rwp_dist.data.open import open_eval
from rwp_dist.evaluation.asked import Asked
from rwp_dist.evaluation.corruptions import CORRUPTIONS
from rwp_dist.evaluation.measure import Measurement
from rwp_dist.evaluation.targets import find_targets
from rwp_dist.process.group import process_group
from rwp_dist.run.evaluate import load_network

EVERYTHING = Asked(("noise", "jpeg"), (0.1, 0.3), 2, (8, 3))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set") / "val", num=29)


@pytest.fixture
def run(val, tmp_path):
    return untrained_run(tmp_path / "run", val)


def command(*arguments):
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def numbers_of(run):
    return run.read_measurement("evaluation")["numbers"]


def one_network(run, asked):
    with process_group(CPU):
        network = Measurement(load_settings(run.config), run.newest_checkpoint(), CPU)
        return network.numbers(asked, lambda done, total: None)


def evaluation(run_dir, *overrides):
    return evaluated(load_settings(run_dir.config, overrides), EVERYTHING)


def test_numbers_are_those_of_any_number_of_ranks_and_any_batch(run):
    printed = [run_ranks(evaluation, 1, run)[0]]
    alone = numbers_of(run)
    assert {"top1", "top5", "nll", "ece", "corruption.jpeg.top1"} < alone.keys()
    for world_size, batch in ((1, 5), (2, 8)):
        texts = run_ranks(evaluation, world_size, run, f"batch.per_rank={batch}")
        assert texts[1:] == [""] * (world_size - 1)  # one rank speaks
        printed.append(texts[0])
        assert numbers_of(run) == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert printed[1:] == printed[:1] * 2
    for word in ("top-1", "NLL", "ECE", "jpeg", "noise 0.1", "(2 draws)", "±", "3 bits"):
        assert word in printed[0]


def test_the_same_network_gives_the_same_bits_after_all_that_was_done_to_it(run):
    with process_group(CPU):
        network = Measurement(load_settings(run.config), run.newest_checkpoint(), CPU)
        before, everything, after = (
            network.numbers(asked, lambda done, total: None)
            for asked in (Asked(), EVERYTHING, Asked())
        )
    assert before == after and everything.items() > before.items()
    for condition in ("corruption.noise.5", "weight_noise.0.3", "bits.3"):
        assert everything[f"{condition}.nll"] != before["nll"]
    assert everything["weight_noise.0.1.nll_std"] < everything["weight_noise.0.3.nll_std"]


def test_clean_numbers_are_those_computed_by_hand(run):
    settings, path = load_settings(run.config), run.newest_checkpoint()
    model = load_network(settings, path, CPU).eval()
    [step] = open_eval(load_settings(run.config, ["batch.per_rank=29"]), 0, 1).steps()
    [batch] = step.batches
    logits = model((batch.images / 255 - 0.5) / 0.25)
    found = one_network(run, Asked())
    assert found["nll"] == pytest.approx(F.cross_entropy(logits, batch.labels).item())
    assert found["top1"] == pytest.approx(
        100 * float((logits.argmax(1) == batch.labels).float().mean())
    )


def test_the_deviation_over_draws_is_that_of_a_sample(run):
    one, two = (one_network(run, Asked(weight_noise=(0.3,), draws=draws)) for draws in (1, 2))
    name = "weight_noise.0.3.nll"  # of two values: the distance of one from the mean, times sqrt 2
    assert two[f"{name}_std"] == pytest.approx(2**0.5 * abs(one[name] - two[name]))


def test_progress_ends_with_all_passes(run):
    calls = []
    with process_group(CPU):
        network = Measurement(load_settings(run.config), run.newest_checkpoint(), CPU)
        network.numbers(EVERYTHING, lambda *call: calls.append(call))
    total = 29 * (1 + 2 * 5 + 2 * 2 + 2)
    assert calls == sorted(calls) and (calls[0], calls[-1]) == ((0, total), (total, total))


def test_numbers_of_the_same_network_stay_and_those_of_another_go(run, val):
    command(run.path, "--bits", "8")
    command(
        run.path, "--corruptions", "noise,blur,contrast", "--weight-noise", "0.1", "--draws", "2"
    )
    assert "bits.8.top1" in numbers_of(run) and "corruptions.top1" not in numbers_of(run)
    assert "weight_noise.0.1.nll_std" in numbers_of(run)
    command(run.path, "--weight-noise", "0.1", "--draws", "1")
    assert "weight_noise.0.1.nll_std" not in numbers_of(run)
    command(run.path, "--corruptions", "jpeg", "batch.per_rank=16")  # computes the same
    kinds = [numbers_of(run)[f"corruption.{kind}.top1"] for kind in CORRUPTIONS]
    assert numbers_of(run)["corruptions.top1"] == pytest.approx(sum(kinds) / len(kinds))
    assert measured_numbers(run) == numbers_of(run)

    command(run.path, "data.eval_crop_ratio=0.5")
    assert numbers_of(run).keys() == {"top1", "top5", "nll", "ece"}
    command(run.path, "--bits", "8")
    write_checkpoint(run, load_settings(run.config, ["run.seed=1"]))  # of the same name
    command(run.path)
    assert numbers_of(run).keys() == {"top1", "top5", "nll", "ece"}


def test_numbers_of_other_samples_at_the_same_place_go(tmp_path):
    val = write_set(tmp_path / "val", num=8)
    run = untrained_run(tmp_path / "run", val)
    command(run.path, "--bits", "8")
    shutil.rmtree(val)
    write_set(val, num=8, first=8)
    command(run.path)
    assert numbers_of(run).keys() == {"top1", "top5", "nll", "ece"}


def test_a_network_of_infinite_loss_leaves_a_file_that_json_knows(run):
    path = run.newest_checkpoint()
    state = torch.load(path, weights_only=True)
    state["weights"]["linear.weight"].fill_(float("nan"))
    torch.save(state, path)
    command(run.path, "--bits", "8")
    assert json.loads((run.measured / "evaluation.json").read_text())["numbers"]["top1"] >= 0
    assert "nll" not in numbers_of(run)


def test_numbers_that_cannot_be_kept_are_shown_all_the_same(run):
    run.measured.write_text("in the way")
    result = CliRunner().invoke(main, ["evaluate", str(run.path)])
    assert result.exit_code == 1 and "NLL" in result.stdout
    assert f"{run.measured}: cannot be written (File exists); make" in result.stderr


def test_a_folder_of_runs_is_evaluated_run_by_run(val, tmp_path):
    runs = [untrained_run(tmp_path / f"lr=0.{seed}", val, seed=seed) for seed in (0, 1)]
    text = command(tmp_path)
    assert text == command(*(run.path for run in runs))
    assert [line.split("/")[-3] for line in text.splitlines()] == ["lr=0.0", "lr=0.1"]
    assert numbers_of(runs[0]) != numbers_of(runs[1])


def test_a_run_of_a_folder_that_has_not_finished_is_left_out_and_one_named_twice_counts_once(
    val, tmp_path
):
    done, running = (untrained_run(tmp_path / name, val, seed=0) for name in ("done", "running"))
    running.write_status("running", 1, 2)
    targets, left_out = find_targets([str(tmp_path), str(done.path)], None)
    assert [target.run.path for target in targets] == [done.path]
    assert left_out == {running.path: "running"}
    targets, left_out = find_targets([str(tmp_path), str(running.path)], None)
    assert (len(targets), left_out) == (2, {})
    done.write_status("interrupted", 1, 2)
    with pytest.raises(ConfigError, match=r"no run to evaluate; .*done: interrupted; .*running"):
        find_targets([str(tmp_path)], None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bits", "8,1"], 2, "--bits: '1' is not possible; give numbers from 2 to 16, as 8,6,4."),
        (["--bits", "32"], 2, "--bits: '32' is not"),
        (["--bits", "four"], 2, "--bits: 'four' is not"),
        (["--weight-noise", "0.1,-0.1"], 2, "--weight-noise: '-0.1' is not possible; give numb"),
        (["--weight-noise", "nan"], 2, "--weight-noise: 'nan' is not"),
        (
            ["--corruptions", "fog"],
            2,
            "--corruptions: there is no corruption 'fog'; choose from noise, blur, contrast, jpeg",
        ),
        (["--checkpoint", "x.pt"], 2, "--checkpoint: these are 2 runs; name the run that it is of"),
        (["nowhere"], 1, "nowhere: is no run directory"),
        (["model.num_class=3"], 2, "model.num_class"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_begins(arguments, code, message, tmp_path, val):
    for seed in (0, 1):
        untrained_run(tmp_path / f"{seed}", val, seed=seed)
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), *arguments])
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert not list(tmp_path.glob("*/measured"))


def test_an_interrupted_run_that_is_named_is_evaluated_and_said_to_be_one(val, tmp_path):
    run = untrained_run(tmp_path / "run", val, seed=0)
    run.write_status("interrupted", 1, 2)
    result = CliRunner().invoke(main, ["evaluate", str(run.path)])
    assert result.exit_code == 0
    assert f"{run.path} is interrupted: its newest checkpoint is evaluated" in result.stderr


@pytest.mark.parametrize("result", ["average", "trained"])
def test_weights_beside_the_result_have_numbers_of_their_own(result, run):
    settings = load_settings(run.config)
    alone = {}
    for name, seed in (("trained", 0), ("average", 1)):
        write_checkpoint(run, load_settings(run.config, [f"run.seed={seed}"]))
        command(run.path)
        alone[name] = numbers_of(run)
    average = torch.load(run.newest_checkpoint(), weights_only=True)
    key = "weights" if result == "average" else "beside"
    parts = {"average": {key: average["weights"]}}
    write_checkpoint(run, settings, parts=parts)
    assert "weights:" not in command(run.path)  # its BatchNorm statistics are not known
    parts["evaluation"] = {"top1": 1.0, "buffers_beside": average["buffers"]}
    write_checkpoint(run, settings, parts=parts)
    other = {"average": "trained", "trained": "average"}[result]
    title = "trained weights" if other == "trained" else "averaged weights"
    line = command(run.path).splitlines()[1]
    assert line.startswith(f"  {title}: top-1 {alone[other]['top1']:.2f} %  NLL ")
    numbers = numbers_of(run)
    assert numbers["nll"] == alone[result]["nll"] != alone[other]["nll"]
    assert numbers[f"{other}.nll"] == alone[other]["nll"]


def test_settings_alone_are_no_run():
    result = CliRunner().invoke(main, ["evaluate", "run.device=cpu"])
    assert (result.exit_code, result.stderr) == (
        2,
        "there is no run to evaluate; name a run's directory.\n",
    )


def test_evaluation_samples_whose_labels_mean_other_classes_are_refused(val, tmp_path):
    run = untrained_run(tmp_path / "run", val)
    classes = {"num": 5, "names": tuple(f"class-{i}" for i in range(5)), "place": "shards/train"}
    write_checkpoint(
        run, load_settings(run.config), step=2, parts={"history": {"classes": classes}}
    )
    command(run.path)
    other = rename_classes(
        write_set(tmp_path / "other", num=9), "class-0", "class-1", "class-3", "class-2", "class-4"
    )
    result = CliRunner().invoke(main, ["evaluate", str(run.path), f"data.val={other}"])
    assert result.exit_code == 1
    assert f"2 is 'class-2' in shards/train and 'class-3' in {other}; write" in result.output


def test_files_by_class_of_other_data_or_settings_leave_the_runs_own(run, val, tmp_path):
    with process_group(CPU):
        own = open_eval(load_settings(run.config), 0, 1).dataset.id
    run.write_identity({"data.val.id": own[:12]})
    command(run.path, "--per-class")
    assert {path.stem for path in run.per_class.glob("*.json")} == {"val"}
    before = (run.per_class / "val.json").read_bytes()
    other = write_set(tmp_path / "other", num=11)
    command(run.path, f"data.val={other}", "--per-class")
    command(run.path, "data.eval_crop_ratio=0.5", "--per-class")
    command(run.path, "data.eval_crop_ratio=0.5", "--per-class")
    names = {path.stem for path in run.per_class.glob("*.json")}
    assert len(names) == 3 and all(name.startswith("val") for name in names)
    assert (run.per_class / "val.json").read_bytes() == before
