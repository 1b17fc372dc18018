"""Heat maps in 16 bits: floats keep their order over decades, and measures of saved maps are those of the floats."""

import cv2
import numpy as np
from sklearn.metrics import average_precision_score

from finetune.measures.heat_levels import ROOM, middle_of, to_levels, to_values


def test_six_decades_keep_their_order_and_their_values():
    heat = np.geomspace(1e-4, 1e2, 20_000, dtype=np.float32).reshape(100, 200)
    levels = to_levels(heat, middle=1.0)
    assert levels.dtype == np.uint16 and (np.diff(levels.ravel().astype(int)) >= 0).all()
    np.testing.assert_allclose(to_values(levels), heat, rtol=1 / 6000)
    assert len(np.unique(levels)) == 20_000


def test_nothing_saturates_far_above_val_and_nothing_negative_wraps():
    middle = middle_of(np.zeros(3), largest=5.0)  # good images in which nothing is found at all
    assert middle == 5.0 / ROOM
    levels = to_levels(np.array([[-1.0, 0.0, 5.0, 50.0, 300.0]]), middle).ravel()
    assert levels[0] == levels[1] == 0 and (np.diff(levels[1:].astype(int)) > 0).all()
    assert np.isfinite(to_values(to_levels(np.array([[1e9]]), middle))).all()


def test_pixel_average_precision_of_a_saved_map_is_that_of_the_floats(tmp_path):
    """Where val shows good images only, and defects are a hundred times as hot: what few-shot splits look like."""
    random = np.random.default_rng(0)
    mask = np.zeros((80, 80), bool)
    mask[20:40, 20:40] = True
    heat = np.where(mask, 30 * random.lognormal(0, 1.5, mask.shape), random.lognormal(0, 1.5, mask.shape))
    middle = middle_of(np.array([2.0, 3.0]), largest=3.0)
    cv2.imwrite(str(tmp_path / "map.png"), to_levels(heat, middle))
    saved = cv2.imread(str(tmp_path / "map.png"), cv2.IMREAD_UNCHANGED)
    exact = average_precision_score(mask.ravel(), heat.ravel())
    assert abs(average_precision_score(mask.ravel(), saved.ravel()) - exact) < 1e-3
    cut = np.clip(heat / 3.0, 0, 1)  # what a scale of val's largest value made of it
    assert average_precision_score(mask.ravel(), cut.ravel()) < exact - 0.05
