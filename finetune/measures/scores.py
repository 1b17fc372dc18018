"""Measures of scores of images, on one side of a threshold or on all.

Measures that get an interval take ``weights``, B x N: how often each of N images counts in each of B resamples
(see ``bootstrap``); a row of ones gives the plain measure, equal to scikit-learn's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GOOD_QUANTILE = 0.95  # threshold among good images where val holds no defects


@dataclass(frozen=True)
class Levels:
    """Weight of positives and of negatives at each distinct score, scores ascending; both B x L."""

    positive: Floats
    negative: Floats

    @property
    def at_least(self) -> tuple[Floats, Floats]:
        """True and false positives with the threshold at each score, from the lowest score on; both B x L."""
        return cumulated(self.positive), cumulated(self.negative)


def cumulated(values: NDArray[Any]) -> Floats:
    return np.cumsum(values[:, ::-1], axis=1)[:, ::-1]


def score_levels(labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[Any]) -> Levels:
    """Bring N labels (0 or 1) and N scores to levels; ``weights`` B x N."""
    distinct, index = np.unique(scores, return_inverse=True)
    one_hot = np.zeros((len(scores), len(distinct)))
    one_hot[np.arange(len(scores)), index] = 1
    positive = np.asarray(labels, bool)
    return Levels(weights[:, positive] @ one_hot[positive], weights[:, ~positive] @ one_hot[~positive])


def auroc(levels: Levels) -> Floats:
    """Area under the ROC curve in 0..1, ties counted half; NaN where a side is empty; (B,)."""
    below = np.cumsum(levels.negative, axis=1) - levels.negative
    pairs = (levels.positive * (below + levels.negative / 2)).sum(axis=1)
    return divided(pairs, levels.positive.sum(axis=1) * levels.negative.sum(axis=1))


def average_precision(levels: Levels) -> Floats:
    """Average precision without interpolation, as in scikit-learn; NaN without positives; (B,)."""
    true, false = levels.at_least
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
    return divided((levels.positive * precision).sum(axis=1), levels.positive.sum(axis=1))


def best_threshold(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """The threshold with the best F1, halfway to the next lower score so that it does not hug the val images.

    Where val holds good images only, their 95 % quantile (few-shot splits). For val, never for test.
    """
    labels = np.asarray(labels, bool)
    if not labels.any():
        return float(np.quantile(scores, GOOD_QUANTILE))
    true, false = (side[0] for side in score_levels(labels, scores, np.ones((1, len(scores)))).at_least)
    best = int(np.argmax(2 * true / (true + false + labels.sum())))
    distinct = np.unique(scores)
    return float(distinct[best] if best == 0 else (distinct[best] + distinct[best - 1]) / 2)


def decisions(true: Floats, false: Floats, missed: Floats, passed: Floats) -> dict[str, Floats]:
    """Rates from counts of images: (B,) each of defects found, false alarms, defects missed, good ones passed."""
    recall, specificity = divided(true, true + missed), divided(passed, passed + false)
    return {
        "f1": divided(2 * true, 2 * true + false + missed),
        "balanced_accuracy": (recall + specificity) / 2,
        "recall": recall,
        "false_alarms": 100 * divided(false, false + passed),
    }


def macro_f1_defects(confusion: Floats) -> Floats:
    """Mean F1 over the classes that occur; ``confusion`` B x (1 + C) x (1 + C), truth by prediction, 0 is good.

    Good is no class of its own, as it is in ``macro_f1`` (`decisions.measure`): a defect that passes as good is a miss,
    a good image called defective a false alarm of that class.
    """
    true = np.diagonal(confusion, axis1=1, axis2=2)[:, 1:]
    present = confusion.sum(axis=2)[:, 1:]
    f1 = divided(2 * true, present + confusion.sum(axis=1)[:, 1:])
    return mean_known(np.where(present > 0, f1, np.nan))


def divided(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def mean_known(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where all are."""
    known = ~np.isnan(values)
    return divided(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
