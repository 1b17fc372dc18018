"""MVTec AD: ``CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT}``, and ``validation/good`` where there is one.

Layout: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
CVPR 2019. An image ``test/DEFECT/000.png`` has the mask ``ground_truth/DEFECT/000_mask.png``.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.cli.errors import DatasetError
from converters.sources.pairing import masks_by_stem, orphans, with_only_mask
from converters.sources.samples import GOOD, Aside, Listed, Problem, files, folders, is_good

TREE = "train/ and test/"
TRAINING = ("train", "validation")  # good images alone


def is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def list_images(folder: Path) -> Iterator[Listed | Problem | Aside]:
    """Images of train/good, validation/good and test/*, the last with their masks, and masks that belong to no image.

    A good image of test/ may have a mask, too; it is all black.

    Raises DatasetError if train/ or validation/ holds anything but good images.
    """
    for part in TRAINING:
        for path in folders(folder / part):
            if not is_good(path.name):
                raise DatasetError(f"{path}: {part}/ may hold good images only; move defects to test/{path.name}")
        yield from (Listed(image, GOOD, "train") for image in good_images(folder / part))
    yield from other_names(*(folder / part for part in (*TRAINING, "test")))
    yield from strays(folder)
    used = set()
    for defect in folders(folder / "test"):
        masks = masks_by_stem(_mask_folder(folder / "ground_truth", defect.name))
        for image in files(defect):
            found = masks.get(image.stem, [])
            used.update(found)
            if is_good(defect.name):
                yield with_only_mask(image, GOOD, "test", found, "") if found else Listed(image, GOOD, "test")
                continue
            wanted = f"ground_truth/{defect.name}/{image.stem}_mask.png"
            yield with_only_mask(image, defect.name, "test", found, wanted)
    masks_there = (mask for path in folders(folder / "ground_truth") for mask in files(path))
    yield from orphans(folder, (mask for mask in masks_there if mask not in used))


def _mask_folder(truth: Path, name: str) -> Path:
    """The folder of the masks of a folder of test/; that of good images may bear another of their names."""
    others = (path for path in folders(truth) if is_good(name) and is_good(path.name))
    return truth / name if (truth / name).is_dir() else next(others, truth / name)


def good_images(folder: Path) -> list[Path]:
    """Images of the folder ``good`` in a folder, or what it is called there."""
    return [image for path in folders(folder) if is_good(path.name) for image in files(path)]


def other_names(*places: Path) -> Iterator[Aside]:
    """Folders of good images that are called otherwise."""
    for path in (path for place in places for path in folders(place)):
        if is_good(path.name) and path.name != GOOD:
            yield Aside(f"{path.parent.name}/{path.name}", "folders Good, ok or normal, taken as good")


def strays(folder: Path) -> Iterator[Problem]:
    """Images that lie where none is looked for: beside the folders of the parts, or in folders inside them."""
    parts = [folder / part for part in (*TRAINING, "test")]
    beside = [path for part in parts for path in files(part)]
    inside = [path for part in parts for kind in folders(part) for path in folders(kind)]
    for path in (*beside, *inside):
        yield Problem(path.relative_to(folder).as_posix(), "lies where no image is looked for: move it to test/DEFECT/")
