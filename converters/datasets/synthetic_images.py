"""The synthetic images of a dataset, which lie in it: ``synthetic/{images,masks}`` and ``synthetic/classes.csv``.

They are read as any other source folder is. Their keys sort after those of all real images, so that the real ones
keep the COCO ids that they have in the dataset without synthetic ones.
"""

import dataclasses
from pathlib import Path

from converters.cli.errors import DatasetError
from converters.sources.reading import read_category
from converters.sources.samples import Sample

FOLDER = "synthetic"
KEYS = "zz-synthetic"  # no layout has a folder that sorts after it
RECORD = "augment.json"  # who the parents are


def read_synthetic(dataset: Path, category: str, max_pixels: int = 256_000_000) -> list[Sample]:
    """The synthetic images of a dataset, or of one that is being written, as samples of this category.

    Raises DatasetError if one of them, or its mask, is missing or damaged.
    """
    found = read_category(dataset / FOLDER, max_pixels, "folder")
    if found.problems:
        raise DatasetError(f"{dataset / FOLDER}/{found.problems[0]}: make the dataset again with --overwrite")
    return [
        dataclasses.replace(sample, key=f"{KEYS}/{sample.image.name}", category=category) for sample in found.samples
    ]
