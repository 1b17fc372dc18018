"""What a finished run says of one new image, and from which score on the image counts as defective."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from finetune.measures.scores import best_threshold
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet, image_scores
from finetune.runs.truth import Truth, truth_of


@dataclass(frozen=True)
class Answer:
    """What a model says of one image of H x W px."""

    scores: list[float]  # how defective, 0..1, and one score a class; NaN where the model tells no classes
    detections: list[dict[str, Any]]  # COCO results without ``image_id``
    heat: NDArray[np.float32] | None = None  # H x W, 0 and more


# What is asked of an image of a dataset: its part, its name, and its pixels, H x W x 3 of RGB bytes.
Asked = Callable[[str, str, NDArray[np.uint8]], Answer]


@dataclass(frozen=True)
class Predictor:
    """A finished run at work: ``look`` takes an image, H x W x 3 of RGB bytes.

    It raises DatasetError, without a name, for one that the model cannot look at.
    """

    look: Callable[[NDArray[np.uint8]], Answer]
    classes: list[str]
    threshold: float  # an image with this defect score or more is defective; chosen on val
    middle: float = 1.0  # a usual peak of a good image's heat map
    level: float | None = None  # of heat maps whose regions are its detections
    least: float = 0.0  # score of a detection that is shown
    run: Path | None = None  # its folder
    source: PredictionSet | None = None  # the set whose predictions for val the threshold is from


def tuning_truth(source: PredictionSet, dataset: Dataset) -> Truth:
    """The truth of val by labels of the kind that a set's model learned from: what its thresholds may be chosen by."""
    return truth_of(dataset, "val", source.about.get("label") or "mask")


def scores_of(source: PredictionSet, dataset: Dataset, part: str) -> dict[str, list[float]] | None:
    """Image name -> its defect score and those of classes, from the table or from detections; None without either."""
    scores = source.scores(dataset, part)
    if scores is None and (found := source.detections(dataset, part)) is not None:
        scores = image_scores(dataset.images(part), dataset.image_ids, len(dataset.classes), found)
    return scores


def val_scores(source: PredictionSet, dataset: Dataset) -> dict[str, list[float]]:
    """``scores_of`` val; raises DatasetError for a set without predictions for it."""
    scores = scores_of(source, dataset, "val")
    if scores is None:
        raise DatasetError(f"{source.source}: holds no predictions for val to choose a threshold on: predict again")
    return scores


def image_threshold(source: PredictionSet, dataset: Dataset) -> float:
    """The threshold of defect scores that val chooses, from the saved predictions; as `compare` has it.

    Raises DatasetError for a set without predictions for val.
    """
    truth, scores = tuning_truth(source, dataset), val_scores(source, dataset)
    return best_threshold(truth.labels > 0, np.array([scores[name][0] for name in truth.names]))


def detections_scores(detections: list[dict[str, Any]], classes: int) -> list[float]:
    """Scores of one image from its detections (without ids), as ``image_scores``."""
    return image_scores(["image"], {"image": 0}, classes, [{"image_id": 0, **found} for found in detections])["image"]


def known_about(source: PredictionSet, *names: str) -> list[float]:
    """Numbers of a set's set.json; raises DatasetError where an older version left one out."""
    missing = [name for name in names if name not in source.about]
    if missing:
        run = source.source.parents[1]
        raise DatasetError(
            f"{source.source / 'set.json'}: knows no {missing[0]}: run `python finetune/predict.py {run} --part test`"
        )
    return [float(source.about[name]) for name in names]
