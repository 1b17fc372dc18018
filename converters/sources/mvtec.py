"""MVTec AD: ``CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT}``.

Layout: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
CVPR 2019. An image ``test/DEFECT/000.png`` has the mask ``ground_truth/DEFECT/000_mask.png``.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.cli.errors import DatasetError
from converters.sources.pairing import masks_by_stem, orphans, with_only_mask
from converters.sources.samples import GOOD, Listed, Problem, files, folders

TREE = "train/ and test/"


def is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def list_images(folder: Path) -> Iterator[Listed | Problem]:
    """Images of train/good and test/*, the latter with their masks, and masks that belong to no image.

    Raises DatasetError if train/ holds anything but good images.
    """
    for path in folders(folder / "train"):
        if path.name != GOOD:
            raise DatasetError(f"{path}: train/ may hold good images only; move defects to test/{path.name}")
    for image in files(folder / "train" / GOOD):
        yield Listed(image, GOOD, "train")
    yield from strays(folder)
    used = set()
    for defect in folders(folder / "test"):
        if defect.name == GOOD:
            yield from (Listed(image, GOOD, "test") for image in files(defect))
            continue
        masks = masks_by_stem(folder / "ground_truth" / defect.name)
        for image in files(defect):
            found = masks.get(image.stem, [])
            used.update(found)
            wanted = f"ground_truth/{defect.name}/{image.stem}_mask.png"
            yield with_only_mask(image, defect.name, "test", found, wanted)
    masks_there = (mask for path in folders(folder / "ground_truth") for mask in files(path))
    yield from orphans(folder, (mask for mask in masks_there if mask not in used))


def strays(folder: Path) -> Iterator[Problem]:
    """Images that lie where none is looked for: beside the folders of train/ and test/, or in folders inside them."""
    beside = [path for part in ("train", "test") for path in files(folder / part)]
    inside = [path for part in ("train", "test") for kind in folders(folder / part) for path in folders(kind)]
    for path in (*beside, *inside):
        yield Problem(path.relative_to(folder).as_posix(), "lies where no image is looked for: move it to test/DEFECT/")
