"""Masks found for images by their file names."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from converters.sources.samples import Listed, Problem, files, fits_text_files, is_note


def masks_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Masks of a folder under the stem of the image that they belong to: ``000_mask.png`` under ``000``."""
    masks: dict[str, list[Path]] = {}
    for mask in (file for file in files(folder) if not is_note(file)):
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
