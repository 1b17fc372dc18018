"""Tiles: images cut into squares that overlap, so that small defects stay as large as they are.

The split is made of the whole images before, and all tiles of an image are in its part. An instance that a tile's
border cuts becomes what of it lies in the tile. ``tiles.json`` leads from each tile back to its image.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.formats.writer import Planned, check_length
from converters.sources.samples import FORMATS, Crop

if TYPE_CHECKING:
    from PIL.Image import Image


RECORD = "tiles.json"


@dataclass(frozen=True)
class TileRule:
    """The options ``--tile`` (px) and ``--overlap`` (least share of a tile that it has in common with the next)."""

    size: int
    overlap: float = 0.2

    @property
    def suffix(self) -> str:
        """The end of a dataset's name that tells the tiles."""
        return f"@tile-{self.size}"


def grid(width: int, height: int, rule: TileRule) -> list[Crop]:
    """The tiles of an image, row by row: equally far apart, the outer ones on its edges, all of the same size."""
    columns, rows = _starts(width, rule), _starts(height, rule)
    return [(x, y, min(rule.size, width), min(rule.size, height)) for y in rows for x in columns]


def _starts(length: int, rule: TileRule) -> list[int]:
    last = max(length - rule.size, 0)
    steps = ceil(last / max(1, int(rule.size * (1 - rule.overlap))))
    return [round(last * step / steps) for step in range(steps)] + [last]


def cut(plans: Iterable[Planned], rule: TileRule) -> list[Planned]:
    """Plans of whole images become plans of their tiles, with numbers and names of their own.

    ``test__crack__000.bmp`` at x 384, y 0 becomes ``test__crack__000@384_0.png``. Raises DatasetError for names that
    are too long.
    """
    numbers = count(1)
    return [
        Planned(next(numbers), plan.sample, _name(plan, crop), plan.part, plan.class_index, crop)
        for plan in plans
        for crop in grid(plan.sample.width, plan.sample.height, rule)
    ]


def _name(plan: Planned, crop: Crop) -> str:
    name = f"{Path(plan.name).stem}@{crop[0]}_{crop[1]}.png"
    check_length(name, plan.sample)
    return name


def as_record(whole: Iterable[Planned], rule: TileRule, base: str, split_sha256: str) -> dict[str, Any]:
    """The content of ``tiles.json``: images with their ids in the dataset ``base``, and tiles in the order of theirs.

    ``base`` is what the dataset of the whole images on the same split is called, whether it has been written or not.
    """
    plans = list(whole)
    image_of = {plan.sample.key: plan.name for plan in plans}
    tiles = cut(plans, rule)
    return {
        "schema": 1,
        "base": base,
        "split_sha256": split_sha256,
        "size": rule.size,
        "overlap": rule.overlap,
        "images": {p.name: {"id": p.number, "width": p.sample.width, "height": p.sample.height} for p in plans},
        "tiles": {p.name: {"image": image_of[p.sample.key], **_as_dict(p.crop)} for p in tiles},
    }


def _as_dict(crop: Crop | None) -> dict[str, int]:
    assert crop is not None
    return dict(zip(("x", "y", "width", "height"), crop, strict=True))


def pixels(path: Path, crop: Crop) -> "Image":
    """A part of an image, with the mode of the whole."""
    x, y, width, height = crop
    return _decoded(path).crop((x, y, x + width, y + height))


def as_png(path: Path, crop: Crop) -> bytes:
    """A part of an image as a file without loss."""
    buffer = io.BytesIO()
    pixels(path, crop).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=1)  # the tiles of an image come one after another
def _decoded(path: Path) -> "Image":
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return image.copy()
