"""The sample dataset: layout, exact masks, and good images that no single global number tells from defects."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import tree
from PIL import Image

from converters import sample
from converters.sample import FOR_STARTERS, SAMPLE
from converters.synthetic import sample_dataset
from converters.synthetic.catalogue import PRODUCTS, counts_of
from converters.synthetic.product import SampleProduct
from converters.synthetic.sample_images import image_rng, render_defect, render_files, render_good

DEFECTS = SampleProduct.DEFECTS
EACH = [(category, defect) for category in SAMPLE for defect in DEFECTS]
EVERY = [(category, defect) for category in PRODUCTS for defect in PRODUCTS[category].DEFECTS]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written `--small` dataset."""
    target = tmp_path_factory.mktemp("sample") / "small"
    result = CliRunner().invoke(sample.main, ["--to", str(target), "--small"])
    assert result.exit_code == 0, result.output
    assert "synthetic" in result.output
    assert f"python -m converters all --root {target} --category washer" in result.output
    return target


@functools.cache
def masks(category: str, defect: str) -> list[np.ndarray]:
    """All masks of one type, (H, W) bool."""
    return [render_defect(category, defect, image_rng(0, category, defect, n))[1] > 0 for n in range(40)]


# ---------------------------------------------------------------- layout


def test_layout_and_counts(small: Path) -> None:
    expected = {"synthetic.json"}
    expected |= {f"{part}/good/{n:03d}.png" for part in ("train", "test") for n in range(8)}
    expected |= {f"test/{defect}/{n:03d}.png" for defect in DEFECTS for n in range(6)}
    expected |= {f"ground_truth/{defect}/{n:03d}_mask.png" for defect in DEFECTS for n in range(6)}
    for category in SAMPLE:
        assert set(tree(small / category)) == expected


def test_full_counts() -> None:
    for category in PRODUCTS:
        defects = dict.fromkeys(PRODUCTS[category].DEFECTS, 40)
        assert counts_of(category) == {"train/good": 60, "test/good": 60, **defects}


def test_a_starters_product_is_drawn_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (*SAMPLE, *FOR_STARTERS) == tuple(PRODUCTS)
    monkeypatch.setattr(
        sample_dataset, "counts_of", lambda name, small: {"train/good": 1, "test/good": 1, "knot": 1, "crack": 1}
    )
    result = CliRunner().invoke(sample.main, ["--to", str(tmp_path / "s"), "--product", "plank"])
    assert result.exit_code == 0 and "--category plank" in result.output
    assert "plank/test/knot/000.png" in tree(tmp_path / "s") and not (tmp_path / "s" / "washer").exists()


def test_note_says_synthetic(small: Path) -> None:
    note = json.loads((small / "weave" / "synthetic.json").read_text())
    assert note == {"schema": 1, "generator": "converters.sample", "version": 1, "seed": 0, "small": True}


@pytest.mark.parametrize(("category", "mode"), [("washer", "RGB"), ("weave", "L")])
def test_both_channel_counts_occur(small: Path, category: str, mode: str) -> None:
    for path in (small / category).glob("t*/*/*.png"):
        with Image.open(path) as image:
            assert (image.mode, image.size) == (mode, (256, 256))


def test_pillow_reads_masks_as_grey_with_two_values(small: Path) -> None:
    for path in small.glob("*/ground_truth/*/*.png"):
        with Image.open(path) as mask:
            assert mask.mode == "L"
            assert set(np.unique(mask)) == {0, 255}, path


def test_files_hold_the_rendered_colours(small: Path) -> None:
    written = np.asarray(Image.open(small / "washer" / "train" / "good" / "003.png"))
    assert np.array_equal(written, render_good("washer", image_rng(0, "washer", "train/good", 3)))


# ---------------------------------------------------------------- repeatability


def test_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    sample_dataset.write_sample(tmp_path, 0, True, SAMPLE)
    assert tree(tmp_path) == tree(small)


def test_images_do_not_depend_on_their_order(small: Path) -> None:
    files = render_files(0, "weave", "hole", 5)
    assert files["test/hole/005.png"] == (small / "weave" / "test" / "hole" / "005.png").read_bytes()


def test_other_seed_other_images() -> None:
    assert render_files(0, "washer", "stain", 0) != render_files(1, "washer", "stain", 0)


def test_no_two_images_are_equal(small: Path) -> None:
    images = [digest for name, digest in tree(small).items() if "/t" in name]
    assert len(set(images)) == len(images)


def test_existing_target_is_refused_without_overwrite(small: Path) -> None:
    before = tree(small)
    refused = CliRunner().invoke(sample.main, ["--to", str(small), "--small", "--seed", "1"])
    assert refused.exit_code == 2
    assert "--overwrite" in refused.output
    assert tree(small) == before


def test_overwrite_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train/good": 1, "test/good": 1, **dict.fromkeys(DEFECTS, 1)}
    monkeypatch.setattr(sample_dataset, "counts_of", lambda name, small: counts)
    target = tmp_path / "synthetic"
    for seed in ("0", "1"):
        arguments = ["--to", str(target), "--small", "--seed", seed, "--overwrite"]
        assert CliRunner().invoke(sample.main, arguments).exit_code == 0
    assert json.loads((target / "washer" / "synthetic.json").read_text())["seed"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["synthetic"]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize(("category", "defect"), EVERY)
def test_mask_is_what_the_defect_changed(category: str, defect: str) -> None:
    for number in range(12):
        good = render_good(category, image_rng(3, category, defect, number))
        bad, mask = render_defect(category, defect, image_rng(3, category, defect, number))
        apart = np.abs(good.astype(int) - bad).reshape(256, 256, -1).max(axis=2)
        inside = mask > 0
        assert not apart[~inside].any()
        assert (apart[inside] > 0).mean() > 0.95, number
        assert np.median(apart[inside]) >= 10, number


@pytest.mark.parametrize(("category", "defect"), EACH)
def test_defects_are_small_and_large(category: str, defect: str) -> None:
    areas = np.array([mask.sum() for mask in masks(category, defect)])
    assert areas.min() >= 8
    assert areas.max() < 0.25 * 256 * 256
    assert areas.max() > 1.5 * areas.min()


def test_tiny_and_large_defects_occur() -> None:
    areas = [mask.mean() for category, defect in EACH for mask in masks(category, defect)]
    assert min(areas) < 0.001
    assert max(areas) > 0.05


@pytest.mark.parametrize("category", SAMPLE)
def test_stains_leave_holes_in_the_mask(category: str) -> None:
    holed = 0
    for mask in masks(category, "stain"):
        _, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        holed += tree is not None and bool((tree[0, :, 3] >= 0).any())
    assert holed >= 5


@pytest.mark.parametrize("category", SAMPLE)
@pytest.mark.parametrize("defect", ["scratch", "stain", "hole"])
def test_several_parts_in_one_mask(category: str, defect: str) -> None:
    parts = [cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[0] - 1 for mask in masks(category, defect)]
    assert min(parts) == 1
    assert sum(count >= 2 for count in parts) >= 5


@pytest.mark.parametrize("category", SAMPLE)
def test_scratches_one_pixel_wide(category: str) -> None:
    thick = [cv2.erode(mask.astype(np.uint8), np.ones((2, 2), np.uint8)).sum() for mask in masks(category, "scratch")]
    assert sum(count == 0 for count in thick) >= 5


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_touch_the_edge_of_the_image(defect: str) -> None:
    frame = np.ones((256, 256), bool)
    frame[1:-1, 1:-1] = False
    assert sum((mask & frame).any() for mask in masks("weave", defect)) >= 2


@pytest.mark.parametrize("category", SAMPLE)
@pytest.mark.parametrize("defect", ["scratch", "stain"])
def test_defects_are_brighter_as_well_as_darker(category: str, defect: str) -> None:
    signs = []
    for number in range(40):
        good = render_good(category, image_rng(0, category, defect, number)).astype(int)
        bad, mask = render_defect(category, defect, image_rng(0, category, defect, number))
        signs.append(np.sign((bad - good)[mask > 0].mean()))
    assert min(signs.count(-1), signs.count(1)) >= 8


# ---------------------------------------------------------------- not solvable by one number


def global_numbers(image: np.ndarray) -> dict[str, float]:
    """Single numbers of a whole image, of its grey version."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    flat = grey.astype(np.float64)
    p1, p5, p50, p95, p99 = np.percentile(flat, [1, 5, 50, 95, 99])
    real = grey.astype(np.float32)
    edge = np.hypot(cv2.Sobel(real, -1, 1, 0), cv2.Sobel(real, -1, 0, 1))
    laplace = cv2.Laplacian(real, -1)
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    share = share[share > 0]
    centred = flat - flat.mean()
    power = np.abs(np.fft.fftshift(np.fft.fft2(centred))) ** 2
    y, x = np.mgrid[-128:128, -128:128]
    far = np.hypot(x, y)
    local = real - cv2.GaussianBlur(real, (0, 0), 4)
    numbers = {
        "mean": flat.mean(), "std": flat.std(), "min": flat.min(), "max": flat.max(), "median": p50,
        "p1": p1, "p5": p5, "p95": p95, "p99": p99, "contrast": p99 - p1, "variation": flat.std() / flat.mean(),
        "sobel mean": edge.mean(), "sobel p99": np.percentile(edge, 99), "sobel max": edge.max(),
        "laplace var": laplace.var(), "laplace p99": np.percentile(np.abs(laplace), 99),
        "laplace max": np.abs(laplace).max(), "entropy": -(share * np.log2(share)).sum(),
        "high frequency": power[far > 64].sum(), "high share": power[far > 64].sum() / power.sum(),
        "mid share": power[(far > 16) & (far <= 64)].sum() / power.sum(),
        "skewness": (centred**3).mean() / flat.std() ** 3, "kurtosis": (centred**4).mean() / flat.std() ** 4,
        "dark pixels": (grey < 30).sum(), "bright pixels": (grey > 220).sum(),
        "dark outliers": (flat < p50 / 3).sum(), "bright outliers": (flat > 1.6 * p50).sum(),
        "local min": local.min(), "local max": local.max(), "local std": local.std(),
    }  # fmt: skip
    if image.ndim == 3:
        colours = image.reshape(-1, 3).astype(np.float64)
        spread = colours.max(axis=1) - colours.min(axis=1)
        numbers |= {"saturation mean": spread.mean(), "saturation p99": np.percentile(spread, 99)}
        numbers |= {"red - blue": (colours[:, 0] - colours[:, 2]).mean()}
    return {name: float(value) for name, value in numbers.items()}


def auroc(good: np.ndarray, bad: np.ndarray) -> float:
    """max(AUROC, 1 - AUROC) of one number as the only feature; ties count half."""
    above = (bad[:, None] > good).mean() + 0.5 * (bad[:, None] == good).mean()
    return float(max(above, 1 - above))


def separation(category: str, seed: int = 0) -> dict[str, dict[str, float]]:
    """{number: {"all" or defect: max(AUROC, 1 - AUROC) against all good images}} on the full set."""
    rows: dict[str, list[dict[str, float]]] = {}
    for kind, count in counts_of(category).items():
        for n in range(count):
            rng = image_rng(seed, category, kind, n)
            image = render_defect(category, kind, rng)[0] if kind in DEFECTS else render_good(category, rng)
            rows.setdefault(kind if kind in DEFECTS else "good", []).append(global_numbers(image))
    rows["all"] = [row for defect in DEFECTS for row in rows[defect]]
    values = {kind: {name: np.array([row[name] for row in rows[kind]]) for name in rows[kind][0]} for kind in rows}
    good = values.pop("good")
    return {name: {kind: auroc(good[name], of[name]) for kind, of in values.items()} for name in good}


@pytest.mark.slow
@pytest.mark.parametrize("category", SAMPLE)
def test_no_global_number_separates_good_from_defect(category: str) -> None:
    for name, scores in separation(category).items():
        assert scores["all"] <= 0.70, (name, scores)
        assert max(scores.values()) <= 0.75, (name, scores)
