"""The source that a dataset was converted from."""

from pathlib import Path

from converters.cli.errors import DatasetError
from converters.datasets import splits
from converters.datasets.pipeline import all_samples
from converters.datasets.records import Record, read_card
from converters.sources.reading import find_categories, read_category
from converters.sources.samples import Category, Sample


def source_of(
    dataset: Path, root: Path | None, split: Record, max_pixels: int = 256_000_000
) -> tuple[list[Category], list[Sample]]:
    """The source of a dataset: its categories, and all their samples.

    Raises DatasetError if the sources are gone or have changed since the conversion.
    """
    settings = read_card(dataset)["settings"]
    layout, categories = settings["layout"], []
    for name, relative in settings["source"].items():
        folder = (dataset.resolve() / relative).resolve() if root is None else find_categories(root, name, layout)[0]
        if not folder.is_dir():
            raise DatasetError(f"{folder}: the source of {dataset} is gone: name it with --root")
        categories.append(read_category(folder, max_pixels, layout))
    samples, _ = all_samples(categories)
    if splits.hash_sources(samples) != split["sources"]:
        raise DatasetError(f"{dataset}: its source has changed since the conversion: convert again with --overwrite")
    return categories, samples
