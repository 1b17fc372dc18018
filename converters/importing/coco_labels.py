"""Labels in a COCO file become a plain folder of images and masks.

Format: https://cocodataset.org/#format-data. Polygons and run lengths are decoded by pycocotools; a person's file may
hold anything, so they are checked first, since pycocotools is C that trusts its input.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, NonNegativeInt

from converters.cli.door import Checked, check, read_json
from converters.cli.errors import DatasetError
from converters.importing.mask_folder import (
    ANOTHER_PATH,
    OUTSIDE,
    Finder,
    LabelledFile,
    Rules,
    Tell,
    flat_name,
    not_taken,
    report,
    write_folder,
)
from converters.masks import rle
from converters.masks.instances import Mask
from converters.masks.polygons import filled_by_parity
from converters.sources.samples import Aside, hidden_images

LONGEST_OUTLINE = 10_000_000  # px; pycocotools walks along polygons in steps of a fifth of that
Id = Annotated[  # tables that have gone through pandas hold 2.0 for 2
    int | str, BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
]


class ImageEntry(Checked):
    id: Id
    file_name: Annotated[str, Field(min_length=1)]
    width: float | None = None
    height: float | None = None


class Annotation(Checked):
    """The segmentation is checked as it is decoded, so that a wrong one leaves out no more than its image."""

    id: Id | None = None
    image_id: Id
    category_id: Id
    segmentation: Any = None
    iscrowd: Any = None


class CategoryEntry(Checked):
    id: Id
    name: str


class CocoFile(Checked):
    images: Annotated[list[ImageEntry], Field(min_length=1)]
    annotations: list[Annotation]
    categories: list[CategoryEntry]


class RunLengths(Checked):
    """Run lengths as COCO's tools write them: as numbers, or compressed to text."""

    size: list[int]
    counts: Annotated[
        list[NonNegativeInt],
        BeforeValidator(lambda counts: rle.run_lengths(counts) if isinstance(counts, str) else counts),
    ]


Polygons = list[list[float]]  # x1, y1, x2, y2, ... each, px


def labelled_files(path: Path, images: Path) -> tuple[list[LabelledFile], list[Aside]]:
    """Every image that the file lists, with its labels, and what is told; raises DatasetError for faults."""
    data = read_json(path, CocoFile, "name a JSON file of labels in COCO's format for instances")
    names = {entry.id: entry.name for entry in data.categories}
    by_image: dict[Id, list[Annotation]] = {entry.id: [] for entry in data.images}
    if len(by_image) < len(data.images):
        raise DatasetError(f"{path}: images: two have the same id")
    for annotation in data.annotations:
        if annotation.image_id not in by_image or annotation.category_id not in names:
            raise DatasetError(f"{path}: annotation {annotation.id}: image_id or category_id is none of the file's")
        by_image[annotation.image_id].append(annotation)
    used = {annotation.category_id for annotation in data.annotations}
    shared = Counter(names[category] for category in used)
    asides = [Aside(name, "categories of a name that another has, too", n - 1) for name, n in shared.items() if n > 1]
    finder, files, places = Finder(images), [], set()
    for entry in data.images:
        place, exact = _locate(finder, entry.file_name)
        if place in places:
            raise DatasetError(f"{path}: images: two name the file {place}: join their annotations under one id")
        places.add(place)
        if not exact:
            asides.append(Aside(entry.file_name, ANOTHER_PATH))
        decode_all = partial(_decode_all, by_image[entry.id], names, (entry.width, entry.height))
        files.append(LabelledFile(place, flat_name(place.relative_to(images).as_posix()), decode_all))
    return files, asides


def _locate(finder: Finder, name: str) -> tuple[Path, bool]:
    """The file of an image below --images, and whether it is called exactly so; raises DatasetError for one outside."""
    path, exact = finder.find(name)
    plain = name.replace("\\", "/")
    if path is None and (plain.startswith("/") or ".." in plain.split("/")):
        raise DatasetError(f"the image name {name!a} leads out of --images, and no end of it is a file there")
    return path or finder.folder / plain, exact or path is None


def _decode_all(
    annotations: list[Annotation],
    names: dict[Id, str],
    size: tuple[float | None, ...],
    width: int,
    height: int,
    tell: Tell,
) -> Iterator[tuple[str, Mask]]:
    if any(size) and size != (width, height):
        raise DatasetError(
            f"is {width} x {height} px (upright), its entry says {size[0]} x {size[1]}: was it resized, or turned?"
        )
    for annotation in annotations:
        if annotation.iscrowd:
            tell("annotations with iscrowd, taken like the others", 1)
        name = f"annotation {annotation.id}: segmentation"
        yield names[annotation.category_id], decode(annotation.segmentation, width, height, name, tell)


def decode(
    segmentation: Any, width: int, height: int, name: str = "segmentation", tell: Tell = lambda *_: None
) -> Mask:
    """H x W of 0 and 1 from polygons, uncompressed or compressed run lengths; raises DatasetError for anything else.

    Polygons of fewer than three points cover no pixel; beside others they are told, and so are those cut at the border.
    """
    if not segmentation:
        raise DatasetError(f"{name}: none: a box alone makes no mask")
    if isinstance(segmentation, dict):
        runs = check(segmentation, RunLengths, name)
        if runs.size != [height, width] or sum(runs.counts) != height * width:
            pixels = f"{' x '.join(map(str, runs.size))} px, and add up to {sum(runs.counts)}"
            raise DatasetError(f"{name}: its run lengths are for {pixels}; the image is {height} x {width} px")
        return rle.decode(runs.counts, height, width)
    polygons = check(segmentation, Polygons, name)
    rings = [_ring(polygon, (width, height), name) for polygon in polygons]
    whole = [ring for ring in rings if len(ring) > 2]
    if not whole:
        return np.zeros((height, width), np.uint8)
    if len(whole) < len(rings):
        tell("polygons of fewer than three points, beside others of their label, left aside", len(rings) - len(whole))
    if any((ring < 0).any() or (ring > (width, height)).any() for ring in whole):
        tell(OUTSIDE, 1)
    mask = filled_by_parity(whole, (height, width))
    if len(whole) > 1 and sum(cv2.countNonZero(filled_by_parity([ring], mask.shape)) for ring in whole) > mask.sum():
        tell("labels whose polygons overlap, united as COCO does (no hole)", 1)
    return mask


def _ring(polygon: list[float], size: tuple[int, int], name: str) -> NDArray[np.float64]:
    """The N x 2 vertices of a polygon near an image; raises DatasetError where they would keep pycocotools busy."""
    if len(polygon) % 2:
        raise DatasetError(f"{name}: a polygon has an odd number of coordinates")
    ring = np.reshape(polygon, (-1, 2)).astype(np.float64)
    near = (ring >= np.negative(size)) & (ring <= np.multiply(size, 2))
    if not near.all() or np.abs(np.diff(ring, axis=0)).sum() > LONGEST_OUTLINE:
        raise DatasetError(f"{name}: a polygon lies far outside the image or is longer than {LONGEST_OUTLINE} px")
    return ring


def import_coco(
    file: Path, images: Path, to: Path, mixed: str, touching: str, on_error: str, max_pixels: int, overwrite: bool
) -> None:
    """Write the labels of a COCO file as a folder of images and masks."""
    files, asides = labelled_files(file, images)
    asides += not_taken(images, (labelled.path for labelled in files), f"images that are not in {file.name}, not taken")
    tally = write_folder(files, to, Rules(mixed, touching, on_error), max_pixels, overwrite)
    tally.asides += [*asides, *hidden_images(images)]
    report(tally, to)
