"""MVTec AD: ``CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT}``.

Layout: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
CVPR 2019. An image ``test/DEFECT/000.png`` has the mask ``ground_truth/DEFECT/000_mask.png``.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from converters.cli.errors import DatasetError
from converters.sources.samples import GOOD, Category, Listed, Problem, files, fits_text_files, folders

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
    """What lies where no image is looked for: beside the folders of train/ and test/, or in folders inside them."""
    beside = [path for part in ("train", "test") for path in files(folder / part)]
    inside = [path for part in ("train", "test") for kind in folders(folder / part) for path in folders(kind)]
    for path in (*beside, *inside):
        yield Problem(path.relative_to(folder).as_posix(), "lies where no image is looked for: move it to test/DEFECT/")


def masks_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Masks of a folder under the stem of the image that they belong to: ``000_mask.png`` under ``000``."""
    masks: dict[str, list[Path]] = {}
    for mask in files(folder):
        masks.setdefault(mask.stem.removesuffix("_mask"), []).append(mask)
    return masks


def with_only_mask(image: Path, defect: str, origin: str, masks: list[Path], wanted: str) -> Listed:
    """An image with its mask, or with what is wrong where it has none or several."""
    problem = ""
    if not masks:
        problem = f"has no mask: {wanted} is missing"
    elif len(masks) > 1:
        problem = f"has several masks ({', '.join(mask.name for mask in masks)}): keep one"
    return Listed(image, defect, origin, masks[0] if masks else None, problem)


def orphans(folder: Path, masks: Iterable[Path]) -> Iterator[Problem]:
    """Masks (files, or folders of them) without an image, by their path in the category folder."""
    for mask in masks:
        name = mask.relative_to(folder).as_posix()
        reason = "this mask has no image of its name: is the download complete?"
        yield Problem(name if fits_text_files(name) else ascii(name), reason)


def known_facts() -> dict[str, Any]:
    """What the complete MVTec AD holds, and where it is: ``archive``, and per category ``categories``.

    Sides are in pixels; ``regions`` counts connected parts of defects.
    """
    return json.loads(resources.files("converters.sources").joinpath("mvtec_facts.json").read_text("utf-8"))


def known_counts(category: Category) -> dict[str, Any] | None:
    """What the complete category of MVTec AD holds; None for what is no category of it."""
    if category.synthetic or category.layout != "mvtec":
        return None
    return known_facts()["categories"].get(category.name)


def missing_images(category: Category) -> list[str]:
    """Folders of an MVTec AD category that hold fewer images than the complete dataset, one line each."""
    known = known_counts(category)
    if known is None:
        return []
    expected = {"train/good": known["train_good"], "test/good": known["test_good"]}
    expected |= {f"test/{defect}": count for defect, count in known["defects"].items()}
    found = Counter(sample.key.rsplit("/", 1)[0] for sample in category.samples)
    return [
        f"{category.name}/{folder}: {found[folder]} of {count} images"
        for folder, count in expected.items()
        if found[folder] < count
    ]
