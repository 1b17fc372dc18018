"""The way back: COCO and YOLO labels become a folder of images and masks, pixel for pixel."""

import csv
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import converted, refusal, run_cli, save_noise, tree, write_category
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from masks import random_masks
from pycocotools import mask as coco_mask

from converters.cli.errors import DatasetError
from converters.formats.coco import polygons
from converters.formats.yolo import polygon_row
from converters.importing.coco_labels import decode
from converters.importing.mask_folder import unite
from converters.importing.yolo_labels import decode_row, label_file
from converters.masks import rle
from converters.masks.instances import find_instances
from converters.masks.reading import read_mask
from converters.sources.reading import read_category

EXACT = settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
SIZE = (48, 40)
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


def masks_in(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_mask(path).mask for path in sorted((folder / "masks").iterdir())}


def classes_in(folder: Path) -> dict[str, str]:
    with (folder / "classes.csv").open(newline="") as file:
        return {row["image"]: row["class"] for row in csv.DictReader(file)}


def write_coco(
    root: Path, annotations: list[dict[str, Any]], count: int = 2, changes: dict[str, Any] | None = None
) -> Path:
    """images/0.png ... and a COCO file with classes dent (1) and scratch (2)."""
    for index in range(count):
        save_noise(root / "images" / f"{index}.png", SIZE)
    data = {
        "images": [
            {"id": n + 1, "file_name": f"{n}.png", "width": SIZE[0], "height": SIZE[1]} for n in range(count)
        ],
        "annotations": [{"id": n, "image_id": 1, "category_id": 1} | a for n, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "dent"}, {"id": 2, "name": "scratch"}],
    } | (changes or {})  # fmt: skip
    (root / "labels.json").write_text(json.dumps(data))
    return root / "labels.json"


def write_yolo(root: Path, rows: list[str], **changes: Any) -> Path:
    for part in ("train", "val"):
        save_noise(root / part / "images" / "0.jpg", SIZE, "RGB")
        (root / part / "labels").mkdir(exist_ok=True)
    text = "".join(f"{row}\n" for row in rows)
    (root / "train" / "labels" / "0.txt").write_text(text, "utf-8", "surrogateescape")
    data = {"train": "train/images", "val": "val/images", "names": ["dent", "scratch"]} | changes
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    return root / "data.yaml"


def from_coco(file: Path, to: Path, *arguments: object) -> Any:
    return run_cli("from_coco", file, "--images", file.parent / "images", "--to", to, *arguments)


def box(x: float, y: float, side: float = 10) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("segmentation", ["polygon", "rle"])
def test_masks_go_to_coco_and_back_pixel_for_pixel(tmp_path: Path, segmentation: str) -> None:
    source = write_category(tmp_path / "data")
    coco = converted("to_coco", source, tmp_path / "out", "--segmentation", segmentation) / "coco"
    seen: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        to = tmp_path / "back" / part
        file = coco / "annotations" / f"instances_{part}.json"
        result = run_cli("from_coco", file, "--images", coco / "images" / part, "--to", to)
        assert result.exit_code == 0, result.output
        seen |= masks_in(to)
        assert set(classes_in(to)) == {path.name for path in (coco / "images" / part).iterdir()}
    check_all(source, seen)


def test_masks_go_to_yolo_and_back_pixel_for_pixel(tmp_path: Path) -> None:
    source = write_category(tmp_path / "data")
    yolo = converted("to_yolo", source, tmp_path / "out", "--task", "segment") / "yolo-seg"
    before = tree(yolo)
    to = tmp_path / "back"
    result = run_cli("from_yolo", yolo / "data.yaml", "--to", to)
    assert result.exit_code == 0, result.output
    check_all(source, {name.split("__", 1)[1]: mask for name, mask in masks_in(to).items()})
    classes = classes_in(to)
    assert len(classes) == 16 and sum(name == "good" for name in classes.values()) == 6
    assert tree(yolo) == before
    again = converted("all", to, tmp_path / "again")
    assert run_cli("verify", again).exit_code == 0


def check_all(source: Path, seen: dict[str, np.ndarray]) -> None:
    expected = {s.key.replace("/", "__")[:-4] + "_mask.png": s.mask for s in read_category(source).samples if s.mask}
    assert set(seen) == set(expected)
    for name, mask in expected.items():
        assert (seen[name] == read_mask(mask).mask).all(), name


@EXACT
@given(random_masks(), st.sampled_from(["polygon", "rle"]))
def test_any_mask_survives_coco(mask: np.ndarray, kind: str) -> None:
    height, width = mask.shape
    written = [
        polygons(instance) if kind == "polygon" else rle.rle(instance, width, height)
        for instance in find_instances(mask)
    ]
    through_json = json.loads(json.dumps(written))
    union, _, count = unite((("dent", decode(s, width, height)) for s in through_json), mask.shape, False)
    assert (union == mask).all() and count == len(written)


@EXACT
@given(random_masks())
def test_any_mask_survives_yolo(mask: np.ndarray) -> None:
    height, width = mask.shape
    rows = [polygon_row(instance, 3, width, height) for instance in find_instances(mask)]
    decoded = [decode_row(row, width, height) for row in rows]
    union, _, count = unite((("dent", m) for _, m in decoded), mask.shape, False)
    assert (union == mask).all() and count == len(rows) and {index for index, _ in decoded} <= {3}


@EXACT
@given(random_masks())
def test_compressed_run_lengths_are_read_as_pycocotools_reads_them(mask: np.ndarray) -> None:
    text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel("F"), [2]])))
    assert rle.run_lengths(text) == np.diff(np.concatenate([[0], runs])).tolist()


# ---------------------------------------------------------------- COCO


def test_every_kind_of_segmentation_of_one_mask_is_the_same(tmp_path: Path) -> None:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[2:12, 2:12] = 1
    runs = rle.run_lengths(coco_mask.encode(np.asfortranarray(mask))["counts"].decode())
    for segmentation in (
        [SQUARE],
        {"size": [40, 48], "counts": runs},
        {"size": [40, 48], "counts": coco_mask.encode(np.asfortranarray(mask))["counts"].decode()},
    ):
        assert (decode(segmentation, *SIZE) == mask).all()


def test_ids_that_became_decimals_are_whole_numbers(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"segmentation": [SQUARE], "image_id": 1.0, "category_id": 2.0}])
    assert from_coco(file, tmp_path / "to").exit_code == 0
    assert classes_in(tmp_path / "to") == {"0.png": "scratch", "1.png": "good"}
    file.write_text(file.read_text().replace("2.0", "2.5"))
    assert "annotations.0.category_id" in refusal(from_coco(file, tmp_path / "more"))


def test_images_without_labels_are_good_and_unlisted_files_are_told(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"segmentation": [SQUARE]}, {"segmentation": [box(20, 20)], "category_id": 1}], 4)
    save_noise(tmp_path / "images" / "extra.png", SIZE)
    result = from_coco(file, tmp_path / "to")
    assert result.exit_code == 0, result.output
    assert classes_in(tmp_path / "to") == {"0.png": "dent", "1.png": "good", "2.png": "good", "3.png": "good"}
    assert "3 good and 1 defective" in result.stdout and "2 labels make 2 connected parts" in result.stdout
    assert "images that are not in labels.json, not taken: 1 (first: extra.png)" in result.stderr
    category = read_category(tmp_path / "to")
    assert category.problems == [] and category.defects == ["dent"]


def test_folders_in_image_names_become_part_of_the_name(tmp_path: Path) -> None:
    save_noise(tmp_path / "images" / "a" / "x_mask.png", SIZE)
    images = [{"id": "one", "file_name": "a\\x_mask.png", "width": 48, "height": 40}]
    file = write_coco(tmp_path, [{"image_id": "one", "segmentation": [SQUARE]}], 0, {"images": images})
    assert from_coco(file, tmp_path / "to").exit_code == 0
    category = read_category(tmp_path / "to")
    assert category.problems == [] and [s.key for s in category.samples] == ["images/a__x_mask.png"]
    assert category.samples[0].mask is not None


REFUSED_COCO: dict[str, tuple[dict[str, Any], str]] = {
    "a box": ({"segmentation": [], "bbox": [1, 2, 3, 4]}, "a box alone"),
    "a flat list": ({"segmentation": SQUARE}, "0: Input should be a valid list"),
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, "covers no pixel"),
    "odd": ({"segmentation": [[*SQUARE, 1]]}, "odd number"),
    "text": ({"segmentation": [["a"] * 6]}, "0.0: Input should be a valid number"),
    "not a number": ({"segmentation": [[float("nan")] * 6]}, "0.0: Input should be a finite number"),
    "far away": ({"segmentation": [[1e9, 0, 0, 0, 5, 5]]}, "far outside"),
    "no area": ({"segmentation": [[3, 3, 3, 3, 3, 3]]}, "covers no pixel"),
    "wrong size": ({"segmentation": {"size": [48, 40], "counts": [1920]}}, "40 x 48 px"),
    "too few pixels": ({"segmentation": {"size": [40, 48], "counts": [5, 5]}}, "add up to 10"),
    "too many pixels": ({"segmentation": {"size": [40, 48], "counts": [5, 10**9]}}, "add up to 1000000005"),
    "negative run": (
        {"segmentation": {"size": [40, 48], "counts": [-5, 1925]}},
        "counts.0: Input should be greater than or equal to 0",
    ),
    "bad character": ({"segmentation": {"size": [40, 48], "counts": "~~"}}, "counts: no run lengths"),
    "cut string": ({"segmentation": {"size": [40, 48], "counts": "PPPP"}}, "counts: no run lengths"),
    "unknown class": ({"segmentation": [SQUARE], "category_id": 9}, "category_id"),
    "list as class": ({"segmentation": [SQUARE], "category_id": [1]}, "annotations.0.category_id"),
    "unknown image": ({"segmentation": [SQUARE], "image_id": 9}, "annotation 0: image_id"),
}


@pytest.mark.parametrize("name", REFUSED_COCO)
def test_bad_coco_annotations_are_refused_by_name(name: str, tmp_path: Path) -> None:
    annotation, expected = REFUSED_COCO[name]
    file = write_coco(tmp_path, [annotation])
    line = refusal(from_coco(file, tmp_path / "to"))
    assert expected in line and ("0.png" in line or "labels.json" in line)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": None}, "images: Input should be a valid array"),
        ({"categories": [3]}, "categories.0: Input should be an object"),
        ({"images": [{"id": 1, "file_name": "../up.png"}]}, "leads out of --images"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "leads out of --images"),
        ({"images": [{"id": 1, "file_name": "..\\up.png"}]}, "leads out of --images"),
        ({"images": [{"id": 1}]}, "images.0.file_name: Field required"),
        ({"images": [{"id": 1, "file_name": "gone.png"}]}, "gone.png: No such file"),
        ({"images": [{"id": 1, "file_name": "a\0b.png"}]}, "control characters"),
        ({"images": [{"id": 1, "file_name": "0.png", "width": 96, "height": 80}]}, "was it resized, or turned?"),
        ({"images": [{"id": 1, "file_name": "0.png"}] * 2}, "images: two have the same id"),
        ({"images": [{"id": 1, "file_name": "0.png"}, {"id": 2, "file_name": "0.png"}]}, "images: two name the file"),
        ({"categories": [{"id": 1, "name": "good"}]}, "no name for a defect"),
        ({"categories": [{"id": 1, "name": "a/b"}]}, "no name for a defect"),
        ({"categories": [{"name": "a"}]}, "categories.0.id: Field required"),
        ({"images": [], "annotations": []}, "labels.json: images: List should have at least 1 item"),
    ],
)
def test_bad_coco_files_are_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"segmentation": [SQUARE]}], changes=changes)
    assert expected in refusal(from_coco(file, tmp_path / "to"))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '"text"', "\x80"])
def test_what_is_no_coco_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes(text.encode("latin-1"))
    assert "labels.json" in refusal(from_coco(tmp_path / "labels.json", tmp_path / "to"))


def test_an_endless_outline_is_refused() -> None:
    zigzag = [0, 0, 9000, 9000] * 1000
    with pytest.raises(DatasetError, match="longer than"):
        decode([zigzag], 9000, 9000)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.recursive(
        st.none() | st.integers(-99, 99) | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=8)
            | st.fixed_dictionaries({"size": st.just([6, 7]), "counts": inner})
            | st.dictionaries(st.sampled_from(["size", "counts"]), inner)
        ),
        max_leaves=12,
    )
)
def test_no_segmentation_whatever_crashes(segmentation: Any) -> None:
    with suppress(DatasetError):
        assert decode(segmentation, 7, 6).shape == (6, 7)


# ---------------------------------------------------------------- YOLO


def test_yolo_rows_are_painted_as_ultralytics_paints_them() -> None:
    row = "1 0.1 0.1 0.6 0.1 0.6 0.7 0.1 0.7"
    index, mask = decode_row(row, 20, 10)
    expected = np.zeros((10, 20), np.uint8)
    cv2.fillPoly(expected, [np.array([[2, 1], [12, 1], [12, 7], [2, 7]], np.int32)], (1,))
    assert index == 1 and (mask == expected).all()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("0 0.5 0.5 0.2 0.2", "a box alone"),
        ("0 0.1 0.1 0.2 0.2 0.3", "three or more points"),
        ("0.5 0.1 0.1 0.2 0.2 0.3 0.1", "needs a class"),
        ("nan 0.1 0.1 0.2 0.2 0.3 0.1", "needs a class"),
        ("0 0.1 0.1 0.2 nan 0.3 0.1", "from 0 to 1"),
        ("0 0.1 0.1 1.2 0.2 0.3 0.1", "from 0 to 1"),
        ("0 0.1 0.1 -0.2 0.2 0.3 0.1", "from 0 to 1"),
        ("7 0.1 0.1 0.2 0.1 0.2 0.3", "class 7"),
        ("dent 0.1 0.1 0.2 0.1 0.2 0.3", "no row of numbers"),
        ("\udcff", "no row of numbers"),
    ],
)
def test_bad_yolo_rows_are_refused_with_file_and_line(row: str, expected: str, tmp_path: Path) -> None:
    good = "0 0.5 0.5 0.9 0.5 0.9 0.9"
    line = refusal(run_cli("from_yolo", write_yolo(tmp_path, [good, "", row]), "--to", tmp_path / "to"))
    assert expected in line and "line 3 of" in line and "0.txt" in line


def test_roboflows_paths_lists_of_files_and_names_as_a_dict_are_understood(tmp_path: Path) -> None:
    row = "1 0.1 0.1 0.6 0.1 0.6 0.7"
    path = write_yolo(tmp_path, [row], train="../train/images", val=["val.txt"], names={0: "dent", 1: "scratch"})
    (tmp_path / "val.txt").write_text("./val/images/0.jpg\n\n")
    result = run_cli("from_yolo", path, "--to", tmp_path / "to")
    assert result.exit_code == 0, result.output
    assert classes_in(tmp_path / "to") == {"train__0.jpg": "scratch", "val__0.jpg": "good"}
    assert "no label file, taken as good: 1 (first: " in result.stderr
    assert label_file(Path("/a/images/b/images/c.d.jpg")) == Path("/a/images/b/labels/c.d.txt")


def test_files_that_are_not_there_and_boxes_have_a_next_step(tmp_path: Path) -> None:
    for path in (tmp_path / "data.yaml", tmp_path):
        assert "directory: name the data.yaml of a" in refusal(run_cli("from_yolo", path, "--to", tmp_path / "to"))
    missing = ("from_coco", tmp_path / "labels.json", "--images", tmp_path, "--to", tmp_path / "to")
    assert "directory: name a JSON file of labels" in refusal(run_cli(*missing))
    boxes = ("from_yolo", write_yolo(tmp_path, ["0 0.5 0.5 0.2 0.2"]), "--to", tmp_path / "to")
    assert "label outlines (YOLO's segment format) instead, or leave such images out with --on-error skip" in refusal(
        run_cli(*boxes)
    )
    skipped = run_cli(*boxes, "--on-error", "skip")
    assert skipped.exit_code == 1 and "wrote 1 good and 0 defective images" in skipped.stdout


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"names": None}, "names: Input should be a valid dict"),
        ({"names": {"a": "b"}}, "names.a.[key]: Input should be a valid integer"),
        ({"train": None, "val": None}, "data.yaml: names no images"),
        ({"train": 3}, "train: Input should be a valid list"),
        ({"train": [3]}, "train.0: Input should be a valid string"),
        ({"train": "nowhere"}, "no such folder"),
        ({"path": "/nowhere"}, "no such folder"),
    ],
)
def test_bad_data_yamls_are_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(run_cli("from_yolo", write_yolo(tmp_path, [], **changes), "--to", tmp_path / "to"))


@pytest.mark.parametrize("text", ["", "[", "names: !!python/object/apply:os.system ['false']", "\x80", "? [a]\n: b"])
def test_what_is_no_data_yaml_is_refused(text: str, tmp_path: Path) -> None:
    """Also YAML that would run code: it is read by the safe loader."""
    (tmp_path / "data.yaml").write_bytes(text.encode("latin-1"))
    assert "data.yaml" in refusal(run_cli("from_yolo", tmp_path / "data.yaml", "--to", tmp_path / "to"))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text("0123456789.- einfa\n", max_size=60))
def test_no_row_whatever_crashes(row: str) -> None:
    with suppress(DatasetError):
        assert decode_row(row, 7, 6)[1].shape == (6, 7)


# ---------------------------------------------------------------- what the folder cannot hold


def test_several_classes_in_one_image_are_refused_or_combined(tmp_path: Path) -> None:
    both = [{"segmentation": [SQUARE]}, {"segmentation": [box(20, 20)], "category_id": 2}]
    file = write_coco(tmp_path, both)
    line = refusal(from_coco(file, tmp_path / "to"))
    assert "0.png" in line and "dent, scratch" in line and "--mixed combined" in line
    assert from_coco(file, tmp_path / "to", "--mixed", "combined").exit_code == 0
    assert classes_in(tmp_path / "to")["0.png"] == "combined"


@pytest.mark.parametrize(
    ("other", "touches"), [(box(5, 5), True), (box(12, 2), True), (box(12, 12), True), (box(13, 2), False)]
)
def test_instances_that_touch_are_refused_or_merged(tmp_path: Path, other: list[float], touches: bool) -> None:
    """Overlapping, side by side, corner to corner, one pixel apart."""
    file = write_coco(tmp_path, [{"segmentation": [SQUARE]}, {"segmentation": [other]}])
    result = from_coco(file, tmp_path / "to")
    if touches:
        assert "0.png" in refusal(result) and "--touching merge" in result.stderr
        result = from_coco(file, tmp_path / "to", "--touching", "merge")
    assert result.exit_code == 0, result.output
    assert f"2 labels make {1 if touches else 2} connected parts" in result.stdout
    mask = masks_in(tmp_path / "to")["0_mask.png"]
    assert (mask == (decode([SQUARE], *SIZE) | decode([other], *SIZE))).all()


def test_skipping_lists_what_was_left_out(tmp_path: Path) -> None:
    bad = [{"segmentation": [SQUARE]}, {"segmentation": [], "image_id": 2}]
    result = from_coco(write_coco(tmp_path, bad, 3), tmp_path / "to", "--on-error", "skip")
    assert result.exit_code == 1 and "left out" in result.stderr and "1.png" in result.stderr
    assert classes_in(tmp_path / "to") == {"0.png": "dent", "2.png": "good"}
    assert read_category(tmp_path / "to").problems == []


def test_nothing_is_replaced_without_being_asked(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"segmentation": [SQUARE]}])
    assert from_coco(file, tmp_path / "to").exit_code == 0
    before = tree(tmp_path / "to")
    assert "--overwrite" in refusal(from_coco(file, tmp_path / "to"))
    assert from_coco(file, tmp_path / "to", "--overwrite").exit_code == 0
    assert tree(tmp_path / "to") == before


def test_max_pixels_bounds_what_is_painted(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [{"segmentation": [SQUARE]}])
    assert "more than --max-pixels 100" in refusal(from_coco(file, tmp_path / "to", "--max-pixels", 100))
