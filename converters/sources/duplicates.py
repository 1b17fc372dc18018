"""Images of a source that are the same byte for byte."""

from collections import defaultdict
from collections.abc import Iterable

from converters.sources.samples import Sample

Unit = tuple[Sample, ...]  # byte-identical images; usually one


def grouped_by_content(samples: Iterable[Sample]) -> list[Unit]:
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_content[sample.image_digest].append(sample)
    return [tuple(sorted(unit, key=lambda sample: sample.key)) for unit in by_content.values()]


def duplicates(samples: Iterable[Sample]) -> list[list[str]]:
    """Keys of byte-identical images, group by group."""
    return sorted([sample.key for sample in unit] for unit in grouped_by_content(samples) if len(unit) > 1)
