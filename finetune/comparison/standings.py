"""Models on one test part: measures with intervals, differences, and both in words.

All models see the same resamples of the test images, so that differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.comparison.evidence import Evidence, confusion, fine_enough, gather, measure, plain, prevalence
from finetune.comparison.tables import BASELINE, MEASURES, Measure, cell, reach
from finetune.measures.bootstrap import SEEDS_FOR_A_CLAIM, interval, over_seeds, resample, share_interval
from finetune.measures.boxes import LEAST_CELLS
from finetune.measures.masks import TOP
from finetune.runs.dataset import Dataset
from finetune.runs.labelling import label_clicks
from finetune.runs.predictions import PredictionSet
from finetune.runs.truth import truth_of

FEW = 5  # test images of a class under which its number carries a warning
CHEAPNESS = {"none": 0, "good": 0, "class": 1, "box": 2, "mask": 3}  # label kinds, by what they cost a person
PLURALS = {"none": "no labels", "good": "good images", "class": "class labels", "box": "boxes", "mask": "masks"}
GIVEN = ("image", "defect type")  # levels of measures that an oracle's prompt gives away
COSTS = (
    "parameters",
    "train_seconds",
    "seconds_per_image",
    "device",
    "peak_memory_mb",
    "gpu_peak_memory_mb",
    "weights_bytes",
)
Values = dict[str, tuple[float, Any]]  # a measure's name -> its value, and B resampled ones
SENTENCES = {"auroc": "Defective images", "map50": "Boxes around defects", "dice": "Pixels of defects"}
WITHIN, BEYOND, FEW_SEEDS = "within noise", "beyond noise", f"fewer than {SEEDS_FOR_A_CLAIM} seeds"
IN_WORDS = {
    WITHIN: "The interval includes zero: other test images could reverse this.",
    BEYOND: f"The interval does not include zero, with {SEEDS_FOR_A_CLAIM} or more seeds: beyond noise.",
    FEW_SEEDS: f"The interval does not include zero, but with {FEW_SEEDS} another training could reverse this.",
}


@dataclass
class Row:
    """One model with one prompt kind; ``answers`` and ``records`` (run.json): seed -> dataset name -> one."""

    run: str
    set: str
    answers: dict[str, dict[str, PredictionSet]] = field(default_factory=dict)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    evidence: dict[str, list[Evidence]] = field(default_factory=dict)  # seed -> one a dataset

    @property
    def name(self) -> str:
        return self.run if self.set in ("tuned", "") else f"{self.run}/{self.set}"

    @property
    def about(self) -> dict[str, Any]:
        return next(iter(next(iter(self.answers.values())).values())).about

    @property
    def record(self) -> dict[str, Any]:
        """run.json of the first seed and dataset; empty for someone else's predictions."""
        return next(iter(next(iter(self.records.values())).values()))

    @property
    def first(self) -> list[Evidence]:
        """That of the first seed, one entry a dataset."""
        return next(iter(self.evidence.values()))

    @property
    def trainings(self) -> list[dict[str, Any]]:
        """run.json of all seeds and datasets."""
        return [record for records in self.records.values() for record in records.values()]

    @property
    def random_weights(self) -> bool:
        return any(record.get("random_weights") for record in self.trainings)

    @property
    def label(self) -> str | None:
        """The kind of label that it needed: a mask where it saw synthetic images, which are cut out along masks."""
        return "mask" if self.synthetic_images else self.about.get("label")

    @property
    def synthetic_images(self) -> int | None:
        """The number of synthetic images it saw: none where it learned from good images alone, or not at all."""
        return self.record.get("synthetic_images") if CHEAPNESS.get(str(self.about.get("label"))) else None

    @property
    def oracle(self) -> bool:
        return bool(self.about.get("oracle"))


def measure_rows(
    rows: Sequence[Row], datasets: Sequence[Dataset], count: int, seed: int, draw: bool = False
) -> list[Values]:
    """Each row's measures. All rows see the same resamples. ``draw`` makes the overlays of each row's first seed."""
    generator = np.random.default_rng(seed)
    truths = [truth_of(dataset, "test") for dataset in datasets]
    weights = [resample(test.strata, test.groups, count, generator) for test in truths]
    measured: list[Values] = []
    with progress(rows, len(rows), "comparing") as bar:
        for row in bar:
            values, resampled = [], []
            for one_seed, answers in sorted(row.answers.items()):
                drawn = draw and not row.evidence
                evidence = [gather(answers[dataset.name], dataset, drawn) for dataset in datasets]
                row.evidence[one_seed] = evidence
                values.append(plain(evidence))
                resampled.append(measure(evidence, weights))
            found: Values = {}
            for name in (name for name in values[0] if all(name in one for one in values)):
                draws = over_seeds(np.stack([one[name] for one in resampled]), generator)
                found[name] = float(np.mean([one[name] for one in values])), draws
            measured.append(found)
    return measured


def with_interval(
    value: float, draws: NDArray[Any], size: int | None = None, scale: float = 1.0
) -> dict[str, float | None]:
    """A value and its interval. ``size`` says that it is a share (times ``scale``) of that many images."""
    low, high = interval(draws) or (None, None)
    if size and low == high and not math.isnan(value):
        low, high = (scale * bound for bound in share_interval(value / scale, size))
    return {"value": None if math.isnan(value) else value, "low": low, "high": high}


def difference(ours: Any, theirs: Any, seeds: int, measure: Measure) -> dict[str, Any]:
    """Paired difference of two (value, draws), with a verdict that needs three seeds of both to be BEYOND noise."""
    found: dict[str, Any] = with_interval(ours[0] - theirs[0], ours[1] - theirs[1])
    if found["low"] is None or found["low"] <= 0 <= found["high"]:
        verdict = WITHIN
    else:
        verdict = FEW_SEEDS if seeds < SEEDS_FOR_A_CLAIM else BEYOND
    return found | {"verdict": verdict, "better": (found["value"] or 0) * (-1 if measure.lower_is_better else 1) > 0}


def choose_baseline(rows: Sequence[Row], wanted: str | None) -> Row:
    """The row that others are compared with: BASELINE, else the one with the cheapest labels."""
    names = [row.name for row in rows]
    if wanted is not None and wanted not in names:
        raise DatasetError(f"--baseline {wanted}: no such model here; there are {', '.join(names)}")
    by_name = dict(zip(names, rows, strict=True))
    if wanted or BASELINE in by_name:
        return by_name[wanted or BASELINE]
    return min(rows, key=lambda row: (row.oracle, CHEAPNESS.get(str(row.label), 4)))


def make_report(
    datasets: Sequence[Dataset], rows: Sequence[Row], wanted: str | None, count: int, seed: int, draw: bool
) -> dict[str, Any]:
    """Everything that report.json holds, and from which report.md and the page are written."""
    baseline = choose_baseline(rows, wanted)
    measured = measure_rows(rows, datasets, count, seed, draw)
    base = measured[list(rows).index(baseline)]
    test = describe_test(datasets)
    entries = []
    for row, values in zip(rows, measured, strict=True):
        seeds = min(len(row.answers), len(baseline.answers))
        entry = describe_row(row, datasets) | {
            "measures": {
                name: with_interval(*values[name], test["good"] if name == "false_alarms" else None, scale=100)
                for name in MEASURES
                if name in values and tells(row, name)
            },
            "differences": {
                name: difference(values[name], base[name], seeds, measure)
                for name, measure in MEASURES.items()
                if row is not baseline and name in values and name in base and tells(row, name)
            },
            "classes": [describe_class(known, values, row.oracle) for known in test["classes"]],
        }
        entries.append(entry)
    name = datasets[0].name if len(datasets) == 1 else datasets[0].name.rsplit("-", 1)[0]
    return {
        "schema": 1,
        "name": name,
        "datasets": [dataset.name for dataset in datasets],
        "baseline": baseline.name,
        "resamples": count,
        "seed": seed,
        "banners": banners(datasets, rows),
        "sentences": sentences(rows, measured, baseline),
        "test": test,
        "rows": entries,
        "split": describe_split(datasets),
    }


def tells(row: Row, name: str) -> bool:
    """Whether the measure reflects the model rather than its prompt."""
    return not (row.oracle and MEASURES[name].level in GIVEN)


def describe_class(known: dict[str, Any], values: Values, oracle: bool) -> dict[str, Any]:
    """AP50 of one type's boxes and, but for oracles, the share of its images that were called defective."""
    name = known["class"]
    sizes = {"ap50": None} | ({} if oracle else {"found": known["images"]})
    return {"class": name} | {
        kind: with_interval(*values[f"{name}/{kind}"], size)
        for kind, size in sizes.items()
        if f"{name}/{kind}" in values
    }


def describe_row(row: Row, datasets: Sequence[Dataset]) -> dict[str, Any]:
    first = row.first
    record, about = row.record, row.about
    return {
        "name": row.name,
        "run": row.run,
        "set": row.set,
        "model": about.get("model") or record.get("model"),
        "prompt": about.get("prompt"),
        "oracle": row.oracle,
        "label": row.label,
        "labelling": label_clicks(row.label, datasets),
        "clicks": about.get("clicks"),  # prompts for each defect
        "seeds": sorted(row.answers),
        "random_weights": row.random_weights,
        "synthetic_images": row.synthetic_images,
        "cost": {name: about.get(name, record.get(name)) for name in COSTS},
        "pixels_from": first[0].answer.kind,
        "thresholds": {
            "image": [item.threshold for item in first],
            "box": [item.box_threshold for item in first],
            "pixel": [
                None if not item.pixels or item.pixels.level is None else item.pixels.level / TOP for item in first
            ],
        },
        "confusion": confusion(first).astype(int).tolist() if first[0].tells_classes and not row.oracle else None,
        "settings": record.get("settings"),
        "versions": record.get("versions"),
        "commit": record.get("commit"),
        "weights_sha256": record.get("weights_sha256"),
        "command": record.get("command"),
    }


def describe_test(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Images and instances in test, of each class too."""
    truths = [truth_of(dataset, "test") for dataset in datasets]
    labels = np.concatenate([truth.labels for truth in truths])
    instances = np.zeros(1 + len(datasets[0].classes), int)
    for truth in truths:
        np.add.at(instances, [entry["category_id"] for entry in truth.coco["annotations"]], 1)
    return {
        "images": len(labels),
        "good": int((labels == 0).sum()),
        "prevalence": prevalence(truths),
        "classes": [
            {
                "class": name,
                "images": int((labels == index).sum()),
                "instances": int(instances[index]),
                "few": bool((labels == index).sum() < FEW),
            }
            for index, name in enumerate(datasets[0].classes, start=1)
        ],
    }


def describe_split(datasets: Sequence[Dataset]) -> dict[str, Any]:
    kept = ("protocol", "ratios", "folds", "shots", "per", "seed", "combined", "family")
    split = datasets[0].split
    return {key: split[key] for key in kept if key in split} | {
        "sha256": {dataset.name: dataset.split["sha256"] for dataset in datasets}
    }


def banners(datasets: Sequence[Dataset], rows: Sequence[Row]) -> list[str]:
    """Notes that a reader must know before any number."""
    found = []
    if any(dataset.synthetic for dataset in datasets):
        found.append("Synthetic images: these numbers say nothing about real products.")
    random = [row.name for row in rows if row.random_weights]
    if random:
        found.append(f"Started from random weights: {', '.join(random)}.")
    found += [
        f"{run}: a mean over runs that differ in {', '.join(settings)}, not in the seed alone."
        for run, settings in {row.run: differing(row.trainings) for row in rows}.items()
        if settings
    ]
    oracles = [row.name for row in rows if row.oracle]
    if oracles:
        found.append(f"Oracles, prompted with ground truth: {', '.join(oracles)}. Not comparable with other models.")
    found += [
        f"Part of a category: {line}."
        for line in sorted({note for dataset in datasets for note in dataset.card["incomplete"]})
    ]
    left_out = sum(len(dataset.card["left_out"]) for dataset in datasets)
    if left_out:
        found.append(f"{left_out} images were left out in conversion; see card.md.")
    folds = datasets[0].split.get("folds")
    if folds and len(datasets) < folds:
        found.append(f"{len(datasets)} of {folds} folds: not every defect is tested.")
    coarse = [f"{row.name} ({row.about['cells']:g})" for row in rows if not fine_enough(row.about)]
    if coarse:
        found.append(
            f"Boxes are not measured where they come from heat maps of fewer than {LEAST_CELLS} cells a side: "
            f"{', '.join(coarse)}."
        )
    decided = [
        row.name for row in rows if any(item.called is not None and item.threshold is None for item in row.first)
    ]
    if decided:
        found.append(f"Decides between good and its classes by thresholds of its own, from val: {', '.join(decided)}.")
    silent = [row.name for row in rows if any(item.called is None for item in row.first)]
    unjudged = [
        row.name
        for row in rows
        if row.name not in silent and any(item.any_class and item.box_threshold is None for item in row.first)
    ]
    if unjudged:
        found.append(f"No boxes for val, so no thresholds for boxes and pixels: {', '.join(unjudged)}.")
    if silent:
        found.append(f"No predictions for val, so no thresholds and fewer measures: {', '.join(silent)}.")
    return found


def differing(records: Sequence[dict[str, Any]]) -> list[str]:
    """Settings in which the runs of one model differ: its architecture, and numbers other than the seed.

    Others may follow from the fold or the seed, such as a file that the training started from.
    """
    settings = [record.get("settings") or {} for record in records]
    names = {name for each in settings for name, value in each.items() if isinstance(value, int | float)} | {"arch"}
    names -= {"seed", "synthetic_images"}
    return sorted(name for name in names if len({each[name] for each in settings if name in each}) > 1)


def sentences(rows: Sequence[Row], measured: Sequence[Values], baseline: Row) -> list[str]:
    """Who leads at each task, by how much, and whether that is beyond noise; then what dearer labels bring."""
    leaders = [(task, MEASURES[key], _ranked(rows, measured, key)) for key, task in SENTENCES.items()]
    found = [_leader(task, measure, able) for task, measure, able in leaders if able]
    return found + _worth_of_labels(rows, measured, baseline)


def _ranked(rows: Sequence[Row], measured: Sequence[Values], key: str) -> list[tuple[Row, Any]]:
    """Automatic models with their value of a measure, best first; AUROC has none where test holds no good image."""
    pairs = [(row, values[key]) for row, values in zip(rows, measured, strict=True) if key in values and not row.oracle]
    return sorted((pair for pair in pairs if not math.isnan(pair[1][0])), key=lambda pair: -pair[1][0])


def _leader(task: str, measure: Measure, able: Sequence[tuple[Row, Any]]) -> str:
    leader, best = able[0]
    shown = f"{measure.label} {cell(with_interval(*best), measure)}"
    if len(able) == 1:
        return f"{task}: only {leader.name} does this, with {shown}."
    second, next_best = able[1]
    gap = difference(best, next_best, min(len(leader.answers), len(second.answers)), measure)
    if not gap["value"]:
        return f"{task}: {leader.name} and {second.name} tie at {shown}."
    span = "" if gap["low"] is None else f" (95 % interval of the difference {reach(gap, measure)})"
    return (
        f"{task}: {leader.name} leads with {shown}, {abs(gap['value']):.{measure.digits}f} ahead of "
        f"{second.name}{span}. {IN_WORDS[gap['verdict']]}"
    )


def _worth_of_labels(rows: Sequence[Row], measured: Sequence[Values], baseline: Row) -> list[str]:
    """The gain of the best model of each dearer kind of label over the baseline, in the first common measure."""
    base = measured[list(rows).index(baseline)]
    key = next((key for key in ("map50", "auroc") if key in base and not math.isnan(base[key][0])), None)
    found = []
    for label, cost in CHEAPNESS.items() if key else ():
        able = [pair for pair in _ranked(rows, measured, str(key)) if pair[0].label == label]
        if cost <= CHEAPNESS.get(str(baseline.label), 4) or not able:
            continue
        (row, ours), measure = able[0], MEASURES[str(key)]
        gap = difference(ours, base[str(key)], min(len(row.answers), len(baseline.answers)), measure)
        span = "" if gap["low"] is None else f" ({reach(gap, measure)}; {gap['verdict']})"
        found.append(
            f"{PLURALS[label].capitalize()} instead of {PLURALS[str(baseline.label)]}: the best model that needs them, "
            f"{row.name}, changes {measure.label} by {gap['value'] or 0:+.{measure.digits}f} against "
            f"{baseline.name}{span}."
        )
    return found
