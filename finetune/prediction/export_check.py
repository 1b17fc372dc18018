"""An exported file held against its run: the same measures on val and test, and where a verdict flips."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress, table
from finetune.runs.answers import image_threshold
from finetune.runs.dataset import Dataset, read_image
from finetune.runs.predictions import PredictionSet

HEADER = ("part", "images", "AUROC run", "AUROC export", "AP run", "AP export", "largest difference", "flips")


def check_export(file: Path, source: PredictionSet, dataset: Dataset) -> str:
    """A table of val and test: measures of the saved scores and of the file's in onnxruntime; and flipped images."""
    from finetune.training.onnx_files import open_onnx

    run, threshold = open_onnx(file), image_threshold(source, dataset)
    rows, lines = [], []
    for part in ("val", "test"):
        saved = source.scores(dataset, part)
        if saved is None:
            raise DatasetError(f"{source.source}: holds no scores for {part}: predict again with --part test")
        names, labels = dataset.images(part), dataset.labels(part)
        with progress(names, len(names), f"checking {part}") as bar:
            images = (read_image(dataset.image_file(part, name), cv2.IMREAD_COLOR_RGB) for name in bar)
            ours = np.array([float(run(image)["score"]) for image in images])
        before = np.array([saved[name][0] for name in names])
        flipped = [name for name, a, b in zip(names, before >= threshold, ours >= threshold, strict=True) if a != b]
        defect = np.array([labels[name] is not None for name in names])
        rows.append(
            [part, len(names), *_measured(defect, before, ours), f"{abs(ours - before).max():.6f}", len(flipped)]
        )
        lines += [f"flips: {part} {name}" for name in flipped]
    return "\n".join([table(rows, HEADER), *(lines or ["no verdict flips"])])


def _measured(defect: Any, before: Any, ours: Any) -> list[str]:
    """AUROC and AP of both; a dash where the part shows defects alone, or none."""
    if defect.all() or not defect.any():
        return ["-"] * 4
    return [f"{f(defect, scores):.4f}" for f in (roc_auc_score, average_precision_score) for scores in (before, ours)]
