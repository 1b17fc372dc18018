"""Losses and samplers for the long tail: few images of a defect, and many good ones.

A loss takes logits (N x C, float) and labels, which are class indices (N, int64) or, after MixUp, shares of the
classes (N x C, float), and returns the mean over the images. A sampler takes the class indices of the training images
(N) and returns the indices of the images of one epoch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from imblearn.over_sampling import SMOTE, BorderlineSMOTE, RandomOverSampler
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
FOCUS = 2.0  # gamma that Lin et al. found best
BETA = 0.999  # of Cui et al.'s 0.9, 0.99, 0.999 and 0.9999: meant for classes of tens to hundreds of images
HEADS = ("smote", "borderline-smote", "decoupled")  # methods that re-train the head on features


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = FOCUS) -> Tensor:
    """Mean of -(1 - p)^gamma log p, where p is the probability of the true class.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (equation 4); cross-entropy for gamma 0.
    """
    log_p = F.log_softmax(logits, 1)
    each = -((1 - log_p.exp()) ** gamma * log_p)
    if labels.is_floating_point():
        return (labels * each).sum(1).mean()
    return each.gather(1, labels[:, None]).mean()


def inverse_frequency(counts: Tensor) -> Tensor:
    """Weights N / (C n_c): each class counts the same, and the mean over the images is 1 (scikit-learn's balanced)."""
    return counts.sum() / (len(counts) * counts.clamp(min=1).float())


def effective_number_weights(counts: Tensor, beta: float = BETA) -> Tensor:
    """Weights (1 - beta) / (1 - beta^n), scaled so that they add up to the number of classes.

    Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019 (section 4).
    """
    weights = (1 - beta) / (1 - beta ** counts.clamp(min=1).double())
    return (weights * len(counts) / weights.sum()).float()


def adjusted_logits(logits: Tensor, counts: Tensor, tau: float = 1.0) -> Tensor:
    """Logits plus tau log prior, for the loss in training only; what is learned then suits equally frequent classes.

    Menon et al., Long-tail Learning via Logit Adjustment, ICLR 2021 (equation 10).
    """
    counts = counts.clamp(min=1).float()
    return logits + tau * (counts / counts.sum()).log().to(logits.device)


def make_loss(method: str, counts: Tensor, smoothing: float = 0.0) -> Loss:
    """The loss of an ``--imbalance`` method; ``counts`` (C) are the training images of each class.

    ``smoothing`` in 0..1 smooths the labels of cross-entropy; the focal loss has none.
    """
    if method == "focal":
        return focal_loss
    cross_entropy = partial(F.cross_entropy, label_smoothing=smoothing)
    if method == "logit-adjust":
        return lambda logits, labels: cross_entropy(adjusted_logits(logits, counts), labels)
    weights = {"class-weights": inverse_frequency, "class-balanced": effective_number_weights}
    if method not in weights:
        return cross_entropy
    weight = weights[method](counts)

    def weighted(logits: Tensor, labels: Tensor) -> Tensor:
        own = weight.to(logits.device)
        loss = cross_entropy(logits, labels, own)
        # of mixed labels, torch takes the sum over their number, not over their weights
        return loss * len(labels) / (labels @ own).sum() if labels.is_floating_point() else loss

    return weighted


def epoch_indices(method: str, labels: Tensor) -> Tensor:
    """Indices of the images that an epoch shows, shuffled by torch's random generator.

    ``oversample`` draws as many images as there are, every class equally often and images with replacement.
    ``undersample`` keeps as many of each class as the rarest has, drawn again for every epoch. Else all, once.
    """
    counts = torch.bincount(labels)
    if method == "oversample":
        return torch.multinomial(1.0 / counts[labels].float(), len(labels), replacement=True)
    order = torch.randperm(len(labels))
    if method == "undersample":
        least = int(counts[counts > 0].min())
        kept = [order[labels[order] == index][:least] for index in range(len(counts))]
        return torch.cat(kept)[torch.randperm(sum(map(len, kept)))]
    return order


def balance_features(method: str, features: Any, labels: Any, seed: int) -> tuple[Any, Any]:
    """Features (N x F, float32) and labels (N) with every class as large as the largest, for re-training a head.

    ``decoupled`` repeats (cRT: Kang et al., Decoupling Representation and Classifier, ICLR 2020), ``smote`` and
    ``borderline-smote`` interpolate between neighbours (Chawla et al. 2002; Han et al. 2005; imbalanced-learn).
    """
    neighbours = min(5, int(np.bincount(labels)[np.unique(labels)].min()) - 1)
    if method == "decoupled" or neighbours < 1:  # a class of one image has no neighbour to interpolate to
        return RandomOverSampler(random_state=seed).fit_resample(features, labels)
    if method == "smote":
        return SMOTE(k_neighbors=neighbours, random_state=seed).fit_resample(features, labels)
    around = min(10, len(labels) - 1)
    sampler = BorderlineSMOTE(k_neighbors=neighbours, m_neighbors=around, random_state=seed)
    return sampler.fit_resample(features, labels)
