"""`--tile`: squares cut after the split, each the crop of its image and mask, and the way back to whole images."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import blobs, converted, refusal, run_cli, run_process, tree, write_category
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from converters.datasets.tiles import TileRule, grid
from converters.verification import readers
from finetune.detection.tiles import on_whole_images
from finetune.runs.dataset import open_dataset

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
MakeCategory = Callable[..., Path]
PARTS = ("train", "val", "test")
SIZE = (80, 56)  # width, height: 3 x 2 tiles of 32 px, the last ones on the edges


@pytest.fixture(autouse=True)
def without_ultralytics(monkeypatch) -> None:
    monkeypatch.setattr(readers, "find_spec", lambda name: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_category(
        tmp_path / "data",
        masks={
            "crack": [np.pad(blobs(i, (48, 40)), ((8, 8), (16, 16))) for i in range(5)],
            "hole": [np.roll(np.pad(np.ones((9, 9), np.uint8), ((20, 27), (30, 41))), 2 * i) for i in range(5)],
        },
        size=SIZE,
    )


def tiled(folder: Path, out: Path, *options: object, command: str = "all") -> Path:
    result = run_cli(command, "--root", folder, "--out", out, "--tile", 32, "--workers", 1, *options)
    assert result.exit_code == 0, result.output
    return out / f"{folder.name}@tile-32"


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


# ---------------------------------------------------------------- where tiles lie


def test_tiles_of_1024_px_by_hand() -> None:
    assert grid(1024, 1024, TileRule(640)) == [
        (0, 0, 640, 640),
        (384, 0, 640, 640),
        (0, 384, 640, 640),
        (384, 384, 640, 640),
    ]
    assert [tile[0] for tile in grid(2000, 640, TileRule(640))] == [0, 453, 907, 1360]
    assert grid(300, 200, TileRule(640)) == [(0, 0, 300, 200)]
    assert [tile[0] for tile in grid(100, 50, TileRule(50, 0))] == [0, 50]


@given(st.integers(1, 3000), st.integers(32, 900), st.sampled_from([0, 0.1, 0.2, 0.5, 0.9]))
def test_tiles_cover_the_image_and_overlap_as_much_as_asked(width: int, size: int, overlap: float) -> None:
    starts = [x for x, _, _, _ in grid(width, 10, TileRule(size, overlap))]
    side = min(size, width)
    assert starts[0] == 0 and starts[-1] + side == width and starts == sorted(set(starts))
    for this, following in pairwise(starts):
        assert this + side - following >= overlap * size - 1e-6


# ---------------------------------------------------------------- what lies in them


def test_every_tile_is_the_crop_of_its_image_and_mask(folder: Path, tmp_path: Path) -> None:
    dataset = tiled(folder, tmp_path / "out")
    record, split = read(dataset / "tiles.json"), read(dataset / "split.json")["parts"]
    assert len(record["tiles"]) == 6 * len(split) == 6 * 16
    for name, tile in record["tiles"].items():
        key = tile["image"].replace("__", "/")
        part = split[key]
        x, y, w, h = (tile[side] for side in ("x", "y", "width", "height"))
        assert name == f"{Path(tile['image']).stem}@{x}_{y}.png"
        whole = cv2.imread(str(folder / key), cv2.IMREAD_UNCHANGED)
        seen = cv2.imread(str(dataset / "masks" / "images" / part / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(seen, whole[y : y + h, x : x + w])
        truth = np.zeros(SIZE[::-1], np.uint8)
        if "good" not in key:
            _, defect, file = key.split("/")
            truth = cv2.imread(str(folder / "ground_truth" / defect / f"{file[:3]}_mask.png"), cv2.IMREAD_GRAYSCALE)
        ids = np.asarray(Image.open(dataset / "masks" / "instance" / part / name))
        assert np.array_equal(ids > 0, truth[y : y + h, x : x + w] > 0)
        assert ids.max() == ndimage.label(truth[y : y + h, x : x + w], np.ones((3, 3)))[1]


def test_verify_proves_all_formats_and_the_source_stays(folder: Path, tmp_path: Path) -> None:
    before = tree(folder)
    dataset = tiled(folder, tmp_path / "out")
    written = tree(dataset)
    result = run_cli("verify", dataset, "--json")
    assert result.exit_code == 0, result.output
    rows = {row["format"]: row for row in json.loads(result.stdout)[dataset.as_posix()]}
    assert rows.keys() == {"yolo", "yolo-seg", "coco", "masks", "voc"}
    assert all(row["masks"] in ("-", row["exact"]) and row["split"] == "ok" for row in rows.values())
    assert (tree(folder), tree(dataset)) == (before, written)


def test_colour_images_of_any_kind_become_png(tmp_path: Path) -> None:
    folder = write_category(
        tmp_path / "data", size=SIZE, mode="RGB", suffix=".jpg", masks={"crack": [np.ones(SIZE[::-1])] * 3}
    )
    dataset = tiled(folder, tmp_path / "out")
    names = {path.name for path in (dataset / "coco" / "images").rglob("*.*")}
    assert "test__crack__000@24_24.png" in names and not any(name.endswith("jpg") for name in names)
    assert run_cli("verify", dataset).exit_code == 0


def test_the_split_is_that_of_the_whole_images(folder: Path, tmp_path: Path) -> None:
    options = ("--protocol", "kfold", "--folds", 3, "--fold", 1)
    whole = run_cli("to_coco", "--root", folder, "--out", tmp_path, "--workers", 1, *options)
    tiles = run_cli("to_coco", "--root", folder, "--out", tmp_path, "--workers", 1, *options, "--tile", 32)
    assert (whole.exit_code, tiles.exit_code) == (0, 0), tiles.output
    base, dataset = tmp_path / "widget@kfold-3-1", tmp_path / "widget@tile-32@kfold-3-1"
    assert (base / "split.json").read_bytes() == (dataset / "split.json").read_bytes()
    record = read(dataset / "tiles.json")
    assert record["base"] == base.name
    for part in PARTS:
        images = read(base / "coco" / "annotations" / f"instances_{part}.json")["images"]
        assert all(record["images"][i["file_name"]] == {k: i[k] for k in ("id", "width", "height")} for i in images)


def test_several_categories_in_one_dataset_can_be_tiled(tmp_path: Path) -> None:
    for name in ("bolt", "nut"):
        write_category(tmp_path / "data", name, size=SIZE, masks={"crack": [np.ones(SIZE[::-1], np.uint8)] * 3})
    options = ("--root", tmp_path / "data", "--category", "all", "--classes", "category-defect", "--tile", 32)
    result = run_cli("to_coco", *options, "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 0, result.output
    dataset = open_dataset(tmp_path / "out", "all@tile-32")
    assert (dataset.base, dataset.classes) == ("all", ["bolt-crack", "nut-crack"])
    assert "nut__test__crack__002@48_24.png" in dataset.image_ids
    assert run_cli("verify", dataset.folder).exit_code == 0


def test_tiles_without_a_defect_stay_and_count_as_good(folder: Path, tmp_path: Path) -> None:
    result = run_cli("all", "--root", folder, "--out", tmp_path, "--tile", 32, "--workers", 1)
    empty = 0
    for part in PARTS:
        coco = read(tmp_path / "widget@tile-32" / "coco" / "annotations" / f"instances_{part}.json")
        shown = {entry["image_id"] for entry in coco["annotations"]}
        empty += sum(i["id"] not in shown and "good" not in i["file_name"] for i in coco["images"])
    assert empty > 10
    assert f"counted as good: {empty} tiles without a defect, of images that have one elsewhere" in result.stdout
    labels = open_dataset(tmp_path, "widget@tile-32").labels("test")
    assert None in [label for name, label in labels.items() if "hole" in name]


def test_one_and_two_workers_write_the_same(folder: Path, tmp_path: Path) -> None:
    one = tree(tiled(folder, tmp_path / "one"))
    assert one == tree(tiled(folder, tmp_path / "two", "--workers", 2))
    assert one == tree(tiled(folder, tmp_path / "one", "--overwrite"))


def test_formats_share_one_file_a_tile(folder: Path, tmp_path: Path) -> None:
    dataset = tiled(folder, tmp_path / "out")
    assert {path.stat().st_nlink for path in (dataset / "yolo" / "images").rglob("*.png")} == {5}


def test_small_pieces_fall_under_min_area(tmp_path: Path) -> None:
    """A row of 40 px: the last tile (24 to 56 of 56) sees 16 of them, the others 32 and 24 or so."""
    mask = np.zeros((32, 56), np.uint8)
    mask[3, 0:40] = 1
    folder = write_category(tmp_path / "data", masks={"crack": [mask] * 3}, size=(56, 32))
    dataset = tiled(folder, tmp_path / "out", "--min-area", 20)
    card = read(dataset / "card.json")
    assert sorted({problem["file"] for problem in card["left_out"]}) == [f"test/crack/00{i}@24_0.png" for i in range(3)]
    opened = open_dataset(tmp_path / "out", dataset.name)
    assert not any("crack" in name and "@24_" in name for name in opened.image_ids)
    assert run_cli("verify", dataset).exit_code == 0
    ids = {i["file_name"]: i["id"] for part in PARTS for i in opened.ground_truth(part)["images"]}
    assert ids == opened.image_ids


def test_a_bad_mask_leaves_out_all_tiles_of_its_image(folder: Path, tmp_path: Path) -> None:
    Image.new("L", SIZE).save(folder / "ground_truth" / "crack" / "001_mask.png")
    line = refusal(run_cli("all", "--root", folder, "--out", tmp_path, "--tile", 32))
    assert "the mask is empty" in line
    result = run_cli("all", "--root", folder, "--out", tmp_path, "--tile", 32, "--on-error", "skip", "--workers", 1)
    assert result.exit_code == 1
    assert result.stdout.count("left out: test/crack/001.png") == 1
    dataset = open_dataset(tmp_path, "widget@tile-32")
    assert not any("crack__001" in name for name in dataset.image_ids) and len(dataset.image_ids) == 6 * 15
    assert dataset.image_ids == {
        i["file_name"]: i["id"] for part in PARTS for i in dataset.ground_truth(part)["images"]
    }
    assert run_cli("verify", dataset.folder).exit_code == 0


# ---------------------------------------------------------------- refused, or found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--overlap", 0.5], "--overlap means nothing without --tile"),
        (["--tile", 32, "--images", "copy"], "--images copy means nothing to --tile"),
        (["--tile", 8], "--tile"),
        (["--tile", 32, "--overlap", 1], "--overlap"),
        (["--tile", 32, "--overlap", "nan"], "nan is no number"),
        (["--simplify", "nan"], "nan is no number"),
        (["--simplify", "inf"], "not in the range"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(folder: Path, tmp_path: Path, options: list, words: str) -> None:
    assert words in refusal(run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_another_overlap_is_another_dataset(folder: Path, tmp_path: Path) -> None:
    tiled(folder, tmp_path, command="to_coco")
    line = refusal(run_cli("to_voc", "--root", folder, "--out", tmp_path, "--tile", 32, "--overlap", 0.5))
    assert "other options" in line


def change_pixel(dataset: Path) -> None:
    path = next((dataset / "voc" / "JPEGImages").glob("*crack*"))
    pixels = np.asarray(Image.open(path)).copy()
    pixels[5, 5] ^= 1
    path.unlink()
    Image.fromarray(pixels).save(path)


def move_tile(dataset: Path) -> None:
    path = dataset / "tiles.json"
    path.write_text(path.read_text("utf-8").replace('"x": 24', '"x": 23', 1), "utf-8")


@pytest.mark.parametrize("damage", [change_pixel, move_tile])
def test_verify_finds_damage(folder: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    dataset = tiled(folder, tmp_path)
    damage(dataset)
    result = run_cli("verify", dataset)
    assert result.exit_code in (1, 2) and "Traceback" not in result.output
    assert "the image file is not the source's" in result.output or "where the tiles lie" in result.output


# ---------------------------------------------------------------- the way back


@pytest.fixture
def datasets(folder: Path, tmp_path: Path) -> Path:
    tiled(folder, tmp_path / "out", "--segmentation", "rle", "--overlap", 0.5, command="to_coco")
    converted("to_coco", folder, tmp_path / "out", "--segmentation", "rle")
    return tmp_path / "out"


def test_what_is_on_the_tiles_is_what_is_on_the_images(datasets: Path) -> None:
    """An oracle on tiles finds, on whole images, each defect that fits into a tile once, box and mask exact."""
    tiles, whole = open_dataset(datasets, "widget@tile-32"), open_dataset(datasets, "widget")
    assert tiles.base == whole.name and whole.base == whole.name
    for part in PARTS:
        found = [
            entry | {"score": 0.9} for entry in tiles.ground_truth(part)["annotations"] if entry["category_id"] == 2
        ]
        back = on_whole_images(found, tiles)
        expected = [entry for entry in whole.ground_truth(part)["annotations"] if entry["category_id"] == 2]
        assert len(found) > len(back) == len(expected) > 0
        key = lambda entry: (entry["image_id"], entry["bbox"])  # noqa: E731
        for ours, truth in zip(sorted(back, key=key), sorted(expected, key=key), strict=True):
            assert key(ours) == key(truth) and ours["score"] == 0.9
            assert np.array_equal(coco_mask.decode(ours["segmentation"]), coco_mask.decode(truth["segmentation"]))


def test_of_boxes_that_overlap_the_surest_of_a_class_stays(datasets: Path) -> None:
    tiles = open_dataset(datasets, "widget@tile-32")
    name = "test__hole__000@16_12.png"
    assert tiles.tiles and tiles.tiles["tiles"][name]["image"] == "test__hole__000.png"
    here = {"image_id": tiles.image_ids[name], "category_id": 1}
    found = [
        here | {"bbox": [8, 8, 10, 10], "score": 0.5},
        here | {"bbox": [8, 8, 10, 9], "score": 0.7},
        here | {"bbox": [8, 8, 10, 10], "score": 0.6, "category_id": 2},
        here | {"bbox": [20, 20, 6, 6], "score": 0.1},
        here | {"bbox": [0, 8, 10, 10], "score": 0.9},  # cut by the left side, whole in the tile on the left
    ]
    back = on_whole_images(found, tiles)
    assert [(entry["category_id"], entry["score"], entry["bbox"]) for entry in back] == [
        (1, 0.7, [24, 20, 10, 9]),
        (2, 0.6, [24, 20, 10, 10]),
        (1, 0.1, [36, 32, 6, 6]),
    ]
    assert {entry["image_id"] for entry in back} == {open_dataset(datasets, "widget").image_ids["test__hole__000.png"]}


def test_polygons_move_with_their_tile(datasets: Path) -> None:
    dataset = open_dataset(datasets, "widget@tile-32")
    name, tile = next((name, tile) for name, tile in dataset.tiles["tiles"].items() if tile["x"] and tile["y"])
    square = [4, 4, 9, 4, 9, 9, 4, 9]
    found = {"image_id": dataset.image_ids[name], "category_id": 1, "bbox": [4, 4, 5, 5], "score": 0.5}
    (moved,) = on_whole_images([{**found, "segmentation": [square]}], dataset)
    assert moved["segmentation"] == [[value + tile["xy"[i % 2]] for i, value in enumerate(square)]]


def test_nothing_found_on_tiles_is_nothing_on_whole_images(datasets: Path) -> None:
    assert on_whole_images([], open_dataset(datasets, "widget@tile-32")) == []


def test_pycocotools_reads_tiles(datasets: Path) -> None:
    coco = COCO(datasets / "widget@tile-32" / "coco" / "annotations" / "instances_train.json")
    assert {(image["width"], image["height"]) for image in coco.imgs.values()} == {(32, 32)}


@pytest.mark.slow
def test_tiles_of_real_defects_through_ultralytics_and_back(screw: Path, screw_datasets: Path, tmp_path: Path) -> None:
    """All formats proven by other people's readers; and an oracle on tiles is an oracle on whole images."""
    done = run_process("all", "--tile", 640, "--root", screw, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    before = tree(tmp_path / "screw@tile-640")
    done = run_process("verify", tmp_path / "screw@tile-640", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (rows,) = json.loads(done.stdout).values()
    assert all(row["exact"] in ("-", "293") and row["boxes exact"] in ("-", "334 of 334") for row in rows)
    assert tree(tmp_path / "screw@tile-640") == before
    tiles, whole = open_dataset(tmp_path, "screw@tile-640"), open_dataset(screw_datasets, "screw")
    for part in PARTS:
        found = [
            {name: entry[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.5}
            for entry in tiles.ground_truth(part)["annotations"]
        ]
        back = {(e["image_id"], e["category_id"], *e["bbox"]) for e in on_whole_images(found, tiles)}
        assert back == {(e["image_id"], e["category_id"], *e["bbox"]) for e in whole.ground_truth(part)["annotations"]}


def test_tiles_larger_than_all_images_are_told(make_category: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_category()
    for side, told in ((640, True), (48, True), (47, False)):
        result = run_cli("to_masks", "--root", folder, "--out", tmp_path, "--tile", side)
        assert result.exit_code == 0
        assert (
            f"widget@tile-{side}: nothing is cut, as no image is larger than --tile {side}\n" in result.stderr
        ) == told
