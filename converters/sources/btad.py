"""BTAD (beanTech): ``{01,02,03}/{train/ok, test/{ok,ko}, ground_truth/ko}``; ``ko`` is the one defect type.

Layout: Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", 2021;
as read by anomalib's ``BTechDataset``. Images are BMP or PNG, a mask bears its image's name and may have the
other suffix.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.sources.pairing import masks_by_stem, orphans, with_only_mask
from converters.sources.samples import GOOD, Listed, Problem, files

TREE = "train/ok and test/{ok,ko}"


def is_category(folder: Path) -> bool:
    return all((folder / path).is_dir() for path in ("train/ok", "test/ok", "test/ko"))


def list_images(folder: Path) -> Iterator[Listed | Problem]:
    for origin in ("train", "test"):
        yield from (Listed(image, GOOD, origin) for image in files(folder / origin / "ok"))
    masks = masks_by_stem(folder / "ground_truth" / "ko")
    for image in files(folder / "test" / "ko"):
        yield with_only_mask(image, "ko", "test", masks.pop(image.stem, []), f"ground_truth/ko/{image.stem}.png")
    yield from orphans(folder, (mask for several in masks.values() for mask in several))
