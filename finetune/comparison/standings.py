"""Models on one test part: measures with intervals, differences, and both in words.

All models see the same resamples of the test images, so that differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.comparison.evidence import Evidence, confusion, fine_enough, gather, measure, plain, prevalence
from finetune.comparison.tables import BASELINE, MEASURES, Measure, cell, reach
from finetune.comparison.trivial import strike, trivial_evidence
from finetune.measures.bootstrap import LEVEL, resample
from finetune.measures.boxes import LEAST_CELLS
from finetune.measures.intervals import (
    SEEDS_FOR_A_CLAIM,
    Sampled,
    auroc_interval,
    difference_test,
    holm,
    mean_interval,
    share_interval,
)
from finetune.measures.masks import TOP
from finetune.runs.dataset import Dataset
from finetune.runs.labelling import label_clicks
from finetune.runs.predictions import PredictionSet
from finetune.runs.truth import Truth, truth_of

FEW = 5  # test images of a class under which its number carries a warning
FEW_FOR_AN_INTERVAL = 10  # those under which its AP50 gets none: so few resample to a handful of values
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
Values = dict[str, Sampled]  # by the measure's name
SENTENCES = {"auroc": "Defective images", "map50": "Boxes around defects", "dice": "Pixels of defects"}
WITHIN, BEYOND, FEW_SEEDS = "within noise", "beyond noise", f"fewer than {SEEDS_FOR_A_CLAIM} seeds"
UNTOLD = "noise unknown"  # no resample differs, or the measure is undefined in most
IN_WORDS = {
    WITHIN: "The interval includes zero: other test images or trainings could reverse this.",
    BEYOND: f"The interval does not include zero, with {SEEDS_FOR_A_CLAIM} or more seeds: beyond noise.",
    UNTOLD: "No resample of the test images differs, so that nothing tells the noise.",
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


@dataclass(frozen=True)
class ResampledTest:
    """The test parts (one, or one a fold) that all models are measured on, and the resamples that all see."""

    truths: list[Truth]
    weights: list[NDArray[np.float64]]  # B x N each

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """The number of good images and of those of each class; what belongs together counts once. (1 + C,)"""
        found = np.zeros(1 + len(self.truths[0].dataset.classes), np.int64)
        for test in self.truths:
            for stratum in dict(zip(test.groups, test.strata, strict=True)).values():
                found[stratum] += 1
        return found

    def sampled(self, seeds: Sequence[Sequence[Evidence]]) -> Values:
        """The measures of a model from its evidence: for each seed one entry a test part."""
        values = [plain(evidence) for evidence in seeds]
        resampled = [measure(evidence, self.weights) for evidence in seeds]
        return {
            name: Sampled(
                np.array([one[name] for one in values]),
                np.stack([one[name] for one in resampled]),
                int(self.images.sum()),
            )
            for name in values[0]
            if all(name in one for one in values)
        }

    def found(self, name: str, sampled: Sampled) -> dict[str, Any]:
        """A measure with its interval and, where that goes by their number, the number of ``images``.

        Shares have exact intervals and AUROC a score interval, which have a width at 0 and 1, too.
        """
        good, classes = int(self.images[0]), self.images[1:]
        images: list[int] | None = None
        bounds, scale = None, 100 if name == "false_alarms" else 1
        sampled = Sampled(sampled.values / scale, sampled.draws / scale, sampled.images)
        known, kind = not math.isnan(sampled.mean), name.rpartition("/")[2]
        if name == "auroc" and known:
            images = [good, int(classes.sum())]
            bounds = auroc_interval(sampled.mean, images[1], images[0])
        elif kind in ("false_alarms", "recall", "found") and known:
            of_class = dict(zip(self.truths[0].dataset.classes, classes.tolist(), strict=True))
            sizes = {"false_alarms": good, "recall": int(classes.sum())}
            images = [sizes[kind] if kind in sizes else of_class[name.removesuffix("/found")]]
            bounds = share_interval(sampled.mean, images[0])
        low, high = mean_interval(sampled, bounds) or (None, None)
        return (
            {"value": scale * sampled.mean if known else None}
            | {side: None if bound is None else scale * bound for side, bound in (("low", low), ("high", high))}
            | ({"images": images} if images else {})
        )


def draw_test(datasets: Sequence[Dataset], count: int, seed: int) -> ResampledTest:
    generator = np.random.default_rng(seed)
    truths = [truth_of(dataset, "test") for dataset in datasets]
    return ResampledTest(truths, [resample(test.strata, test.groups, count, generator) for test in truths])


def measure_rows(rows: Sequence[Row], test: ResampledTest, draw: bool = False) -> list[Values]:
    """Each row's measures. ``draw`` makes the overlays of each row's first seed."""
    measured: list[Values] = []
    with progress(rows, len(rows), "comparing") as bar:
        for row in bar:
            for seed, answers in sorted(row.answers.items()):
                drawn = draw and not row.evidence
                row.evidence[seed] = [gather(answers[one.dataset.name], one.dataset, drawn) for one in test.truths]
            measured.append(test.sampled(list(row.evidence.values())))
    return measured


def measure_trivial(test: ResampledTest) -> list[dict[str, Any]]:
    """The image measures of the trivial scores, as rows have them."""
    parts = [trivial_evidence(one, truth_of(one.dataset, "val")) for one in test.truths]
    found = []
    for name in parts[0]:
        values = test.sampled([[part[name] for part in parts]])
        measures = {key: test.found(key, values[key]) for key in MEASURES if key in values}
        found.append({"name": name, "measures": measures})
    return found


def difference(ours: Sampled, theirs: Sampled, measure: Measure) -> dict[str, Any]:
    """Difference of two models, paired by images, with its interval and p, and whether it is for the better."""
    found = difference_test(ours, theirs)
    return found | {"better": (found["value"] or 0) * (-1 if measure.lower_is_better else 1) > 0}


def verdict(p: float | None, seeds: int) -> str:
    """What a difference may be called, which needs three seeds of both models to be BEYOND noise."""
    if p is None:
        return UNTOLD
    if p > 1 - LEVEL:
        return WITHIN
    return FEW_SEEDS if seeds < SEEDS_FOR_A_CLAIM else BEYOND


def differences(rows: Sequence[Row], measured: Sequence[Values], baseline: Row) -> list[dict[str, dict[str, Any]]]:
    """Each row's differences to the baseline, by measure; ``p_holm`` is corrected for the rows of a measure."""
    base = measured[list(rows).index(baseline)]
    found: list[dict[str, dict[str, Any]]] = [
        {
            name: difference(values[name], base[name], measure)
            for name, measure in MEASURES.items()
            if row is not baseline and name in values and name in base and tells(row, name)
        }
        for row, values in zip(rows, measured, strict=True)
    ]
    for name in MEASURES:
        tested = [row for row in range(len(rows)) if found[row].get(name, {}).get("p") is not None]
        corrected = dict(zip(tested, holm([found[row][name]["p"] for row in tested]), strict=True))
        for index, row in enumerate(rows):
            if name in found[index]:
                seeds, p = min(len(row.answers), len(baseline.answers)), corrected.get(index)
                found[index][name] |= {"p_holm": p, "verdict": verdict(p, seeds)}
    return found


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
    test = draw_test(datasets, count, seed)
    measured = measure_rows(rows, test, draw)
    trivial = measure_trivial(test)
    about = describe_test(datasets)
    gaps = differences(rows, measured, baseline)
    entries = []
    for row, values, apart in zip(rows, measured, gaps, strict=True):
        measures = {name: test.found(name, values[name]) for name in MEASURES if name in values and tells(row, name)}
        strike(measures, trivial)
        entries.append(
            describe_row(row, datasets)
            | {
                "measures": measures,
                "differences": apart,
                "classes": [describe_class(known, values, row.oracle, test) for known in about["classes"]],
            }
        )
    name = datasets[0].name if len(datasets) == 1 else datasets[0].name.rsplit("-", 1)[0]
    return {
        "schema": 1,
        "name": name,
        "datasets": [dataset.name for dataset in datasets],
        "baseline": baseline.name,
        "resamples": count,
        "seed": seed,
        "banners": banners(datasets, rows) + struck(entries),
        "sentences": sentences(rows, measured, entries, baseline),
        "test": about,
        "rows": entries,
        "trivial": trivial,
        "split": describe_split(datasets),
    }


def tells(row: Row, name: str) -> bool:
    """Whether the measure reflects the model rather than its prompt."""
    return not (row.oracle and MEASURES[name].level in GIVEN)


def describe_class(known: dict[str, Any], values: Values, oracle: bool, test: ResampledTest) -> dict[str, Any]:
    """AP50 of one type's boxes and, but for oracles, the share of its images that were called defective."""
    name = known["class"]
    found = {
        kind: test.found(f"{name}/{kind}", values[f"{name}/{kind}"])
        for kind in ("ap50", *(() if oracle else ("found",)))
        if f"{name}/{kind}" in values
    }
    if "ap50" in found and known["images"] < FEW_FOR_AN_INTERVAL:
        found["ap50"] |= {"low": None, "high": None}
    return {"class": name} | found


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


def struck(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The note on image measures that a trivial score reaches."""
    found = []
    for entry in entries:
        reached = [name for name, one in entry["measures"].items() if "reached_by" in one]
        if reached:
            means = sorted({entry["measures"][name]["reached_by"] for name in reached})
            names = ", ".join(MEASURES[name].label for name in reached)
            found.append(f"{entry['name']} ({names}, by {' or '.join(means)})")
    if not found:
        return []
    return [
        "One number of the whole image, with nothing learned, does as well as a model, so that image measures prove "
        f"nothing where they are struck through: {'; '.join(found)}."
    ]


def sentences(
    rows: Sequence[Row], measured: Sequence[Values], entries: Sequence[dict[str, Any]], baseline: Row
) -> list[str]:
    """Who leads at each task, by how much, and whether that is beyond noise; then what dearer labels bring."""
    found = []
    for key, task in SENTENCES.items():
        able = [one for one in _ranked(rows, measured, key) if entries[one]["measures"][key]["value"] is not None]
        if able:
            found.append(_leader(key, task, able, rows, measured, entries))
    return found + _worth_of_labels(rows, measured, entries, baseline)


def _ranked(rows: Sequence[Row], measured: Sequence[Values], key: str) -> list[int]:
    """Automatic models with a measure, best first; AUROC has none where test holds no good image."""
    able = [
        index
        for index, (row, values) in enumerate(zip(rows, measured, strict=True))
        if key in values and not row.oracle and not math.isnan(values[key].mean)
    ]
    return sorted(able, key=lambda index: -measured[index][key].mean)


def _leader(
    key: str,
    task: str,
    able: Sequence[int],
    rows: Sequence[Row],
    measured: Sequence[Values],
    entries: Sequence[dict[str, Any]],
) -> str:
    """The leader, which was chosen on test, against the next one.

    That test needs no correction: with equal models, the first is the nearer to the second the more of them there are
    (K. Hung, W. Fithian, Rank Verification for Exponential Families, Annals of Statistics 2019).
    """
    measure, leader = MEASURES[key], rows[able[0]]
    found = entries[able[0]]["measures"][key]
    shown = f"{measure.label} {cell({side: found[side] for side in ('value', 'low', 'high')}, measure)}"
    trivial = f" But {found['reached_by']} alone does as well." if "reached_by" in found else ""
    if len(able) == 1:
        return f"{task}: only {leader.name} does this, with {shown}.{trivial}"
    second = rows[able[1]]
    gap = difference(measured[able[0]][key], measured[able[1]][key], measure)
    if not gap["value"]:
        return f"{task}: {leader.name} and {second.name} tie at {shown}, best of {len(able)} on test.{trivial}"
    span = "" if gap["low"] is None else f" (95 % interval of the difference {reach(gap, measure)})"
    words = IN_WORDS[verdict(gap["p"], min(len(leader.answers), len(second.answers)))]
    return (
        f"{task}: {leader.name} leads with {shown}, best of {len(able)} on test, {abs(gap['value']):.{measure.digits}f}"
        f" ahead of {second.name}{span}. {words}{trivial}"
    )


def _worth_of_labels(
    rows: Sequence[Row], measured: Sequence[Values], entries: Sequence[dict[str, Any]], baseline: Row
) -> list[str]:
    """The gain of the best model of each dearer kind of label over the baseline, in the first common measure."""
    base = measured[list(rows).index(baseline)]
    key = next((key for key in ("map50", "auroc") if key in base and not math.isnan(base[key].mean)), None)
    found = []
    for label, cost in CHEAPNESS.items() if key else ():
        able = [index for index in _ranked(rows, measured, str(key)) if rows[index].label == label]
        if cost <= CHEAPNESS.get(str(baseline.label), 4) or not able:
            continue
        row, measure, gap = rows[able[0]], MEASURES[str(key)], entries[able[0]]["differences"][str(key)]
        chosen = f", best of {len(able)} on test" if len(able) > 1 else ""
        tested = f"; p = {gap['p_holm']:.2g} after Holm's correction: {gap['verdict']}" if gap["p"] is not None else ""
        span = "" if gap["low"] is None else f" ({reach(gap, measure)}{tested})"
        found.append(
            f"{PLURALS[label].capitalize()} instead of {PLURALS[str(baseline.label)]}: the best model that needs them, "
            f"{row.name}{chosen}, changes {measure.label} by {gap['value'] or 0:+.{measure.digits}f} against "
            f"{baseline.name}{span}."
        )
    return found
