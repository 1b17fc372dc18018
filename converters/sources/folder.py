"""A plain folder: ``images/``, ``masks/`` and, if wanted, ``classes.csv``; what the importers write, too.

``masks/NAME.png`` (or ``NAME_mask.png``) belongs to ``images/NAME.*``; folders inside, ``images/A/NAME.*``, have the
same folders in ``masks/``, and ``classes.csv`` says ``A/NAME.*``. Without ``classes.csv``, an image whose
mask is empty or missing is good and every other one shows a ``defect``. With it (a header, then ``image,class``
rows with file names of images/), every image needs a row, and every image that is not ``good`` a mask. One class
an image. All images may be divided freely: none is reserved for training.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.cli.errors import DatasetError
from converters.sources.pairing import masks_by_stem, orphans, with_only_mask
from converters.sources.samples import GOOD, Listed, Problem, files_below, fits_text_files, is_good
from converters.sources.tables import read_pairs

TREE = "images/ and masks/"
TABLE = "classes.csv"
HEADER = ("image", "class")


def is_category(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def list_images(folder: Path) -> Iterator[Listed | Problem]:
    """Raises DatasetError for a ``classes.csv`` that is no such table or names images that are not there."""
    place = folder / "images"
    images = files_below(place)
    inside = {path.parent.relative_to(folder / "masks") for path in files_below(folder / "masks")}
    masks = {path: masks_by_stem(folder / "masks" / path) for path in sorted(inside)}
    classes = read_classes(folder / TABLE) if (folder / TABLE).is_file() else None
    for image in images:
        name = image.relative_to(place)
        found = masks.get(name.parent, {}).pop(image.stem, [])
        if classes is None:
            yield _by_mask(image, found)
        else:
            yield _by_class(image, found, classes.pop(name.as_posix(), None))
    left = (mask for by_stem in masks.values() for several in by_stem.values() for mask in several)
    yield from orphans(folder, left)
    for unknown in classes or ():
        yield Problem(TABLE, f"names {unknown!a}, which is not in images/")


def _by_mask(image: Path, found: list[Path]) -> Listed:
    if not found:
        return Listed(image, GOOD, "test")
    listed = with_only_mask(image, "defect", "test", found, "")
    return Listed(image, "defect", "test", listed.mask, listed.problem, empty_is_good=True)


def _by_class(image: Path, found: list[Path], name: str | None) -> Listed:
    if name is None:
        return Listed(image, GOOD, "test", problem=f"has no row in {TABLE}")
    if name == GOOD or (is_good(name) and not found):
        return Listed(image, GOOD, "test", found[0] if found else None)
    return with_only_mask(image, name, "test", found, f"masks/{image.stem}.png")


def read_classes(path: Path) -> dict[str, str]:
    """Image file name -> class. Raises DatasetError naming the line that is wrong."""
    classes = {}
    for number, image, name in read_pairs(path, HEADER):
        if "/" in name or not fits_text_files(name):
            raise DatasetError(f"{path}: line {number} must be an image's path and a class without slashes")
        classes[image] = name
    return classes
