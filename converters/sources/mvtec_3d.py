"""MVTec 3D-AD: as MVTec AD with ``validation/good`` and, for each kind, ``rgb/``, ``gt/`` and ``xyz/``.

Layout: Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and Localization", VISAPP 2022;
as read by anomalib's ``MVTec3DDataset``. ``test/hole/rgb/000.png`` has the mask ``test/hole/gt/000.png`` and the
positions of its pixels in space in ``test/hole/xyz/000.tiff``, which nothing here learns from: they are left aside and
told. A mask's values differ by type of defect, so every value above 0 counts. Good images may have masks, all black.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.sources.mvtec import other_names
from converters.sources.pairing import masks_by_stem, orphans, with_only_mask
from converters.sources.samples import GOOD, Aside, Listed, Problem, files, folders, is_good

TREE = "train/good/rgb and test/DEFECT/{rgb,gt}"
DEPTH = "images of depth (xyz/), which nothing here learns from, left aside"


def is_category(folder: Path) -> bool:
    kinds = (kind for part in ("train", "test") for kind in folders(folder / part))
    return any((kind / "rgb").is_dir() for kind in kinds)


def list_images(folder: Path) -> Iterator[Listed | Problem | Aside]:
    """Images of train/good, validation/good and test/*; what lies in other kinds of train/ and validation/ is wrong."""
    yield from other_names(*(folder / part for part in ("train", "validation", "test")))
    for origin, part in (("train", "train"), ("train", "validation"), ("test", "test")):
        for kind in folders(folder / part):
            if depth := files(kind / "xyz"):
                yield Aside(f"{part}/{kind.name}/xyz", DEPTH, len(depth))
            if origin == "train" and not is_good(kind.name):
                reason = f"{part}/ may hold good images only: move defects to test/{kind.name}"
                yield Problem(f"{part}/{kind.name}", reason)
                continue
            yield from _list_kind(folder, kind, origin)


def _list_kind(folder: Path, kind: Path, origin: str) -> Iterator[Listed | Problem]:
    masks = masks_by_stem(kind / "gt")
    for image in files(kind / "rgb"):
        found = masks.pop(image.stem, [])
        if is_good(kind.name):
            yield with_only_mask(image, GOOD, origin, found, "") if found else Listed(image, GOOD, origin)
            continue
        wanted = f"{kind.relative_to(folder).as_posix()}/gt/{image.stem}.png"
        listed = with_only_mask(image, kind.name, origin, found, wanted)
        yield Listed(image, kind.name, origin, listed.mask, listed.problem, any_value=True)
    yield from orphans(folder, (mask for several in masks.values() for mask in several))
