"""Samplers for the long tail: few images of a defect, and many good ones."""

from typing import Any

import numpy as np
import torch
from imblearn.over_sampling import SMOTE, BorderlineSMOTE, RandomOverSampler
from torch import Tensor

HEADS = ("smote", "borderline-smote", "decoupled")  # methods that re-train the head on features


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
