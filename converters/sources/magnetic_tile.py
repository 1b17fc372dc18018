"""Magnetic-Tile-Defect: ``MT_{Blowhole,Break,Crack,Fray,Uneven,Free}/Imgs/NAME.jpg`` beside ``NAME.png``.

Layout: Huang, Qiu, Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020,
https://github.com/abin24/Magnetic-tile-defect-datasets. Images are JPEG, masks grey PNG with soft edges: what lies
above half of the range counts, and how much lies in between is reported. ``MT_Free`` is good; its masks are all
black, and one that is not is an error.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.sources.pairing import orphans
from converters.sources.samples import GOOD, Listed, Problem, files, folders

TREE = "MT_*/Imgs with NAME.jpg beside NAME.png"
_PREFIX, _GOOD = "MT_", "MT_Free"


def is_category(folder: Path) -> bool:
    return any((path / "Imgs").is_dir() for path in folders(folder) if path.name.startswith(_PREFIX))


def list_images(folder: Path) -> Iterator[Listed | Problem]:
    for path in (path for path in folders(folder) if path.name.startswith(_PREFIX)):
        defect = GOOD if path.name == _GOOD else path.name.removeprefix(_PREFIX)
        found = files(path / "Imgs")
        masks = {file.stem: file for file in found if file.suffix.lower() == ".png"}
        for image in (file for file in found if file.suffix.lower() != ".png"):
            mask = masks.pop(image.stem, None)
            problem = "" if mask else f"has no mask: {path.name}/Imgs/{image.stem}.png is missing"
            yield Listed(image, defect, "test", mask, problem)
        yield from orphans(folder, masks.values())
