"""The dataset card: numbers that are known by construction, and what an incomplete download lacks."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from conftest import refusal, run_cli, save_mask
from PIL import Image

from converters.importing import statistics as survey
from converters.importing.source_card import LONGEST_BAR, bar
from converters.sources.reading import read_category
from converters.sources.samples import Sample

WIDTH, HEIGHT = 50, 40
MakeCategory = Callable[..., Path]


def run(root: Path, *arguments: object) -> Result:
    return run_cli("describe", "--root", root, *arguments)


def describe(folder: Path) -> survey.Description:
    return survey.describe_category(read_category(folder))


def boxes(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    """A mask (H x W) of boxes (x0, y0, x1, y1)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x0, y0, x1, y1 in rectangles:
        mask[y0:y1, x0:x1] = 1
    return mask


def measured(rows: np.ndarray) -> list[survey.Measured]:
    """Measured images of which only the statistics (N x 5) matter."""
    sample = Sample("widget", "test/good/0.png", Path(), None, "good", 1, 1, 1, 1, "")
    return [survey.Measured(sample, tuple(row), 0) for row in rows.tolist()]


def save(path: Path, pixels: Any) -> None:
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


@pytest.fixture
def widget(make_category: MakeCategory) -> Path:
    """5 + 3 good; 3 scratches of 1, 2 and 1 instances (20, 40 and 60 px), 1 dent of 200 px."""
    scratches = [boxes((0, 0, 20, 1)), boxes((0, 0, 20, 1), (0, 5, 20, 6)), boxes((5, 5, 25, 8))]
    dents = [boxes((10, 10, 30, 20))]
    return make_category(masks={"scratch": scratches, "dent": dents}, good=(5, 3), size=(WIDTH, HEIGHT))


def test_counts_are_those_of_the_files(widget: Path) -> None:
    found = describe(widget)
    assert (found.train_good, found.test_good, found.test_defective, found.masks) == (5, 3, 4, 4)
    assert found.classes == [survey.ClassCount("scratch", 3, 4), survey.ClassCount("dent", 1, 1)]
    assert found.sizes == [survey.ImageSize(WIDTH, HEIGHT, 1, 12)]
    assert found.instances == 5
    assert (found.class_imbalance, found.good_per_defective) == (3.0, 2.0)
    assert not found.soft_masks
    assert not found.problems


def test_area_quantiles_are_per_image_in_percent(widget: Path) -> None:
    areas = describe(widget).area_percent  # of 20, 40, 60 and 200 in 2000 px
    assert list(areas) == ["min", "p5", "median", "p95", "max"]
    assert [areas[name] for name in ("min", "median", "max")] == pytest.approx([1.0, 2.5, 10.0])


def test_json_holds_the_description(widget: Path) -> None:
    result = run(widget, "--json")
    assert result.exit_code == 0
    card = json.loads(result.stdout)
    assert card["schema"] == 1
    (category,) = card["categories"]
    assert category["category"] == "widget"
    assert category["classes"][0] == {"name": "scratch", "images": 3, "instances": 4}
    assert card["total"]["instances"] == 5


@pytest.mark.parametrize(("arguments", "heading"), [([], "widget\n======"), (["--markdown"], "## widget\n")])
def test_text_names_classes_and_sizes(widget: Path, arguments: list[str], heading: str) -> None:
    result = run(widget, *arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith(heading)
    assert "2: dent, scratch" in result.stdout
    assert "12 of 50 x 40 px, grey" in result.stdout
    assert ("| scratch " in result.stdout) == bool(arguments)


def test_json_and_markdown_exclude_each_other(widget: Path) -> None:
    assert run(widget, "--json", "--markdown").exit_code == 2


def test_other_categories_are_not_held_against_mvtec(widget: Path) -> None:
    assert describe(widget).mvtec is None
    text = run(widget).stdout
    assert "complete" not in text.lower()
    assert "MVTec" not in text


def test_incomplete_download_is_named(make_category: MakeCategory) -> None:
    mask = boxes((0, 0, 9, 9))
    folder = make_category(name="toothbrush", masks={"defective": [mask, mask]}, good=(4, 12), size=(WIDTH, HEIGHT))
    text = run(folder).stdout
    assert "toothbrush/train/good: 4 of 60 images" in text
    assert "toothbrush/test/defective: 2 of 30 images" in text
    assert "toothbrush/test/good" not in text
    assert "defect regions: 2; the complete category has 66" in text
    assert "images have sides of 40, 50 px, in MVTec AD 1024 px" in text


def test_synthetic_data_is_called_so(widget: Path) -> None:
    (widget / "synthetic.json").write_text('{"generator": "converters.sample"}', "utf-8")
    assert "SYNTHETIC" in run(widget).stdout.splitlines()[3]


def test_duplicates_and_near_duplicates_are_told_apart(widget: Path) -> None:
    first = widget / "train" / "good" / "000.png"
    (widget / "test" / "good" / "copy.png").write_bytes(first.read_bytes())
    pixels = np.array(Image.open(first))
    pixels[0, 0] ^= 1
    save(widget / "test" / "good" / "almost.png", pixels)
    found = describe(widget)
    assert found.duplicates == [["test/good/copy.png", "train/good/000.png"]]
    assert found.near_duplicates.pairs == 2
    assert all("test/good/almost.png" in pair for pair in found.near_duplicates.examples)


def test_masks_that_may_be_inverted_are_asked_about(make_category: MakeCategory) -> None:
    half = np.zeros((40, 48), np.uint8)
    half[:20] = 1
    more = half.copy()
    more[20, 0] = 1
    said = run(make_category(masks={"crack": [half, more]})).stdout
    assert "masks that cover more than half of their image: are they inverted?: 1 (first: test/crack/001.png)" in said


def test_groups_say_whether_near_duplicates_still_straddle(make_category: MakeCategory) -> None:
    """Of each of ten defects there is a second photograph, which differs in one pixel."""
    folder = make_category(masks={"crack": 10})
    for index in range(10):
        pixels = np.array(Image.open(folder / "test" / "crack" / f"{index:03d}.png"))
        pixels[0, 0] ^= 1
        save(folder / "test" / "crack" / f"{index:03d}b.png", pixels)
        mask = folder / "ground_truth" / "crack" / f"{index:03d}_mask.png"
        mask.with_name(f"{index:03d}b_mask.png").write_bytes(mask.read_bytes())
    assert "of 10 clusters of near-duplicates" in run(folder).stdout
    said = run(folder, "--group", r"crack/(\d+)").stdout
    assert "20 images in 10; a split keeps each in one part" in said
    assert "the default split by these groups tears none of the 10 clusters of near-duplicates" in said
    assert "LEAK?" not in said
    wrong = run(folder, "--group", r"crack/(\d\d)0").stdout
    assert "would lie in several parts of the default split by these groups" in wrong
    table = folder.parent / "groups.csv"
    table.write_text("image,group\ntest/crack/000.png,a\ntest/crack/000b.png,a\n")
    assert "2 images in 1;" in run(folder, "--group-file", table).stdout
    assert "exclude each other" in refusal(run(folder, "--group-file", table, "--group", "(a)"))


def test_probe_finds_a_brighter_folder(widget: Path) -> None:
    for path in (widget / "test" / "good").iterdir():
        save(path, np.array(Image.open(path)) // 2 + 128)
    probe = describe(widget).folder_probe
    assert probe is not None
    assert probe.auroc == 1.0
    assert "told apart best by" in run(widget).stdout


def test_probe_agrees_with_counting_pairs() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 6, (30, 5)), rng.integers(1, 7, (20, 5))  # small integers: many ties
    probe = survey.probe(measured(train), measured(test))
    aurocs = [np.mean([(t > s) + (t == s) / 2 for t in test[:, i] for s in train[:, i]]) for i in range(5)]
    assert probe is not None
    assert probe.auroc == pytest.approx(max(max(a, 1 - a) for a in aurocs))
    assert 0.5 < probe.chance < 0.8


def test_probe_needs_both_folders() -> None:
    assert survey.probe([], measured(np.ones((1, 5)))) is None


def test_probe_tells_that_brightness_gives_defects_away(make_category: MakeCategory) -> None:
    folder = make_category(masks={"scratch": [boxes((0, 0, 20, 1))] * 8}, good=(5, 8), size=(WIDTH, HEIGHT))
    for path in (folder / "test" / "scratch").iterdir():
        save(path, np.array(Image.open(path)) // 2 + 128)
    assert "an image-level score proves nothing here" in run(folder).stdout


def test_statistics_of_a_known_image() -> None:
    image = np.zeros((10, 10), np.uint8)
    image[:, 5:] = 100
    mean, deviation, low, high, energy, sharpness = survey.image_statistics(image)
    assert (mean, deviation, low, high) == (50, 50, 0, 100)
    assert energy == 400**2 * 20 / 100  # a step of 100 is a Sobel response of 400 on both of its sides
    assert sharpness == pytest.approx(100**2 * 20 / 100)  # and a Laplacian of 100 and -100


def test_problems_are_listed_and_left_out(widget: Path) -> None:
    (widget / "ground_truth" / "dent" / "000_mask.png").unlink()
    save_mask(widget / "ground_truth" / "scratch" / "000_mask.png", boxes())
    save_mask(widget / "ground_truth" / "scratch" / "001_mask.png", np.ones((3, 3)))
    result = run(widget)
    assert result.exit_code == 1
    for text in ("000_mask.png is missing", "the mask is empty", "is 3 x 3 px, its image 50 x 40"):
        assert text in result.stdout
    assert describe(widget).classes == [survey.ClassCount("scratch", 1, 1)]


def test_soft_masks_are_counted(widget: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH))
    mask[5:10, 5:10] = 255
    mask[5, 5:8] = 130
    save(widget / "ground_truth" / "dent" / "000_mask.png", mask)
    assert describe(widget).soft_masks == {"test/dent/000.png": 3}


def test_category_without_defects_has_a_card(make_category: MakeCategory) -> None:
    result = run(make_category(masks={}))
    assert result.exit_code == 0
    assert "3 good, 0 defective" in result.stdout


def test_category_of_broken_files_has_a_card(make_category: MakeCategory) -> None:
    folder = make_category(masks={}, good=(1, 0))
    (folder / "train" / "good" / "000.png").write_bytes(b"no image")
    result = run(folder)
    assert result.exit_code == 1
    assert "cannot be used: widget/train/good/000.png: is no image that can be read" in result.stdout


def test_several_categories_begin_with_a_summary(widget: Path, make_category: MakeCategory) -> None:
    make_category(name="gadget", masks={}, good=(2, 1))
    lines = run(widget.parent, "--category", "all").stdout.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["gadget", "widget", "total"]
    assert lines[4].split()[1:7] == ["2", "7", "4", "4", "4", "5"]


def test_a_missing_root_is_one_line(tmp_path: Path) -> None:
    assert "converters.sample" in refusal(run(tmp_path / "nowhere"))


def test_bars_are_proportional() -> None:
    assert bar(7, 7) == "█" * LONGEST_BAR
    assert bar(1, 2) == "█" * (LONGEST_BAR // 2)
    assert bar(3, 16) == "█" * 4 + "▌"
    assert bar(1, 1000) == "▏"


@pytest.mark.parametrize("module", ["describe", "preview"])
def test_help_needs_no_heavy_library(module: str) -> None:
    code = f"import sys, converters.{module}; print([m for m in ('cv2', 'numpy', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_screw(screw: Path) -> None:
    result = run(screw, "--json")
    assert result.exit_code == 0
    (card,) = json.loads(result.stdout)["categories"]
    assert (card["masks"], card["instances"], card["mvtec"]["regions"]) == (119, 135, 135)
    assert card["sizes"] == [{"width": 1024, "height": 1024, "channels": 1, "images": 185}]
    assert len(card["mvtec"]["missing"]) == 1
    assert "screw/train/good: 25 of 320 images" in card["mvtec"]["missing"][0]
