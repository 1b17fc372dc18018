"""Prompts simulated from masks: where they lie, how far they are off, and that they come again from the same seed."""

import numpy as np
import pytest

from finetune.segmentation.prompts import (
    MOST_NOISE,
    Prompt,
    box_of,
    error_point,
    first_prompt,
    inner_point,
    noisy_box,
    random_point,
    spread_points,
)

SIZE = (60, 80)


def mask_of(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    """x0, y0, x1, y1 of filled rectangles."""
    mask = np.zeros(SIZE, np.uint8)
    for x0, y0, x1, y1 in rectangles:
        mask[y0:y1, x0:x1] = 1
    return mask


def test_box_is_on_pixel_edges() -> None:
    assert box_of(mask_of((10, 20, 30, 25))).tolist() == [10, 20, 30, 25]
    assert box_of(mask_of((79, 59, 80, 60))).tolist() == [79, 59, 80, 60]


def test_noise_of_a_box_is_a_tenth_of_its_side() -> None:
    generator, box = np.random.default_rng(0), np.array([300, 400, 400, 440], np.float32)
    offsets = np.stack([noisy_box(box, (1000, 1000), generator) - box for _ in range(2000)])
    assert offsets.std(axis=0) == pytest.approx([10, 4, 10, 4], rel=0.1)
    assert np.abs(offsets.mean(axis=0)).max() < 1


def test_noise_of_a_large_box_is_at_most_twenty_pixels() -> None:
    generator, box = np.random.default_rng(0), np.array([300, 300, 900, 900], np.float32)
    offsets = np.stack([noisy_box(box, (1000, 1000), generator) - box for _ in range(300)])
    assert np.abs(offsets).max() == pytest.approx(MOST_NOISE, abs=1e-3)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (79, 59, 80, 60), (0, 0, 80, 60), (40, 0, 41, 60)])
def test_noisy_box_stays_in_the_image_and_keeps_a_pixel(box: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        x0, y0, x1, y1 = noisy_box(np.array(box, np.float32), SIZE, generator)
        assert x0 >= 0 and y0 >= 0 and x1 <= SIZE[1] and y1 <= SIZE[0]
        assert min(x1 - x0, y1 - y0) > 1 - 1e-5


def test_every_pixel_of_a_mask_is_drawn_and_no_other() -> None:
    mask, generator = mask_of((5, 6, 8, 7), (50, 50, 51, 52)), np.random.default_rng(0)
    drawn = {tuple(random_point(mask, generator).astype(int)) for _ in range(200)}
    assert drawn == {(5, 6), (6, 6), (7, 6), (50, 50), (50, 51)}


def test_next_point_corrects_what_is_wrong() -> None:
    mask, generator = mask_of((10, 10, 20, 20)), np.random.default_rng(0)
    found = mask_of((10, 10, 20, 15), (40, 40, 42, 42))  # half is missed, and there is a false alarm
    labels = set()
    for _ in range(100):
        (x, y), label = error_point(mask, found, generator)
        assert label == mask[int(y), int(x)] != found[int(y), int(x)]
        labels.add(label)
    assert labels == {0, 1}
    point, label = error_point(mask, mask, generator)  # nothing is wrong
    assert label == 1 and mask[int(point[1]), int(point[0])] == 1


def test_interaction_begins_with_a_point_or_a_box_alike() -> None:
    mask, generator = mask_of((10, 10, 20, 20)), np.random.default_rng(0)
    prompts = [first_prompt(mask, box_of(mask), SIZE, generator) for _ in range(400)]
    boxes = [prompt for prompt in prompts if prompt.box is not None]
    assert 160 < len(boxes) < 240
    assert all(len(prompt.points) == (prompt.box is None) for prompt in prompts)
    assert all(prompt.labels.tolist() == [1] for prompt in prompts if prompt.box is None)


def test_first_click_is_in_the_middle() -> None:
    assert inner_point(mask_of((10, 10, 21, 21))).tolist() == [15, 15]
    ring = mask_of((10, 10, 31, 31))
    ring[13:28, 13:28] = 0
    x, y = inner_point(ring).astype(int)
    assert ring[y, x] == 1  # not in the hole, where the middle is
    assert inner_point(mask_of((0, 0, 3, 60))).tolist()[0] == 1  # the image's edge counts as border


def test_three_points_lie_apart_in_the_mask() -> None:
    mask = mask_of((10, 10, 61, 13))
    points = spread_points(mask, 3).astype(int)
    assert all(mask[y, x] for x, y in points)
    assert np.diff(sorted(points[:, 0])).min() >= 20 and points[:, 0].max() == 60
    assert spread_points(mask_of((4, 5, 5, 6)), 3).tolist() == [[4, 5]] * 3  # one pixel


def test_prompt_is_scaled_whole_and_leaves_the_first_alone() -> None:
    prompt = Prompt(box=np.array([1, 2, 3, 4], np.float32)).with_point(np.array([5, 6], np.float32), 0)
    scaled = prompt.scaled(2, 3)
    assert scaled.box is not None and scaled.box.tolist() == [2, 6, 6, 12]
    assert scaled.points.tolist() == [[10, 18]] and scaled.labels.tolist() == [0]
    assert prompt.points.tolist() == [[5, 6]]


def test_same_seed_gives_the_same_prompts() -> None:
    mask = mask_of((10, 10, 40, 40))
    once, again = (first_prompt(mask, box_of(mask), SIZE, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(once.points, again.points) and np.array_equal(once.box, again.box)
