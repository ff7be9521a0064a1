"""What is printed: the whole report once, as text and as JSON."""

import io
import json
from fnmatch import fnmatchcase

from click.testing import CliRunner
from support.examining import CONFIG, doctor

from rwp_dist.cli import main
from rwp_dist.doctor import command
from rwp_dist.doctor.finding import ok, problem, warning
from rwp_dist.doctor.report import as_json, show
from rwp_dist.shards.digits import write_digits

REPORT = """\
launch
  ok       variables             none of other runs
software
  ok       torch                 2.*
  ok       deepspeed             0.19.*
  ok       commit                *
  ok       locale                *UTF-8
  ok       torch's build         *CUDA*
gpus
  ok       present               none: ranks compute on the CPU
limits
  ok       open files            * (ulimit -n)
  ok       threads               *
  ok       locked memory         *
disks
  ok       shared memory         * free in /dev/shm, workers need * kB
  ok       temporary folder      * can be written to
  ok       compiled code         * can be written to
  ok       run directory         */run can be written to
  ok       room for logs         * free, 100 MB needed
  ok       room for checkpoints  * free, 1.4 MB needed
memory
  ok       estimate              2.3 MB a rank, with 1 rank under DDP: weights 226 kB, \
gradients 226 kB, optimizer state 226 kB, perturbed copy 226 kB, noise 226 kB, activations 1.2 MB
  ok       main memory           * GB, 602 MB needed
noise
  ok       generator             *
data
  ok       training              1,000 images, 4 shards, 2.1 MB: */train
  ok       speed                 * images/s on this machine's * cores
  ok       decoder               *
  ok       evaluation            797 images, 4 shards, 1.6 MB: */test

no problems: nothing here keeps a run from starting.
"""


def test_the_whole_report(tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    data = (f"data.train={folder}/train", f"data.val={folder}/test", "data.workers=4")
    options = (*data, f"run.dir={folder}/run", "run.device=cpu", "data.decoder=pil")
    done = doctor(CONFIG, *options, CUDA_VISIBLE_DEVICES="")
    lines, expected = done.stdout.splitlines(), REPORT.splitlines()
    pairs = zip(lines, expected, strict=False)
    assert [line for line, pattern in pairs if not fnmatchcase(line, pattern)] == []
    assert (len(lines), done.returncode) == (len(expected), 0)
    assert not (folder / "run").exists()


def test_a_cure_is_below_its_finding_and_problems_are_counted() -> None:
    out = io.StringIO()
    show([problem("cache", "full", "make room"), warning("clock", "late", ""), ok("a", "b")], out)
    lines = out.getvalue().splitlines()
    assert lines[1:3] == ["  problem  cache                 full", "           -> make room"]
    assert lines[-1].startswith("1 problem, 1 warning: a run is likely to fail")


def test_json_is_strict() -> None:
    broken = ok("b", "c", x=float("nan"))
    assert json.loads(as_json([broken], "n1"))["findings"][0]["figures"] == {"x": None}


def test_what_libraries_print_is_not_part_of_the_report(monkeypatch) -> None:
    def examine(settings, quick):
        print("INFO: a library was loaded")
        yield problem("cache", "full", "make room")

    monkeypatch.setattr(command, "examine", examine)
    done = CliRunner().invoke(main, ["doctor", "--node", "--json"])
    assert json.loads(done.stdout)["state"] == "problem"
    assert "a library" in done.stderr
    assert done.exit_code == 1
