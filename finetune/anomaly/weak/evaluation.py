"""Heat maps, scores and boxes of a residual transformer, and their measures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from converters.sources.samples import CALIBRATION
from finetune.anomaly.evaluation import image_measures
from finetune.anomaly.features import patch_features
from finetune.anomaly.memory import smoothed
from finetune.anomaly.weak.network import ResidualTransformer
from finetune.anomaly.weak.recipe import LABELS
from finetune.anomaly.weak.residuals import Memory
from finetune.measures.heat_levels import middle_of, to_levels, to_values
from finetune.measures.masks import best_level
from finetune.runs.run_folder import Run
from finetune.runs.truth import truth_of
from finetune.training.heat_maps import Map, detections, full_size, level_from_val, pointing_game, to_full_size
from finetune.training.images import Images

MODEL = "residual transformer"
SET = "tuned"


@torch.no_grad()
def judged(
    network: ResidualTransformer, memory: Memory, features: Tensor, size: int, classes: int
) -> list[tuple[Map, list[float]]]:
    """Of B images' features (B x h x w x F): a map of probabilities, size x size, and scores of defect and classes.

    An image is as defective as its peak; its classes share that as the blocks do, each counting as it is defective.
    They are NaN where the network tells none.
    """
    answers = []
    for logits in network(memory.residuals(features)).cpu():
        heat = np.asarray(expit(smoothed(logits[..., 0].numpy(), size)), np.float32)
        chance, peak = logits[..., :1].sigmoid(), float(heat.max())
        shares = (chance * logits[..., 1:].softmax(-1)).sum((0, 1)) / chance.sum()
        answers.append((heat, [peak, *(peak * shares if len(shares) else torch.full((classes,), torch.nan)).tolist()]))
    return answers


def class_of(scores: Sequence[float]) -> int:
    """The class of an image's regions, from 1; 1 where no classes are told."""
    return 1 if np.isnan(scores[1]) else int(np.argmax(scores[1:])) + 1


def evaluate(
    run: Run,
    backbone: nn.Module,
    arch: str,
    network: ResidualTransformer,
    memory: Memory,
    parts: dict[str, Images],
    device: str,
) -> dict[str, Any]:
    """Score val and test, save both, and measure them; images for calibration are scored and saved."""
    kind, size, classes = LABELS[run.settings["labels"]], run.settings["imgsz"], len(run.dataset.classes)
    maps: dict[str, list[Map]] = {part: [] for part in parts}
    scores: dict[str, list[list[float]]] = {part: [] for part in parts}
    side = 0
    for part, images in parts.items():
        for features in patch_features(backbone, arch, images, device, part):
            side = features.shape[1]
            for heat, row in judged(network, memory, features, size, classes):
                maps[part].append(heat)
                scores[part].append(row)
    peaks = np.array([row[0] for row in scores["val"]])
    middle = middle_of(peaks[(parts["val"].labels == 0).numpy()], float(peaks.max()))
    level = level_of(run, kind, parts["val"], maps["val"], middle)
    measured: dict[str, Any] = {}
    for part, images in parts.items():
        boxes = detections(run.dataset, images, maps[part], list(map(class_of, scores[part])), level, middle)
        run.write_predictions(SET, part, boxes, dict(zip(images.names, scores[part], strict=True)))
        run.write_heatmaps(SET, part, to_full_size(images, maps[part]), middle)
        if part == CALIBRATION:
            continue  # of which thresholds alone are to come
        measured[part] = image_measures(images.labels.numpy() > 0, [row[0] for row in scores[part]])
        measured[part] |= pointing_game(run.dataset, part, images, maps[part])
    about = {"heatmap": "probability of a defect", "heatmap_middle": middle, "box_threshold": level, "cells": side}
    run.describe_set(SET, model=MODEL, prompt=None, oracle=False, label=kind, classes=kind != "good", **about)
    return measured


def level_of(run: Run, kind: str, val: Images, maps: Sequence[Map], middle: float) -> float:
    """The map value at which regions of val count as found, chosen by labels of the kind that was learned from."""
    defect = (val.labels > 0).numpy()
    if kind in ("mask", "box") and defect.any():
        truth = truth_of(run.dataset, "val", kind)
        heats = (to_levels(full_size(heat, size), middle) for heat, size in zip(maps, val.sizes, strict=True))
        level = best_level((heat, truth.mask(index)) for index, heat in enumerate(heats))
        return float(to_values(np.array([level], np.uint16), middle)[0])
    if kind == "class":
        return level_from_val(maps, defect)
    known = [heat for heat, shows in zip(maps, defect, strict=True) if not shows] or maps
    return level_from_val(known, np.zeros(len(known)))
