"""labelme's JSON files, one an image, become a plain folder of images and masks.

Format: https://github.com/wkentaro/labelme. Shapes are painted as labelme paints them (``labelme/utils/shape.py``), by
Pillow, in the order of the file; those of one label and ``group_id`` are one instance.
"""

import base64
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageDraw
from pydantic import Field

from converters.cli.door import Checked, check, read_json
from converters.cli.errors import DatasetError
from converters.importing.mask_folder import (
    ANOTHER_PATH,
    NO_LABEL_FILE,
    OTHER_TYPE,
    OUTSIDE,
    Finder,
    LabelledFile,
    Rules,
    Tell,
    flat_name,
    is_file,
    report,
    write_folder,
)
from converters.masks.instances import Mask
from converters.sources.image_files import opened
from converters.sources.samples import SUFFIXES, Aside, files, files_below, hidden_images, looks_like_image

STEP = "save the image in labelme again, or remove this file"
BACKGROUND, IGNORE = "_background_", "__ignore__"  # names that labelme's own converters give a meaning
POLYGONS = ("polygon", "oriented_rectangle", "rotation")  # the last is X-AnyLabeling's
NO_AREA = "points and lines, which cover no area, beside other labels of their image, left aside"
IGNORED = f"labels {IGNORE}, taken as good"
Point = Annotated[list[float], Field(min_length=2, max_length=2)]  # x, y in px


class Shape(Checked):
    """One label; ``mask`` is a PNG in base64 whose first and last pixel are the two points."""

    label: str
    points: list[Point]
    shape_type: str | None = None
    group_id: int | str | None = None
    mask: str | None = None

    @property
    def kind(self) -> str:
        return self.shape_type or "polygon"  # what old files mean


class LabelFile(Checked):
    """Labels of one image, whose path is relative to this file."""

    shapes: list[Shape]
    image: Annotated[str, Field(min_length=1, alias="imagePath")]
    width: int | None = Field(None, alias="imageWidth")
    height: int | None = Field(None, alias="imageHeight")


def import_labelme(
    folder: Path, to: Path, mixed: str, touching: str, on_error: str, max_pixels: int, overwrite: bool
) -> None:
    """Write the labels of a folder of labelme's JSON files as a folder of images and masks."""
    labelled, asides, left_out = labelled_files(folder, on_error == "skip")
    tally = write_folder(labelled, to, Rules(mixed, touching, on_error), max_pixels, overwrite)
    tally.asides += [*asides, *hidden_images(folder)]
    tally.left_out = [*left_out, *tally.left_out]
    report(tally, to)


def labelled_files(folder: Path, skip: bool) -> tuple[list[LabelledFile], list[Aside], list[str]]:
    """Every image with its labels, what is told, and the JSON files that cannot be used.

    Images without a JSON file are good. Raises DatasetError where there is none at all and, unless they are to be
    skipped, for the first that cannot be used.
    """
    read, asides, unusable = _read_all(folder, skip)
    if not read:
        raise DatasetError(
            next(iter(unusable.values()), f"{folder}: holds no JSON file of labelme's: name their folder")
        )
    there = {path for place in {image.parent for image in read} for path in files(place)} | set(files_below(folder))
    beside = sorted({_normal(path) for path in there if looks_like_image(path)} - set(read))
    asides += [Aside(str(path), OTHER_TYPE) for path in beside if path.suffix.lower() not in SUFFIXES]
    refused = {file.with_suffix("") for file in unusable}
    good = [path for path in beside if path.suffix.lower() in SUFFIXES and path.with_suffix("") not in refused]
    asides += [Aside(str(path), NO_LABEL_FILE) for path in good]
    labels: dict[Path, LabelFile | None] = {**read, **dict.fromkeys(good)}
    above = Path(os.path.commonpath([path.parent for path in labels]))
    labelled = [
        LabelledFile(path, flat_name(path.relative_to(above).as_posix()), partial(_decode_all, labels[path]))
        for path in sorted(labels)
    ]
    return labelled, asides, list(unusable.values())


def _read_all(folder: Path, skip: bool) -> tuple[dict[Path, LabelFile], list[Aside], dict[Path, str]]:
    """Image -> its labels, what is told, and JSON file -> why it cannot be used."""
    found: dict[Path, LabelFile] = {}
    asides, unusable, finder = [], {}, Finder(folder)
    for file in (_normal(path) for path in files_below(folder) if path.suffix.lower() == ".json"):
        try:
            read = _read(file)
            if read is None:
                asides.append(Aside(str(file), "JSON files that are not labelme's, not taken"))
                continue
            image, exact = _find_image(file, read.image, finder)
            if image in found:
                raise DatasetError(f"{file}: labels {image}, as another JSON file does: keep one of them")
        except DatasetError as error:
            if not skip:
                raise
            unusable[file] = error.message
            continue
        found[image] = read
        if not exact:
            asides.append(Aside(read.image, ANOTHER_PATH))
    return found, asides, unusable


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def _read(file: Path) -> LabelFile | None:
    """None for JSON that is something else."""
    data: Any = read_json(file, Any, STEP)
    if not isinstance(data, dict) or "shapes" not in data:
        return None
    return check(data, LabelFile, str(file), STEP)


def _find_image(file: Path, name: str, finder: Finder) -> tuple[Path, bool]:
    """The image that a file labels, and whether it lies where the file says; raises DatasetError."""
    path = PureWindowsPath(name).as_posix()  # as labelme reads it
    if not path.startswith("/") and is_file(file.parent / path):
        return _normal(file.parent / path), True
    beside = file.parent / path.rpartition("/")[2]
    found = beside if is_file(beside) else finder.find(path)[0]
    if found is None:
        raise DatasetError(f"{file}: imagePath: {name!a} is not there: put the image beside this file")
    return _normal(found), False


def _decode_all(read: LabelFile | None, width: int, height: int, tell: Tell) -> Iterator[tuple[str, Mask]]:
    if read is None:
        return
    if read.width and read.height and (read.width, read.height) != (width, height):
        raise DatasetError(
            f"is {width} x {height} px (upright), its JSON file says {read.width} x {read.height}: was it resized?"
        )
    painted = [(number, shape) for number, shape in enumerate(read.shapes, start=1) if shape.label != IGNORE]
    areas = [(number, shape) for number, shape in painted if shape.kind not in ("point", "points", "line", "linestrip")]
    if ignored := len(read.shapes) - len(painted):
        tell(IGNORED, ignored)
    if painted and not areas:
        raise DatasetError(f"its {len(painted)} labels are points or lines, which cover no area: label outlines")
    if len(areas) < len(painted):
        tell(NO_AREA, len(painted) - len(areas))
    instances: dict[tuple[str, Any], list[tuple[int, Shape]]] = defaultdict(list)
    for number, shape in areas:
        alone = shape.group_id is None or shape.label == BACKGROUND
        instances[shape.label, (number, None) if alone else shape.group_id].append((number, shape))
    holes = [(number, shape) for number, shape in areas if shape.label == BACKGROUND]
    for (label, _), shapes in instances.items():
        if label != BACKGROUND:
            yield label, paint(sorted([*shapes, *holes], key=lambda pair: pair[0]), width, height, tell)


def paint(shapes: Sequence[tuple[int, Shape]], width: int, height: int, tell: Tell = lambda *_: None) -> Mask:
    """H x W of 0 and 1 from numbered shapes, in their order; those of the background are painted with 0.

    Raises DatasetError for a shape that labelme could not paint either.
    """
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for number, shape in shapes:
        value = int(shape.label != BACKGROUND)
        try:
            if shape.kind == "mask":
                _paste(canvas, shape, value)
            else:
                _draw(draw, shape, value, (width, height), tell)
        except DatasetError as error:
            raise DatasetError(f"its label {number} ({shape.label}, {shape.kind}) {error.message}") from None
    return np.array(canvas)


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, value: int, size: tuple[int, int], tell: Tell) -> None:
    points: list[tuple[float, ...]] = [(x, y) for x, y in shape.points]
    wanted = {"rectangle": (2, 4), "circle": (2,)}.get(shape.kind)  # four corners are X-AnyLabeling's
    if wanted and len(points) not in wanted:
        raise DatasetError(f"has {len(points)} points instead of {wanted[0]}")
    if shape.kind == "circle":
        (x, y), (on_x, on_y) = points
        radius = math.hypot(on_x - x, on_y - y)
        points = [(x - radius, y - radius), (x + radius, y + radius)]
    elif shape.kind == "rectangle":
        points = [tuple(map(side, zip(*points, strict=True))) for side in (min, max)]
    elif shape.kind not in POLYGONS:
        raise DatasetError("is of a kind that is not known here: draw a polygon instead")
    elif len(points) < 3:
        return
    ring = np.array(points)
    if (ring < np.negative(size)).any() or (ring > np.multiply(size, 2)).any():
        raise DatasetError("lies far outside the image")
    if (ring < 0).any() or (ring > size).any():
        tell(OUTSIDE, 1)
    draw_shape: Callable[..., None] = {"circle": draw.ellipse, "rectangle": draw.rectangle}.get(
        shape.kind, draw.polygon
    )
    draw_shape(points, outline=value, fill=value)


def _paste(canvas: Image.Image, shape: Shape, value: int) -> None:
    try:
        (x0, y0), (x1, y1) = ((int(x), int(y)) for x, y in shape.points)
        data = base64.b64decode(shape.mask or "?", validate=True)
    except ValueError:
        raise DatasetError("needs two points and a PNG in base64") from None
    if not (0 <= x0 <= x1 < canvas.width and 0 <= y0 <= y1 < canvas.height):
        raise DatasetError(f"lies outside the image, from {x0}, {y0} to {x1}, {y1}")
    with opened(data) as image:
        if image.size != (x1 - x0 + 1, y1 - y0 + 1):
            size = f"{image.width} x {image.height} px"
            raise DatasetError(f"is a PNG of {size}, and its points span {x1 - x0 + 1} x {y1 - y0 + 1}")
        pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise DatasetError("has colours, and a mask is grey")
    canvas.paste(value, (x0, y0), Image.fromarray((pixels > 0).astype(np.uint8) * 255))
