"""The numbers of a dataset card: what a category folder holds, measured in one pass over its files."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.datasets.splits import SplitRule, make_split
from converters.masks.reading import instances_of
from converters.sources.duplicates import connected, duplicates
from converters.sources.mvtec_facts import known_counts, missing_images
from converters.sources.samples import GOOD, IGNORED, Aside, Category, Problem, Sample, told

Grey = NDArray[np.uint8]  # H x W
STATISTICS = (
    "mean grey level",
    "standard deviation of grey levels",
    "5 % quantile of grey levels",
    "95 % quantile of grey levels",
    "Sobel energy",
    "sharpness",
    "file size",
)
QUANTILES = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
NEAR = 2  # bits of 64 in which the hashes of near-duplicates may differ
EXAMPLES = 3
INVERTED = "masks that cover more than half of their image: are they inverted?"
PERMUTATIONS = 200


@dataclass(frozen=True)
class Measured:
    """The numbers kept of one sample's decoded files."""

    sample: Sample
    statistics: tuple[float, ...]  # in the order of STATISTICS
    perceptual_hash: int
    instances: int = 0
    area: int = 0  # px
    in_between: int = 0  # mask pixels that are neither 0 nor the maximum
    ignored: int = 0  # mask pixels


@dataclass(frozen=True)
class ImageSize:
    """So many images have this size."""

    width: int
    height: int
    channels: int
    images: int


@dataclass(frozen=True)
class ClassCount:
    """The frequency of a defect type."""

    name: str
    images: int
    instances: int


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of images, not byte-identical, whose perceptual hashes differ in at most NEAR bits.

    Images that pairs connect are a cluster; some of these lie in several parts of the default split of this source.
    """

    pairs: int
    examples: list[tuple[str, str]]
    clusters: int
    straddling: int
    straddling_images: int  # in the clusters that straddle


@dataclass(frozen=True)
class Probe:
    """The best separation of two groups of images by one of STATISTICS: max(AUROC, 1 - AUROC), 0.5 to 1.

    ``chance`` is what the best statistic stays below in 95 % of random relabellings.
    """

    statistic: str
    auroc: float
    chance: float


@dataclass(frozen=True)
class Comparison:
    """The content of the complete category of MVTec AD, and where this folder falls short of it."""

    missing: list[str]
    regions: int
    side: int  # px


@dataclass(frozen=True)
class Description:
    """One category folder in numbers. Files that could not be used are in ``problems`` and nowhere else."""

    category: str
    synthetic: bool
    train_good: int
    test_good: int
    test_defective: int
    masks: int
    sizes: list[ImageSize]  # most frequent first
    classes: list[ClassCount]  # most images first
    instances: int
    area_percent: dict[str, float]  # QUANTILES of the defect area per defective image; empty without defects
    class_imbalance: float | None  # images of the largest class / of the smallest
    good_per_defective: float | None
    soft_masks: dict[str, int]  # image key -> pixels that are neither 0 nor the maximum
    duplicates: list[list[str]]
    near_duplicates: NearDuplicates
    groups: int  # objects, lots or recordings that images are known to show; a split tears none of them
    grouped_images: int
    folder_probe: Probe | None  # train/good against test/good
    defect_probe: Probe | None  # test/good against the defective images
    mvtec: Comparison | None  # None for what is no category of MVTec AD
    problems: list[str]
    asides: list[str]  # what was left aside or taken otherwise, a line a reason


def describe_category(category: Category) -> Description:
    """Decode every image and mask of a category once and describe what they hold."""
    outcomes = _measure_all(category)
    measured = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, Problem)]
    defective = [m for m in measured if m.sample.defect != GOOD]
    inverted = [m for m in defective if 2 * m.area > m.sample.width * m.sample.height]
    train, test = (
        [m for m in measured if (m.sample.origin, m.sample.defect) == (part, GOOD)] for part in ("train", "test")
    )
    classes = count_classes(defective)
    return Description(
        category=category.name,
        synthetic=category.synthetic,
        train_good=len(train),
        test_good=len(test),
        test_defective=len(defective),
        masks=sum(m.sample.mask is not None for m in measured),
        sizes=count_sizes(m.sample for m in measured),
        classes=classes,
        instances=sum(m.instances for m in measured),
        area_percent=area_quantiles(defective),
        class_imbalance=classes[0].images / classes[-1].images if classes else None,
        good_per_defective=(len(train) + len(test)) / len(defective) if defective else None,
        soft_masks={m.sample.key: m.in_between for m in measured if m.in_between},
        duplicates=duplicates(m.sample for m in measured),
        near_duplicates=find_near_duplicates(measured),
        groups=len({m.sample.group for m in measured} - {""}),
        grouped_images=sum(m.sample.group != "" for m in measured),
        folder_probe=probe(train, test),
        defect_probe=probe(test, [m for m in defective if m.sample.origin == "test"]),
        mvtec=compare(category),
        problems=[f"{category.name}/{problem}" for problem in [*category.problems, *failed]],
        asides=told(
            [
                *category.asides,
                *(Aside(m.sample.key, IGNORED, m.ignored) for m in measured if m.ignored),
                *(Aside(m.sample.key, INVERTED) for m in inverted),
            ]
        ),
    )


def _measure_all(category: Category) -> list[Measured | Problem]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV decodes outside Python's lock
        results = pool.map(measure, category.samples)
        with progress(results, len(category.samples), f"measuring {category.name}") as bar:
            return list(bar)


def measure(sample: Sample) -> Measured | Problem:
    """Decode one image and its mask; what is wrong with them is the Problem that a conversion would report."""
    try:
        image = cv2.imdecode(np.fromfile(sample.image, np.uint8), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise DatasetError("is damaged or cut short: copy or download it again")
        grey = np.asarray(image, np.uint8)
        instances, in_between, ignored = instances_of(sample)
    except DatasetError as error:
        return Problem(sample.key, str(error))
    area = sum(instance.area for instance in instances)
    statistics = (*image_statistics(grey), float(sample.size))
    return Measured(sample, statistics, perceptual_hash(grey), len(instances), area, in_between, ignored)


def image_statistics(image: Grey) -> tuple[float, ...]:
    """STATISTICS of a grey image but for its file's size, in grey levels (the last two in their squares, per pixel).

    Sharpness is the variance of the Laplacian (J. Pech-Pacheco et al., Diatom Autofocusing in Brightfield Microscopy,
    ICPR 2000).
    """
    counts = np.asarray(cv2.calcHist([image], [0], None, [256], [0, 256]), np.float64).ravel()
    levels = np.arange(256)
    mean = counts @ levels / image.size
    deviation = np.sqrt(counts @ (levels - mean) ** 2 / image.size)
    low, high = np.searchsorted(counts.cumsum(), np.array([0.05, 0.95]) * image.size)
    slopes = (cv2.Sobel(image, cv2.CV_16S, dx, 1 - dx) for dx in (0, 1))
    energy = sum(cv2.norm(slope, cv2.NORM_L2SQR) for slope in slopes) / image.size
    sharpness = float(cv2.meanStdDev(cv2.Laplacian(image, cv2.CV_16S))[1].item() ** 2)
    return float(mean), float(deviation), float(low), float(high), energy, sharpness


def perceptual_hash(image: Grey) -> int:
    """64-bit pHash: which of the 8 x 8 lowest frequencies of a 32 x 32 thumbnail lie above their median.

    Follows C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.
    """
    thumbnail = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = np.asarray(cv2.dct(thumbnail))[:8, :8].ravel()
    bits = frequencies > np.median(frequencies[1:])  # the first is the mean of all pixels
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find_near_duplicates(measured: Sequence[Measured]) -> NearDuplicates:
    """Compare all pairs of hashes, a row of them at a time, and hold their clusters against the default split."""
    keys = [m.sample.key for m in measured]
    ones, others = _near_pairs(measured)
    examples = [(keys[one], keys[other]) for one, other in zip(ones[:EXAMPLES], others[:EXAMPLES], strict=True)]
    pairs = zip(ones.tolist(), others.tolist(), strict=True)
    clusters = [cluster for cluster in connected(len(keys), pairs) if len(cluster) > 1]
    parts = make_split([m.sample for m in measured], SplitRule()).parts
    straddling = [cluster for cluster in clusters if len({parts[keys[index]] for index in cluster}) > 1]
    return NearDuplicates(len(ones), examples, len(clusters), len(straddling), sum(map(len, straddling)))


def _near_pairs(measured: Sequence[Measured]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of the first and of the second image of each pair, (P,) each."""
    hashes = np.array([m.perceptual_hash for m in measured], np.uint64)
    contents = np.array([m.sample.image_digest for m in measured])
    ones, others = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
    for index in range(len(measured)):
        near = np.bitwise_count(hashes[index + 1 :] ^ hashes[index]) <= NEAR
        found = np.flatnonzero(near & (contents[index + 1 :] != contents[index])) + index + 1
        ones.append(np.full(len(found), index))
        others.append(found)
    return np.concatenate(ones), np.concatenate(others)


def probe(some: Sequence[Measured], others: Sequence[Measured]) -> Probe | None:
    """Ask whether one number of a whole image tells two groups apart. None where one of them is empty."""
    if not some or not others:
        return None
    return probe_of(np.array([m.statistics for m in some]), np.array([m.statistics for m in others]))


def probe_of(some: NDArray[np.float64], others: NDArray[np.float64]) -> Probe:
    """The same of STATISTICS, a row an image; neither side is empty."""
    values = np.concatenate([some, others]).T
    ranks = np.array([_middle_ranks(row) for row in values])
    labels = np.arange(values.shape[1]) >= len(some)
    shuffled = np.random.default_rng(0).permuted(np.tile(labels, (PERMUTATIONS, 1)), axis=1)
    separations = _separation(ranks, labels[None])[:, 0]
    best = int(separations.argmax())
    chance = float(np.quantile(_separation(ranks, shuffled).max(axis=0), 0.95))
    return Probe(STATISTICS[best], float(separations[best]), chance)


def _middle_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the middle of theirs."""
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") + 1) / 2


def _separation(ranks: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """max(AUROC, 1 - AUROC), S x L, from ranks (S statistics x N images) and labellings (L x N)."""
    positives = labels.sum(axis=1)
    wins = ranks @ labels.T - positives * (positives + 1) / 2
    auroc = wins / (positives * (labels.shape[1] - positives))
    return np.maximum(auroc, 1 - auroc)


def count_classes(defective: Iterable[Measured]) -> list[ClassCount]:
    images: Counter[str] = Counter()
    instances: Counter[str] = Counter()
    for m in defective:
        images[m.sample.defect] += 1
        instances[m.sample.defect] += m.instances
    return [ClassCount(name, images[name], instances[name]) for name in sorted(images, key=lambda n: (-images[n], n))]


def count_sizes(samples: Iterable[Sample]) -> list[ImageSize]:
    counts = Counter((sample.width, sample.height, sample.channels) for sample in samples)
    return [ImageSize(*size, images) for size, images in counts.most_common()]


def area_quantiles(defective: Sequence[Measured]) -> dict[str, float]:
    """QUANTILES of the defect area per image, in percent of the image."""
    if not defective:
        return {}
    shares = [100 * m.area / (m.sample.width * m.sample.height) for m in defective]
    return dict(zip(QUANTILES, np.quantile(shares, list(QUANTILES.values())).tolist(), strict=True))


def compare(category: Category) -> Comparison | None:
    """Hold a category against the complete one of MVTec AD; None if there is none of that name."""
    known = known_counts(category)
    if known is None:
        return None
    return Comparison(missing_images(category), known["regions"], known["side_px"])
