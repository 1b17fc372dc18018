"""`verify` must accept what the converters write, and notice whatever is done to it afterwards."""

import json
import shutil
import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import blobs, converted, refusal, run_cli, tree
from PIL import Image

from converters.verification import comparing, readers


@pytest.fixture
def dataset(make_category, tmp_path, monkeypatch) -> Path:
    """All formats of one category, read back without ultralytics (slow to import; see the slow tests)."""
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    out = tmp_path / "out"
    folder = make_category()
    converted("to_yolo", folder, out, "--task", "obb")
    converted("to_coco", folder, out, "--style", "roboflow")
    return converted("all", folder, out)


def verify(dataset: Path, *options: object) -> Result:
    return run_cli("verify", dataset, *options)


def test_every_format_agrees_and_the_dataset_stays_as_written(dataset):
    before = tree(dataset)
    result = verify(dataset)
    assert result.exit_code == 0, result.output
    assert "All formats agree" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines()[3:10]] == [
        "yolo",
        "yolo-seg",
        "yolo-obb",
        "coco",
        "coco-roboflow",
        "masks",
        "voc",
    ]
    assert tree(dataset) == before


def test_json_holds_the_table(dataset):
    rows = json.loads(verify(dataset, "--json").stdout)[dataset.as_posix()]
    coco = next(row for row in rows if row["format"] == "coco")
    assert (coco["masks"], coco["exact"], coco["IoU min"]) == ("10", "10", "1.00000")
    assert coco["boxes exact"] == "20 of 20"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert old in text
    path.unlink()  # a hard link to elsewhere must not change with it
    path.write_text(text.replace(old, new, 1), "utf-8")


def first(folder: Path, pattern: str) -> Path:
    return next(path for path in sorted(folder.rglob(pattern)) if path.stat().st_size)


def one_pixel_less(path: Path) -> None:
    pixels = np.asarray(Image.open(path)).copy()
    y, x = np.argwhere(pixels)[0]
    pixels[y, x] = 0
    path.unlink()
    Image.fromarray(pixels).save(path)


def move_polygon(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    content["annotations"][0]["segmentation"][0][0] += 1
    path.write_text(json.dumps(content), "utf-8")


def shift_label(dataset: Path, format_: str) -> None:
    path = first(dataset / format_ / "labels", "*crack*.txt")
    row = path.read_text("utf-8").split()
    row[1] = f"{float(row[1]) + 0.05:.8f}"
    path.write_text(" ".join(row) + "\n", "utf-8")


def loosen(dataset: Path) -> None:
    path = first(dataset / "yolo-obb" / "labels", "*crack*.txt")
    path.write_text("0 0 0 1 0 1 1 0 1\n" * len(path.read_text("utf-8").splitlines()), "utf-8")


DAMAGES = {
    "a mask loses a pixel": lambda d: one_pixel_less(first(d / "masks" / "instance", "*crack*.png")),
    "a VOC mask loses a pixel": lambda d: one_pixel_less(first(d / "voc" / "SegmentationObject", "*crack*.png")),
    "a VOC box moves": lambda d: replace(first(d / "voc" / "Annotations", "*crack*.xml"), "<xmin>", "<xmin>1"),
    "a VOC class changes": lambda d: replace(first(d / "voc", "*crack*.xml"), "<name>crack", "<name>hole"),
    "a VOC file names another image": lambda d: replace(first(d / "voc", "*crack*.xml"), "crack", "hole"),
    "a VOC file gets another object": lambda d: replace(
        first(d / "voc", "*crack*.xml"), "</annotation>", "<object><name>crack</name></object></annotation>"
    ),
    "a VOC class list is emptied": lambda d: (d / "voc" / "ImageSets" / "Main" / "crack_test.txt").write_text(""),
    "a rotated box is larger than it need be": loosen,
    "a COCO polygon moves": lambda d: move_polygon(d / "coco" / "annotations" / "instances_test.json"),
    "a Roboflow polygon moves": lambda d: move_polygon(d / "coco-roboflow" / "test" / "_annotations.coco.json"),
    "a Roboflow image is missing": lambda d: first(d / "coco-roboflow" / "valid", "*crack*.png").unlink(),
    "a YOLO box moves": lambda d: shift_label(d, "yolo"),
    "a YOLO polygon moves": lambda d: shift_label(d, "yolo-seg"),
    "a rotated box moves": lambda d: shift_label(d, "yolo-obb"),
    "a YOLO row is missing": lambda d: first(d / "yolo" / "labels", "*crack*.txt").write_text("", "utf-8"),
    "a YOLO label file is missing": lambda d: first(d / "yolo" / "labels", "*crack*.txt").unlink(),
    "a good image gets a label": lambda d: (
        first(d / "yolo", "*good*.png")
        and next((d / "yolo" / "labels").rglob("*good*.txt")).write_text("0 0.5 0.5 0.1 0.1\n", "utf-8")
    ),
    "an image goes to another part": lambda d: shutil.move(
        first(d / "masks" / "images" / "train", "*.png"), d / "masks" / "images" / "test"
    ),
    "a VOC list loses a line": lambda d: (d / "voc" / "ImageSets" / "Main" / "test.txt").write_text("", "utf-8"),
    "a format of another split": lambda d: replace(d / "yolo" / "data.yaml", "split_sha256: ", "split_sha256: 0"),
    "an annotation file is no JSON": lambda d: (d / "masks" / "classes.json").write_text("{", "utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found(dataset, damage):
    damage(dataset)
    result = verify(dataset)
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    assert "All formats agree" not in result.stdout


@pytest.mark.parametrize(
    ("file", "content"),
    [("masks/classes.json", "{}"), ("masks/classes.json", "[]"), ("coco/annotations/instances_train.json", "{}")],
)
def test_a_file_that_holds_something_else_is_a_difference(dataset, file, content):
    (dataset / file).unlink()
    (dataset / file).write_text(content, "utf-8")
    result = verify(dataset)
    assert result.exit_code in (1, 2) and not isinstance(result.exception, KeyError | TypeError), result.output


def test_an_exchanged_image_is_found(dataset):
    path = first(dataset / "coco" / "images", "*crack*.png")
    path.unlink()
    Image.new("L", (48, 40)).save(path)
    result = verify(dataset)
    assert result.exit_code == 1
    assert f"coco: {path.name}: the image file is not the source's" in result.stdout


def test_a_source_that_changed_is_refused(dataset, tmp_path):
    one_pixel_less(first(tmp_path / "data" / "widget" / "ground_truth", "*.png"))
    assert "its source has changed" in refusal(verify(dataset))


def test_a_source_that_moved_is_named_with_root(dataset, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert "name it with --root" in refusal(verify(dataset))
    assert verify(dataset, "--root", tmp_path / "elsewhere").exit_code == 0


def test_what_is_no_dataset_is_refused(tmp_path):
    line = refusal(verify(tmp_path / "nothing"))
    assert "no dataset has been published there; write one with `python -m converters all --category NAME`" in line


def test_the_folder_of_datasets_names_those_in_it(dataset):
    assert f"published there; name one in it: {dataset}\n" in refusal(verify(dataset.parent))


def test_left_out_files_and_small_instances_are_no_differences(make_category, tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    folder = make_category()
    (folder / "ground_truth" / "crack" / "000_mask.png").unlink()
    options = ("--root", folder, "--out", tmp_path / "out", "--on-error", "skip", "--min-area", 50)
    assert run_cli("all", *options).exit_code == 1
    result = verify(tmp_path / "out" / "widget")
    assert result.exit_code == 0, result.output


def test_memory_does_not_grow_with_the_number_of_instances(make_category, tmp_path):
    """All masks of the large image at once would take 210 MB; its readers hand them on one by one."""
    pytest.importorskip("ultralytics.data.dataset")  # its own memory is none of ours
    large = np.zeros((1024, 1024), np.uint8)
    for x, y in product(range(20), range(10)):
        large[30 + 100 * y : 40 + 100 * y, 20 + 50 * x : 32 + 50 * x] = 1
    dataset = converted(
        "all", make_category(masks={"crack": [large, *[blobs(n, (48, 40)) for n in range(2)]]}), tmp_path
    )
    tracemalloc.start()
    results = comparing.verify(dataset)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line for result in results for line in comparing.failures(result)] == []
    assert {result.boxes for result in results if result.boxes} == {200 + 2 * 2}
    assert peak < 40e6, f"{peak / 1e6:.0f} MB"


@pytest.mark.slow
def test_real_defects_through_ultralytics_loader(screw_datasets):
    pytest.importorskip("ultralytics")
    dataset = screw_datasets / "screw"
    before = tree(dataset)
    result = verify(dataset, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["format"]: row for row in json.loads(result.stdout)[dataset.as_posix()]}
    assert rows["yolo-seg"]["reader"] == rows["yolo"]["reader"] == "ultralytics"
    for row in rows.values():
        assert row["split"] == "ok"
        assert row["boxes exact"] in ("-", "135 of 135")
        assert row["exact"] in ("-", "119")
    assert tree(dataset) == before
