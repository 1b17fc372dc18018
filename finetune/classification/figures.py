"""The classifier's figures as PNG: learning curves, confusion matrix, reliability."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from finetune.measures.decisions import Array, reliability
from finetune.runs.run_folder import Run


def plot(run: Run, history: Sequence[dict[str, float]], labels: Array, probabilities: Array, decisions: Array) -> None:
    """Write learning.png, confusion.png and reliability.png into the run's folder.

    ``labels`` and ``decisions`` are N class indices of test, ``probabilities`` N x C.
    """
    folder, names = run.folder, ["good", *run.dataset.classes]
    title = f"{run.dataset.name}, {folder.parent.name}, seed {run.settings['seed']}, test"
    draw_learning(folder / "learning.png", history, title)
    draw_confusion(folder / "confusion.png", labels, decisions, names, title)
    draw_reliability(folder / "reliability.png", probabilities, labels, title)


def _axes(title: str, width: float = 5.0) -> tuple[Any, Any]:
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=9)
    return figure, axes


def draw_learning(path: Path, history: Sequence[dict[str, float]], title: str) -> None:
    """Losses (left axis) and val's macro-F1 (right axis) by epoch."""
    figure, axes = _axes(title, 6.5)
    epochs = [row["epoch"] for row in history]
    axes.plot(epochs, [row["loss"] for row in history], label="train loss")
    axes.plot(epochs, [row["val_loss"] for row in history], label="val loss")
    axes.set(xlabel="epoch", ylabel="loss")
    right = axes.twinx()
    right.plot(epochs, [row["macro_f1"] for row in history], "k--", label="val macro-F1")
    right.set(ylabel="macro-F1", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=110)


def draw_confusion(path: Path, labels: Array, decisions: Array, names: list[str], title: str) -> None:
    """Images of each class (row) by what they were called (column)."""
    figure, axes = _axes(title, 6.0)
    ConfusionMatrixDisplay.from_predictions(
        labels,
        decisions,
        labels=range(len(names)),
        display_labels=names,
        ax=axes,
        colorbar=False,
        cmap="Blues",
        xticks_rotation=45,
    )
    figure.savefig(path, dpi=110)


def draw_reliability(path: Path, probabilities: Array, labels: Array, title: str) -> None:
    """Accuracy by confidence; the diagonal is perfect calibration, the numbers are images."""
    figure, axes = _axes(title)
    axes.plot([0, 1], [0, 1], color="0.7")
    counts, confidence, accuracy = (
        np.array(column) for column in zip(*reliability(probabilities, labels), strict=True)
    )
    axes.plot(confidence, accuracy, "o-")
    for count, x, y in zip(counts, confidence, accuracy, strict=True):
        axes.annotate(str(count), (x, y), textcoords="offset points", xytext=(5, -9), fontsize=8)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path, dpi=110)
