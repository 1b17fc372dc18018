"""Figures that others have published on MVTec AD (``published.json``), and whether ours may stand beside them."""

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from converters.cli.terminal import table
from converters.sources.mvtec_facts import known_facts
from finetune.comparison.tables import MEASURES
from finetune.runs.dataset import Dataset

OFFICIAL = "official"
SHOWN = ("auroc", "pixel_auroc", "pixel_ap", "aupro_0.3")  # the measures that papers give


@cache
def published_figures() -> list[dict[str, Any]]:
    """Method, protocol, split, mask threshold, input, source, and measures (0..1) by category."""
    return json.loads(resources.files("finetune.comparison").joinpath("published.json").read_text("utf-8"))["figures"]


def protocol_of(dataset: Dataset) -> str:
    """The protocol of a dataset's split; ``official (incomplete)`` where its images are not all of MVTec's."""
    protocol = dataset.split["protocol"]
    return f"{OFFICIAL} (incomplete)" if protocol == OFFICIAL and not_mvtecs(dataset) else protocol


def not_mvtecs(dataset: Dataset) -> str | None:
    """How the images of a dataset differ from a whole category of MVTec AD, by their number; None if they don't."""
    settings = dataset.card["settings"]
    (category, *more), known = settings["source"], known_facts()["categories"]
    if more or settings["layout"] != "mvtec" or dataset.synthetic or category not in known:
        return f"{dataset.name} is no category of MVTec AD"
    left_out = {problem["file"] for problem in dataset.card["left_out"]}
    found = Counter(key.rpartition("/")[0] for key in dataset.split["parts"] if key not in left_out)
    facts = known[category]
    expected = {"train/good": facts["train_good"], "test/good": facts["test_good"]}
    expected |= {f"test/{defect}": count for defect, count in facts["defects"].items()}
    wrong = [f"{name}: {found[name]} of {count}" for name, count in expected.items() if found[name] != count]
    wrong += [f"{name}: {found[name]} of none" for name in found.keys() - expected.keys()]
    return f"images are not MVTec's ({', '.join(sorted(wrong))})" if wrong else None


def beside_ours(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Published figures of the category that a report is of, or ``why`` none may stand beside it."""
    dataset = datasets[0]
    if dataset.split["protocol"] != OFFICIAL:
        return {"why": f"ours are of the protocol {dataset.split['protocol']}, papers' of another", "figures": []}
    if dataset.split.get("good_val"):
        return {"why": "--good-val took images of train/good that papers learn from", "figures": []}
    if reason := not_mvtecs(dataset):
        return {"why": reason, "figures": []}
    category = next(iter(dataset.card["settings"]["source"]))
    figures = [
        {key: one[key] for key in ("method", "mask_threshold", "input", "source")}
        | {"measures": one["categories"][category]}
        for one in published_figures()
        if one["protocol"] == OFFICIAL and category in one["categories"]
    ]
    return {"why": None, "figures": figures}


def published_table(style: str = "github") -> str:
    """All means over the 15 categories, for docs/published.md."""
    header = ["method", "protocol", "split", "mask threshold", *(MEASURES[name].label for name in SHOWN), "source"]
    body = []
    for one in published_figures():
        mean = one["categories"]["mean of 15"]
        shown = [f"{100 * mean[name]:.1f}" if name in mean else "-" for name in SHOWN]
        body.append([one["method"], one["protocol"], one["split"], one["mask_threshold"], *shown, one["source"]])
    return table(body, header, style)
