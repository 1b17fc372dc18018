"""Probability of detection over the size of a defect, from which were found and which were not.

A logistic curve over the logarithm of size, by maximum likelihood: the hit/miss analysis of non-destructive testing
(MIL-HDBK-1823A, Nondestructive Evaluation System Reliability Assessment, 2009, appendix G). a90 is the size found with
a probability of 0.9; a90/95 its upper 95 % confidence bound, by the likelihood ratio (ibid.; A. Cheng, S. Iles 1988 for
bands): the largest size at which a curve through 0.9 is not refuted, which is truer of few defects than the delta
method.
"""

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, log_expit, logit
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression

from finetune.measures.scores import Floats

LEAST_DEFECTS = 40  # the handbook asks for 60 or more
FOUND = 0.9
CRITICAL = float(chi2.ppf(0.90, 1)) / 2  # of a log-likelihood; both tails together 10 %, so 95 % on one side
FAR = log(1000)  # a bound is looked for up to a thousand times the largest defect
STEEPEST = 200.0


@dataclass(frozen=True)
class Curve:
    """P(found) = expit(intercept + slope * log size)."""

    intercept: float
    slope: float
    a90: float
    a90_95: float | None  # None where no size bounds it

    def at(self, sizes: Floats) -> Floats:
        return np.asarray(expit(self.intercept + self.slope * np.log(sizes)), float)


def fit_logistic(x: Floats, hit: NDArray[np.bool_]) -> tuple[float, float]:
    """Intercept and slope with the greatest likelihood; ``x`` and ``hit`` are (N,) each."""
    middle, scale = float(x.mean()), float(x.std()) or 1.0
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(((x - middle) / scale)[:, None], hit)
    slope = float(fit.coef_[0, 0]) / scale
    return float(fit.intercept_[0]) - slope * middle, slope


def log_likelihood(intercept: float, slope: float, x: Floats, hit: NDArray[np.bool_]) -> float:
    logits = intercept + slope * x
    return float(log_expit(np.where(hit, logits, -logits)).sum())


def detection_curve(sizes: Floats, hit: NDArray[np.bool_]) -> Curve | str:
    """The curve of N defects, or why there is none."""
    if len(sizes) < LEAST_DEFECTS:
        return f"{len(sizes)} defects, and a curve needs {LEAST_DEFECTS}"
    if hit.all() or not hit.any():
        return f"{'all' if hit.all() else 'none'} of {len(sizes)} defects found: there is nothing to fit"
    x = np.log(sizes)
    if x[hit].min() >= x[~hit].max() or x[hit].max() <= x[~hit].min():
        return "one size parts those found from those missed, so that any steep curve fits"
    intercept, slope = fit_logistic(x, hit)
    if slope <= 0:
        return "larger defects are not found more often than smaller ones"
    at = (float(logit(FOUND)) - intercept) / slope
    best = log_likelihood(intercept, slope, x, hit)

    def excess(bound: float) -> float:
        return best - _best_through(bound, x, hit) - CRITICAL

    end = max(at, float(x.max())) + FAR
    bounded = excess(end) > 0
    return Curve(intercept, slope, exp(min(at, 700)), exp(brentq(excess, at, end)) if bounded else None)


def _best_through(at: float, x: Floats, hit: NDArray[np.bool_]) -> float:
    """The greatest log-likelihood of curves that rise through FOUND at ``at`` (log size)."""
    found = minimize_scalar(
        lambda slope: -log_likelihood(float(logit(FOUND)) - slope * at, slope, x, hit),
        bounds=(0, STEEPEST),
        method="bounded",
    )
    return -float(found.fun)
