"""Runs written by the contract from the ground truth with noise, as models would leave them; no model needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from finetune.runs.dataset import Dataset
from finetune.runs.predictions import image_scores
from finetune.runs.run_folder import Run, run_folder
from finetune.runs.truth import Truth

Detections = list[dict[str, Any]]


def _draws(
    truth: Truth, skill: float, random: np.random.Generator
) -> list[tuple[int, dict[str, Any] | None, int, float]]:
    """(image index, its annotation or None for a false alarm, class, score): what a detector of some skill sees."""
    classes = len(truth.dataset.classes)
    seen: list[tuple[int, dict[str, Any] | None, int, float]] = []
    for index, annotations in enumerate(truth.annotations):
        for entry in annotations:
            if random.random() < skill:
                wrong = random.random() > 0.5 + skill / 2
                category = int(random.integers(1, classes + 1)) if wrong else entry["category_id"]
                seen.append((index, entry, category, float(random.beta(2 + 4 * skill, 2))))
        for _ in range(random.poisson(2 * (1 - skill))):
            seen.append((index, None, int(random.integers(1, classes + 1)), float(random.beta(1, 3))))
    return seen


def boxes(truth: Truth, skill: float, random: np.random.Generator) -> Detections:
    """Boxes jittered by up to a tenth at full skill, more below, some at random."""
    found = []
    for index, entry, category, score in _draws(truth, skill, random):
        height, width = truth.sizes[index]
        side = min(height, width)
        corner = [*(random.random(2) * side * 0.7), *(20 + random.random(2) * side * 0.2)]
        x, y, w, h = corner if entry is None else entry["bbox"]
        shift = random.normal(0, 0.05 + 0.3 * (1 - skill), 4) * np.array([w, h, w, h])
        x, y = max(0.0, x + shift[0]), max(0.0, y + shift[1])
        box = [round(float(v), 2) for v in (x, y, max(2.0, w + shift[2]), max(2.0, h + shift[3]))]
        found.append({"image_id": truth.ids[index], "category_id": category, "bbox": box, "score": round(score, 5)})
    return found


def masks(truth: Truth, skill: float, random: np.random.Generator) -> Detections:
    """The same with masks: true ones grown, discs for false alarms; compressed RLE."""
    found = []
    for entry in boxes(truth, skill, random):
        height, width = truth.sizes[truth.ids.index(entry["image_id"])]
        canvas = np.zeros((height, width), np.uint8)
        x, y, w, h = entry["bbox"]
        cv2.ellipse(
            canvas, (int(x + w / 2), int(y + h / 2)), (max(1, int(w / 2)), max(1, int(h / 2))), 0, 0, 360, 1, -1
        )
        encoded = coco_mask.encode(np.asfortranarray(canvas))
        found.append(entry | {"segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}})
    return found


def heat(truth: Truth, index: int, skill: float, random: np.random.Generator) -> np.ndarray:
    """A blurred mask under smooth noise, H x W in about 0..1."""
    height, width = truth.sizes[index]
    spread = max(height, width) / 60
    blurred = cv2.GaussianBlur(truth.mask(index).astype(np.float32), (0, 0), spread)
    coarse = random.random((max(2, height // 16), max(2, width // 16))).astype(np.float32)
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(skill * blurred / max(float(blurred.max()), 1e-6) + (1 - skill) * noise, 0, 1)


def write_run(
    runs: Path,
    dataset: Dataset,
    name: str,
    sets: dict[str, tuple[str, float]],
    seed: int = 0,
    parts: tuple[str, ...] = ("val", "test"),
    **record: Any,
) -> Path:
    """A finished run; ``sets``: name -> (kind, skill), kinds being box, mask, class (heat maps), good (no classes)."""
    run = Run(run_folder(runs, dataset, name, seed), dataset, {"seed": seed, "epochs": 1})
    random = np.random.default_rng([seed, *name.encode()])
    makers: dict[str, Callable[..., Detections]] = {"box": boxes, "mask": masks}
    for set_name, (kind, skill) in sets.items():
        for part in parts:
            truth = Truth(dataset, part)
            if kind in makers:
                found = makers[kind](truth, skill, random)
                scores = image_scores(truth.names, dataset.image_ids, len(dataset.classes), found)
                run.write_predictions(set_name, part, found, scores)
            else:
                _write_maps(run, set_name, truth, kind, skill, random)
        about = {"model": name, "prompt": None, "oracle": set_name.startswith("gt"), "label": kind}
        run.describe_set(set_name, **about, **({"heatmap_middle": 1.0} if kind in ("class", "good") else {}))
    run.finish(**({"model": name, "parameters": 1000, "random_weights": False, "train_seconds": 1.0} | record))
    return run.folder


def _write_maps(run: Run, set_name: str, truth: Truth, kind: str, skill: float, random: np.random.Generator) -> None:
    maps, scores = {}, {}
    for index, name in enumerate(truth.names):
        maps[name] = heat(truth, index, skill, random)
        label = int(truth.labels[index])
        defect = float(np.clip(random.normal(0.3 + 0.5 * skill * (label > 0), 0.15), 0, 1))
        classes = random.random(len(truth.dataset.classes)) * (1.2 - skill)
        classes[max(0, label - 1)] += 0.6 * (label > 0)
        told = [float("nan")] * len(classes) if kind == "good" else list(np.clip(classes, 0, 1) * defect)
        scores[name] = [defect, *told]
    run.write_predictions(set_name, truth.part, [], scores)
    run.write_heatmaps(set_name, truth.part, maps, 1.0)


def results_file(path: Path, dataset: Dataset, skill: float = 0.7) -> Path:
    """Someone else's COCO results for test, made without any of our code that writes runs."""
    truth = Truth(dataset, "test")
    path.write_text(json.dumps(boxes(truth, skill, np.random.default_rng(5))), "utf-8")
    return path
