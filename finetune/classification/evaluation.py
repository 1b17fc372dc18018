"""Predictions of a trained classifier on val and test: calibrated, decided, with heat maps, and measured."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from converters.sources.samples import CALIBRATION
from finetune.classification.class_maps import class_maps
from finetune.classification.loop import Job, logits_of
from finetune.measures.boxes import LEAST_CELLS, box_metrics
from finetune.measures.decisions import (
    Array,
    calibration_error,
    decide,
    defect_auroc,
    f1_interval,
    fit_temperature,
    fit_thresholds,
    measure,
    softmax,
)
from finetune.measures.heat_levels import middle_of
from finetune.runs.run_folder import Run
from finetune.training.backbones import CellNet
from finetune.training.heat_maps import detections, level_from_val, pointing_game, to_full_size
from finetune.training.images import Images

MODEL = "CNN classifier"
SET = "tuned"


def evaluate(
    run: Run, job: Job, network: nn.Module, parts: dict[str, Images]
) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    """Predict val and test, save both, and measure them; returns measures, probabilities and decisions by part.

    Images for calibration are predicted and saved as well.
    """
    logits = {name: logits_of(network, images, job) for name, images in parts.items()}
    labels = {name: images.labels.numpy() for name, images in parts.items()}
    has_defects = bool((labels["val"] > 0).any())
    temperature = fit_temperature(logits["val"], labels["val"]) if has_defects else 1.0
    probabilities = {name: softmax(values, temperature) for name, values in logits.items()}
    rule, about_rule = decision_rule(job.attempt.imbalance, probabilities["val"], labels["val"])
    decisions = {name: rule(values) for name, values in probabilities.items()}
    wanted = job.attempt.heatmaps
    boxes, looked, about = heat_maps(run, job, network, parts, probabilities) if wanted else ({}, {}, {})
    measured: dict[str, Any] = {"temperature": temperature, **about_rule}
    for name, images in parts.items():
        scores = {image: [1 - row[0], *row[1:]] for image, row in zip(images.names, probabilities[name], strict=True)}
        run.write_predictions(SET, name, boxes.get(name, []), scores)
        if about_rule:  # val chose more than one threshold: the comparison is to take what they decide
            run.write_decisions(SET, name, dict(zip(images.names, decisions[name].tolist(), strict=True)))
        if name != CALIBRATION:  # of which thresholds alone are to come
            measured[name] = measure_part(labels[name], probabilities[name], logits[name], decisions[name])
            measured[name] |= looked.get(name, {})
    run.describe_set(SET, model=MODEL, prompt=None, oracle=False, label="class", **about)
    return measured, probabilities, decisions


def decision_rule(
    imbalance: str, probabilities: Array, labels: Array
) -> tuple[Callable[[Array], Array], dict[str, Any]]:
    """Rule that makes classes of probabilities (N x C), and what run.json tells of it: likeliest, or by thresholds."""
    if imbalance != "thresholds":
        return lambda values: values.argmax(1), {}
    thresholds = fit_thresholds(probabilities, labels)
    return lambda values: decide(values, thresholds), {"thresholds": thresholds}


def measure_part(labels: Array, probabilities: Array, logits: Array, decisions: Array) -> dict[str, Any]:
    return {
        **measure(labels, decisions),
        "macro_f1_interval": f1_interval(labels, [decisions]),
        "auroc": defect_auroc(labels, probabilities),
        "calibration_error": calibration_error(probabilities, labels),
        "calibration_error_uncalibrated": calibration_error(softmax(logits), labels),
    }


def heat_maps(
    run: Run, job: Job, network: nn.Module, parts: dict[str, Images], probabilities: dict[str, Array]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Write the heat maps of both parts; return boxes and measures by part, and what set.json says of the maps."""
    arch, batch = job.attempt.arch, job.attempt.batch
    found = {name: class_maps(network, arch, images, batch, job.device) for name, images in parts.items()}
    maps, cells = {name: seen for name, (seen, _) in found.items()}, found["val"][1]
    labels, peaks = parts["val"].labels.numpy(), np.array([heat.max() for heat in maps["val"]])
    middle = middle_of(peaks[labels == 0], float(peaks.max()))
    level = level_from_val(maps["val"], labels)
    classes = {name: values[:, 1:].argmax(1) + 1 for name, values in probabilities.items()}
    boxes, measures = {}, {}
    for name, images in parts.items():
        run.write_heatmaps(SET, name, to_full_size(images, maps[name]), middle)
        boxes[name] = detections(run.dataset, images, maps[name], classes[name], level, middle)
        if name == CALIBRATION:
            continue
        measures[name] = pointing_game(run.dataset, name, images, maps[name])
        if cells >= LEAST_CELLS:
            measures[name]["mAP50"] = box_metrics(run.dataset.ground_truth(name), boxes[name]).map50
    kind = "class activation" if isinstance(network, CellNet) else "Grad-CAM++"
    about = {"heatmap": f"P(defect) x {kind}", "heatmap_middle": middle, "cells": cells, "box_threshold": level}
    return boxes, measures, about
