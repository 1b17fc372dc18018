"""MVTec AD as it was published: addresses, checksums and numbers of images (``mvtec_facts.json``)."""

import json
from collections import Counter
from functools import cache
from importlib import resources
from typing import Any

from converters.sources.samples import Category


@cache
def known_facts() -> dict[str, Any]:
    """The content of the complete MVTec AD, and its address: ``archive``, and per category ``categories``.

    Sides are in pixels; ``regions`` counts connected parts of defects.
    """
    return json.loads(resources.files("converters.sources").joinpath("mvtec_facts.json").read_text("utf-8"))


def known_counts(category: Category) -> dict[str, Any] | None:
    """The content of the complete category of MVTec AD; None for what is no category of it."""
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
