"""Losses of the classifier, those for the long tail among them.

A loss takes logits (N x C, float) and labels, which are class indices (N, int64) or, after MixUp, shares of the
classes (N x C, float), and returns the mean over the images.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
FOCUS = 2.0  # gamma that Lin et al. found best
BETA = 0.999  # of Cui et al.'s 0.9, 0.99, 0.999 and 0.9999: meant for classes of tens to hundreds of images


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
