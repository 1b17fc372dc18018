"""Scores, heat maps and boxes of the distance to good patches, and their measures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from converters.sources.samples import CALIBRATION
from finetune.anomaly.memory import distance_maps
from finetune.anomaly.residuals import Types, residual_table
from finetune.measures.decisions import measure
from finetune.measures.heat_levels import middle_of
from finetune.runs.run_folder import Run
from finetune.training.heat_maps import detections, level_from_val, pointing_game, to_full_size
from finetune.training.images import Images

MODEL = "nearest good patches"
SET = "tuned"


def evaluate(
    run: Run, backbone: nn.Module, arch: str, memory: Tensor, types: Types | None, parts: dict[str, Images], device: str
) -> dict[str, Any]:
    """Score val and test, save both, and measure them; images for calibration are scored and saved.

    An image's score is d / (d + middle): d is its largest distance of a cell, middle the median of that over val's good
    images. Regions are found where a map is above what most pixels of val's good images stay under: no defect is
    looked at. With ``types``, scores are probabilities, and regions are found where val's images are told apart best.
    """
    found = {part: distance_maps(backbone, arch, memory, images, device, part) for part, images in parts.items()}
    (maps, largest, cells), good = found["val"], (parts["val"].labels == 0).numpy()
    middle = middle_of(np.array([heat.max() for heat in maps])[good], max(float(heat.max()) for heat in maps))
    usual = middle_of(np.array(largest)[good], max(largest))
    known = [heat for heat, is_good in zip(maps, good, strict=True) if is_good] or maps
    level = level_from_val(maps, ~good) if types else level_from_val(known, np.zeros(len(known)))
    unnamed = [float("nan")] * len(run.dataset.classes)
    measured: dict[str, Any] = {}
    for part, images in parts.items():
        maps, peaks = found[part][0], np.array(found[part][1])
        defect = images.labels.numpy() > 0
        rows, classes = [[peak / (peak + usual), *unnamed] for peak in peaks], [1] * len(images)
        if types:
            chances = types(residual_table(backbone, arch, memory, images, device, f"residuals of {part}"))
            rows = np.column_stack([1 - chances[:, 0], chances[:, 1:]]).tolist()
            classes = (chances[:, 1:].argmax(1) + 1).tolist()
        scores = dict(zip(images.names, rows, strict=True))
        boxes = detections(run.dataset, images, maps, classes, level, middle)  # of class 1 where it knows none
        run.write_predictions(SET, part, boxes, scores)
        run.write_heatmaps(SET, part, to_full_size(images, maps), middle)
        if part == CALIBRATION:
            continue  # of which thresholds alone are to come
        measured[part] = {
            **image_measures(defect, [row[0] for row in rows]),
            **(measure(images.labels.numpy(), chances.argmax(1)) if types else {}),
            **pointing_game(run.dataset, part, images, maps),
        }
    about = {
        "heatmap": "distance to good patches",
        "heatmap_middle": middle,
        "box_threshold": level,
        "cells": cells,
        "score_middle": usual,
    }
    kind = "class" if types else "good"
    run.describe_set(SET, model=MODEL, prompt=None, oracle=False, label=kind, classes=bool(types), **about)
    return measured


def image_measures(defect: NDArray[np.bool_], scores: Sequence[float]) -> dict[str, float]:
    """AUROC and average precision of image scores; NaN without good images or without defects."""
    both = defect.any() and not defect.all()
    return {
        "auroc": float(roc_auc_score(defect, scores)) if both else float("nan"),
        "average_precision": float(average_precision_score(defect, scores)) if both else float("nan"),
    }
