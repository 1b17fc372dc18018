"""The long tail: losses against published formulas and hand-computed values, and what the samplers draw."""

import math

import numpy as np
import pytest
import torch
from torch import tensor
from torch.nn import functional as F

from finetune.classification.imbalance import HEADS, balance_features, epoch_indices
from finetune.classification.losses import (
    adjusted_logits,
    effective_number_weights,
    focal_loss,
    inverse_frequency,
    make_loss,
)
from finetune.classification.recipes import IMBALANCE

LABELS = tensor([0] * 60 + [1] * 30 + [2] * 10)
COUNTS = torch.bincount(LABELS)


def logits_for(p: float) -> torch.Tensor:
    """Two-class logits whose softmax gives class 0 the probability p."""
    return tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("p", "gamma", "expected"),
    [
        (0.5, 2.0, 0.25 * math.log(2)),
        (0.9, 2.0, 0.01 * -math.log(0.9)),  # Lin et al.: "100x lower loss compared with CE"
        (0.968, 2.0, 0.001024 * -math.log(0.968)),  # and "1000x lower" at about 0.968
        (0.1, 5.0, 0.9**5 * -math.log(0.1)),
    ],
)
def test_focal_loss_is_the_published_formula(p, gamma, expected):
    assert focal_loss(logits_for(p), tensor([0]), gamma).item() == pytest.approx(expected, rel=1e-6)


def test_focal_loss_without_focus_is_cross_entropy():
    logits, labels = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), tensor([0, 1, 2, 3, 0, 1, 2])
    assert focal_loss(logits, labels, 0.0).item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_focal_loss_agrees_with_torchvisions_binary_one():
    from torchvision.ops import sigmoid_focal_loss

    score = tensor([1.3, -0.4, 2.2], dtype=torch.float64)
    two_class = torch.stack([torch.zeros_like(score), score], 1)  # softmax of (0, s) is sigmoid(s)
    theirs = sigmoid_focal_loss(score, torch.ones_like(score), alpha=-1, gamma=2, reduction="mean")
    assert focal_loss(two_class, tensor([1, 1, 1])).item() == pytest.approx(theirs.item(), rel=1e-9)


def test_class_weights_are_inverse_frequencies():
    assert inverse_frequency(COUNTS).tolist() == pytest.approx([100 / 180, 100 / 90, 100 / 30])


def test_effective_number_of_one_and_of_two_images():
    # E_1 = 1 and E_2 = 1 + beta: for beta 0.9 the weights 1 and 1/1.9, scaled to add up to 2.
    weights = effective_number_weights(tensor([1, 2]), beta=0.9)
    assert weights.tolist() == pytest.approx([2 * 1.9 / 2.9, 2 / 2.9], rel=1e-6)


def test_effective_number_lies_between_no_weights_and_inverse_frequencies():
    assert effective_number_weights(COUNTS, 0.0).tolist() == pytest.approx([1, 1, 1])
    nearly_one = effective_number_weights(COUNTS, 1 - 1e-9)
    inverse = inverse_frequency(COUNTS)
    assert nearly_one.tolist() == pytest.approx((inverse * 3 / inverse.sum()).tolist(), rel=1e-3)


def test_logit_adjustment_adds_the_log_of_the_prior():
    adjusted = adjusted_logits(torch.zeros(1, 3), COUNTS)
    assert adjusted.softmax(1)[0].tolist() == pytest.approx([0.6, 0.3, 0.1])
    # Equation 10 by hand, for a flat network and the rare class: -log(0.1).
    assert make_loss("logit-adjust", COUNTS)(torch.zeros(1, 3), tensor([2])).item() == pytest.approx(-math.log(0.1))


def test_weighted_loss_is_the_weighted_mean():
    logits, labels = tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), tensor([0, 2])
    each = F.cross_entropy(logits, labels, reduction="none")
    weights = inverse_frequency(COUNTS)[labels]
    expected = (weights * each).sum() / weights.sum()
    assert make_loss("class-weights", COUNTS)(logits, labels).item() == pytest.approx(expected.item())


def test_oversampling_shows_every_class_equally_often():
    torch.manual_seed(0)
    drawn = torch.cat([LABELS[epoch_indices("oversample", LABELS)] for _ in range(50)])
    assert len(drawn) == 50 * len(LABELS)
    assert (torch.bincount(drawn) / len(drawn)).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_undersampling_keeps_the_rarest_class_and_draws_anew():
    torch.manual_seed(0)
    first, second = (epoch_indices("undersample", LABELS) for _ in range(2))
    for indices in (first, second):
        assert torch.bincount(LABELS[indices]).tolist() == [10, 10, 10]
        assert len(indices.unique()) == 30
    assert set(first.tolist()) != set(second.tolist())


def test_no_sampling_shows_every_image_once():
    assert sorted(epoch_indices("none", LABELS).tolist()) == list(range(100))


@pytest.mark.parametrize("method", HEADS)
def test_features_are_balanced_inside_their_class(method):
    pytest.importorskip("imblearn")
    generator = np.random.default_rng(0)
    features = (generator.normal(0, 0.1, (100, 3)) + 5 * LABELS.numpy()[:, None]).astype(np.float32)
    balanced, labels = balance_features(method, features, LABELS.numpy(), seed=0)
    counts = np.bincount(labels)
    if method != "borderline-smote":  # it makes new points only where classes meet
        assert counts.tolist() == [60, 60, 60]
    for index in range(3):
        assert np.abs(balanced[labels == index] - 5 * index).max() < 1


def test_few_images_have_few_neighbours_at_the_border():
    pytest.importorskip("imblearn")
    features, labels = np.arange(8, dtype=np.float32)[:, None], np.array([0] * 5 + [1] * 3)
    balanced, found = balance_features("borderline-smote", features, labels, seed=0)
    assert np.array_equal(balanced[:8], features) and np.array_equal(found[:8], labels)
    assert np.bincount(found).tolist() == [5, 5]
    assert ((balanced[found == 1] >= 5) & (balanced[found == 1] <= 7)).all()


def test_a_class_of_one_image_is_repeated():
    pytest.importorskip("imblearn")
    features, labels = np.arange(10, dtype=np.float32)[:, None], np.array([0] * 9 + [1])
    balanced, found = balance_features("smote", features, labels, seed=0)
    assert np.bincount(found).tolist() == [9, 9]
    assert set(balanced[found == 1, 0]) == {9.0}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("method", IMBALANCE)
def test_the_loss_of_mixed_labels_is_the_mixed_loss(method, smoothing):
    """Of a batch mixed with itself in another order, as v2.MixUp does it."""
    loss = make_loss(method, COUNTS, smoothing)
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), tensor([0, 1, 2, 2])
    one_hot = F.one_hot(labels, 3).float()
    assert loss(logits, one_hot).item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)
    mixed = 0.7 * loss(logits, labels) + 0.3 * loss(logits, labels.roll(1))
    assert loss(logits, 0.7 * one_hot + 0.3 * one_hot.roll(1, 0)).item() == pytest.approx(mixed.item(), rel=1e-6)


@pytest.mark.parametrize("method", IMBALANCE)
def test_every_method_has_a_finite_loss_with_a_gradient(method):
    logits = torch.zeros(4, 3, requires_grad=True)
    make_loss(method, COUNTS)(logits, tensor([0, 1, 2, 2])).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
