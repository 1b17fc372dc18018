"""Reading MVTec folders: what is accepted, and how everything else is named."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import converted, noise, refusal, run_cli, run_process, save_mask, save_noise, tree
from PIL import Image

from converters.cli.errors import DatasetError
from converters.sources.image_files import identify
from converters.sources.reading import find_categories, find_root, read_category

MakeCategory = Callable[..., Path]


def only_problem(folder: Path) -> str:
    """The text of the one problem that a category has."""
    (problem,) = read_category(folder).problems
    return str(problem)


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".tif", ".tiff"])
def test_grey_and_rgb_are_read_in_every_format(
    make_category: MakeCategory, tmp_path: Path, mode: str, suffix: str
) -> None:
    folder = make_category(mode=mode, suffix=suffix, masks={"crack": 3}, size=(50, 41))
    category = read_category(folder)
    assert category.problems == []
    assert category.defects == ["crack"]
    assert len(category.samples) == 9
    assert {(s.width, s.height, s.channels) for s in category.samples} == {(50, 41, 3 if mode == "RGB" else 1)}
    assert [s.key for s in category.samples if s.mask is None] == [
        f"{part}/good/{n:03d}{suffix}" for part in ("test", "train") for n in range(3)
    ]
    dataset = converted("to_yolo", folder, tmp_path / "out")
    assert len(list((dataset / "yolo").glob(f"images/*/*{suffix}"))) == 9


def test_masks_belong_to_the_images_of_their_name(make_category: MakeCategory) -> None:
    category = read_category(make_category(masks={"crack": 2, "hole": 2}))
    assert {s.key: s.mask.relative_to(category.folder).as_posix() for s in category.samples if s.mask} == {
        f"test/{d}/{n:03d}.png": f"ground_truth/{d}/{n:03d}_mask.png" for d in ("crack", "hole") for n in (0, 1)
    }


def test_what_operating_systems_leave_behind_is_not_read(make_category: MakeCategory) -> None:
    folder = make_category()
    before = read_category(folder).samples
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (folder / "test" / "crack" / name).write_bytes(b"clutter")
    category = read_category(folder)
    assert category.samples == before and category.problems == []


def test_names_with_spaces_unicode_and_leading_dashes_are_read(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(name="-Schraube größer", masks={"Riß quer": 4, "--help": 3})
    for name in ("-rf.png", "a b  c.png", "日本.png", "#%&'\"{}.png"):
        save_noise(folder / "test" / "good" / name)
    result = run_cli("all", "--root", folder.parent, "--category=-Schraube größer", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    written = tree(tmp_path / "out" / "-Schraube größer" / "yolo")
    labels = {Path(path).name for path in written if path.startswith("labels")}
    assert {f"test__good__{stem}.txt" for stem in ("-rf", "a b  c", "日本", "#%&'\"{}")} <= labels


def test_a_root_that_is_a_category_needs_no_category(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    assert find_categories(folder, None) == find_categories(folder, "widget") == [folder]
    assert run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "widget" / "yolo").is_dir()


def test_all_means_every_category_in_order(make_category: MakeCategory, tmp_path: Path) -> None:
    for name in ("nut", "bolt"):
        make_category(name=name)
    (tmp_path / "data" / "notes").mkdir()
    assert [folder.name for folder in find_categories(tmp_path / "data", "all")] == ["bolt", "nut"]


def test_the_environment_names_the_root(make_category: MakeCategory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_category()
    monkeypatch.setenv("MVTEC_ROOT", str(folder.parent))
    assert find_root(None) == folder.parent
    assert find_root(folder) == folder


# ---------------------------------------------------------------- which category


def test_without_data_the_three_ways_to_get_some_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MVTEC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    line = refusal(run_cli("to_yolo", "--category", "screw"))
    assert "data/mvtec_anomaly_detection" in line
    assert "--root" in line and "converters.download" in line and "converters.sample" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("category", ["bulb", "../data/nut", "..", ".", "", "/etc", "nut/", "nut/test"])
def test_an_unknown_category_is_refused_with_the_known_ones(
    make_category: MakeCategory, tmp_path: Path, category: str
) -> None:
    make_category(name="nut")
    make_category(name="bolt")
    line = refusal(run_cli("to_yolo", "--root", tmp_path / "data", "--category", category, "--out", tmp_path / "out"))
    assert repr(category) in line and "bolt, nut" in line
    assert not (tmp_path / "out").exists()


def test_several_categories_and_none_named_is_refused_with_their_names(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    make_category(name="nut")
    make_category(name="bolt")
    assert "--category with one of bolt, nut, or all" in refusal(run_cli("to_coco", "--root", tmp_path / "data"))


def test_a_root_without_categories_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x" / "train").mkdir(parents=True)
    assert "train/ and test/" in refusal(run_cli("to_coco", "--root", tmp_path))


def test_a_category_without_images_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "good").mkdir(parents=True)
    assert "no images" in refusal(run_cli("to_coco", "--root", tmp_path))


def test_defects_in_train_are_refused(make_category: MakeCategory) -> None:
    folder = make_category()
    (folder / "train" / "crack").mkdir()
    with pytest.raises(DatasetError, match=re.escape(f"{folder}/train/crack") + ".*test/crack"):
        read_category(folder)


# ---------------------------------------------------------------- what is wrong with files


def deep(channels: int) -> Image.Image | np.ndarray:
    shape = (40, 48) if channels == 1 else (40, 48, 3)
    return np.random.default_rng(0).integers(0, 65536, shape, np.uint16)


GREY = noise(Path("x"), (48, 40), "L")
BAD_IMAGES = {
    "RGBA": (lambda path: Image.new("RGBA", (48, 40), (9, 9, 9, 128)).save(path), ".png", "mode RGBA"),
    "16-bit RGBA": (lambda path: write_deep_rgb(path, alpha=True), ".png", "16 bits"),
    "palette": (lambda path: GREY.convert("P").save(path), ".png", "mode P"),
    "1-bit": (lambda path: GREY.convert("1").save(path), ".png", "mode 1"),
    "CMYK": (lambda path: GREY.convert("CMYK").save(path), ".jpg", "mode CMYK"),
    "12 bits in 16": (lambda path: Image.fromarray(deep(1) // 16).save(path), ".png", "span 16 grey levels"),
    "16-bit RGB PNG": (lambda path: write_deep_rgb(path), ".png", "16 bits"),
    "16-bit RGB TIFF": (lambda path: write_deep_rgb(path), ".tiff", "16 bits"),
    "several pages": (lambda path: GREY.save(path, save_all=True, append_images=[GREY]), ".tif", "several pages"),
    "empty": (lambda path: path.write_bytes(b""), ".png", "empty file"),
    "text": (lambda path: path.write_text("an image, honestly"), ".png", "is no image"),
    "unknown suffix": (lambda path: GREY.save(path, "PNG"), ".dat", ".dat is no supported image type"),
    "WebP under the name of a PNG": (lambda path: GREY.save(path, "WEBP"), ".png", "is no image"),
}


def write_deep_rgb(path: Path, alpha: bool = False) -> None:
    import cv2

    pixels = np.dstack([deep(3), np.full((40, 48), 65535, np.uint16)]) if alpha else deep(3)
    assert cv2.imwrite(str(path), pixels)


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_images_that_readers_disagree_on_are_refused_by_name(
    make_category: MakeCategory, tmp_path: Path, kind: str
) -> None:
    write, suffix, reason = BAD_IMAGES[kind]
    folder = make_category()
    write(folder / "test" / "good" / f"odd{suffix}")
    line = refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out"))
    assert f"{folder}/test/good/odd{suffix}" in line and reason in line
    assert not (tmp_path / "out" / "widget").exists()


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_upright_exif_is_no_rotation(make_category: MakeCategory, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = make_category()
    for suffix in (".jpg", ".png"):
        GREY.save(folder / "test" / "good" / f"upright{suffix}", exif=exif)
    assert read_category(folder).problems == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.97])
def test_images_cut_short_are_named(make_category: MakeCategory, suffix: str, share: float) -> None:
    folder = make_category(suffix=suffix, mode="RGB")
    path = folder / "test" / "crack" / f"002{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    problem = only_problem_of_image(folder, path)
    assert "cut short" in problem or "is no image" in problem


def only_problem_of_image(folder: Path, path: Path) -> str:
    """Its mask, which then belongs to a listed image, is no orphan."""
    problem = only_problem(folder)
    assert problem.startswith(path.relative_to(folder).as_posix())
    return problem


def test_a_changed_byte_in_a_png_is_found(make_category: MakeCategory) -> None:
    folder = make_category()
    path = folder / "train" / "good" / "001.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "damaged" in only_problem_of_image(folder, path)


def test_images_with_more_pixels_than_allowed_are_named(make_category: MakeCategory) -> None:
    folder = make_category(size=(48, 40))
    assert read_category(folder, max_pixels=48 * 40).problems == []
    problems = read_category(folder, max_pixels=48 * 40 - 1).problems
    assert len(problems) == 16 and all("48 x 40 px" in p.reason and "--max-pixels" in p.reason for p in problems)


def test_an_image_that_claims_to_be_huge_is_not_decoded() -> None:
    data = bytearray(b"BM" + bytes(52))
    data[10:14], data[14:18], data[26:30] = b"\x36\0\0\0", b"\x28\0\0\0", b"\1\0\x18\0"
    data[18:26] = (100_000).to_bytes(4, "little") * 2
    with pytest.raises(DatasetError, match="100000 x 100000 px"):
        identify(bytes(data), ".bmp", 256_000_000)


def test_a_missing_mask_is_named_with_the_path_where_it_should_be(make_category: MakeCategory) -> None:
    folder = make_category()
    (folder / "ground_truth" / "crack" / "003_mask.png").unlink()
    problem = only_problem(folder)
    assert problem.startswith("test/crack/003.png") and "ground_truth/crack/003_mask.png is missing" in problem


def test_two_masks_for_one_image_are_named(make_category: MakeCategory) -> None:
    folder = make_category()
    save_mask(folder / "ground_truth" / "crack" / "003.png", np.ones((40, 48)))
    problem = only_problem(folder)
    assert problem.startswith("test/crack/003.png") and "003.png, 003_mask.png" in problem


@pytest.mark.parametrize("defect", ["crack", "good", "unheard of"])
def test_a_mask_without_an_image_is_named(make_category: MakeCategory, defect: str) -> None:
    folder = make_category()
    save_mask(folder / "ground_truth" / defect / "777_mask.png", np.ones((40, 48)))
    problem = only_problem(folder)
    assert problem.startswith(f"ground_truth/{defect}/777_mask.png") and "no image" in problem


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_mask_is_named_with_its_image(make_category: MakeCategory, content: bytes | None) -> None:
    folder = make_category()
    path = folder / "ground_truth" / "hole" / "001_mask.png"
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    problem = only_problem(folder)
    assert problem.startswith("test/hole/001.png") and "mask hole/001_mask.png" in problem


def test_a_mask_of_another_size_is_named_with_both_sizes(make_category: MakeCategory) -> None:
    folder = make_category()
    save_mask(folder / "ground_truth" / "hole" / "001_mask.png", np.ones((48, 40)))
    problem = only_problem(folder)
    assert "001_mask.png" in problem and "40 x 48 px" in problem and "48 x 40" in problem


def test_two_images_that_would_bear_one_name_are_refused(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    save_noise(folder / "test" / "good" / "000.jpg")
    line = refusal(run_cli("to_coco", "--root", folder, "--out", tmp_path / "out"))
    assert "test/good/000.jpg" in line and "test/good/000.png" in line and "rename" in line


def test_a_name_that_is_too_long_is_refused(make_category: MakeCategory, tmp_path: Path) -> None:
    longest = 255 - len("test__good__.png")
    folder = make_category()
    save_noise(folder / "test" / "good" / f"{'ä' * (longest // 2)}.png")
    converted("all", folder, tmp_path / "out")
    save_noise(folder / "test" / "good" / f"{'x' * (longest + 1)}.png")
    line = refusal(run_cli("all", "--root", folder, "--out", tmp_path / "out", "--overwrite"))
    assert "255 bytes" in line and "xxx" in line


@pytest.mark.parametrize("name", [b"two\nlines.png", b"bell\x07.png", b"not utf-8 \xff.png"])
def test_a_name_that_text_files_cannot_hold_is_refused(
    make_category: MakeCategory, tmp_path: Path, name: bytes
) -> None:
    folder = make_category()
    source = folder / "test" / "good" / "000.png"
    os.rename(source, os.path.join(os.fsencode(source.parent), name))  # noqa: PTH104, PTH118
    assert "rename" in refusal(run_cli("all", "--root", folder, "--out", tmp_path / "out"))


def test_bad_files_are_named_in_one_line_without_warnings(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(suffix=".tif")
    path = folder / "test" / "crack" / "002.tif"
    path.write_bytes(path.read_bytes()[:100])
    assert "test/crack/002.tif" in refusal(run_process("to_yolo", "--root", folder, "--out", tmp_path / "out"))


def test_bad_names_are_listed_in_the_card(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    bad = os.fsencode(folder / "test" / "good") + b"/\xff.png"
    os.rename(folder / "test" / "good" / "000.png", bad)  # noqa: PTH104
    result = run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", "--on-error", "skip")
    assert result.exit_code == 1
    assert r"\udcff.png" in (tmp_path / "out" / "widget" / "card.md").read_text("utf-8")
