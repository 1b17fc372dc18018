"""labelme's JSON files become a folder of images and masks, painted as labelme paints them."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from click.testing import Result
from conftest import blobs, converted, refusal, run_cli, save_noise
from hypothesis import HealthCheck, given, settings
from masks import random_masks
from PIL import Image
from test_imports import SIZE, classes_in, masks_in

from converters.importing.labelme_labels import Shape, paint
from converters.masks.instances import find_instances

SQUARE = {"label": "dent", "points": [[2, 2], [11, 2], [11, 11], [2, 11]], "shape_type": "polygon"}


def in_base64(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask.astype(bool)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def as_shape(label: str, instance: Any) -> dict[str, Any]:
    """An instance as labelme's AI tools write it: a PNG between its first and last pixel."""
    x0, y0, x1, y1 = instance.xyxy
    points = [[x0, y0], [x1 - 1, y1 - 1]]
    return {"label": label, "points": points, "shape_type": "mask", "mask": in_base64(instance.mask)}


def write(folder: Path, labels: list[dict[str, Any]], name: str = "0", **changes: Any) -> Path:
    """NAME.png beside NAME.json."""
    save_noise(folder / f"{name}.png", SIZE)
    data = {"version": "5.5.0", "flags": {}, "imagePath": f"{name}.png", "imageData": None, "shapes": labels}
    size = {"imageWidth": SIZE[0], "imageHeight": SIZE[1]}
    (folder / f"{name}.json").write_text(json.dumps(data | size | changes), "utf-8")
    return folder


def run(folder: Path, *arguments: object) -> Result:
    return run_cli("from_labelme", folder, "--to", folder.with_name("to"), *arguments)


def told(folder: Path, *arguments: object) -> str:
    result = run(folder, *arguments)
    assert result.exit_code == 0, result.output
    return result.stderr


def painted(**shape: Any) -> np.ndarray:
    return paint([(1, Shape(label="dent", **shape))], *SIZE)


def boxed(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """Of all pixels from the first to the last, these two among them."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    return mask


def test_masks_make_the_way_there_and_back_pixel_for_pixel(tmp_path: Path) -> None:
    masks = [blobs(index, SIZE) for index in range(3)]
    for index, mask in enumerate(masks):
        shapes = [as_shape("dent", instance) for instance in find_instances(mask)]
        assert len(shapes) == 2
        write(tmp_path / "in", shapes, str(index))
    said = run(tmp_path / "in")
    assert "0 good and 3 defective images" in said.stdout and "6 labels make 6 connected parts" in said.stdout
    assert all((masks_in(tmp_path / "to")[f"{n}_mask.png"] == mask).all() for n, mask in enumerate(masks))
    dataset = converted("all", tmp_path / "to", tmp_path / "out")
    assert run_cli("verify", dataset).exit_code == 0


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(random_masks())
def test_outlines_without_holes_come_back_as_they_were_traced(mask: np.ndarray) -> None:
    """labelme paints a polygon with its line, so that OpenCV's outermost pixels give the part with its holes filled."""
    for outline in cv2.findContours(mask.copy(), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
        if len(outline) < 3:
            continue
        filled = cv2.drawContours(np.zeros_like(mask), [outline], -1, 1, cv2.FILLED)
        shape = Shape(label="dent", points=outline.reshape(-1, 2).astype(float).tolist())
        assert (paint([(1, shape)], mask.shape[1], mask.shape[0]) == filled).all()


def test_a_slanting_polygon_holds_what_a_geometry_library_says_lies_in_it() -> None:
    points = [(3.4, 5.1), (40.7, 9.2), (30.3, 35.8), (12.9, 20.0)]
    polygon = shapely.Polygon(points)
    mask = painted(points=[list(point) for point in points], shape_type="polygon")
    inner, outer = polygon.buffer(-1), polygon.buffer(1.5)
    for y, x in np.ndindex(mask.shape):
        assert mask[y, x] >= inner.contains(shapely.Point(x, y))
        assert mask[y, x] <= outer.contains(shapely.Point(x, y))


@pytest.mark.parametrize("points", [[[2, 3], [10, 7]], [[10, 7], [2, 3]], [[2, 7], [10, 7], [10, 3], [2, 3]]])
def test_a_rectangle_holds_its_border_whatever_corner_comes_first(points: list[list[float]]) -> None:
    assert (painted(points=points, shape_type="rectangle") == boxed(2, 3, 10, 7)).all()


def test_a_circle_has_its_centre_and_a_point_on_it() -> None:
    y, x = np.indices(SIZE[::-1])
    mask = painted(points=[[20, 20], [23, 24]], shape_type="circle")  # 3, 4, 5
    assert (mask == ((x - 20) ** 2 + (y - 20) ** 2 <= 5.5**2)).all()


def test_one_group_is_one_instance_and_the_background_takes_away_what_was_painted_before(tmp_path: Path) -> None:
    far = {"label": "dent", "points": [[20, 20], [30, 30]], "shape_type": "rectangle", "group_id": 1}
    hole = {"label": "_background_", "points": [[5, 5], [6, 6]], "shape_type": "rectangle"}
    later = {"label": "dent", "points": [[40, 2], [44, 6]], "shape_type": "rectangle", "group_id": None}
    result = run(write(tmp_path / "in", [SQUARE | {"group_id": 1}, far, hole, later]))
    assert "2 labels make 3 connected parts" in result.stdout
    expected = boxed(2, 2, 11, 11) - boxed(5, 5, 6, 6) + boxed(20, 20, 30, 30) + boxed(40, 2, 44, 6)
    assert (masks_in(tmp_path / "to")["0_mask.png"] == expected).all()


def test_lines_and_points_are_told_and_alone_they_make_no_good_image(tmp_path: Path) -> None:
    line = {"label": "scratch", "points": [[1, 1], [9, 9]], "shape_type": "linestrip"}
    point = {"label": "pore", "points": [[1, 1]], "shape_type": "point"}
    ignored = SQUARE | {"label": "__ignore__", "points": [[30, 30], [35, 30], [35, 35]]}
    said = told(write(tmp_path / "in", [SQUARE, line, point, ignored]))
    assert "points and lines, which cover no area, beside other labels of their image, left aside: 2 (" in said
    assert "labels __ignore__, taken as good: 1 (" in said
    assert (masks_in(tmp_path / "to")["0_mask.png"] == boxed(2, 2, 11, 11)).all()
    write(tmp_path / "in", [line], "1")
    assert "1.png: its 1 labels are points or lines" in refusal(run(tmp_path / "in", "--overwrite"))


@pytest.mark.parametrize("path", ["..\\photos\\a.png", "../photos/a.png", "C:\\photos\\a.png", "/me/photos/a.png"])
def test_images_are_found_where_labelme_or_another_machine_says(tmp_path: Path, path: str) -> None:
    folder = write(tmp_path / "in" / "labels", [SQUARE], imagePath=path).parent
    (folder / "photos").mkdir()
    (folder / "labels" / "0.png").rename(folder / "photos" / "a.png")
    said = told(folder)
    assert classes_in(tmp_path / "to") == {"a.png": "dent"}
    assert ("found by their end: 1" in said) == path.startswith(("C:", "/"))
    (folder / "photos" / "a.png").rename(folder / "labels" / "a.png")  # beside its file, whatever that says
    told(folder, "--overwrite")
    assert classes_in(tmp_path / "to") == {"a.png": "dent"}


def test_images_without_a_file_are_good_and_told_and_other_json_is_not_taken(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [SQUARE])
    write(folder, [], "empty")
    save_noise(folder / "new.png", SIZE)
    save_noise(folder / "new.webp", SIZE)
    (folder / "settings.json").write_text("{}")
    said = told(folder)
    assert classes_in(tmp_path / "to") == {"0.png": "dent", "empty.png": "good", "new.png": "good"}
    assert f"no label file, taken as good: 1 (first: {folder / 'new.png'})" in said
    assert f"JSON files that are not labelme's, not taken: 1 (first: {folder / 'settings.json'})" in said
    assert "images of other types than are read, without a label, not taken: 1" in said


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a wrong mask": (as_shape("dent", find_instances(boxed(1, 1, 2, 2))[0]) | {"points": [[1, 1], [3, 3]]}, "2 x 2 px"),
    "no mask": ({"shape_type": "mask", "points": [[1, 1], [3, 3]]}, "a PNG in base64"),
    "no base64": ({"shape_type": "mask", "points": [[1, 1], [3, 3]], "mask": "?"}, "a PNG in base64"),
    "a mask outside": (
        {"shape_type": "mask", "points": [[47, 1], [48, 1]], "mask": in_base64(np.ones((1, 2)))},
        "lies outside the image",
    ),
    "two points": ({"points": [[1, 1], [9, 9]]}, "covers no pixel"),
    "a circle of three": ({"shape_type": "circle", "points": [[1, 1]] * 3}, "has 3 points instead of 2"),
    "another kind": ({"shape_type": "cuboid"}, "(dent, cuboid) is of a kind that is not known"),
    "far away": ({"points": [[0, 0], [1e9, 0], [0, 1e9]]}, "lies far outside the image"),
    "no name": ({"label": "a/b"}, "is no name for a defect"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_make_no_mask_are_refused_by_name(tmp_path: Path, name: str) -> None:
    changes, expected = REFUSED[name]
    line = refusal(run(write(tmp_path / "in", [SQUARE | changes])))
    assert "0.png: its " in line and expected in line


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"imagePath": "gone.png"}, "0.json: imagePath: 'gone.png' is not there"),
        ({"imagePath": ""}, "0.json: imagePath: "),
        ({"imagePath": "."}, "0.json: imagePath: '.' is not there"),
        ({"shapes": [{"label": "dent", "points": [[1]]}]}, "0.json: shapes.0.points.0: "),
        ({"imageWidth": 7}, "0.png: is 48 x 40 px (upright), its JSON file says 7 x 40"),
    ],
)
def test_bad_files_are_refused_and_skipped_without_making_good_images(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    folder = write(tmp_path / "in", [SQUARE], **changes)
    assert expected in refusal(run(folder))
    write(folder, [SQUARE], "1")
    result = run(folder, "--on-error", "skip")
    assert result.exit_code == 1 and expected in result.stderr
    assert classes_in(tmp_path / "to") == {"1.png": "dent"}


def test_two_files_for_one_image_and_no_file_at_all_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", [SQUARE])
    text = (folder / "0.json").read_bytes()
    (folder / "copy.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert "copy.json: labels " in refusal(run(folder))
    (folder / "copy.json").write_bytes(text[:40])
    assert "copy.json: Invalid JSON" in refusal(run(folder))
    assert "holds no JSON file of labelme's" in refusal(run(tmp_path / "nothing"))
