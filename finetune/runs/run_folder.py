"""The run folder, which is all that training and comparison share: ``runs/DATASET/NAME/seed-S/``.

``run.json`` tells how a model came about. ``predictions/SET/`` holds what it said when asked in one way, for val
and test: ``PART.json`` in the COCO results format at full image size, ``PART_scores.csv`` with one defect score
and one score a class for every image, and ``set.json``. Anyone's model can be compared by writing these files.
"""

import csv
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import cv2

from converters.cli.door import check, read_json
from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from finetune.measures.heat_levels import to_levels
from finetune.runs.dataset import Dataset
from finetune.runs.held_out import points_of_run
from finetune.runs.licences import licences
from finetune.runs.records import RunRecord
from finetune.runs.replay import DATASET, SETTINGS, command_line, current_replay

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

PACKAGES = ("torch", "torchvision", "ultralytics", "segment-anything", "numpy", "opencv-python", "pycocotools")


@dataclass
class Run:
    """A run under way: times it, and writes what it leaves. ``run.json`` comes last, so it marks a whole run."""

    folder: Path
    dataset: Dataset
    settings: dict[str, Any]
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def write_predictions(
        self,
        name: str,
        part: str,
        detections: Iterable[Mapping[str, Any]],
        scores: Mapping[str, Sequence[float]],
    ) -> None:
        """Write one part of one set.

        ``detections`` are COCO results; ``scores`` maps an image's name to its defect score and its scores for
        the dataset's classes, all in 0..1.
        """
        folder = self.folder / "predictions" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{part}.json").write_text(json.dumps(list(detections)), "utf-8")
        with (folder / f"{part}_scores.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "defect", *self.dataset.classes])
            rows.writerows([image, *(f"{value:.6g}" for value in values)] for image, values in sorted(scores.items()))

    def write_decisions(self, name: str, part: str, decisions: Mapping[str, int]) -> None:
        """Write what a model itself decides of each image of a part: 0 is good, else the index of the class + 1."""
        told = ["good", *self.dataset.classes]
        with (self.folder / "predictions" / name / f"{part}_decisions.csv").open(
            "w", newline="", encoding="utf-8"
        ) as file:
            rows = csv.writer(file)
            rows.writerow(["image", "decision"])
            rows.writerows([image, told[index]] for image, index in sorted(decisions.items()))

    def write_heatmaps(self, name: str, part: str, maps: Mapping[str, Any], middle: float) -> None:
        """Write one map an image: H x W floats of 0 and more at full image size, as 16-bit PNG of ``to_levels``.

        ``middle`` is one for the whole set, fixed on val, and goes into ``set.json`` as ``heatmap_middle``.
        """
        folder = self.folder / "predictions" / name / f"{part}_heatmaps"
        folder.mkdir(parents=True, exist_ok=True)
        for image, heat in maps.items():
            cv2.imwrite(str(folder / f"{Path(image).stem}.png"), to_levels(heat, middle))

    def describe_set(self, name: str, **about: Any) -> None:
        """Write ``set.json``: how the model was asked (prompt kind, oracle or not, label kind it needed, ...)."""
        (self.folder / "predictions" / name / "set.json").write_text(to_json({"schema": 1, **about}), "utf-8")

    def begun_with(self) -> list[str]:
        """The command that began the run, which may not be the one that ends it (--resume)."""
        kept = self.folder / SETTINGS
        return (read_json(kept, dict[str, Any]) if kept.is_file() else {}).get("command") or command_line()

    def finish(self, **results: Any) -> None:
        record = {
            "schema": 1,
            "dataset": self.dataset.name,
            "synthetic": self.dataset.synthetic,
            "split_sha256": self.dataset.split["sha256"],
            "family": self.dataset.split["family"],
            "label_settings": self.dataset.label_settings,
            "command": self.begun_with(),
            "settings": self.settings,
            "versions": installed_versions(),
            "commit": git_commit(),
            "seconds": round(self.seconds, 1),
            "peak_memory_mb": peak_memory_mb(),
            "licences": licences(results.get("model", ""), results.get("start", ""), self.dataset),
            **synthetic_facts(self.dataset),
            "operating_points": points_of_run(self.folder, self.dataset),
            **results,
        }
        write_record(self.folder, record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``run.json`` whole or not at all."""
    partial = folder / "run.json.partial"
    partial.write_text(to_json(record), "utf-8")
    partial.replace(folder / "run.json")


def synthetic_facts(dataset: Dataset) -> dict[str, Any]:
    """Of a dataset with synthetic images: the one without them, how many there are, and the classes; else {}."""
    if "base" not in dataset.split:
        return {}
    return {
        "base": dataset.split["base"],
        "synthetic_images": len(dataset.synthetic_images),
        "classes": dataset.classes,
    }


def synthetic_images_of(record: Mapping[str, Any]) -> str:
    """The first dataset of a run and the synthetic images of either stage, in words for the head of its report."""
    first, both = record.get("pretrained_on"), record.get("synthetic_images", 0)
    before = record["pretrain_synthetic_images"] if first else 0
    own = f", {both - before} synthetic images in train" if both > before else ""
    return (f", first on {first} ({before} synthetic images)" if first else "") + own


def run_folder(runs: Path, dataset: Dataset, name: str, seed: int) -> Path:
    return runs / dataset.name / name / f"seed-{seed}"


def start_run(
    folder: Path, dataset: Dataset, settings: dict[str, Any], overwrite: bool, begun: dict[str, Any] | None = None
) -> Run:
    """Make the run's folder; raises DatasetError if it holds a run, finished or not, and ``overwrite`` is false.

    ``begun`` is what a run that can be resumed must have in common with its beginning, see ``check_begun``.
    """
    check_replay(dataset, settings if begun is None else begun)
    if folder.exists():
        if (folder / "run.json").exists() and not overwrite:
            raise DatasetError(f"{folder} exists: add --overwrite to train again, or give the run a name with --run")
        if (folder / SETTINGS).is_file() and any(folder.rglob("*.pt")) and not overwrite:
            raise DatasetError(f"{folder} was interrupted: continue with --resume, or train again with --overwrite")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if begun is not None:
        (folder / SETTINGS).write_text(to_json({"command": command_line(), **begun}), "utf-8")
    return Run(folder, dataset, settings)


def check_replay(dataset: Dataset, settings: dict[str, Any]) -> None:
    """Raise DatasetError if --config replays a run on other data or weights without being told to; tell what differs.

    All trainings of its command are replayed, of which the run is one: another fold has the same family of splits.
    """
    if (replay := current_replay()) is None:
        return
    record, now = replay.record, json.loads(to_json(settings | installed_versions()))
    split = {"split_sha256": dataset.split["sha256"], "family": dataset.split["family"]}
    key = "split_sha256" if record.get("dataset") == dataset.name else "family"
    same = record.get(key) == split[key] and record.get("label_settings") == dataset.label_settings
    if not same and replay.given.isdisjoint(DATASET):
        raise DatasetError(
            f"--config {replay.file}: was trained on another split, or other labels, than {dataset.folder} has: "
            "convert as it was then, or name the dataset with --category to train on it all the same"
        )
    before = record["versions"] | record["settings"]
    same = record.get("weights_sha256") == now["weights_sha256"] or before.get("arch") != now["arch"]
    if not same and "--weights" not in replay.given:
        raise DatasetError(
            f"--config {replay.file}: began with other weights than lie there now: bring those back, or name weights "
            "with --weights to begin with them all the same"
        )
    differ = [key for key in now if before.get(key, now[key]) != now[key]]
    if differ:
        changes = (f"{key} {now[key]!s:.30} (was {before[key]!s:.30})" for key in differ)
        click.echo(f"Not as in {replay.file}: {', '.join(changes)}", err=True)


@contextmanager
def told_to_resume(folder: Path, begun: Callable[[Path], bool] = Path.is_dir) -> Iterator[None]:
    """Let an interruption say how to continue, which is printed in place of the usual line.

    ``begun`` tells whether --resume would find something in the folder.
    """
    try:
        yield
    except KeyboardInterrupt:
        how = "with --resume continues" if begun(folder) else "starts again: no epoch had ended"
        raise KeyboardInterrupt(f"{folder}: the same command {how}") from None


def read_begun(folder: Path) -> dict[str, Any]:
    """The settings that the run in ``folder`` was begun with."""
    begun = read_json(folder / SETTINGS, dict[str, Any])
    begun.pop("command", None)
    return begun


def check_begun(folder: Path, settings: dict[str, Any]) -> None:
    """Raise DatasetError if --resume does not find a run in ``folder`` that was begun with the same settings."""
    if not (folder / SETTINGS).is_file():
        raise DatasetError(f"--resume: {folder} holds no interrupted run; start it without --resume")
    before, now = read_begun(folder), json.loads(to_json(settings))
    for key in now | before:
        if before.get(key) != now.get(key):
            raise DatasetError(
                f"--resume: {folder} was begun with {key} {before.get(key)!s:.60}, not {now.get(key)!s:.60}; "
                "give what it was begun with, or train again with --overwrite"
            )


def installed_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of this code, marked where the tree differs from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_mb() -> int | None:
    """Largest resident size of this process so far (Linux counts in KiB, macOS in bytes); None on Windows."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def find_runs(runs: Path, dataset: Dataset) -> list[Path]:
    """Folders ``RUNS/DATASET/NAME/seed-S`` that hold a finished run; ``runs`` may also be one of these folders."""
    if (runs / "run.json").is_file():
        return [runs]
    here = sorted(path.parent for path in runs.glob("*/seed-*/run.json"))  # RUNS/DATASET, of whichever dataset
    return here or sorted(path.parent for path in (runs / dataset.name).glob("*/seed-*/run.json"))


def read_record(folder: Path) -> dict[str, Any]:
    """``run.json``, with what its trainer adds; raises DatasetError where there is none, or what it should not be."""
    record = read_json(folder / "run.json", dict[str, Any], "name the folder of a finished run")
    check(record, RunRecord, str(folder / "run.json"))  # whose answer has another order
    return record


def read_run(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """A run's record; raises DatasetError if it was trained on another split than the dataset's, or other labels.

    A run on the dataset with synthetic images added to train will do: val and test are the same.
    """
    record = read_record(folder)
    _check_labels(folder, record, dataset)
    if "base" in record and record["base"]["sha256"] == dataset.split["sha256"]:
        return record
    for key, what in (("family", "family of splits"), ("split_sha256", "split")):
        theirs, ours = record.get(key), dataset.split["sha256" if key == "split_sha256" else key]
        if theirs != ours:
            raise DatasetError(
                f"{folder}: was trained on another {what} ({str(theirs)[:12]}) than {dataset.folder} "
                f"({ours[:12]}): its test images are others; train it again, or name another dataset"
            )
    return record


def finished_run(folder: Path, dataset: Dataset, needed: Iterable[Path | str] = ()) -> dict[str, Any]:
    """The record of a finished run that is to be used again.

    Raises DatasetError for one without a file of ``needed``, or that tells more classes apart than the dataset has.
    """
    record = read_run(folder, dataset)
    for name in needed:
        if not (folder / name).is_file():
            raise DatasetError(f"{folder}: does not hold {name} any more; train it again")
    if record.get("classes", dataset.classes) != dataset.classes:
        raise DatasetError(f"{folder}: knows a class that only synthetic images have: open {record['dataset']} instead")
    return record


def _check_labels(folder: Path, record: dict[str, Any], dataset: Dataset) -> None:
    """Raise DatasetError for a run whose classes or instances are not the dataset's; a record may be silent on them."""
    ours, theirs = dataset.label_settings, record.get("label_settings", {})
    said = {name: theirs.get(name) for name in ours}
    if "base" in record and theirs:  # synthetic images may have classes of their own, which come last
        said["class_names"] = theirs["class_names"][: len(dataset.classes)]
    differ = [name for name in ours if theirs and said[name] != ours[name]]
    for setting in differ[:1]:
        raise DatasetError(
            f"{folder}: was trained with another {setting} ({said[setting]}) than {dataset.folder} has "
            f"({ours[setting]}): train it again, or name another dataset"
        )
