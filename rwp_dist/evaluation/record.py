"""Numbers of an evaluation in the run directory, beside earlier ones of the same network."""

import hashlib
import math
import zipfile
from pathlib import Path
from statistics import fmean

from rwp_dist.base import checksum
from rwp_dist.base.errors import RunDirError
from rwp_dist.config import Affects, Settings, load_settings
from rwp_dist.evaluation.corruptions import CORRUPTIONS, STRENGTHS
from rwp_dist.evaluation.measure import METRICS, Numbers
from rwp_dist.evaluation.other_data import OtherData
from rwp_dist.record.directory import RunDir
from rwp_dist.record.identity import differences, settings_identity

NAME = "evaluation"
OTHER = "other_data"
"""Key of a subject that is another data set than the run's own evaluation samples."""


def keep(
    run_dir: RunDir, subject: dict[str, str], numbers: Numbers, other: OtherData | None = None
) -> None:
    """Write ``measured/evaluation.json``; for another data set, ``measured/evaluation-KEY.json``.

    Numbers of other conditions that are there stay if they are of the same subject. Names of those
    on another data set begin with its key: ``imagenet-a@3f2a91.top1``.

    Args:
        run_dir: the run.
        subject: what was evaluated, see ``subject_of``.
        numbers: by name.
        other: the other data set.

    Raises:
        RunDirError: it cannot be written.
    """
    name, prefix = (NAME, "") if other is None else (f"{NAME}-{other.key}", f"{other.key}.")
    subject = subject if other is None else subject | {OTHER: other.key}
    earlier = run_dir.read_measurement(name) or {}
    known = earlier.get("numbers", {}) if earlier.get("subject") == subject else {}
    known = {key.removeprefix(prefix): value for key, value in known.items()}
    anew = {name.rpartition(".")[0] for name in numbers}
    known = {name: known[name] for name in known if name.rpartition(".")[0] not in anew}
    # A network that its noise has broken has a loss of nan, of which JSON knows nothing.
    known |= {name: value for name, value in numbers.items() if math.isfinite(value)}
    known = {prefix + key: value for key, value in (known | means_of(known)).items()}
    try:
        run_dir.write_measurement(name, {"subject": subject, "numbers": known})
    except OSError as error:
        raise RunDirError(
            f"{run_dir.measured}: cannot be written ({error.strerror})",
            cure="make the run directory writable and start the same command again",
        ) from None


def subject_of(run_dir: RunDir, settings: Settings, path: Path, data_id: str) -> dict[str, str]:
    """What tells one evaluated network and its samples from another.

    Args:
        run_dir: the run.
        settings: those of the evaluation; overrides may have changed the run's own.
        path: of the checkpoint; its content counts.
        data_id: of the evaluation samples.
    """
    with zipfile.ZipFile(path) as archive:  # torch's format has a checksum of every tensor
        content = repr([(member.filename, member.CRC) for member in archive.infolist()])
    own, now = (settings_identity(s, None) for s in (load_settings(run_dir.config), settings))
    overrides = {d.key: str(d.other) for d in differences(own, now, {Affects.RESULT})}
    crc32 = f"{checksum.crc32(content.encode()):08x}"
    return {"checkpoint": path.name, "crc32": crc32, "data": data_id} | overrides


def data_name(run_dir: RunDir, subject: dict[str, str]) -> str:
    """What files by class are called: ``val``, or ``val@DIGEST`` with other data or overrides.

    Args:
        run_dir: the run.
        subject: from ``subject_of``.
    """
    how = {key: value for key, value in subject.items() if key not in ("checkpoint", "crc32")}
    known = (run_dir.read_identity() or {}).get("data.val.id")
    if how.keys() == {"data"} and (known is None or how["data"].startswith(known)):
        return "val"
    return f"val@{hashlib.sha256(repr(sorted(how.items())).encode()).hexdigest()[:6]}"


def means_of(numbers: Numbers) -> Numbers:
    """Means over what is complete: the strengths of a corruption, and all corruptions.

    They are ``corruption.KIND.METRIC`` and ``corruptions.METRIC``.
    """
    means: Numbers = {}
    for metric in METRICS:
        for kind in CORRUPTIONS:
            names = [f"corruption.{kind}.{strength}.{metric}" for strength in STRENGTHS]
            if numbers.keys() >= set(names):
                means[f"corruption.{kind}.{metric}"] = fmean(numbers[name] for name in names)
        kinds = [f"corruption.{kind}.{metric}" for kind in CORRUPTIONS]
        if means.keys() >= set(kinds):
            means[f"corruptions.{metric}"] = fmean(means[name] for name in kinds)
    return means
