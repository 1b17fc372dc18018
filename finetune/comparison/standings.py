"""Models on one test part: measures with intervals, and differences.

All models see the same resamples of the test images, so that differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.cli.terminal import progress
from finetune.comparison.evidence import Evidence, gather, measure, plain
from finetune.comparison.rows import Row
from finetune.comparison.tables import MEASURES, Measure
from finetune.comparison.trivial import trivial_evidence
from finetune.measures.bootstrap import LEVEL, resample
from finetune.measures.intervals import (
    SEEDS_FOR_A_CLAIM,
    Sampled,
    auroc_interval,
    difference_test,
    holm,
    mean_interval,
    share_interval,
)
from finetune.runs.dataset import Dataset
from finetune.runs.truth import Truth, truth_of

GIVEN = ("image", "defect type")  # levels of measures that an oracle's prompt gives away
Values = dict[str, Sampled]  # by the measure's name
WITHIN, BEYOND, FEW_SEEDS = "within noise", "beyond noise", f"fewer than {SEEDS_FOR_A_CLAIM} seeds"
UNTOLD = "noise unknown"  # no resample differs, or the measure is undefined in most


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


def tells(row: Row, name: str) -> bool:
    """Whether the measure reflects the model rather than its prompt."""
    return not (row.oracle and MEASURES[name].level in GIVEN)
