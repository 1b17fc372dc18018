"""Types of defects from residuals: what the least usual cells of an image have other than their nearest good patches.

Learned from the classes of images alone, by logistic regression: no mask and no box is seen. That differences to good
patches tell defects better than features do is the idea of H. Li et al., Industrial Anomaly Detection and Localization
Using Weakly-Supervised Residual Transformers (arXiv 2306.03492), whose network this is not.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor, nn

from finetune.anomaly.features import patch_features
from finetune.training.images import Images

CELLS = 8  # of an image that are looked at: the farthest from all good patches
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 1.0)  # inverse regularisation; val's macro-F1 chooses
ABSENT = -30.0  # logit of a class that no training image shows


def residuals_of(features: Tensor, memory: Tensor) -> Tensor:
    """B x (2 F + 3) of B x h x w x F features: mean residual and mean feature of the CELLS, each weighted by its
    distance, and the largest, the mean and the CELLS' mean distance.
    """  # fmt: skip
    return torch.stack([summary_of(cells, torch.cdist(cells, memory), memory) for cells in features.flatten(1, 2)])


def summary_of(cells: Tensor, apart: Tensor, memory: Tensor) -> Tensor:
    """The same, 2 F + 3, of one image's N cells (N x F), which are so far ``apart`` (N x M) from the memory (M x F)."""
    distances = apart.amin(1)
    far, at = distances.topk(min(CELLS, len(distances)))
    nearest = memory[apart[at].argmin(1)]
    share = (far / far.sum().clamp(min=1e-12))[:, None]
    summary = torch.stack([far[0], distances.mean(), far.mean()])
    return torch.cat([(share * (cells[at] - nearest)).sum(0), (share * cells[at]).sum(0), summary])


def residual_table(
    backbone: nn.Module, arch: str, memory: Tensor, images: Images, device: str, label: str
) -> NDArray[np.float64]:
    """N x (2 F + 3): ``residuals_of`` N images."""
    found = [residuals_of(features, memory).cpu() for features in patch_features(backbone, arch, images, device, label)]
    return torch.cat(found).numpy().astype(np.float64)


class Types:
    """Probabilities of good and of each class, from residuals: a linear layer on standardised columns."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """``state`` holds mean and scale (D), weight (1 + C x D) and bias (1 + C)."""
        self.state = state

    def __call__(self, residuals: NDArray[np.float64]) -> NDArray[np.float64]:
        """N x (1 + C) of N x D; rows add up to 1."""
        return self.chances(torch.from_numpy(residuals)).numpy()

    def chances(self, residuals: Tensor) -> Tensor:
        """The same of tensors, N x D of float64."""
        known = {name: value.double() for name, value in self.state.items()}
        logits = (residuals - known["mean"]) / known["scale"] @ known["weight"].T + known["bias"]
        return logits.softmax(1)


def fit_types(
    residuals: NDArray[np.float64],
    labels: NDArray[np.int64],
    val_residuals: NDArray[np.float64],
    val_labels: NDArray[np.int64],
    classes: int,
) -> Types:
    """Fit on training images (0 is good); val, where it shows defects, chooses the regularisation by macro-F1."""
    mean, scale = residuals.mean(0), residuals.std(0).clip(1e-9)
    scores, fitted = [], []
    for strength in STRENGTHS if max(val_labels) > 0 else STRENGTHS[1:2]:
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=3000)
        model.fit((residuals - mean) / scale, labels)
        weight, bias = np.zeros((classes, residuals.shape[1])), np.full(classes, ABSENT)
        two = len(model.classes_) == 2  # which scikit-learn tells apart by one row
        weight[model.classes_] = [-model.coef_[0] / 2, model.coef_[0] / 2] if two else model.coef_
        bias[model.classes_] = [-model.intercept_[0] / 2, model.intercept_[0] / 2] if two else model.intercept_
        state = {"mean": mean, "scale": scale, "weight": weight, "bias": bias}
        types = Types({name: torch.from_numpy(value) for name, value in state.items()})
        fitted.append(types)
        scores.append(f1_score(val_labels, types(val_residuals).argmax(1), average="macro"))
    return fitted[int(np.argmax(scores))]


def learn_types(
    backbone: nn.Module, arch: str, halves: Sequence[tuple[Images, Tensor]], defects: Images, val: Images, classes: int
) -> Types:
    """Learn them from defects and good images; ``halves`` are two lots of good images, each with its memory.

    A good image is held against the other half's memory: its own patches would be at no distance from themselves.
    """
    device = str(halves[0][1].device)
    memory = torch.cat([own for _, own in halves])
    (first, of_first), (second, of_second) = halves
    held = ((defects, memory), (first, of_second), (second, of_first))
    tables = [residual_table(backbone, arch, against, images, device, "residuals") for images, against in held]
    labels = torch.cat([images.labels for images, _ in held]).numpy()
    table = residual_table(backbone, arch, memory, val, device, "residuals of val")
    return fit_types(np.concatenate(tables), labels, table, val.labels.numpy(), 1 + classes)
