"""What no model is needed for: one number of a whole image as its defect score, beside which image measures stand.

Where such a number tells defective images as well as a model, the model's image measures prove nothing.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from converters.importing.statistics import STATISTICS, image_statistics
from finetune.comparison.evidence import Answer, Evidence
from finetune.comparison.tables import MEASURES
from finetune.measures.scores import Floats, auroc, best_threshold, score_levels
from finetune.runs.dataset import read_image
from finetune.runs.predictions import PredictionSet
from finetune.runs.truth import Truth

TRIVIAL = ("mean grey level", "sharpness", "file size")  # of STATISTICS
# A threshold that calls every image defective finds all, and one that calls none raises no alarm: both go together.
JUDGED_BY = {"recall": "balanced_accuracy", "false_alarms": "balanced_accuracy"}


def trivial_evidence(test: Truth, val: Truth) -> dict[str, Evidence]:
    """The evidence of each trivial score on one test part, with its direction and its threshold from val.

    Where val cannot tell the direction, since it shows only good or only defective images, it is the better on test:
    rather a model doubted too much.
    """
    numbers = {part: statistics_of(part) for part in (test, val)}
    found = {}
    for name in TRIVIAL:
        scores, tuning = numbers[test][name], numbers[val][name]
        both_sides = 0 < np.count_nonzero(val.labels) < len(val.labels)
        told = _auroc(val, tuning) if both_sides else _auroc(test, scores)
        sign = -1.0 if told < 0.5 else 1.0  # NaN, too, where test shows one side only
        threshold = best_threshold(val.labels > 0, sign * tuning) if val.names else None
        untold = np.full((len(scores), len(test.dataset.classes)), np.nan)
        answer = Answer(test, np.column_stack([sign * scores, untold]), None, None, PredictionSet(test.dataset.folder))
        called = None if threshold is None else sign * scores >= threshold
        found[name] = Evidence(test, answer, threshold, called, None, None, None, None, None, [])
    return found


@lru_cache(maxsize=16)
def statistics_of(truth: Truth) -> dict[str, Floats]:
    """STATISTICS of the images of a part; (N,) each."""
    rows = []
    for name in truth.names:
        path = truth.dataset.image_file(truth.part, name)
        rows.append([*image_statistics(read_image(path, cv2.IMREAD_GRAYSCALE)), path.stat().st_size])
    return dict(zip(STATISTICS, np.array(rows, float).reshape(-1, len(STATISTICS)).T, strict=True))


def _auroc(truth: Truth, scores: Floats) -> float:
    return float(auroc(score_levels(truth.labels > 0, scores, np.ones((1, len(scores)))))[0])


def strike(measures: dict[str, Any], trivial: list[dict[str, Any]]) -> None:
    """Note in a model's image measures, as ``reached_by``, which trivial score does as well or better."""
    for name, reached in [(name, _reached(measures, trivial, JUDGED_BY.get(name, name))) for name in measures]:
        if MEASURES[name].level == "image" and reached:
            measures[name]["reached_by"] = reached


def _reached(measures: dict[str, Any], trivial: list[dict[str, Any]], name: str) -> str | None:
    """The best of the trivial scores, where it is no worse than the model."""
    ours = measures.get(name, {}).get("value")
    known = [(one["measures"][name]["value"], one["name"]) for one in trivial if name in one["measures"]]
    known = [pair for pair in known if pair[0] is not None]
    best, whose = max(known, key=lambda pair: pair[0], default=(None, None))
    return whose if ours is not None and best is not None and best >= ours else None
