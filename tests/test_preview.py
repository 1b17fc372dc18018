"""Contact sheets: what is chosen, where it is drawn, and how it is published."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import refusal, run_cli, save_mask
from hypothesis import given
from masks import random_masks
from PIL import Image

from converters.drawing import panels
from converters.drawing.contact_sheets import rank_by_area, spread, title
from converters.masks.instances import Instance, InstanceRule, find_instances
from converters.masks.polygons import corner_rings
from converters.sources.reading import read_category


def run(root: Path, to: Path, *arguments: object) -> Result:
    return run_cli("preview", "--root", root, "--to", to, *arguments)


def line(pixels: int) -> np.ndarray:
    mask = np.zeros((40, 60), np.uint8)
    mask[20, 30 : 30 + pixels] = 1
    return mask


@pytest.fixture
def widget(make_category: Callable[..., Path]) -> Path:
    """2 + 1 good, and 8 scratches; number n has n + 1 pixels."""
    return make_category(masks={"scratch": [line(n + 1) for n in range(8)]}, good=(2, 1), size=(60, 40))


def shows(sheet: Image.Image, colour: panels.Colour) -> bool:
    """Is a pixel of exactly this colour among the panels, below the legend?"""
    return bool((np.asarray(sheet)[panels.HEAD + panels.LEGEND :] == colour).all(axis=2).any())


def test_one_sheet_a_defect_type_and_one_of_good_images(widget: Path, tmp_path: Path) -> None:
    result = run(widget, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out" / "widget").glob("*.png")) == ["good.png", "scratch.png"]
    with Image.open(tmp_path / "out" / "widget" / "scratch.png") as sheet:
        assert sheet.size == (1600, panels.HEAD + panels.LEGEND + 6 * panels.ROW + panels.EDGE)
        assert shows(sheet, panels.POLYGON)
        assert shows(sheet, panels.BOX)
    with Image.open(tmp_path / "out" / "widget" / "good.png") as sheet:
        assert sheet.size == (1600, panels.HEAD + 2 * panels.ROW + panels.EDGE)
        assert not shows(sheet, panels.POLYGON)


def test_images_are_ranked_by_defect_area(widget: Path) -> None:
    samples = [sample for sample in read_category(widget).samples if sample.defect == "scratch"]
    ranked, problems = rank_by_area(samples[::-1], InstanceRule())
    assert [int(sample.image.stem) for sample in ranked] == list(range(8))
    assert not problems


@pytest.mark.parametrize(
    ("count", "chosen"),
    [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 3, 4]), (100, [0, 33, 66, 99])],
)
def test_spread_is_even_and_keeps_both_ends(count: int, chosen: list[int]) -> None:
    assert spread(range(count), 4) == chosen


def test_replacing_needs_overwrite(widget: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(widget, out).exit_code == 0
    assert "--overwrite" in refusal(run(widget, out))
    (out / "widget" / "left_over.png").touch()
    assert run(widget, out, "--overwrite").exit_code == 0
    assert not (out / "widget" / "left_over.png").exists()


def test_bad_masks_are_listed_and_the_rest_is_drawn(widget: Path, tmp_path: Path) -> None:
    save_mask(widget / "ground_truth" / "scratch" / "003_mask.png", line(0))
    result = run(widget, tmp_path / "out")
    assert result.exit_code == 1
    assert "widget/test/scratch/003.png" in result.stderr
    assert (tmp_path / "out" / "widget" / "scratch.png").is_file()


def test_instances_below_min_area_leave_the_image_whole(widget: Path, tmp_path: Path) -> None:
    assert run(widget, tmp_path / "out", "--min-area", 100).exit_code == 0
    with Image.open(tmp_path / "out" / "widget" / "scratch.png") as sheet:
        assert not shows(sheet, panels.POLYGON)


def test_synthetic_data_is_called_so(widget: Path) -> None:
    assert "synthetic" not in title(read_category(widget), "scratch")
    (widget / "synthetic.json").write_text('{"generator": "converters.sample"}', "utf-8")
    assert "synthetic" in title(read_category(widget), "scratch")


def pixel(x: int, y: int) -> Instance:
    return Instance(x, y, np.ones((1, 1), np.uint8), 1)


@pytest.mark.parametrize(
    ("instances", "size", "region"),
    [
        ([], (60, 40), (0, 0, 60, 40)),
        ([pixel(100, 100)], (200, 200), (88, 88, 112, 112)),
        ([pixel(0, 199)], (200, 200), (0, 176, 24, 200)),  # moved into the image
        ([pixel(5, 5)], (10, 200), (0, 0, 10, 24)),  # cut where the image is narrower
        ([pixel(50, 100), pixel(149, 100)], (400, 400), (30, 30, 170, 170)),  # both, with a fifth on each side
    ],
)
def test_zoom_region(instances: list[Instance], size: tuple[int, int], region: tuple[int, ...]) -> None:
    assert panels.zoom_region(instances, *size) == region


def test_outlines_lie_on_the_edges_of_the_pixels_shown() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[40:50, 60:65] = 255
    view = panels.View((40, 30, 80, 70))
    bright = np.argwhere((view.show(image) == 255).all(axis=2))
    (x0, y0), (x1, y1) = view.place(np.array([(60, 40), (65, 50)]))
    assert np.abs(bright.min(axis=0) - (y0, x0)).max() <= 0.5
    assert np.abs(bright.max(axis=0) + 1 - (y1, x1)).max() <= 0.5


@given(random_masks())
def test_outline_edges_are_the_border_without_bridges(mask: np.ndarray) -> None:
    rings = [ring for instance in find_instances(mask) for ring in corner_rings(instance)]
    length = sum(np.abs(np.diff(panels.outline_edges(ring), axis=1)).sum() for ring in rings)
    padded = np.pad(mask, 1).astype(int)
    assert length == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()


def test_paint_tints_the_mask_only() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[3, 4] = 1
    view = panels.View((0, 0, 10, 10))
    plain = view.show(np.zeros((10, 10, 3), np.uint8))
    painted = plain.copy()
    view.paint(painted, mask, (200, 100, 0), 0.5)
    changed = np.argwhere((painted != plain).any(axis=2))
    (x0, y0), (x1, y1) = view.place(np.array([(4, 3), (5, 4)]))
    assert np.abs(changed.min(axis=0) - (y0, x0)).max() <= 0.5
    assert np.abs(changed.max(axis=0) + 1 - (y1, x1)).max() <= 0.5
    assert painted[tuple(changed[0])].tolist() == [100, 50, 0]


@pytest.mark.slow
def test_screw(screw: Path, tmp_path: Path) -> None:
    assert run(screw, tmp_path).exit_code == 0
    assert len(list((tmp_path / "screw").glob("*.png"))) == 6
