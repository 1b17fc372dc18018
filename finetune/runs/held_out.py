"""Scores of images that a model did not learn from, for thresholds, and the operating points that follow from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.sources.samples import CALIBRATION
from finetune.measures.operating_points import (
    RECALLS,
    REJECTS,
    images_needed,
    share_of,
    threshold_for_recall,
    threshold_for_rejects,
)
from finetune.measures.scores import Floats
from finetune.runs.answers import scores_of, tuning_truth, val_scores
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.truth import Truth, truth_of


@dataclass(frozen=True)
class HeldOut:
    """Defect scores of held-out images, by labels of the kind that the model learned from (``Truth.label``)."""

    good: dict[str, Floats]  # part -> scores of its good images; `calibration` in front, where there is one
    defective: Floats  # of val; empty where the model may look at good images alone
    looks_at_defects: bool

    def threshold(self, point: "Point", part: str) -> float | None:
        """The threshold of a point, from the good images of a part or from val's defective ones; None from too few."""
        if point.kind == "rejects":
            return threshold_for_rejects(self.good[part], point.share)
        return threshold_for_recall(self.defective, point.share)

    def why_none(self, point: "Point", part: str) -> str:
        """Why there is no threshold of a point."""
        if point.kind == "rejects":
            there, what = len(self.good[part]), f"good images in {part}"
        elif not self.looks_at_defects:
            return "looks at good images alone, and this needs defects of val"
        else:
            there, what = len(self.defective), "defective images in val"
        return f"needs {point.images_needed} {what}, which has {there}"


@dataclass(frozen=True)
class Point:
    """What is asked for: at most a share of good images rejected, or at least a share of defective images found."""

    kind: str  # rejects, recall
    share: float

    @property
    def images_needed(self) -> int:
        return images_needed(self.share if self.kind == "rejects" else 1 - self.share)

    def __str__(self) -> str:
        return f"rejects <= {100 * self.share:g} %" if self.kind == "rejects" else f"recall >= {self.share:g}"


POINTS = (*(Point("rejects", share) for share in REJECTS), *(Point("recall", share) for share in RECALLS))


def held_out(source: PredictionSet, dataset: Dataset, tuning: Truth, tuned: Floats) -> HeldOut:
    """``tuned`` are the scores of ``tuning``'s images, val's; those for calibration are read where there are any."""
    good = {"val": tuned[tuning.labels == 0]}
    scores = scores_of(source, dataset, CALIBRATION) if dataset.has_calibration and source.has(CALIBRATION) else None
    if scores is not None:
        good = {CALIBRATION: np.array([row[0] for row in scores.values()])} | good
    return HeldOut(good, tuned[tuning.labels > 0], tuning.label not in ("none", "good"))


def read_held_out(source: PredictionSet, dataset: Dataset) -> HeldOut:
    """Those of a finished run's set; raises DatasetError for a set without predictions for val."""
    tuning, scores = tuning_truth(source, dataset), val_scores(source, dataset)
    return held_out(source, dataset, tuning, np.array([scores[name][0] for name in tuning.names]))


def rejects_threshold(source: PredictionSet | None, dataset: Dataset, share: float) -> float:
    """The threshold that a new good image reaches with a chance of ``share``; from calibration, else from val.

    Raises DatasetError where these hold too few good images for it.
    """
    assert source is not None
    known, point = read_held_out(source, dataset), Point("rejects", share)
    part = next(iter(known.good))
    found = known.threshold(point, part)
    if found is None:
        raise DatasetError(
            f"--rejects {100 * share:g}%: {known.why_none(point, part)} ({dataset.folder}): name a larger share, or "
            "convert with --good-val and train again"
        )
    return found


def measured_points(source: PredictionSet, dataset: Dataset) -> list[dict[str, Any]]:
    """POINTS with their thresholds and, on test, the shares of defects found and good images rejected; for run.json."""
    known, test, scores = read_held_out(source, dataset), truth_of(dataset, "test"), scores_of(source, dataset, "test")
    assert scores is not None
    values = np.array([scores[name][0] for name in test.names])
    part, found = next(iter(known.good)), []
    for point in POINTS:
        threshold = known.threshold(point, part)
        entry: dict[str, Any] = {"point": str(point), "from": part if point.kind == "rejects" else "val"}
        if threshold is None:
            found.append(entry | {"threshold": None, "why": known.why_none(point, part)})
            continue
        rejected = values >= threshold
        sides = {"recall": test.labels > 0, "rejects": test.labels == 0}
        shares = {name: share_of(rejected[side], len(units_of(test, side))) for name, side in sides.items()}
        found.append(entry | {"threshold": threshold, **shares})
    return found


def points_of_run(folder: Path, dataset: Dataset) -> dict[str, list[dict[str, Any]]]:
    """``measured_points`` of each set of a run that no oracle prompted, and that was asked on val and test."""
    sets = (PredictionSet(path) for path in sorted((folder / "predictions").glob("*")) if path.is_dir())
    asked = (one for one in sets if one.has("val") and one.has("test") and not one.about.get("oracle"))
    return {one.name: measured_points(one, dataset) for one in asked if dataset.images("val")}


def units_of(truth: Truth, side: NDArray[np.bool_]) -> set[str]:
    """What counts once of some of a part's images: groups of images that belong together, and images alone."""
    return {group for group, wanted in zip(truth.groups, side.tolist(), strict=True) if wanted}
