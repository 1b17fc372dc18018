"""Everything that a report holds: the rows with their measures and costs, what was tested on, and words."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from converters.cli.errors import DatasetError
from finetune.comparison.decisions import Asked, describe_decisions, folders_apart
from finetune.comparison.evidence import confusion, prevalence
from finetune.comparison.published import beside_ours, protocol_of
from finetune.comparison.rows import CHEAPNESS, Row
from finetune.comparison.standings import (
    ResampledTest,
    Values,
    differences,
    draw_test,
    measure_rows,
    measure_trivial,
    tells,
)
from finetune.comparison.tables import BASELINE, MEASURES
from finetune.comparison.trivial import strike
from finetune.comparison.wording import banners, sentences, struck
from finetune.measures.masks import TOP
from finetune.runs.dataset import Dataset
from finetune.runs.labelling import label_clicks
from finetune.runs.truth import truth_of

FEW = 5  # test images of a class under which its number carries a warning
FEW_FOR_AN_INTERVAL = 10  # those under which its AP50 gets none: so few resample to a handful of values
NOTHING_ASKED = Asked()
COSTS = (
    "parameters",
    "train_seconds",
    "seconds_per_image",
    "device",
    "peak_memory_mb",
    "gpu_peak_memory_mb",
    "weights_bytes",
)


def choose_baseline(rows: Sequence[Row], wanted: str | None) -> Row:
    """The row that others are compared with: BASELINE, else the one with the cheapest labels."""
    names = [row.name for row in rows]
    if wanted is not None and wanted not in names:
        raise DatasetError(f"--baseline {wanted}: no such model here; there are {', '.join(names)}")
    by_name = dict(zip(names, rows, strict=True))
    if wanted or BASELINE in by_name:
        return by_name[wanted or BASELINE]
    return min(rows, key=lambda row: (row.oracle, CHEAPNESS.get(str(row.label), 4)))


def make_report(
    datasets: Sequence[Dataset],
    rows: Sequence[Row],
    wanted: str | None,
    count: int,
    seed: int,
    draw: bool,
    asked: Asked = NOTHING_ASKED,
) -> dict[str, Any]:
    """Everything that report.json holds, and from which report.md, the tables and the page are written."""
    baseline = choose_baseline(rows, wanted)
    test = draw_test(datasets, count, seed)
    measured = measure_rows(rows, test, draw)
    trivial = measure_trivial(test)
    about = describe_test(datasets)
    gaps = differences(rows, measured, baseline)
    apart, entries = folders_apart(datasets), []
    for row, values, gap in zip(rows, measured, gaps, strict=True):
        measures = {name: test.found(name, values[name]) for name in MEASURES if name in values and tells(row, name)}
        strike(measures, trivial)
        entries.append(
            describe_row(row, datasets)
            | {
                "measures": measures,
                "differences": gap,
                "decisions": describe_decisions(row, asked, apart),
                "classes": [describe_class(known, values, row.oracle, test) for known in about["classes"]],
            }
        )
    name = datasets[0].name if len(datasets) == 1 else datasets[0].name.rsplit("-", 1)[0]
    return {
        "schema": 1,
        "name": name,
        "datasets": [dataset.name for dataset in datasets],
        "baseline": baseline.name,
        "resamples": count,
        "seed": seed,
        "banners": banners(datasets, rows) + struck(entries),
        "sentences": sentences(rows, measured, entries, baseline),
        "test": about,
        "rows": entries,
        "trivial": trivial,
        "split": describe_split(datasets),
        "price": asdict(asked.price) if asked.price else None,
        "folders_apart": apart,
        "published": beside_ours(datasets),
    }


def describe_class(known: dict[str, Any], values: Values, oracle: bool, test: ResampledTest) -> dict[str, Any]:
    """AP50 of one type's boxes and, but for oracles, the share of its images that were called defective."""
    name = known["class"]
    found = {
        kind: test.found(f"{name}/{kind}", values[f"{name}/{kind}"])
        for kind in ("ap50", *(() if oracle else ("found",)))
        if f"{name}/{kind}" in values
    }
    if "ap50" in found and known["images"] < FEW_FOR_AN_INTERVAL:
        found["ap50"] |= {"low": None, "high": None}
    return {"class": name} | found


def describe_row(row: Row, datasets: Sequence[Dataset]) -> dict[str, Any]:
    first = row.first
    record, about = row.record, row.about
    return {
        "name": row.name,
        "run": row.run,
        "set": row.set,
        "model": about.get("model") or record.get("model"),
        "prompt": about.get("prompt"),
        "oracle": row.oracle,
        "label": row.label,
        "labelling": label_clicks(row.label, datasets),
        "clicks": about.get("clicks"),  # prompts for each defect
        "seeds": sorted(row.answers),
        "start": ", ".join(row.starts) or None,
        "random_weights": row.random_weights,
        "synthetic_images": row.synthetic_images,
        "cost": {name: about.get(name, record.get(name)) for name in COSTS},
        "pixels_from": first[0].answer.kind,
        "thresholds": {
            "image": [item.threshold for item in first],
            "box": [item.box_threshold for item in first],
            "pixel": [
                None if not item.pixels or item.pixels.level is None else item.pixels.level / TOP for item in first
            ],
        },
        "confusion": confusion(first).astype(int).tolist() if first[0].tells_classes and not row.oracle else None,
        "settings": record.get("settings"),
        "versions": record.get("versions"),
        "commit": record.get("commit"),
        "weights_sha256": record.get("weights_sha256"),
        "licences": record.get("licences"),
        "command": record.get("command"),
    }


def describe_test(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Images and instances in test, of each class too."""
    truths = [truth_of(dataset, "test") for dataset in datasets]
    labels = np.concatenate([truth.labels for truth in truths])
    instances = np.zeros(1 + len(datasets[0].classes), int)
    for truth in truths:
        np.add.at(instances, [entry["category_id"] for entry in truth.coco["annotations"]], 1)
    return {
        "images": len(labels),
        "good": int((labels == 0).sum()),
        "prevalence": prevalence(truths),
        "classes": [
            {
                "class": name,
                "images": int((labels == index).sum()),
                "instances": int(instances[index]),
                "few": bool((labels == index).sum() < FEW),
            }
            for index, name in enumerate(datasets[0].classes, start=1)
        ],
    }


def describe_split(datasets: Sequence[Dataset]) -> dict[str, Any]:
    kept = ("protocol", "ratios", "folds", "shots", "per", "seed", "combined", "good_val", "family")
    split = datasets[0].split
    return {key: split[key] for key in kept if key in split} | {
        "protocol": protocol_of(datasets[0]),
        "sha256": {dataset.name: dataset.split["sha256"] for dataset in datasets},
    }
