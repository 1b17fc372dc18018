"""The measures' names, and results as tables for terminals, Markdown and papers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from converters.cli.terminal import table


@dataclass(frozen=True)
class Measure:
    """A measure's name and how it is read."""

    label: str
    level: str
    hint: str
    lower_is_better: bool = False
    digits: int = 2


MEASURES = {
    "auroc": Measure("AUROC", "image", "chance that a defect image scores above a good one; 0.5 is guessing"),
    "ap": Measure("AP", "image", "average precision of the defect score"),
    "f1": Measure("F1", "image", "at the threshold chosen on val"),
    "balanced_accuracy": Measure("balanced accuracy", "image", "mean of recall and specificity, threshold from val"),
    "recall": Measure("defects found", "image", "share of defective images, threshold from val"),
    "false_alarms": Measure("false alarms", "image", "per 100 good images, threshold from val", True, 0),
    "macro_f1_defects": Measure("macro-F1 of defects", "defect type", "mean F1 over the defect types; good is none"),
    "map": Measure("mAP50-95", "box", "COCO average precision, mean over IoU 0.50:0.05:0.95 and types"),
    "map50": Measure("mAP50", "box", "COCO average precision at IoU 0.5, mean over types"),
    "ap50_any": Measure("AP50 any type", "box", "the same with all types as one"),
    "ar": Measure("AR100", "box", "COCO average recall with 100 boxes an image"),
    "iou": Measure("IoU", "pixel", "pooled over all test pixels, threshold from val"),
    "dice": Measure("Dice", "pixel", "pooled over all test pixels, threshold from val"),
    "boundary_iou_0.02": Measure("boundary IoU 2 %", "pixel", "IoU within 2 % of the diagonal of the contour"),
    "boundary_iou_0.005": Measure("boundary IoU 0.5 %", "pixel", "IoU within 0.5 % of the diagonal of the contour"),
    "pixel_ap": Measure("pixel AP", "pixel", "average precision of pixel scores; by chance: the prevalence"),
    "pixel_auroc": Measure("pixel AUROC", "pixel", "near 1 where most pixels are good; here since papers give it"),
    "aupro_0.3": Measure("AUPRO 0.3", "pixel", "per-region overlap up to 30 % false-positive pixels; heat maps only"),
    "aupro_0.05": Measure("AUPRO 0.05", "pixel", "per-region overlap up to 5 % false-positive pixels"),
    "pro": Measure("PRO", "pixel", "per-region overlap of the binary map: one point, threshold from val"),
    "pixel_fpr": Measure("pixel FPR", "pixel", "false-positive rate at that point", True, 4),
}
BASELINE = "classifier"  # the run that others are compared with, where there is one
COSTS = (
    "Labels used, in clicks: of train to learn from, and of val to choose epochs and thresholds by, which looks at "
    "labels of the same kind alone (good images cost none). An image, s: from its file to the answer with its heat "
    "map, masks or boxes, one at a time, the median of 20 after a warm-up; with its detector, where it asks one."
)
HEADLINES = ("auroc", "f1", "false_alarms", "macro_f1_defects", "map50", "map", "dice", "pixel_ap", "aupro_0.3")
PAPER = ("auroc", "map50", "dice", "aupro_0.3")
METHODS = (
    "95 % intervals hold for other test images and, with two seeds or more, for other trainings: of AUROC by Newcombe, "
    "of shares by Clopper and Pearson (n: images, good + defective), of other measures by resampled images, each with "
    "Student's t over the seeds. Differences to the baseline are tested with Holm's correction over the rows of a "
    "measure. Struck through: one number of the whole image (its mean grey level, sharpness or file size) does as well."
)


def reach(found: dict[str, Any], measure: Measure) -> str:
    return f"{found['low']:+.{measure.digits}f} to {found['high']:+.{measure.digits}f}"


def cell(found: dict[str, Any] | None, measure: Measure) -> str:
    """A measure with its interval and number of images as text, struck through where a trivial score does as well."""
    if found is None or found["value"] is None:
        return "-"
    text = f"{found['value']:.{measure.digits}f}"
    if found["low"] is not None:
        text += f" [{found['low']:.{measure.digits}f}, {found['high']:.{measure.digits}f}]"
    if images := found.get("images"):
        text += f" n={'+'.join(map(str, images))}"
    return f"~~{text}~~" if "reached_by" in found else text


def summary(report: dict[str, Any], style: str, oracle: bool) -> str:
    """Models x headline measures with intervals; automatic models or oracles."""
    rows = [row for row in report["rows"] if row["oracle"] is oracle]
    shown = [name for name in HEADLINES if any(name in row["measures"] for row in rows)]
    header = ["model", "labels", "seeds", *(MEASURES[name].label for name in shown)]
    body = [
        [row["name"], labels_of(row), len(row["seeds"])]
        + [cell(row["measures"].get(name), MEASURES[name]) for name in shown]
        for row in rows
    ]
    body += [
        [one["name"], "val's classes", "-", *(cell(one["measures"].get(name), MEASURES[name]) for name in shown)]
        for one in report["trivial"]
        if not oracle
    ]
    return table(body, header, style)


def labels_of(row: dict[str, Any]) -> str:
    """The kind of label that a model needs, and how many synthetic images were added to train."""
    made = row.get("synthetic_images")
    return (row["label"] or "?") + (f" + {made} synthetic images" if made else "")


def clicks_of(row: dict[str, Any]) -> str | None:
    """The clicks that a model's labels of train and val cost, such as ``94 (60 + 34)``; None for an unknown kind."""
    paid = row["labelling"]
    if paid is None:
        return None
    return f"{paid['clicks']} ({paid['train']} + {paid['val']})" if paid["clicks"] else "0"


def as_markdown(report: dict[str, Any]) -> str:
    test = report["test"]
    counts = f"{test['images']} test images, {test['good']} of them good; {report['resamples']} resamples"
    oracles = any(row["oracle"] for row in report["rows"])
    parts = [
        f"# {report['name']}: comparison",
        *(f"> {banner}" for banner in report["banners"]),
        "\n".join(f"- {sentence}" for sentence in report["sentences"]),
        f"{counts}; thresholds from val. Baseline: {report['baseline']}.",
        METHODS,
        summary(report, "github", oracle=False),
        *(["Oracles, prompted with ground truth:", summary(report, "github", oracle=True)] if oracles else []),
        *_markdown_of_levels(report),
        *_markdown_of_decisions(report),
        "## Each defect type",
        class_table(report),
        "## Cost",
        COSTS,
        cost_table(report),
        *_licences(report),
        f"Split `{next(iter(report['split']['sha256'].values()))[:16]}`, family `{report['split']['family'][:16]}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_of_levels(report: dict[str, Any]) -> Iterator[str]:
    """One table a level with all its measures and, for each model, the difference to the baseline."""
    for level in dict.fromkeys(measure.level for measure in MEASURES.values()):
        names = [name for name, measure in MEASURES.items() if measure.level == level]
        names = [name for name in names if any(name in row["measures"] for row in report["rows"])]
        if not names:
            continue
        body = []
        for row in report["rows"]:
            body.append([row["name"], *(cell(row["measures"].get(name), MEASURES[name]) for name in names)])
            if found := row["differences"]:
                body.append(["  - baseline", *(_difference(found.get(name), MEASURES[name]) for name in names)])
        for one in report["trivial"] if level == "image" else ():
            body.append([one["name"], *(cell(one["measures"].get(name), MEASURES[name]) for name in names)])
        yield f"## {level.capitalize()}"
        yield table(body, ["model", *(MEASURES[name].label for name in names)], "github")
        if level == "pixel":
            yield f"Prevalence of defect pixels (pixel AP by chance): {report['test']['prevalence']:.4f}."


def _markdown_of_decisions(report: dict[str, Any]) -> Iterator[str]:
    """Operating points, costs, acceptance and detection of each model; without a table that nothing was asked for."""
    decided = [(row["name"], row["decisions"]) for row in report["rows"] if row["decisions"]]
    if not decided:
        return
    yield "## Decisions"
    header = ["model", "asked for", "threshold from", "defects found", "good images rejected"]
    body = [
        [name, one["point"], f"{one['from']} ({one['of']})", *_shares(one, "recall", "rejects")]
        for name, told in decided
        for one in told["points"]
    ]
    yield table(body, header, "github")
    if price := report["price"]:
        yield (
            f"Costs at a prevalence of {price['prevalence']:g}: {price['escape']:g} for a defect that passes, "
            f"{price['reject']:g} for a good image that is rejected."
        )
        header = ["model", "threshold", "cost of 1000 images", "defects found", "good images rejected"]
        body = []
        for name, told in decided:
            one = told["cost"]
            spent = one.get("per_1000")
            shown = f"{spent['value']:.3g} [{spent['low']:.3g}, {spent['high']:.3g}]" if spent else one["why"]
            body.append([name, one.get("threshold", "-"), shown, *_shares(one, "recall", "rejects")])
        yield table(body, header, "github")
    accepted = [
        [name, one["requirement"], one["verdict"], f"{one['confidence']:.3f}", one["more_if_none_fails"]]
        for name, told in decided
        for one in (told["acceptance"] or {}).get("requirements", [])
    ]
    if accepted:
        header = ["model", "requirement", "verdict", "confidence", "more images, if none fails"]
        yield table([["-" if cell is None else cell for cell in line] for line in accepted], header, "github")
    body = []
    for name, told in decided:
        one = told["detection"]
        shown = [defect_size(one.get(key), one.get("largest", 0)) for key in ("a90", "a90_95")]
        body.append([name, *([*shown, "-"] if "a90" in one else ["-", "-", one["why"]])])
    yield table(body, ["model", "a90, px", "a90/95, px", "why none"], "github")


def defect_size(size: float | None, largest: float) -> str:
    """A size in px; what lies beyond the largest defect seen, or is unbounded, is told as above that."""
    return f"above {largest:.0f}" if size is None or size > largest else f"{size:.3g}"


def _shares(found: dict[str, Any], *names: str) -> list[str]:
    """Shares in percent with their intervals, or why there are none."""
    shown: list[str] = []
    for name in names:
        one = found.get(name)
        if one is None:
            shown.append("-" if shown else found.get("why", "-"))
        else:
            low, high = 100 * one["low"], 100 * one["high"]
            shown.append(f"{100 * one['value']:.1f} % [{low:.1f}, {high:.1f}] of {one['of']}")
    return shown


def _difference(found: dict[str, Any] | None, measure: Measure) -> str:
    if found is None or found["value"] is None or found["low"] is None:
        return "-"
    span = f"[{reach(found, measure)}], p={found['p_holm']:.2g}"
    return f"{found['value']:+.{measure.digits}f} {span}, {found['verdict']}"


def _licences(report: dict[str, Any]) -> Iterator[str]:
    """What is known of the licences that the models rest on, a line a run."""
    known = {row["run"]: row["licences"] for row in report["rows"] if row.get("licences")}
    if known:
        yield "## Licences"
        yield "\n".join(
            f"- {run}: code {found['code']}; start {found['start']}; images {found['images']}"
            for run, found in known.items()
        )


def class_table(report: dict[str, Any], style: str = "github") -> str:
    header = ["type", "test images", "instances", *(row["name"] for row in report["rows"])]
    body = []
    for index, known in enumerate(report["test"]["classes"]):
        few = " (too few to trust)" if known["few"] else ""
        cells = [_class_cell(row["classes"][index]) for row in report["rows"]]
        body.append([known["class"], f"{known['images']}{few}", known["instances"], *cells])
    return table(body, header, style)


def cost_table(report: dict[str, Any], style: str = "github") -> str:
    header = [
        "model",
        "start",
        "labels used",
        "clicks, train + val",
        "training, s",
        "an image, s",
        "device",
        "parameters",
        "weights, MB",
    ]
    body = []
    for row in report["rows"]:
        cost, clicks, size = row["cost"], clicks_of(row), row["cost"]["weights_bytes"]
        known = [clicks, *(cost[name] for name in ("train_seconds", "seconds_per_image", "device", "parameters"))]
        known.append(None if size is None else round(size / 1e6, 1))
        shown = ["-" if value is None else value for value in (row["start"], labels_of(row), *known)]
        body.append([row["name"], *shown])
    return table(body, header, style)


def _class_cell(entry: dict[str, Any]) -> str:
    parts = [("AP50", entry.get("ap50")), ("found", entry.get("found"))]
    return ", ".join(f"{label} {cell(found, MEASURES['map50'])}" for label, found in parts if found) or "-"


def paper_tables(reports: Sequence[dict[str, Any]]) -> str:
    """Markdown, one table a measure: categories x models, and the mean over the categories that a model has."""
    automatic = [row["name"] for report in reports for row in report["rows"] if not row["oracle"]]
    trivial = [one["name"] for report in reports for one in report.get("trivial", ())]  # a sweep has none
    parts = []
    for key, measure in ((key, MEASURES[key]) for key in PAPER):
        models = list(dict.fromkeys([*automatic, *(trivial if measure.level == "image" else ())]))
        found = [
            {
                row["name"]: row["measures"][key]["value"]
                for row in [*report["rows"], *report.get("trivial", ())]
                if key in row["measures"]
            }
            for report in reports
        ]
        values = [[known.get(model) for model in models] for known in found]
        if all(value is None for line in values for value in line):
            continue
        means = [_mean_of(column, len(reports)) for column in zip(*values, strict=True)]
        names = [*(report["name"] for report in reports), f"mean of {len(reports)}"]
        body = [[name, *_bold_best(line, measure)] for name, line in zip(names, [*values, means], strict=True)]
        parts += [f"{measure.label} ({measure.level}): {measure.hint}.", table(body, ["category", *models], "github")]
    return "\n\n".join(parts) + "\n"


def _mean_of(column: Sequence[float | None], size: int) -> float | None:
    """The mean, only where a model has all categories: means over different categories are not comparable."""
    known = [value for value in column if value is not None]
    return sum(known) / size if len(known) == size else None


def _bold_best(line: Sequence[float | None], measure: Measure) -> list[str]:
    shown = ["-" if value is None else f"{value:.{measure.digits + 1}f}" for value in line]
    best = max((text for text in shown if text != "-"), default=None)
    return [f"**{text}**" if text == best and len(shown) > 1 else text for text in shown]
