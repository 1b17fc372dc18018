"""Synthetic images: exact masks, parents from train alone, the same bytes however they are made."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from conftest import converted, refusal, run_cli, run_process, save_mask, tree, write_category
from PIL import Image

from converters.datasets import records
from converters.datasets import synthetic_images as made
from converters.masks.instances import Instance
from converters.synthetic import pasting, perlin
from converters.synthetic.foreground import Frame, find_foreground, frame_of, kind_of
from converters.synthetic.request import Request, shares
from finetune.runs.dataset import open_dataset

SIDE = 120
COUNT = 12


def ground(generator: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """A light background with a little noise, side x side."""
    return generator.integers(198, 203, (side, side)).astype(np.uint8)


def wedge(generator: np.random.Generator, degrees: float) -> np.ndarray:
    """A dark wedge on a light background, its slim end pointing in a direction (clockwise from the right)."""
    image = ground(generator)
    angle = math.radians(degrees)
    ahead, aside = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    corners = np.array([45 * ahead, -35 * ahead + 16 * aside, -35 * ahead - 16 * aside]) + SIDE / 2
    inside = cv2.fillPoly(np.zeros_like(image), [np.int32(np.round(corners))], 1) > 0
    image[inside] = generator.integers(78, 83, (SIDE, SIDE))[inside]
    return image


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_wedges(root: Path, name: str = "wedge", turned: bool = True) -> Path:
    """A category of wedges at any angle; `tip` defects lie near the slim end, `heel` ones near the other."""
    generator = np.random.default_rng(1)
    folder = root / name
    for part, count in (("train", 6), ("test", 5)):
        for index in range(count):
            angle = generator.uniform(0, 360) if turned else 0
            save(folder / part / "good" / f"{index}.png", wedge(generator, angle))
    for defect, along, count, radius in (("tip", 15, 10, 4), ("heel", -25, 5, 5)):
        for index in range(count):
            angle = generator.uniform(0, 360) if turned else 0
            image, mask = wedge(generator, angle), np.zeros((SIDE, SIDE), np.uint8)
            middle = SIDE / 2 + along * np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
            cv2.circle(mask, tuple(int(v) for v in middle.round()), radius - index % 2, 1, -1)
            image[mask > 0] = 130 + 2 * index + (generator.integers(0, 20, image.shape)[mask > 0])
            save(folder / "test" / defect / f"{index}.png", image)
            save_mask(folder / "ground_truth" / defect / f"{index}_mask.png", mask)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data/wedge`` and, converted, ``out/wedge``."""
    root = tmp_path_factory.mktemp("augment")
    converted("all", write_wedges(root / "data"), root / "out")
    return root


@pytest.fixture(scope="module")
def pasted(data: Path) -> Path:
    return augmented(data / "out")


def augmented(out: Path, *options: object, name: str = f"wedge@paste-{COUNT}") -> Path:
    result = augment(out, *options)
    assert result.exit_code == 0, result.output
    return out / name


def augment(out: Path, *options: object) -> Result:
    arguments = ("--dataset", "wedge", "--out", out, "--count", COUNT, "--workers", 1)
    return run_cli("augment", *arguments, *options)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def record_of(dataset: Path) -> dict[str, Any]:
    return json.loads((dataset / "augment.json").read_text("utf-8"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- what the masks say


@pytest.mark.parametrize("options", [(), ("--place", "anywhere"), ("--method", "perlin"), ("--place", "object")])
def test_made_image_differs_from_its_good_parent_in_the_mask_and_nowhere_else(
    data: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    shutil.copytree(data / "out" / "wedge", tmp_path / "wedge")
    result = augment(tmp_path, "--root", data / "data", *options)
    assert result.exit_code == 0, result.output
    (dataset,) = tmp_path.glob("wedge@*")
    record = record_of(dataset)
    assert (record["visible"], record["border"], record["spread"]) == (10, 3, 2)
    for entry in record["images"]:
        child = pixels(dataset / "synthetic" / "images" / entry["image"])
        mask = (pixels(dataset / "synthetic" / "masks" / entry["image"]) > 0).astype(np.uint8)
        parent = pixels(data / "data" / "wedge" / entry["background"])
        difference = np.abs(child - parent)
        near = cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0
        assert not difference[~near].any()
        seen = cv2.dilate((difference >= 10).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert mask.any() and seen[mask > 0].all()
        assert (difference[mask > 0] >= 10).mean() > 0.1


def test_every_format_agrees_with_the_made_masks(pasted: Path) -> None:
    result = run_cli("verify", pasted, "--json")
    assert result.exit_code == 0, result.output
    rows = next(iter(json.loads(result.stdout).values()))
    assert {row["format"] for row in rows} == {"yolo", "yolo-seg", "coco", "masks", "voc"}
    assert {row["exact"] for row in rows if row["format"] in ("coco", "masks", "voc")} == {str(15 + COUNT)}


def test_verify_sees_a_changed_made_mask(pasted: Path, tmp_path: Path) -> None:
    copy = tmp_path / pasted.name
    shutil.copytree(pasted, copy)
    mask = copy / "synthetic" / "masks" / "paste-00003.png"
    Image.fromarray(np.roll(np.asarray(Image.open(mask)), 1, axis=0)).save(mask)
    line = refusal(run_cli("verify", copy, "--root", pasted.parents[1] / "data"))
    assert "synthetic" in line and "has changed" in line


# ---------------------------------------------------------------- who the parents are


def test_parents_are_files_of_train_and_none_of_val_or_test(data: Path, pasted: Path) -> None:
    parts = records.read_split(data / "out" / "wedge")["parts"]
    held_out = {sha256(data / "data" / "wedge" / key) for key, part in parts.items() if part != "train"}
    for entry in record_of(pasted)["images"]:
        parents = {entry["background"], *(part["source"] for part in entry["parts"])}
        assert all(parts[key] == "train" for key in parents)
        assert not {sha256(data / "data" / "wedge" / key) for key in parents} & held_out
        assert "/good/" in entry["background"]
        assert {key.split("/")[1] for key in parents - {entry["background"]}} == {entry["class"]}


def test_no_pixel_of_val_or_test_is_in_a_made_image(data: Path, pasted: Path, tmp_path: Path) -> None:
    """With other images there, and other masks, the same images are made."""
    shutil.copytree(data / "data", tmp_path / "data")
    parts = records.read_split(data / "out" / "wedge")["parts"]
    generator = np.random.default_rng(5)
    for key in (key for key, part in parts.items() if part != "train"):
        save(tmp_path / "data" / "wedge" / key, generator.integers(0, 256, (SIDE, SIDE), np.uint8))
        if "/good/" not in key:
            mask = tmp_path / "data" / "wedge" / "ground_truth" / Path(key).parent.name / f"{Path(key).stem}_mask.png"
            save_mask(mask, np.eye(SIDE, dtype=np.uint8))
    converted("to_masks", tmp_path / "data" / "wedge", tmp_path / "out")
    assert records.read_split(tmp_path / "out" / "wedge")["parts"] == parts
    other = augmented(tmp_path / "out")
    assert tree(other / "synthetic") == tree(pasted / "synthetic")


def test_val_and_test_are_those_of_the_base_with_the_same_ids(data: Path, pasted: Path) -> None:
    base, dataset = open_dataset(data / "out", "wedge"), open_dataset(data / "out", pasted.name)
    for part in ("val", "test"):
        assert dataset.images(part) == base.images(part)
        assert dataset.ground_truth(part)["images"] == base.ground_truth(part)["images"]
        assert dataset.ground_truth(part)["annotations"] == base.ground_truth(part)["annotations"]
    assert {name: dataset.image_ids[name] for name in base.image_ids} == base.image_ids
    assert len(dataset.images("train")) == len(base.images("train")) + COUNT
    assert dataset.split["family"] == base.split["family"] and dataset.split["sha256"] != base.split["sha256"]
    assert dataset.split["base"]["sha256"] == base.split["sha256"]
    assert (dataset.card["synthetic_images"], dataset.classes) == (COUNT, base.classes)


def test_same_bytes_whatever_the_workers_other_bytes_for_another_seed(pasted: Path, tmp_path: Path) -> None:
    base = pasted.parent / "wedge"
    shutil.copytree(base, tmp_path / "out" / "wedge")
    (tmp_path / "data").symlink_to(pasted.parents[1] / "data")
    arguments = ("--dataset", "wedge", "--out", tmp_path / "out", "--count", COUNT, "--workers", 2)
    done = run_process("augment", *arguments)
    assert done.returncode == 0, done.stderr
    assert {
        name: digest for name, digest in tree(tmp_path / "out" / pasted.name).items() if not name.startswith("card")
    } == {name: digest for name, digest in tree(pasted).items() if not name.startswith("card")}
    other = augmented(tmp_path / "out", "--seed", 1, name=f"wedge@paste-{COUNT}-s1")
    assert not set(tree(other / "synthetic" / "images").values()) & set(tree(pasted / "synthetic" / "images").values())


# ---------------------------------------------------------------- how many of what, and where


@pytest.mark.parametrize(
    ("balance", "count", "expected"),
    [
        (False, 10, {"a": 1, "b": 3, "c": 6}),
        (False, 11, {"a": 1, "b": 3, "c": 7}),
        (True, 5, {"a": 5, "b": 0, "c": 0}),
        (True, 12, {"a": 8, "b": 4, "c": 0}),
        (True, 13, {"a": 9, "b": 4, "c": 0}),
    ],
)
def test_shares_follow_the_real_numbers_or_balance_them(balance: bool, count: int, expected: dict[str, int]) -> None:
    real = {"a": 2, "b": 6, "c": 12} if not balance else {"a": 1, "b": 5, "c": 9}
    assert shares(real, count, balance) == expected


def test_both_makes_half_of_each_and_the_new_class_comes_last(data: Path) -> None:
    orders = Request(7, "both", "prior", False, 0).orders({"tip": 6, "heel": 3})
    assert [order.method for order in orders] == ["paste"] * 4 + ["perlin"] * 3
    assert {order.defect for order in orders[4:]} == {"synthetic"}
    dataset = augmented(data / "out", "--method", "both", "--overwrite", name=f"wedge@both-{COUNT}")
    assert open_dataset(dataset.parent, dataset.name).classes == ["heel", "tip", "synthetic"]
    assert run_cli("verify", dataset).exit_code == 0


def test_balance_brings_the_types_to_one_count(data: Path) -> None:
    dataset = augmented(data / "out", "--balance", name=f"wedge@paste-{COUNT}-balanced")
    card = open_dataset(dataset.parent, dataset.name).card
    counts = {row["class"]: row["images"] for row in card["counts"] if row["part"] == "train"}
    assert (counts["heel"], counts["tip"]) == (11, 10)  # of 3 + 6 real ones and 12 synthetic ones


def test_prior_puts_a_type_where_it_occurs_on_a_product_that_lies_at_any_angle(data: Path, pasted: Path) -> None:
    assert record_of(pasted)["product"] == "turned"
    for entry in record_of(pasted)["images"]:
        product = find_foreground(pixels(data / "data" / "wedge" / entry["background"]).astype(np.uint8))
        ys, xs = np.nonzero(pixels(pasted / "synthetic" / "masks" / entry["image"]))
        along, across = frame_of(product, "turned").to_product(xs.mean() + 0.5, ys.mean() + 0.5)
        assert abs(across) < 0.2
        assert along < -0.3 if entry["class"] == "tip" else along > 0.1, entry


def test_object_keeps_to_the_product(data: Path) -> None:
    dataset = augmented(data / "out", "--place", "object", name=f"wedge@paste-{COUNT}-object")
    for entry in record_of(dataset)["images"]:
        product = find_foreground(pixels(data / "data" / "wedge" / entry["background"]).astype(np.uint8))
        mask = pixels(dataset / "synthetic" / "masks" / entry["image"]) > 0
        assert product[mask].mean() > 0.75


@pytest.mark.parametrize("degrees", [0, 30, 100, 190, 300])
def test_frame_points_to_the_heavy_end(degrees: float) -> None:
    product = find_foreground(wedge(np.random.default_rng(0), degrees))
    frame = frame_of(product, "turned")
    assert abs((math.degrees(frame.angle) - degrees) % 360 - 180) < 3
    there = frame.to_image(*frame.to_product(12.0, 34.0))
    assert there == pytest.approx((12.0, 34.0))


def test_bright_spots_belong_to_the_product_and_large_holes_do_not() -> None:
    image = cv2.circle(cv2.circle(ground(np.random.default_rng(0)), (60, 60), 45, 60, -1), (60, 60), 20, 200, -1)
    spotted = cv2.circle(image.copy(), (60, 28), 4, 190, -1)
    found = find_foreground(image), find_foreground(spotted)
    assert found[1][28, 60] == 1 and found[1][60, 60] == 0 and found[1][2, 2] == 0
    assert np.count_nonzero(found[0] != found[1]) < 20


def test_kinds_of_product() -> None:
    generator = np.random.default_rng(0)
    texture = generator.integers(0, 256, (SIDE, SIDE), np.uint8)
    disc = cv2.circle(ground(generator), (60, 55), 30, 60, -1)
    assert find_foreground(texture) is None
    assert kind_of([find_foreground(texture)] * 3) == "texture"
    assert kind_of([find_foreground(disc)] * 3) == "round"
    assert kind_of([find_foreground(wedge(generator, 20)) for _ in range(3)]) == "aligned"
    assert kind_of([find_foreground(wedge(generator, angle)) for angle in (20, 110, 240)]) == "turned"


# ---------------------------------------------------------------- pasting itself


def example_cut() -> pasting.Cut:
    generator = np.random.default_rng(2)
    mask = np.zeros((20, 26), np.uint8)
    mask[8:13, 9:19] = 1
    mask[8, 9] = 0
    return pasting.Cut(
        generator.integers(0, 256, (20, 26, 1), np.uint8), mask, generator.integers(0, 2, (20, 26), np.uint8)
    )


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_quarter_turns_and_mirrors_move_pixels_and_mask_exactly(quarters: int, mirror: bool) -> None:
    cut = example_cut()
    placed = pasting.place_cut(cut, pasting.Placement(30, 25, quarters * math.pi / 2, 1.0, mirror), (60, 60))
    assert placed is not None

    def turned(array: np.ndarray) -> np.ndarray:
        return np.rot90(array[::-1] if mirror else array, -quarters)  # y points down: clockwise

    canvas = np.zeros((60, 60), np.uint8)
    canvas[placed.window] = placed.cut.mask
    expected = np.zeros((60, 60), np.uint8)
    height, width = turned(cut.mask).shape
    area = (slice(25 - height // 2, 25 - height // 2 + height), slice(30 - width // 2, 30 - width // 2 + width))
    expected[area] = turned(cut.mask)
    assert (canvas == expected).all()
    image = np.zeros((60, 60), np.uint8)
    image[placed.window] = placed.cut.pixels[..., 0]
    assert (image[canvas > 0] == turned(cut.pixels[..., 0])[turned(cut.mask) > 0]).all()


@pytest.mark.parametrize("degrees", range(5, 90, 10))
def test_a_thin_scratch_stays_in_one_piece_or_is_not_placed(degrees: int) -> None:
    mask = np.zeros((41, 41), np.uint8)
    cv2.line(mask, (8, 20), (32, 23), 1)
    cut = pasting.Cut(np.zeros((41, 41, 1), np.uint8), mask, np.ones_like(mask))
    placement = pasting.Placement(40, 40, math.radians(degrees), 0.9, False)
    placed = pasting.place_cut(cut, placement, (80, 80))
    assert placed is None or cv2.connectedComponents(placed.cut.mask, connectivity=8)[0] == 2


def test_what_would_leave_the_image_is_not_placed() -> None:
    cut = example_cut()
    assert pasting.place_cut(cut, pasting.Placement(2, 30, 0.0, 1.0, False), (60, 60)) is None
    assert pasting.place_cut(cut, pasting.Placement(-99, 30, 0.0, 1.0, False), (60, 60)) is None


def test_cut_at_the_edge_of_an_image_is_whole() -> None:
    image = np.arange(30 * 30, dtype=np.uint16).reshape(30, 30, 1).astype(np.uint8)
    cut = pasting.cut_instance(image, np.ones((30, 30), np.uint8), Instance(0, 27, np.ones((3, 4), np.uint8), 12))
    assert cut.mask.shape == cut.pixels.shape[:2] == cut.product.shape == (3 + 16, 4 + 16)
    assert (cut.pixels[8:11, 8:12] == image[27:30, 0:4]).all()
    assert cut.mask.sum() == 12 and cut.mask[8:11, 8:12].all() and cut.share == 1


def test_relighting_matches_product_and_background_apart() -> None:
    """Product 92 -> 42: (42 + 8) / (92 + 8) = 0.5; background 192 -> 232: 240 / 200 = 1.2; the defect follows."""
    product = np.zeros((40, 40), np.uint8)
    product[:, :20] = 1
    mask = np.zeros((40, 40), np.uint8)
    mask[15:25, 5:15] = 1
    content = np.where(product, 92, 192).astype(np.uint8)
    content[mask > 0] = 60
    parent = np.where(product, 42, 232).astype(np.uint8)
    lit = pasting.relight(pasting.Cut(content[..., None], mask, product), parent[..., None], product)[..., 0]
    assert lit[mask > 0] == pytest.approx(30)
    assert lit[20, 2] == 46 and lit[20, 35] == pytest.approx(192 * 1.2)


def test_blending_replaces_the_mask_fades_around_it_and_refuses_what_is_not_seen() -> None:
    parent = np.full((30, 30, 1), 100, np.uint8)
    mask = np.zeros((30, 30), np.uint8)
    mask[10:20, 10:20] = 1
    image, seen = pasting.blend(parent, np.full_like(parent, 160), mask, 0.8) or (None, None)
    assert (seen == mask).all() and (image[mask > 0] == 160).all()
    assert 100 < image[15, 9, 0] < 160 and image[15, 6, 0] == 100
    assert pasting.blend(parent, np.full_like(parent, 109), mask, 0.8) is None
    partly = np.full_like(parent, 100)
    partly[:, :17] = 150
    image, seen = pasting.blend(parent, partly, mask, 0.8) or (None, None)
    assert (seen == mask * (np.arange(30) < 19)).all()  # two columns beyond the last visible one
    two = mask.copy()
    partly[:] = 150
    partly[:, 12:18] = 100  # six columns apart: two parts
    assert pasting.blend(parent, partly, two, 0.8) is None


def test_pasting_without_a_seam_keeps_gradients_and_meets_the_parent_on_the_rim() -> None:
    """A bump of 40 levels on 60 becomes the same bump on 100, whichever window it lies in."""
    bump = np.full((30, 30, 1), 60, np.uint8)
    bump[12:18, 12:18] = 100
    mask = np.zeros((30, 30), np.uint8)
    mask[11:19, 11:19] = 1
    for channels in (1, 3):
        parent = np.full((30, 30, channels), 100, np.uint8)
        pixels = pasting.without_seam(np.repeat(bump, channels, axis=2), parent, mask).astype(int)
        assert pixels.shape == parent.shape
        assert np.abs(pixels[13:17, 13:17] - 140).max() <= 3 and np.abs(pixels[9:11, 8:22] - 100).max() <= 3
    whole = np.ones((6, 6), np.uint8)
    assert pasting.without_seam(bump[:6, :6], bump[:6, :6], whole).shape == (6, 6, 1)


def test_noise_is_between_its_bounds_and_blobs_have_the_size_asked_for() -> None:
    generator = np.random.default_rng(0)
    noise = perlin.perlin_noise(64, 4, generator)
    assert noise.shape == (64, 64) and np.abs(noise).max() <= 1 and noise.std() > 0.1
    assert np.abs(np.diff(noise, axis=0)).max() < 0.25  # smooth, also where cells meet
    for area in (30, 300, 3000):
        blob = perlin.noise_mask(area, generator)
        assert cv2.connectedComponents(blob)[0] == 2 and 0.05 * area <= blob.sum() <= 1.2 * area
        assert blob.any(0).all() and blob.any(1).all()


def test_blobs_are_filled_with_a_piece_of_the_texture() -> None:
    texture = np.full((9, 9, 1), 100, np.uint8)
    texture[:, 4:] = 200
    filled = perlin.fill(np.zeros((5, 6, 1), np.uint8), texture, np.random.default_rng(0))[..., 0].astype(int)
    dark, light = np.unique(filled)
    assert filled.shape == (5, 6) and abs(light - 2 * dark) <= 1 and dark > 0


# ---------------------------------------------------------------- what is refused


def test_what_cannot_be_augmented_is_refused_in_one_line(data: Path, pasted: Path, tmp_path: Path) -> None:
    out = data / "out"
    assert "--overwrite" in refusal(augment(out))
    assert "name wedge instead" in refusal(run_cli("augment", "--dataset", pasted.name, "--out", out))
    assert "is" in refusal(run_cli("augment", "--dataset", "x", "--out", out))
    folder = write_category(tmp_path / "data", masks={}, good=(4, 4))
    converted("to_masks", folder, tmp_path / "out")
    line = refusal(run_cli("augment", "--dataset", "widget", "--out", tmp_path / "out"))
    assert "no defects" in line
    converted("to_masks", data / "data" / "wedge", tmp_path / "out", "--tile", 64)
    assert "tiles" in refusal(run_cli("augment", "--dataset", "wedge@tile-64", "--out", tmp_path / "out"))
    other = write_category(tmp_path / "data", name="other")
    assert (
        run_cli(
            "to_masks",
            "--root",
            other.parent,
            "--category",
            "all",
            "--classes",
            "category-defect",
            "--out",
            tmp_path / "out",
        ).exit_code
        == 0
    )
    assert "several categories" in refusal(run_cli("augment", "--dataset", "all", "--out", tmp_path / "out"))


def test_exact_formats_stay_exact_beside_simplified_ones(data: Path, tmp_path: Path) -> None:
    out = converted("to_coco", data / "data" / "wedge", tmp_path).parent
    converted("to_yolo", data / "data" / "wedge", out, "--task", "segment", "--simplify", 2)
    dataset = augmented(out, "--seed", -1, "--images", "copy", name=f"wedge@paste-{COUNT}-s-1")
    assert set(json.loads((dataset / "card.json").read_text("utf-8"))["simplified"]) == {"yolo-seg"}
    assert run_cli("verify", dataset).exit_code == 0
    (image,) = sorted((dataset / "coco" / "images" / "test").iterdir())[:1]
    assert image.stat().st_ino != (data / "data" / "wedge" / image.name.replace("__", "/")).stat().st_ino


def test_defects_that_fit_nowhere_are_not_told_to_go_anywhere(tmp_path: Path) -> None:
    folder = write_wedges(tmp_path / "data")
    for path in folder.glob("*/good/*.png"):
        save(path, wedge(np.random.default_rng(int(path.stem)), 0)[:6, : 6 + len(path.parts[-3])])
    converted("to_masks", folder, tmp_path / "out")
    line = refusal(augment(tmp_path / "out", "--place", "anywhere"))
    assert "its defects are too large, or too faint, for the good images of train" in line


def test_noise_does_not_mix_with_a_class_of_its_name(tmp_path: Path) -> None:
    folder = write_wedges(tmp_path / "data")
    for part in ("test", "ground_truth"):
        (folder / part / "tip").rename(folder / part / "synthetic")
    converted("to_masks", folder, tmp_path / "out")
    for method in ("perlin", "both"):
        assert "has a class synthetic already" in refusal(augment(tmp_path / "out", "--method", method))


def test_a_changed_source_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    folder = write_wedges(tmp_path / "data")
    converted("to_masks", folder, tmp_path / "out")
    save(folder / "train" / "good" / "0.png", wedge(np.random.default_rng(9), 10))
    assert "has changed" in refusal(augment(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == ["wedge"]


def test_defects_that_nobody_would_see_are_given_up_in_one_line(tmp_path: Path) -> None:
    """Masks over a part of the product that looks like any other."""
    folder = write_wedges(tmp_path / "data")
    for mask in (folder / "ground_truth").rglob("*.png"):
        save_mask(mask, cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (SIDE // 2, SIDE // 2), 4, 1, -1))
    converted("to_masks", folder, tmp_path / "out")
    assert "no place was found for heel" in (line := refusal(augment(tmp_path / "out"))) and "--place object" in line
    assert not (tmp_path / "out" / f"wedge@paste-{COUNT}").exists()


def test_a_split_survives_being_read_back(data: Path, pasted: Path, tmp_path: Path) -> None:
    converted("to_masks", data / "data" / "wedge", tmp_path, "--seed", 3)
    run_cli("to_masks", "--root", data / "data", "--out", tmp_path, "--protocol", "kfold", "--fold", 2)
    run_cli("to_masks", "--root", data / "data", "--out", tmp_path, "--protocol", "few-shot", "--shots", 4)
    folders = [pasted, *(path.parent for path in tmp_path.glob("*/split.json"))]
    assert len(folders) == 4
    for folder in folders:
        record = records.read_split(folder)
        assert records.split_of(record).sha256 == record["sha256"]
        assert records.split_of(record).family == record["family"]


def test_made_keys_sort_after_those_of_every_layout() -> None:
    for first in ("test", "train", "validation", "test_public", "images", "Data", "MT_Break", "zebra"):
        assert f"{made.KEYS}/0.png" > f"{first}/0.png"


@pytest.mark.slow
def test_real_screws(screw_datasets: Path, tmp_path: Path) -> None:
    shutil.copytree(screw_datasets / "screw", tmp_path / "screw", copy_function=os.link)
    result = run_cli("augment", "--dataset", "screw", "--out", tmp_path, "--count", 10, "--balance", "--workers", 1)
    assert result.exit_code == 0, result.output
    assert run_cli("verify", tmp_path / "screw@paste-10-balanced").exit_code == 0
    record = record_of(tmp_path / "screw@paste-10-balanced")
    assert record["product"] == "turned" and len(record["images"]) == 10


def test_frames_are_values() -> None:
    frame = Frame(10, 20, math.pi / 2, 5)
    assert frame.to_image(2, 0) == pytest.approx((10, 30))  # along a downward axis
    assert dataclasses.replace(frame, angle=0).to_image(2, 1) == pytest.approx((20, 25))
