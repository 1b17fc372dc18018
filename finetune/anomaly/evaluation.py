"""Scores, heat maps and boxes of the distance to good patches, and their measures."""

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from finetune.anomaly.memory import distance_maps
from finetune.measures.heat_levels import middle_of
from finetune.runs.run_folder import Run
from finetune.training.heat_maps import detections, level_from_val, pointing_game, to_full_size
from finetune.training.images import Images, load_image
from finetune.training.timing import cost_of_answers

MODEL = "nearest good patches"
SET = "tuned"


def evaluate(
    run: Run, backbone: nn.Module, arch: str, memory: Tensor, parts: dict[str, Images], device: str
) -> dict[str, Any]:
    """Score val and test, save both, and measure them.

    An image's score is d / (d + middle): d is its largest distance of a cell, middle the median of that over val's good
    images. Regions are found where a map is above what most pixels of val's good images stay under: no defect is
    looked at. What an answer costs is under ``cost``.
    """
    found = {part: distance_maps(backbone, arch, memory, images, device, part) for part, images in parts.items()}
    (maps, largest, cells), good = found["val"], (parts["val"].labels == 0).numpy()
    middle = middle_of(np.array([heat.max() for heat in maps])[good], max(float(heat.max()) for heat in maps))
    usual = middle_of(np.array(largest)[good], max(largest))
    known = [heat for heat, is_good in zip(maps, good, strict=True) if is_good] or maps
    level = level_from_val(known, np.zeros(len(known)))

    def answer(name: str) -> object:
        images = load_image(run.dataset, "test", name, parts["test"].pixels.shape[-1])
        return to_full_size(images, distance_maps(backbone, arch, memory, images, device, name)[0])

    measured: dict[str, Any] = {"cost": cost_of_answers(answer, parts["test"].names, device)}
    for part, images in parts.items():
        maps, peaks = found[part][0], np.array(found[part][1])
        unnamed = [float("nan")] * len(run.dataset.classes)
        scores = {name: [peak / (peak + usual), *unnamed] for name, peak in zip(images.names, peaks, strict=True)}
        boxes = detections(run.dataset, images, maps, [1] * len(images), level, middle)  # of some class: it knows none
        run.write_predictions(SET, part, boxes, scores)
        run.write_heatmaps(SET, part, to_full_size(images, maps), middle)
        defect = images.labels.numpy() > 0
        both = defect.any() and not defect.all()
        measured[part] = {
            "auroc": float(roc_auc_score(defect, peaks)) if both else float("nan"),
            "average_precision": float(average_precision_score(defect, peaks)) if both else float("nan"),
            **pointing_game(run.dataset, part, images, maps),
        }
    about = {"heatmap": "distance to good patches", "heatmap_middle": middle, "cells": cells, "box_threshold": level}
    run.describe_set(SET, model=MODEL, prompt=None, oracle=False, label="good", classes=False, **about)
    return measured
