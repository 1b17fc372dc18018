"""Measures and figures of detections: from saved predictions to numbers and PNG. No model code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay

from finetune.measures.boxes import BoxEvaluation, best_box_threshold, box_confusion, counts_at
from finetune.runs.dataset import Dataset, read_image
from finetune.training.worst_sheet import SHOWN, Tile, box_mark, draw_sheet


def measure(evaluations: Mapping[str, BoxEvaluation]) -> dict[str, dict[str, Any]]:
    """Measures of the boxes in each part ("val", "test"); keyed by part, JSON-like, all in 0..1.

    COCO's average precision and recall, also by size, and precision, recall and F1 at the score that has the best F1
    on val. Where val has no instances (few-shot splits), there is no threshold.
    """
    measured = {part: each.metrics.as_dict() | {"sizes": each.size_metrics()} for part, each in evaluations.items()}
    if evaluations["val"].truth["annotations"]:
        threshold = best_box_threshold(evaluations["val"].matches)
        for part, each in evaluations.items():
            measured[part] |= {**counts_at(each.matches, threshold), "threshold": threshold}
    return measured


def draw_figures(
    folder: Path, dataset: Dataset, evaluation: BoxEvaluation, threshold: float | None, title: str
) -> None:
    """Write figures of test: precision_recall.png, and with a threshold confusion.png and worst.png."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_precision_recall(folder / "precision_recall.png", evaluation.precision_curves(), title)
    if threshold is not None:
        confusion = box_confusion(evaluation.truth, evaluation.detections, threshold)
        draw_confusion(folder / "confusion.png", confusion, dataset.classes, f"{title}, score >= {threshold:.3f}")
        draw_worst(folder / "worst.png", dataset, evaluation, threshold)


def draw_precision_recall(path: Path, curves: Mapping[str, NDArray[np.float64]], title: str) -> None:
    """Precision by recall at IoU 0.5, a line for each class; ``curves`` as `BoxEvaluation` gives them."""
    figure = Figure(figsize=(6.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(np.linspace(0, 1, len(curve)), curve, label=f"{name} {curve.mean():.2f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"{title}: AP50", fontsize=9)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def draw_confusion(path: Path, confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> None:
    """Instances of each class (row) by the class of the box that found them; as `box_confusion` counts them."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    display = ConfusionMatrixDisplay(confusion, display_labels=[*classes, "nothing"])
    display.plot(ax=axes, cmap="Blues", colorbar=False, xticks_rotation=45)
    axes.set(xlabel="found as", ylabel="is")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)


def worst_images(evaluation: BoxEvaluation, threshold: float) -> list[int]:
    """Image ids with a mistake at the threshold, worst first: misses and false alarms, then the surest false alarm."""
    harm = {entry["id"]: [0, 0.0] for entry in evaluation.truth["images"]}
    ids = sorted(harm)
    for match in evaluation.matches:
        kept = match.scores >= threshold  # lower scores are matched later, so that they change nothing among these
        for index, hit, score in zip(match.image[kept], match.hit[0][kept], match.scores[kept], strict=True):
            mistakes = harm[ids[index]]
            mistakes[0] += -1 if hit else 1
            mistakes[1] = max(mistakes[1], 0.0 if hit else float(score))
        for index, instances in enumerate(match.instances):
            harm[ids[index]][0] += int(instances)  # less what was hit: the misses
    return [id_ for id_ in sorted(ids, key=lambda id_: (*(-value for value in harm[id_]), id_)) if harm[id_][0]]


def draw_worst(path: Path, dataset: Dataset, evaluation: BoxEvaluation, threshold: float) -> None:
    """The worst images of test in one sheet, with their boxes of at least the threshold's score."""
    names = {number: name for name, number in dataset.image_ids.items()}
    tiles = []
    for id_ in worst_images(evaluation, threshold)[:SHOWN]:
        image = read_image(dataset.image_file("test", names[id_]), cv2.IMREAD_COLOR_RGB)
        known = [entry for entry in evaluation.truth["annotations"] if entry["image_id"] == id_]
        said = [entry for entry in evaluation.detections if entry["image_id"] == id_ and entry["score"] >= threshold]
        marks = [[box_mark(entry["bbox"], _label(entry, dataset.classes)) for entry in side] for side in (known, said)]
        tiles.append(Tile(image, (0, 0, image.shape[1], image.shape[0]), marks[0], marks[1], names[id_]))
    draw_sheet(path, tiles)


def _label(entry: dict[str, Any], classes: Sequence[str]) -> str:
    score = f" {entry['score']:.2f}" if "score" in entry else ""
    return f"{classes[entry['category_id'] - 1]}{score}"
