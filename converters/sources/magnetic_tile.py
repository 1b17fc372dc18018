"""Magnetic-Tile-Defect: ``MT_{Blowhole,Break,Crack,Fray,Uneven,Free}/Imgs/NAME.jpg`` beside ``NAME.png``.

Layout: Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020,
https://github.com/abin24/Magnetic-tile-defect-datasets. Images are JPEG, masks grey PNG with soft edges: what lies
above half of the range counts, and how much lies in between is reported. ``MT_Free`` is good; its masks are all
black, and one that is not is an error.

A tile was photographed under up to six exposures, which lie in different folders where only some show the defect.
The names tell: ``exp3_num_1855`` is exposure 3, and numbers go on from one photograph to the next. Thumbnails of
neighbouring numbers correlate at 0.95 in the median while they are under 50 apart, at 0.94 up to 300 apart where the
exposure rises, and at 0.2 to 0.35 where it starts again (random pairs: 0.32). So a tile, or several whose exposures
interleave, ends where the exposure starts again at a gap of 50, or at a gap of 300.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from converters.sources.pairing import orphans
from converters.sources.samples import GOOD, Listed, Problem, files, folders

TREE = "MT_*/Imgs with NAME.jpg beside NAME.png"
_PREFIX, _GOOD = "MT_", "MT_Free"
_NAME = re.compile(r"exp(\d+)_num_(\d+)")
_NEAR, _FAR = 50, 300  # gaps between numbers


def is_category(folder: Path) -> bool:
    return any((path / "Imgs").is_dir() for path in folders(folder) if path.name.startswith(_PREFIX))


def list_images(folder: Path) -> Iterator[Listed | Problem]:
    paths = [path for path in folders(folder) if path.name.startswith(_PREFIX)]
    tiles = tiles_of(file.stem for path in paths for file in files(path / "Imgs"))
    for path in paths:
        defect = GOOD if path.name == _GOOD else path.name.removeprefix(_PREFIX)
        found = files(path / "Imgs")
        masks = {file.stem: file for file in found if file.suffix.lower() == ".png"}
        for image in (file for file in found if file.suffix.lower() != ".png"):
            mask = masks.pop(image.stem, None)
            problem = "" if mask else f"has no mask: {path.name}/Imgs/{image.stem}.png is missing"
            yield Listed(image, defect, "test", mask, problem, group=tiles.get(image.stem, ""))
        yield from orphans(folder, masks.values())


def tiles_of(stems: Iterable[str]) -> dict[str, str]:
    """File name without suffix -> the tile that it shows, called after its first photograph; not of other names."""
    found = {stem: match for stem in stems if (match := _NAME.fullmatch(stem))}
    in_order = sorted((int(match[2]), int(match[1]), stem) for stem, match in found.items())
    tiles: dict[str, str] = {}
    tile, before, last_exposure = "", 0, 0
    for number, exposure, stem in in_order:
        gap = number - before
        if not tiles or gap >= _FAR or (gap >= _NEAR and exposure <= last_exposure):
            tile = stem
        tiles[stem] = tile
        before, last_exposure = number, exposure
    return tiles
