"""Images of a source that belong together: the same byte for byte, or of one group."""

from collections import defaultdict
from collections.abc import Iterable

from converters.sources.samples import Sample

Unit = tuple[Sample, ...]  # images that belong together, sorted by key; usually one


def grouped_by_content(samples: Iterable[Sample]) -> list[Unit]:
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_content[sample.image_digest].append(sample)
    return [tuple(sorted(unit, key=lambda sample: sample.key)) for unit in by_content.values()]


def grouped_by_object(samples: Iterable[Sample]) -> list[Unit]:
    """Images that are byte-identical or of one ``Sample.group``, and what these join in turn."""
    known = list(samples)
    first: dict[tuple[str, str], int] = {}
    ties = ((first.setdefault(tie, index), index) for index, sample in enumerate(known) for tie in _ties(sample))
    return [
        tuple(sorted((known[index] for index in cluster), key=lambda sample: sample.key))
        for cluster in connected(len(known), ties)
    ]


def _ties(sample: Sample) -> list[tuple[str, str]]:
    return [("content", sample.image_digest)] + ([("group", sample.group)] if sample.group else [])


def connected(size: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers below ``size`` in clusters that pairs connect, each in order (union-find with path halving)."""
    parent = list(range(size))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    clusters: dict[int, list[int]] = defaultdict(list)
    for index in range(size):
        clusters[root(index)].append(index)
    return list(clusters.values())


def duplicates(samples: Iterable[Sample]) -> list[list[str]]:
    """Keys of byte-identical images, group by group."""
    return sorted([sample.key for sample in unit] for unit in grouped_by_content(samples) if len(unit) > 1)
