"""From probabilities to decisions and figures: calibration, thresholds, costs, and the measures of a classifier.

Probabilities are N x C float arrays whose rows add up to 1, column 0 is good; labels are N class indices.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.optimize import minimize_scalar
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score, roc_auc_score

from finetune.measures.bootstrap import resample
from finetune.measures.intervals import Sampled, mean_interval

Array = NDArray[Any]
RATIOS = np.geomspace(0.1, 10, 21)  # of a class's threshold to the others'
RESAMPLES = 1000


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    return special.softmax(logits / temperature, axis=1)


def fit_temperature(logits: Array, labels: Array) -> float:
    """The temperature, 0.05 to 20, with the least negative log-likelihood. For val, never for test.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017. It changes no argmax.
    """
    classes = range(logits.shape[1])
    found = minimize_scalar(
        lambda log_t: log_loss(labels, softmax(logits, np.exp(log_t)), labels=classes),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


def reliability(probabilities: Array, labels: Array, bins: int = 10) -> list[tuple[int, float, float]]:
    """Images, mean confidence and accuracy in each bin of confidence that holds any (Guo et al. 2017)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [(index == i) for i in range(bins)]
    return [(int(row.sum()), float(confidence[row].mean()), float(right[row].mean())) for row in rows if row.any()]


def calibration_error(probabilities: Array, labels: Array, bins: int = 10) -> float:
    """Expected calibration error, 0..1: how far confidence and accuracy are apart, weighted by bin size."""
    rows = reliability(probabilities, labels, bins)
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in rows) / len(labels)


def decide(probabilities: Array, thresholds: ArrayLike) -> Array:
    """The class whose probability is largest compared to its threshold; equal thresholds are argmax. (N,)"""
    return (probabilities / np.asarray(thresholds)).argmax(1)


def fit_thresholds(probabilities: Array, labels: Array) -> list[float]:
    """A threshold per class with the best macro-F1, one class after the other, twice. For val, never for test.

    Of equally good ones it takes the one nearest to 1, so that few val images move little.
    """
    thresholds = np.ones(probabilities.shape[1])
    by_distance = sorted(RATIOS, key=lambda ratio: abs(np.log(ratio)))
    for index in [*range(len(thresholds))] * 2:
        tried = [np.where(np.arange(len(thresholds)) == index, ratio, thresholds) for ratio in by_distance]
        thresholds = max(tried, key=lambda values: measure(labels, decide(probabilities, values))["macro_f1"])
    return [float(value) for value in thresholds]


def measure(labels: Array, decisions: Array) -> dict[str, float]:
    """Accuracy, balanced accuracy and macro-F1, all in 0..1; good counts as a class like the others."""
    return {
        "accuracy": float(accuracy_score(labels, decisions)),
        "balanced_accuracy": float(recall_score(labels, decisions, labels=np.unique(labels), average="macro")),
        "macro_f1": float(f1_score(labels, decisions, average="macro", zero_division=0)),
    }


def defect_auroc(labels: Array, probabilities: Array) -> float:
    """Area under the ROC curve of 1 - P(good) for defect against good; NaN where one side is empty."""
    defect = np.asarray(labels) > 0
    return float(roc_auc_score(defect, 1 - probabilities[:, 0])) if defect.any() and not defect.all() else float("nan")


def f1_interval(labels: Array, decisions: Sequence[Array], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of macro-F1, averaged over S trainings, for other images (resampled in classes) and trainings.

    None where no resample differs, as for a model that calls every image the same.
    """
    generator = np.random.default_rng(seed)
    weights = resample(list(labels), range(len(labels)), RESAMPLES, generator)
    weights = np.concatenate([np.ones((1, len(labels))), weights])
    values = np.stack([_weighted_f1(labels, found, weights) for found in decisions])
    return mean_interval(Sampled(values[:, 0], values[:, 1:], len(labels)))


def _weighted_f1(labels: Array, decisions: Array, weights: Array) -> Array:
    """Macro-F1 for each of B rows of image weights (B x N); classes that neither occur nor are decided don't count."""
    classes = np.union1d(labels, decisions)
    truth, found = np.asarray(labels)[:, None] == classes, np.asarray(decisions)[:, None] == classes
    hits, total = weights @ (truth & found), weights @ truth.astype(float) + weights @ found.astype(float)
    return np.divide(2 * hits, total, out=np.zeros_like(total), where=total > 0).mean(1)
