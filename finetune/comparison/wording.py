"""The comparison in words: what a reader must know before any number, who leads, and what dearer labels bring."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from finetune.comparison.evidence import fine_enough
from finetune.comparison.rows import CHEAPNESS, PLURALS, Row
from finetune.comparison.standings import BEYOND, FEW_SEEDS, UNTOLD, WITHIN, Values, difference, verdict
from finetune.comparison.tables import MEASURES, cell, reach
from finetune.measures.boxes import LEAST_CELLS
from finetune.measures.intervals import SEEDS_FOR_A_CLAIM
from finetune.runs.dataset import Dataset

ONE_NETWORK = "residual transformer"  # that learns from several kinds of labels
SENTENCES = {"auroc": "Defective images", "map50": "Boxes around defects", "dice": "Pixels of defects"}
IN_WORDS = {
    WITHIN: "The interval includes zero: other test images or trainings could reverse this.",
    BEYOND: f"The interval does not include zero, with {SEEDS_FOR_A_CLAIM} or more seeds: beyond noise.",
    UNTOLD: "No resample of the test images differs, so that nothing tells the noise.",
    FEW_SEEDS: f"The interval does not include zero, but with {FEW_SEEDS} another training could reverse this.",
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
    return found + _worth_of_labels(rows, measured, entries, baseline) + _worth_in_one_network(rows, measured)


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


def _worth_in_one_network(rows: Sequence[Row], measured: Sequence[Values]) -> list[str]:
    """What each dearer kind of label changes where one network learned from several kinds (weakrest)."""
    measure = MEASURES["pixel_ap"]
    same = {
        str(row.label): (row, values["pixel_ap"])
        for row, values in zip(rows, measured, strict=True)
        if row.record.get("model") == ONE_NETWORK and "pixel_ap" in values
    }
    kinds = [label for label in CHEAPNESS if label in same]
    found = []
    for cheap, dear in pairwise(kinds):
        (theirs, before), (ours, after) = same[cheap], same[dear]
        gap = difference(after, before, measure)
        span = "" if gap["low"] is None else f" ({reach(gap, measure)})"
        found.append(
            f"{PLURALS[dear].capitalize()} instead of {PLURALS[cheap]} for the same network ({ours.name}, "
            f"{theirs.name}): {measure.label} {gap['value'] or 0:+.{measure.digits}f}{span}."
        )
    return found
