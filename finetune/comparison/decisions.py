"""What can be decided by a model: operating points, costs, acceptance, and how small a defect it still finds.

Thresholds come from val or from the images for calibration, by labels of the kind that the model learned from, and are
measured on test. Images that belong together count once in every bound. Oracles decide nothing: their prompts do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.importing.statistics import probe_of
from converters.sources.samples import CALIBRATION
from finetune.comparison.evidence import Evidence
from finetune.comparison.rows import Row
from finetune.comparison.trivial import statistics_of
from finetune.measures.acceptance import (
    ASKED,
    Requirement,
    confidence_above,
    confidence_below,
    images_to_prove,
    upper_bound,
)
from finetune.measures.detection_probability import Curve, detection_curve
from finetune.measures.intervals import Sampled, mean_interval, share_interval
from finetune.measures.operating_points import Price, cheapest_threshold
from finetune.runs.dataset import Dataset
from finetune.runs.held_out import POINTS, Point, units_of
from finetune.runs.truth import truth_of

MARKED = 0.1  # share of a defect's pixels that a model marks at least where it finds the defect
SIZES = (0, 8, 16, 32, 64, np.inf)  # px, side of a square of the defect's area
Seeds = Sequence[Sequence[Evidence]]  # for each seed one entry a test part


@dataclass(frozen=True)
class Asked:
    """What the command line asks of decisions."""

    price: Price | None = None
    accept: tuple[Requirement, ...] = ()


def describe_decisions(row: Row, asked: Asked, apart: dict[str, Any] | None) -> dict[str, Any] | None:
    """Everything of one row; None for oracles and for sets without val. ``apart``: see ``folders_apart``."""
    seeds = list(row.evidence.values())
    if row.oracle or any(item.held_out is None for items in seeds for item in items):
        return None
    return {
        "points": operating_points(seeds, apart is not None),
        "cost": cost(seeds, asked.price) if asked.price else None,
        "acceptance": acceptance(seeds[0], asked.accept) if asked.accept else None,
        "detection": detection(seeds[0]),
    }


def folders_apart(datasets: Sequence[Dataset]) -> dict[str, Any] | None:
    """How one number of an image tells good images of ``train/`` from those of ``test/``; None where none does.

    A threshold from held-out images of ``train/`` may then not hold for test's good ones, which are of ``test/``.
    """
    values: dict[str, list[NDArray[Any]]] = {"train": [], "test": []}
    for truth in (truth_of(one, part) for one in datasets for part in one.judged_parts):
        table = np.array(list(statistics_of(truth).values())).T
        for name, label, row in zip(truth.names, truth.labels.tolist(), table, strict=True):
            folder = next((part for part in name.split("__")[:2] if part in values), None)  # behind a category's name
            if folder and not label:
                values[folder].append(row)
    found = probe_of(*map(np.array, values.values())) if all(values.values()) else None
    if found is None or found.auroc <= found.chance:
        return None
    return {"statistic": found.statistic, "auroc": found.auroc, "chance": found.chance}


def operating_points(seeds: Seeds, apart: bool) -> list[dict[str, Any]]:
    """POINTS by the good images for calibration, else by val's; by both where the folders they are from differ."""
    parts = common_parts([item for items in seeds for item in items])
    parts = parts if apart else parts[:1]
    found = [_point(seeds, point, part) for point in POINTS if point.kind == "rejects" for part in parts]
    return found + [_point(seeds, point, "val") for point in POINTS if point.kind == "recall"]


def common_parts(items: Sequence[Evidence]) -> list[str]:
    """The parts of whose good images all of them have scores; that for calibration in front, where there is one."""
    held = [item.held_out.good if item.held_out else {} for item in items]
    return [part for part in held[0] if all(part in one for one in held)]


def _point(seeds: Seeds, point: Point, part: str) -> dict[str, Any]:
    held = [[item.held_out for item in items if item.held_out] for items in seeds]
    chosen = [[one.threshold(point, part) for one in items] for items in held]
    looked_at = [one.good[part] if point.kind == "rejects" else one.defective for one in held[0]]
    entry: dict[str, Any] = {"point": str(point), "from": part, "of": sum(map(len, looked_at))}
    thresholds = [[value for value in values if value is not None] for values in chosen]
    if any(len(known) < len(items) for known, items in zip(thresholds, seeds, strict=True)):
        lacking = next(one for one, value in zip(held[0], chosen[0], strict=True) if value is None)
        return entry | {"why": lacking.why_none(point, part)}
    entry |= {"thresholds": thresholds[0], **measured(seeds, thresholds)}
    if part != CALIBRATION and point.kind == "rejects" and all(CALIBRATION in one.good for one in held[0]):
        hits = [
            np.concatenate([one.good[CALIBRATION] >= value for one, value in zip(items, values, strict=True)])
            for items, values in zip(held, thresholds, strict=True)
        ]
        entry["rejects_of_calibration"] = _share(hits, len(hits[0]))
    return entry


def measured(seeds: Seeds, thresholds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Shares of test's defective images found and of its good ones rejected, at thresholds of each seed and part."""
    found = {}
    for name, wanted in (("recall", True), ("rejects", False)):
        hits = [
            np.concatenate([_scores(item, wanted) >= value for item, value in zip(items, values, strict=True)])
            for items, values in zip(seeds, thresholds, strict=True)
        ]
        found[name] = _share(hits, units(seeds[0], wanted))
    return found


def _scores(item: Evidence, defective: bool) -> NDArray[np.float64]:
    return item.answer.scores[(item.truth.labels > 0) == defective, 0]


def units(items: Sequence[Evidence], defective: bool) -> int:
    """How many of test's images of a side count, those that belong together once."""
    return sum(len(units_of(item.truth, (item.truth.labels > 0) == defective)) for item in items)


def _share(hits: Sequence[NDArray[np.bool_]], size: int) -> dict[str, Any] | None:
    """Mean share over seeds, with an interval for other images (exact, of ``size``) and other trainings."""
    if not len(hits[0]):
        return None
    values = np.array([one.mean() for one in hits])
    value = float(values.mean())
    sampled = Sampled(values, np.empty((len(values), 0)), size)
    low, high = mean_interval(sampled, share_interval(value, size)) or (0.0, 1.0)
    counts = {"count": round(value * len(hits[0]), 2), "of": len(hits[0]), "units": size}
    return {"value": value, "low": low, "high": high, **counts}


def cost(seeds: Seeds, price: Price) -> dict[str, Any]:
    """The cost of 1000 images, on test, at the threshold that is cheapest on val.

    A model that looks at good images alone keeps its own threshold: to find the cheapest takes defects.
    """
    chosen = [[_cheapest(item, price) for item in items] for items in seeds]
    own = any(value is None for values in chosen for value in values)
    if own:
        chosen = [[item.threshold for item in items] for items in seeds]
    thresholds = [[value for value in values if value is not None] for values in chosen]
    if any(len(known) < len(items) for known, items in zip(thresholds, seeds, strict=True)):
        return {"why": "decides by thresholds of its own"}
    found = measured(seeds, thresholds)
    if not found["recall"] or not found["rejects"]:
        return {"why": "test shows no good image, or no defect"}
    missed, rejected = 1 - found["recall"]["value"], found["rejects"]["value"]
    missed_bounds = 1 - found["recall"]["high"], 1 - found["recall"]["low"]
    low, high = price.bounds(missed, missed_bounds, rejected, (found["rejects"]["low"], found["rejects"]["high"]))
    return {
        "threshold": "its own" if own else "cheapest on val",
        "thresholds": thresholds[0],
        "per_1000": {"value": float(price.per_1000(missed, rejected)), "low": low, "high": high},
        **found,
    }


def _cheapest(item: Evidence, price: Price) -> float | None:
    held = item.held_out
    if held is None or not held.looks_at_defects:
        return None
    good = next(iter(held.good.values()))
    sides = np.repeat([False, True], [len(good), len(held.defective)])
    return cheapest_threshold(sides, np.concatenate([good, held.defective]), price)


def acceptance(items: Sequence[Evidence], accept: Sequence[Requirement]) -> dict[str, Any]:
    """Whether one training (of each fold) meets the requirements, how sure that is, and what would prove it."""
    limit = next((one.limit for one in accept if one.kind == "rejects"), None)
    thresholds, source = [item.threshold for item in items], "val"
    if limit is not None:
        point, held = Point("rejects", limit), [item.held_out for item in items if item.held_out]
        part = common_parts(items)[0]
        wanted = [one.threshold(point, part) for one in held]
        if all(value is not None for value in wanted):
            thresholds, source = wanted, f"{part}, for {point}"
    known = [value for value in thresholds if value is not None]
    if len(known) < len(items):
        return {"why": "decides by thresholds of its own"}
    results = [_held_against(one, items, known) for one in accept]
    return {
        "thresholds": known,
        "from": source,
        "passes": all(one["verdict"] == "proved" for one in results),
        "requirements": results,
    }


def _held_against(requirement: Requirement, items: Sequence[Evidence], thresholds: Sequence[float]) -> dict[str, Any]:
    """One requirement. Of images that belong together one counts, so that ``failures`` may be no whole number."""
    escapes = requirement.kind == "escapes"
    hits = np.concatenate([_scores(item, escapes) >= value for item, value in zip(items, thresholds, strict=True)])
    failed, size = ~hits if escapes else hits, units(items, escapes)
    failures = float(failed.mean()) * size if size else 0.0
    below, above = (of(failures, size, requirement.limit) for of in (confidence_below, confidence_above))
    return {
        "requirement": str(requirement),
        "kind": requirement.kind,
        "limit": requirement.limit,
        "count": int(failed.sum()),
        "images": len(failed),
        "units": size,
        "rate": float(failed.mean()) if size else None,
        "upper": upper_bound(failures, size),
        "confidence": below,
        "verdict": "proved" if below >= ASKED else "refuted" if above >= ASKED else "not proved",
        "more_if_none_fails": images_to_prove(failures, size, requirement.limit, False),
        "more_if_as_seen": images_to_prove(failures, size, requirement.limit, True),
    }


def detection(items: Sequence[Evidence]) -> dict[str, Any]:
    """Probability of detection over size: of the first seed, all folds together, one entry a region of defect pixels.

    Found is a defect in an image that is called defective, of which MARKED of the pixels are marked at val's level.
    """
    if any(item.pixels is None for item in items):
        return {"why": "says not where a defect is"}
    if any(item.called is None or (item.pixels and item.pixels.level is None) for item in items):
        return {"why": "val gives no threshold of images and pixels"}
    sizes, hits = [np.zeros(0)], [np.zeros(0, bool)]
    for item in items:
        assert item.pixels and item.called is not None
        for called, marked in zip(item.called.tolist(), item.pixels.marked, strict=True):
            sizes.append(np.sqrt(marked[:, 0]))
            hits.append((marked[:, 1] >= MARKED) & called)
    size, hit = np.concatenate(sizes), np.concatenate(hits)
    curve = detection_curve(size, hit)
    told = {"why": curve} if isinstance(curve, str) else _described(curve, size)
    bins = [(low, high, hit[(size >= low) & (size < high)]) for low, high in pairwise(SIZES)]
    return {
        "defects": len(size),
        "found": int(hit.sum()),
        "sizes": [
            {"from": low, "to": None if high == np.inf else high, **(_share([found], len(found)) or {})}
            for low, high, found in bins
            if len(found)
        ],
        **told,
    }


def _described(curve: Curve, sizes: NDArray[np.float64]) -> dict[str, Any]:
    """The curve's numbers, and its points from the smallest to the largest defect."""
    grid = np.geomspace(sizes.min(), sizes.max(), 60)
    return {
        "intercept": curve.intercept,
        "slope": curve.slope,
        "a90": curve.a90,
        "a90_95": curve.a90_95,
        "largest": float(sizes.max()),  # beyond which a90 would be guessed, not seen
        "curve": np.stack([grid, curve.at(grid)]).T.round(4).tolist(),
    }
