"""MVTec AD 2: ``CATEGORY/{train/good, validation/good, test_public/{good,bad,ground_truth/bad}}``.

Layout: Heckler-Kram et al., "The MVTec AD 2 Dataset", 2025; as read by anomalib's ``MVTecAD2Dataset``. An image
``test_public/bad/000_regular.png`` has the mask ``test_public/ground_truth/bad/000_regular_mask.png``. The
folders test_private and test_private_mixed have no published masks and are not read.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.sources.mvtec import good_images, other_names
from converters.sources.pairing import masks_by_stem, orphans, with_only_mask
from converters.sources.samples import GOOD, Aside, Listed, Problem, files

TREE = "train/good and test_public/ (test_private has no masks and is not read)"


def is_category(folder: Path) -> bool:
    return (folder / "test_public").is_dir()


def list_images(folder: Path) -> Iterator[Listed | Problem | Aside]:
    public = folder / "test_public"
    for part in ("train", "validation"):
        yield from (Listed(image, GOOD, "train") for image in good_images(folder / part))
    yield from (Listed(image, GOOD, "test") for image in good_images(public))
    yield from other_names(folder / "train", folder / "validation", public)
    masks = masks_by_stem(public / "ground_truth" / "bad")
    for image in files(public / "bad"):
        wanted = f"test_public/ground_truth/bad/{image.stem}_mask.png"
        yield with_only_mask(image, "bad", "test", masks.pop(image.stem, []), wanted)
    yield from orphans(folder, (mask for several in masks.values() for mask in several))
