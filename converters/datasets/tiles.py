"""Tiles: images cut into squares that overlap, so that small defects stay as large as they are.

The split is made of the whole images before, and all tiles of an image are in its part. An instance that a tile's
border cuts becomes what of it lies in the tile. ``tiles.json`` leads from each tile back to its image.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

from PIL import Image

from converters.formats.writer import Planned, check_length
from converters.sources.image_files import decoded
from converters.sources.samples import Crop

RECORD = "tiles.json"
PLACE = ("x", "y", "width", "height")  # of a tile in its image, px


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
    tiles: list[Planned] = []
    for plan in plans:
        for x, y, width, height in grid(plan.sample.width, plan.sample.height, rule):
            name = f"{Path(plan.name).stem}@{x}_{y}.png"
            check_length(name, plan.sample)
            tiles.append(Planned(len(tiles) + 1, plan.sample, name, plan.part, plan.class_index, (x, y, width, height)))
    return tiles


def as_record(plans: Sequence[Planned], rule: TileRule, dataset: str, split_sha256: str) -> dict[str, Any]:
    """The content of the ``tiles.json`` of a dataset: whole images with their ids in ``base``, and their tiles.

    ``base`` is what the dataset of the whole images on the same split is called, whether it has been written or not.
    """
    image_of = {plan.sample.key: plan.name for plan in plans}
    tiles = cut(plans, rule)
    return {
        "schema": 1,
        "base": dataset.replace(rule.suffix, "", 1),
        "split_sha256": split_sha256,
        "size": rule.size,
        "overlap": rule.overlap,
        "images": {p.name: {"id": p.number, "width": p.sample.width, "height": p.sample.height} for p in plans},
        "tiles": {
            p.name: {"image": image_of[p.sample.key]} | dict(zip(PLACE, p.crop or (), strict=True)) for p in tiles
        },
    }


def pixels(path: Path, crop: Crop | None) -> Image.Image:
    """An image as a conversion takes it, or a part of it with the mode of the whole."""
    if crop is None:
        return _decoded(path)
    x, y, width, height = crop
    return _decoded(path).crop((x, y, x + width, y + height))


def as_png(path: Path, crop: Crop | None) -> bytes:
    """The same as a file without loss."""
    buffer = io.BytesIO()
    pixels(path, crop).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=1)  # the tiles of an image come one after another
def _decoded(path: Path) -> Image.Image:
    return decoded(path)
