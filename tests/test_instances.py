"""Reading mask files, and dividing masks into instances."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import random_masks, whole
from PIL import Image
from scipy import ndimage

from converters.cli.errors import DatasetError
from converters.masks.instances import InstanceRule, find_instances
from converters.masks.reading import ReadMask, read_mask

MASK = blobs(0, (48, 40))
EXACT = settings(derandomize=True, deadline=None, max_examples=150)
STRUCTURE = {4: ndimage.generate_binary_structure(2, 1), 8: np.ones((3, 3))}


def components(mask: np.ndarray, connectivity: int) -> list[np.ndarray]:
    """Connected components as scipy finds them."""
    labels, count = ndimage.label(mask, STRUCTURE[connectivity])
    return [labels == label for label in range(1, count + 1)]


def as_sets(parts: list[np.ndarray]) -> set[bytes]:
    return {np.packbits(part > 0).tobytes() for part in parts}


# ---------------------------------------------------------------- reading


def palette(first: tuple[int, int, int], second: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(MASK)
    image.putpalette([*first, *second])
    return image


def rgba(alpha: int) -> Image.Image:
    grey = Image.fromarray(MASK * 255)
    return Image.merge("RGBA", [grey, grey, grey, Image.new("L", grey.size, alpha)])


GREY = Image.fromarray(MASK * 255)
FORMS: dict[str, Callable[[], Image.Image]] = {
    "8-bit 0 and 255": lambda: GREY,
    "8-bit 0 and 1": lambda: Image.fromarray(MASK),
    "8-bit 0 and 128": lambda: Image.fromarray(MASK * 128),
    "1-bit": lambda: GREY.convert("1"),
    "16-bit 0 and 65535": lambda: Image.fromarray(MASK.astype(np.uint16) * 65535),
    "16-bit 0 and 1": lambda: Image.fromarray(MASK.astype(np.uint16)),
    "grey palette": lambda: palette((0, 0, 0), (255, 255, 255)),
    "palette with black first": lambda: palette((0, 0, 0), (200, 30, 30)),
    "grey RGB": lambda: GREY.convert("RGB"),
    "opaque RGBA": lambda: rgba(255),
    "opaque grey with alpha": lambda: rgba(255).convert("LA"),
}
REFUSED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "colours": (lambda: Image.merge("RGB", [GREY, GREY, Image.new("L", GREY.size)]), "colours"),
    "transparent": (lambda: rgba(254), "transparent"),
    "colour palette without black first": (lambda: palette((9, 0, 0), (200, 30, 30)), "colours"),
    "8-bit below half": (lambda: Image.fromarray(MASK * 127), "up to 127"),
    "16-bit 0 and 255": (lambda: Image.fromarray(MASK.astype(np.uint16) * 255), "up to 255"),
    "floating point": (lambda: Image.fromarray(MASK.astype(np.float32)), "mode F"),
}


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("form", FORMS)
def test_every_accepted_form_gives_the_same_mask(form: str, suffix: str, tmp_path: Path) -> None:
    read = read_mask(saved(FORMS[form](), tmp_path / f"m{suffix}"), (48, 40))
    assert np.array_equal(read.mask, MASK)
    assert read.mask.dtype == np.uint8
    assert read.xywh == (3, 4, 37, 27)
    assert read.in_between == 0


@pytest.mark.parametrize("form", REFUSED)
def test_refused_forms_are_named(form: str, tmp_path: Path) -> None:
    make, reason = REFUSED[form]
    path = saved(make(), tmp_path / ("m.tif" if form == "floating point" else "m.png"))
    with pytest.raises(DatasetError, match=reason) as refused:
        read_mask(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_files_that_are_no_mask_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=str(path)):
        read_mask(path)


@pytest.mark.parametrize("form", ["8-bit 0 and 255", "16-bit 0 and 65535", "grey RGB"])
def test_a_mask_cut_short_is_named_wherever_it_is_cut(form: str, tmp_path: Path) -> None:
    path = saved(FORMS[form](), tmp_path / "m.png")
    data = path.read_bytes()
    for length in range(0, data.rindex(b"IEND") - 16, 9):
        path.write_bytes(data[:length])
        with pytest.raises(DatasetError, match=str(path)):
            read_mask(path)


def test_a_missing_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.png: No such file"):
        read_mask(tmp_path / "gone.png")


@pytest.mark.parametrize("form", ["8-bit 0 and 255", "1-bit"])
def test_a_mask_of_another_size_than_its_image_is_refused(form: str, tmp_path: Path) -> None:
    path = saved(FORMS[form](), tmp_path / "m.png")
    with pytest.raises(DatasetError, match=r"is 48 x 40 px, its image 40 x 48"):
        read_mask(path, (40, 48))


@pytest.mark.parametrize("kind", ["L", "1"])
def test_a_small_file_that_claims_a_huge_mask_is_refused_before_it_is_decoded(kind: str, tmp_path: Path) -> None:
    path = saved(Image.new(kind, (48, 40)), tmp_path / "m.bmp")
    data = bytearray(path.read_bytes())
    data[18:26] = (100_000).to_bytes(4, "little") * 2  # BMP width and height
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="100000 x 100000"):
        read_mask(path, (48, 40))


def test_a_mask_with_an_exif_rotation_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(DatasetError, match="EXIF"):
        read_mask(saved(GREY, tmp_path / "m.png", exif=exif))


def test_soft_masks_count_pixels_in_between(tmp_path: Path) -> None:
    soft = MASK * 255
    soft[4, 4:8] = (100, 127, 128, 200)
    soft[0, 0] = 1
    read = read_mask(saved(Image.fromarray(soft), tmp_path / "m.png"))
    expected = MASK.copy()
    expected[4, 4:6] = 0
    assert read.in_between == 5
    assert np.array_equal(read.mask, expected)


def test_an_empty_mask_file_reads_as_empty(tmp_path: Path) -> None:
    read = read_mask(saved(Image.new("L", (7, 5)), tmp_path / "m.png"))
    assert read.xywh == (0, 0, 0, 0) and not read.mask.any() and read.in_between == 0


@EXACT
@given(random_masks())
def test_reading_gives_the_mask_and_its_box(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "random.png"
    path.write_bytes(png(mask))
    read: ReadMask = read_mask(path, mask.shape[::-1])
    assert np.array_equal(read.mask, mask)
    rows, columns = np.nonzero(mask)
    if len(rows):
        x, y = columns.min(), rows.min()
        assert read.xywh == (x, y, columns.max() + 1 - x, rows.max() + 1 - y)


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask * 255).save(buffer, "PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------- dividing


@EXACT
@given(random_masks(), st.sampled_from([4, 8]))
def test_instances_are_the_connected_components(mask: np.ndarray, connectivity: int) -> None:
    found = find_instances(mask, InstanceRule(connectivity=connectivity))
    parts = [whole(instance, mask.shape) for instance in found]
    assert len(parts) == len(as_sets(parts))
    assert as_sets(parts) == as_sets(components(mask, connectivity))
    for instance, part in zip(found, parts, strict=True):
        rows, columns = np.nonzero(part)
        assert instance.area == len(rows)
        assert instance.xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@EXACT
@given(random_masks(), st.sampled_from([4, 8]), st.integers(0, 6))
def test_no_two_instances_have_the_same_box(mask: np.ndarray, connectivity: int, gap: int) -> None:
    """ultralytics drops one of two rows with equal boxes; connected parts in a plane can't have them."""
    boxes = [i.xyxy for i in find_instances(mask, InstanceRule(connectivity=connectivity, merge_gap=gap))]
    assert len(boxes) == len(set(boxes))


def gap_between(one: np.ndarray, other: np.ndarray) -> float:
    """Euclidean distance of the nearest pixel centres, by trying all pairs."""
    difference = np.argwhere(one)[:, None] - np.argwhere(other)[None]
    return float(np.sqrt((difference**2).sum(-1)).min())


def joined(parts: list[np.ndarray], gap: int) -> list[np.ndarray]:
    """Join two parts that are too close until there are none."""
    for i, one in enumerate(parts):
        for j in range(i):
            if gap_between(one, parts[j]) < gap:
                rest = [part for k, part in enumerate(parts) if k not in (i, j)]
                return joined([*rest, one | parts[j]], gap)
    return parts


@EXACT
@given(random_masks(), st.sampled_from([4, 8]), st.integers(0, 7))
def test_merge_gap_joins_exactly_the_closer_ones(mask: np.ndarray, connectivity: int, gap: int) -> None:
    found = find_instances(mask, InstanceRule(connectivity=connectivity, merge_gap=gap))
    expected = joined(components(mask, connectivity), gap)
    assert as_sets([whole(i, mask.shape) for i in found]) == as_sets(expected)
    assert sum(i.area for i in found) == mask.sum()


@EXACT
@given(random_masks(), st.integers(1, 30))
def test_min_area_keeps_exactly_the_instances_that_are_large_enough(mask: np.ndarray, least: int) -> None:
    kept = find_instances(mask, InstanceRule(min_area=least))
    assert sorted(i.area for i in kept) == sorted(int(c.sum()) for c in components(mask, 8) if c.sum() >= least)


def test_one_instance_per_image_holds_all_parts() -> None:
    (instance,) = find_instances(MASK, InstanceRule(instances="image"))
    assert np.array_equal(whole(instance, MASK.shape), MASK)
    assert instance.area == MASK.sum()


def test_diagonal_neighbours_are_one_instance_or_two_by_connectivity() -> None:
    mask = np.eye(2, dtype=np.uint8)
    assert [len(find_instances(mask, InstanceRule(connectivity=c))) for c in (8, 4)] == [1, 2]
