"""Outlines: read back by pycocotools and by OpenCV as ultralytics uses it, they give the mask again."""

import hashlib
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import random_masks, whole
from pycocotools import mask as coco_mask

from converters.formats.coco import polygons
from converters.formats.yolo import box_row, polygon_row, rotated_box_row
from converters.masks.instances import Instance, InstanceRule, find_instances
from converters.masks.polygons import corner_rings, smallest_rectangle
from converters.masks.rle import rle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
EXACT = settings(derandomize=True, deadline=None, max_examples=300)
RULES = st.builds(InstanceRule, connectivity=st.sampled_from([4, 8]))

RING = np.pad(np.pad(np.zeros((3, 4), np.uint8), 2, constant_values=1), 3)
NESTED = np.pad(np.pad(np.pad(np.ones((2, 3), np.uint8), 2), 2, constant_values=1), 1)
TWO_HOLES = np.ones((7, 11), np.uint8)
TWO_HOLES[2:5, 2:4] = TWO_HOLES[3:6, 6:9] = 0
HOLES_AT_A_CORNER = np.ones((6, 6), np.uint8)
HOLES_AT_A_CORNER[2, 2] = HOLES_AT_A_CORNER[3, 3] = 0
CASES = {
    "ring": RING,
    "ring in a ring": NESTED,
    "two holes": TWO_HOLES,
    "holes that touch at a corner": HOLES_AT_A_CORNER,
    "single pixel": np.pad(np.ones((1, 1), np.uint8), 2),
    "image of one pixel": np.ones((1, 1), np.uint8),
    "full frame": np.ones((9, 14), np.uint8),
    "row": np.pad(np.ones((1, 9), np.uint8), 1),
    "column on the edge": np.eye(1, 6, dtype=np.uint8).repeat(8, 0),
    "diagonal": np.eye(8, dtype=np.uint8),
    "anti-diagonal": np.eye(8, dtype=np.uint8)[::-1].copy(),
    "cross of diagonals": np.eye(9, dtype=np.uint8) | np.eye(9, dtype=np.uint8)[::-1],
    "chessboard": (np.indices((8, 9)).sum(0) % 2).astype(np.uint8),
    "chain": np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]], np.uint8),
}


def shoelace(polygon: list[int]) -> float:
    """Signed area; positive where the ring runs counter-clockwise on screen (y downwards)."""
    x, y = np.array(polygon, float).reshape(-1, 2).T
    return float((np.roll(x, -1) * y - x * np.roll(y, -1)).sum() / 2)


def check_coco(instance: Instance, shape: tuple[int, ...]) -> None:
    rings = polygons(instance)
    encoded = coco_mask.merge(coco_mask.frPyObjects(rings, *shape))
    assert np.array_equal(coco_mask.decode(encoded), whole(instance, shape))
    assert coco_mask.toBbox(encoded).tolist() == list(instance.xywh)
    assert sum(shoelace(ring) for ring in rings) == instance.area == coco_mask.area(encoded)


def as_ultralytics_reads(row: str, width: int, height: int) -> np.ndarray:
    """N x 2 vertices in pixels: 32-bit floats, as `verify_image_label` parses them."""
    return np.array(row.split()[1:], np.float32).reshape(-1, 2) * np.array([width, height], np.float32)


def check_yolo(instance: Instance, shape: tuple[int, ...]) -> None:
    vertices = as_ultralytics_reads(polygon_row(instance, 0, shape[1], shape[0]), shape[1], shape[0])
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [vertices.astype(np.int32)], 1)
    assert np.array_equal(canvas, whole(instance, shape))
    box = [*vertices.min(0), *vertices.max(0)]
    assert np.abs(np.array(box) - instance.xyxy).max() <= 0.02
    assert vertices.min() >= 0 and (vertices <= (shape[1], shape[0])).all()


# ---------------------------------------------------------------- cases that have names


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("case", CASES)
def test_every_named_shape_comes_back_exactly(case: str, connectivity: int) -> None:
    found = find_instances(CASES[case], InstanceRule(connectivity=connectivity))
    assert found
    for instance in found:
        check_coco(instance, CASES[case].shape)
        check_yolo(instance, CASES[case].shape)


def test_ring_keeps_its_hole_in_coco() -> None:
    (instance,) = find_instances(RING)
    (ring,) = polygons(instance)
    assert instance.area == RING.sum() == 44
    encoded = coco_mask.merge(coco_mask.frPyObjects([ring], *RING.shape))
    assert coco_mask.decode(encoded)[6, 6] == 0


def test_a_straight_edge_has_no_vertices_in_between() -> None:
    (instance,) = find_instances(np.ones((30, 50), np.uint8))
    (ring,) = corner_rings(instance)
    assert sorted(map(tuple, ring.tolist())) == [(0, 0), (0, 30), (50, 0), (50, 30)]
    assert len(polygon_row(instance, 0, 50, 30).split()) == 1 + 2 * (4 + 2 * 4)  # corners and four spikes


def test_an_instance_of_several_parts_has_a_coco_polygon_for_each() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[1:3, 1:3] = mask[5:8, 5:8] = 1
    (instance,) = find_instances(mask, InstanceRule(instances="image"))
    assert len(polygons(instance)) == 2
    check_coco(instance, mask.shape)


def test_an_instance_of_several_parts_does_not_fit_a_yolo_polygon() -> None:
    mask = np.eye(3, dtype=np.uint8)
    mask[1, 1] = 0
    (instance,) = find_instances(mask, InstanceRule(instances="image"))
    with pytest.raises(ValueError, match="2 separate parts"):
        polygon_row(instance, 0, 3, 3)


def test_every_column_survives_truncation_in_wide_images() -> None:
    """At 6 decimals half of the columns would land one pixel too far left."""
    for width in (1000, 1024, 2047, 4096, 9999):
        for x in range(0, width, max(width // 97, 1)):
            instance = Instance(x, 5, np.ones((1, 1), np.uint8), 1)
            vertices = as_ultralytics_reads(polygon_row(instance, 0, width, 7), width, 7)
            assert set(map(tuple, vertices.astype(int).tolist())) == {(x, 5)}, width


# ---------------------------------------------------------------- any mask


@EXACT
@given(random_masks(), RULES)
def test_coco_polygons_decode_to_exactly_the_mask(mask: np.ndarray, rule: InstanceRule) -> None:
    for instance in find_instances(mask, rule):
        check_coco(instance, mask.shape)


@EXACT
@given(random_masks())
def test_coco_polygons_of_a_whole_image_decode_to_exactly_the_mask(mask: np.ndarray) -> None:
    for instance in find_instances(mask, InstanceRule(instances="image")):
        check_coco(instance, mask.shape)


@EXACT
@given(random_masks(), RULES)
def test_coco_rle_decodes_to_exactly_the_mask(mask: np.ndarray, rule: InstanceRule) -> None:
    for instance in find_instances(mask, rule):
        assert np.array_equal(coco_mask.decode(rle(instance, *mask.shape[::-1])), whole(instance, mask.shape))


@EXACT
@given(random_masks(), RULES)
def test_yolo_polygons_paint_exactly_the_mask(mask: np.ndarray, rule: InstanceRule) -> None:
    for instance in find_instances(mask, rule):
        check_yolo(instance, mask.shape)


@EXACT
@given(random_masks(), RULES)
def test_yolo_boxes_are_exact(mask: np.ndarray, rule: InstanceRule) -> None:
    height, width = mask.shape
    for instance in find_instances(mask, rule):
        cx, cy, w, h = (float(text) for text in box_row(instance, 0, width, height).split()[1:])
        box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * [width, height, width, height]
        assert np.abs(box - instance.xyxy).max() < 1e-5


@EXACT
@given(random_masks())
def test_the_smallest_rectangle_holds_all_pixels_and_stays_in_the_image(mask: np.ndarray) -> None:
    height, width = mask.shape
    for instance in find_instances(mask):
        corners = smallest_rectangle(instance, width, height)
        assert corners.shape == (4, 2)
        assert corners.min() >= 0 and (corners <= (width, height)).all()
        rows, columns = np.nonzero(whole(instance, mask.shape))
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            for x, y in zip(columns + dx, rows + dy, strict=True):
                distance = cv2.pointPolygonTest(corners.astype(np.float32), (float(x), float(y)), True)
                assert distance >= -0.01
        numbers = [float(text) for text in rotated_box_row(instance, 3, width, height).split()]
        assert numbers[0] == 3 and len(numbers) == 9 and min(numbers[1:]) >= 0 and max(numbers[1:]) <= 1


def test_the_smallest_rectangle_of_a_slanted_scratch_is_slanted() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[np.arange(10, 50), np.arange(10, 50)] = 1
    (instance,) = find_instances(mask)
    corners = smallest_rectangle(instance, 60, 60)
    assert cv2.contourArea(corners.astype(np.float32)) < 0.1 * 40 * 40


def mesh(length: int) -> np.ndarray:
    """Wires every five pixels: (length / 5)^2 holes in one component."""
    mask = np.zeros((length, length), np.uint8)
    mask[::5] = mask[:, ::5] = 1
    return mask


def test_outlines_of_many_holes_are_the_ones_of_earlier_datasets() -> None:
    """The digest is of the search through all borders (commit b8f32fe), which took the square of the holes' number."""
    rng = np.random.default_rng(5)
    masks = [(rng.random((30, 30)) < share).astype(np.uint8) for share in (0.5, 0.6, 0.7, 0.8, 0.9)] + [mesh(60)]
    rows = [polygon_row(instance, 0, 60, 60) for mask in masks for instance in find_instances(mask)]
    assert sum(len(instance.borders[0]) - 1 for mask in masks for instance in find_instances(mask)) > 400
    assert (
        hashlib.sha256("\n".join(rows).encode()).hexdigest()
        == "0cf7a3841b96b27c154b0d11331328f6868babee2f241f00e5ff64a4b0debd98"
    )


def test_the_time_of_an_outline_grows_with_its_holes_not_with_their_square() -> None:
    seconds = []
    for length in (100, 300):  # 400 and 3,600 holes
        (instance,) = find_instances(mesh(length))
        started = time.process_time()
        polygon_row(instance, 0, length, length)
        seconds.append(time.process_time() - started)
        check_yolo(instance, (length, length))
    assert seconds[1] < 40 * seconds[0]  # nine times the holes; the square of them took 81 times as long and more
