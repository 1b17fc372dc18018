"""Learning curves: scores over the number of labelled defect images, and over clicks, from the cells of a sweep.

Points are means over folds with a 95 % Student interval. Folds draw their shots and test parts from the same images,
so that they are not independent, and the interval is, if anything, too narrow (Y. Bengio, Y. Grandvalet, No Unbiased
Estimator of the Variance of K-Fold Cross-Validation, JMLR 2004). Gains are paired: within a fold, all numbers of
shots share the test part. The cells with ``all`` labels are tested on other images and have a val part with defects.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import stdtrit

from converters.cli.terminal import table
from finetune.comparison.rows import PLURALS
from finetune.comparison.standings import GIVEN
from finetune.comparison.tables import HEADLINES, MEASURES, cell, paper_tables, reach
from finetune.comparison.trivial import strike
from finetune.comparison.wording import SENTENCES
from finetune.sweeps.request import ALL, order

Found = dict[str, float | None]
MEAN = "mean of {} categories"
NEXT = 10  # labels
TRIVIAL = {"label": "none"}  # what a trivial score says of itself, in place of set.json
UNLABELLED = ("good", "none")  # kinds of labels that no defect image needs
TREND = 3  # numbers of shots, the largest ones, that the outlook is drawn from
COLOURS = ("#0072b2", "#d55e00", "#00856a", "#b4508d", "#9a7200", "#8c4a2f", "#7a5bc7")  # as in the report
AXES = {"labelled": "labelled defect images", "clicks": "clicks for labels"}
GREYS = ("#4b5563", "#6b7280", "#9ca3af")  # of trivial scores


def interval_over_folds(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Found:
    """Mean of K values and its 95 % Student interval, cut to what is possible; no interval for one value."""
    if not values:
        return {"value": None, "low": None, "high": None}
    size, mean = len(values), fmean(values)
    if size == 1:
        return {"value": mean, "low": None, "high": None}
    half = float(stdtrit(size - 1, 0.975)) * stdev(values) / math.sqrt(size)
    return {"value": mean, "low": max(least, mean - half), "high": min(most, mean + half)}


def scores(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry a category, model or trivial score, and number of shots: ``folds`` maps a fold to its measures.

    Several categories get their mean as well, over the folds that all of them have.
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records:
        answers = [
            (record["model"] if name == "tuned" else f"{record['model']}/{name}", answer["about"], answer)
            for name, answer in record["sets"].items()
        ]
        answers += [
            (name, TRIVIAL, {"measures": measures, "clicks": 0}) for name, measures in record["trivial"].items()
        ]
        for model, about, answer in answers:
            entry = found.setdefault(
                (record["category"], model, record["shots"]),
                {
                    "category": record["category"],
                    "model": model,
                    "label": about.get("label"),
                    "oracle": bool(about.get("oracle")),
                    "trivial": about is TRIVIAL,
                    "random_weights": record["random_weights"] and about is not TRIVIAL,
                    "shots": record["shots"],
                    "labelled": {},
                    "clicks": {},
                    "folds": {},
                },
            )
            entry["labelled"][record["fold"]] = record["labelled"]
            entry["clicks"][record["fold"]] = answer["clicks"]
            entry["folds"][record["fold"]] = {
                measure: value
                for measure, value in answer["measures"].items()
                if not (entry["oracle"] and MEASURES[measure].level in GIVEN)
            }
    entries = [*found.values(), *_means(list(found.values()))]
    return sorted(entries, key=lambda one: (one["oracle"], one["trivial"], one["model"], order(one["shots"])))


def _means(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    categories = sorted({entry["category"] for entry in entries})
    if len(categories) < 2:
        return
    for model, shots in dict.fromkeys((entry["model"], entry["shots"]) for entry in entries):
        same = [entry for entry in entries if (entry["model"], entry["shots"]) == (model, shots)]
        folds = set.intersection(*(set(entry["folds"]) for entry in same))
        if len(same) < len(categories) or not folds:  # others failed in each category
            continue
        yield same[0] | {
            "category": MEAN.format(len(categories)),
            **{
                count: _mean_of([{fold: entry[count][fold] for fold in folds} for entry in same])
                for count in ("labelled", "clicks")
            },
            "folds": {fold: _mean_of([entry["folds"][fold] for entry in same]) for fold in folds},
        }


def _mean_of(measures: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    columns = {name: [one.get(name) for one in measures] for name in measures[0]}
    return {
        name: None if None in column else fmean(value for value in column if value is not None)
        for name, column in columns.items()
    }


def banners(records: Sequence[dict[str, Any]], synthetic: bool) -> list[str]:
    """Notes that a reader must know before any number, in the words of compare's report."""
    random = sorted({record["model"] for record in records if record["random_weights"]})
    return [
        *(["Synthetic images: these numbers say nothing about real products."] if synthetic else []),
        *([f"Started from random weights: {', '.join(random)}."] if random else []),
    ]


def points(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with each measure's mean and interval over folds instead of the folds; trivial scores strike through."""
    found = [
        entry
        | {
            "labelled": round(fmean(entry["labelled"].values()), 1),
            "clicks": None if None in entry["clicks"].values() else round(fmean(entry["clicks"].values()), 1),
            "folds": len(entry["folds"]),
            "measures": {
                name: interval_over_folds(values, 0, 100 if name == "false_alarms" else 1)
                for name in MEASURES
                if (values := _values(entry, name))
            },
        }
        for entry in entries
    ]
    for point in found:
        same = [one for one in found if all(one[key] == point[key] for key in ("category", "shots"))]
        if not point["trivial"]:
            strike(point["measures"], [{"name": one["model"], **one} for one in same if one["trivial"]])
    return found


def _values(entry: dict[str, Any], name: str) -> list[float]:
    return [found[name] for _, found in sorted(entry["folds"].items()) if found.get(name) is not None]


def gains(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each category, model that needs labels, and measure: what each step added, and what ten more labels would.

    The outlook takes scores to grow with the logarithm of the number of labels, at the rate of the last steps.
    """
    found = []
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["shots"] != ALL and entry["label"] not in UNLABELLED:
            lines.setdefault((entry["category"], entry["model"]), []).append(entry)
    for (category, model), line in lines.items():
        for name in SENTENCES:
            steps = [_step(before, after, name) for before, after in pairwise(line)]
            steps = [step for step in steps if step["value"] is not None]
            if steps:
                outlook = _outlook(line[-TREND:], name)
                found.append({"category": category, "model": model, "measure": name, "steps": steps, "next": outlook})
    return found


def _step(before: dict[str, Any], after: dict[str, Any], name: str) -> dict[str, Any]:
    both = _of_all_folds([before, after], name)
    return {"from": int(before["shots"]), "to": int(after["shots"])} | interval_over_folds(
        [later - earlier for earlier, later in both]
    )


def _outlook(line: Sequence[dict[str, Any]], name: str) -> Found:
    """Ten more labels at the slope of each fold's score over log2 of the labels (least squares)."""
    labels = [int(entry["shots"]) for entry in line]
    steps = [math.log2(count) for count in labels]
    ahead = math.log2((labels[-1] + NEXT) / labels[-1])
    return interval_over_folds(
        [float(np.polyfit(steps, fold, 1)[0]) * ahead for fold in _of_all_folds(line, name)], -1, 1
    )


def _of_all_folds(line: Sequence[dict[str, Any]], name: str) -> list[list[float]]:
    """The values of each fold that all of the line's entries have."""
    folds = sorted(set.intersection(*(set(entry["folds"]) for entry in line)))
    values = [[entry["folds"][fold].get(name) for entry in line] for fold in folds]
    return [value for value in values if None not in value]


def as_markdown(report: dict[str, Any]) -> str:
    """report.md: for each category a picture, a table and the gains."""
    failed = [entry for entry in report["cells"] if entry["status"] == "failed"]
    parts = [
        "# Learning curves",
        *(f"> {banner}" for banner in report["banners"]),
        f"{len(report['cells'])} cells, {len(failed)} failed. Means over folds with 95 % Student intervals; folds "
        f"share images, so that intervals are, if anything, too narrow. `{ALL}`: the folds of one k-fold split, with "
        "defects in val too; the other cells train on exactly so many defect images, and take no defect for val.",
    ]
    for category in categories(report):
        picture = f"![Scores over labelled defect images, {category}](curve-{file_name(category)}.svg)"
        over_clicks = f"![Scores over clicks, {category}](clicks-{file_name(category)}.svg)"
        parts += [
            f"## {category}",
            picture if shown_in_picture(report, category) else "",
            over_clicks if rows_over("clicks", report, category) else "",
            curve_table(report, category, "github"),
            _list(sentences(report, category)),
        ]
    papers = paper_reports(report)
    if len(papers) > 1:
        parts += [f"## Categories and models, {report['shots'][-1]} labels", paper_tables(papers).strip()]
    if failed:
        parts += ["## Failed", _list(failure(entry) for entry in failed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def failure(entry: dict[str, Any]) -> str:
    times = f", tried {entry['attempts']} times" if entry["attempts"] > 1 else ""
    return f"failed: {entry['dataset']}, {entry['model']}{times}: {entry['reason']}"


def categories(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys([*report["categories"], *(point["category"] for point in report["points"])]))


def file_name(category: str) -> str:
    return category.replace(" ", "-")


def curve_table(report: dict[str, Any], category: str, style: str) -> str:
    """Models and numbers of shots x headline measures, as compare's summary has them."""
    rows = [point for point in report["points"] if point["category"] == category]
    shown = [name for name in HEADLINES if any(name in row["measures"] for row in rows)]
    header = ["model", "labels", "shots", "labelled", "clicks", "folds", *(MEASURES[name].label for name in shown)]
    body = [
        [
            row["model"] + (" (oracle)" if row["oracle"] else ""),
            row["label"] or "?",
            row["shots"],
            f"{row['labelled']:g}",
            "-" if row["clicks"] is None else f"{row['clicks']:g}",
            row["folds"],
            *(cell(row["measures"].get(name), MEASURES[name]) for name in shown),
        ]
        for row in rows
    ]
    return table(body, header, style)


def sentences(report: dict[str, Any], category: str) -> list[str]:
    """The last step of each model, and what the next ten labels would add at its rate."""
    found = []
    for gain in report["gains"]:
        if gain["category"] != category:
            continue
        measure, last, ahead = MEASURES[gain["measure"]], gain["steps"][-1], gain["next"]
        more = f"; {NEXT} more would add about {_signed(ahead, measure)} at this rate"
        found.append(
            f"{gain['model']}, {measure.label}: from {last['from']} to {last['to']} labelled defect images "
            f"{_signed(last, measure)}{more if ahead['value'] is not None else ''}."
        )
    return found


def _signed(found: Found, measure: Any) -> str:
    span = "" if found["low"] is None else f" [{reach(found, measure)}]"
    return f"{found['value']:+.{measure.digits}f}{span}"


def paper_reports(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of compare's tables for papers: each category's rows at the largest number of shots."""
    return [
        {
            "name": category,
            "rows": [
                {"name": point["model"], "oracle": point["oracle"], "measures": point["measures"]}
                for point in report["points"]
                if point["category"] == category and point["shots"] == report["shots"][-1] and not point["trivial"]
            ],
        }
        for category in report["categories"]
    ]


def rows_over(count: str, report: dict[str, Any], category: str) -> list[dict[str, Any]]:
    """A category's points that cost labels or clicks: what costs none has no place on their scale."""
    return [point for point in report["points"] if point["category"] == category and point[count]]


def shown_in_picture(report: dict[str, Any], category: str) -> list[str]:
    """The measures that a category's picture shows; none, and no picture, where all its cells failed."""
    rows = [point for point in report["points"] if point["category"] == category]
    return [name for name in SENTENCES if any(name in row["measures"] for row in rows)]


def draw(report: dict[str, Any], category: str, path: Path, over: str = "labelled") -> None:
    """The learning curves of one category as ``path`` with .png and .svg; the same bytes for the same numbers.

    They are drawn ``over`` labelled defect images or clicks.
    """
    rows = rows_over(over, report, category)
    names = [name for name in shown_in_picture(report, category) if any(name in row["measures"] for row in rows)]
    if not names:
        return
    figure = Figure(figsize=(4.2 * len(names), 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    models = list(dict.fromkeys(row["model"] for row in rows))
    for position, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), position)
        for index, model in enumerate(models):
            line = [row for row in rows if row["model"] == model and name in row["measures"]]
            if line:
                colours = GREYS if line[0]["trivial"] else COLOURS
                _draw_line(axes, line, name, colours[index % len(colours)], over)
        ticks = sorted({row[over] for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel=AXES[over], ylabel=MEASURES[name].label, ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    synthetic = ", SYNTHETIC images" if report["synthetic"] else ""
    hollow = "; hollow: k-fold, other test images" if any(row["shots"] == ALL for row in rows) else ""
    title = f"{category}{synthetic}: mean and 95 % interval over {report['folds']} folds{hollow}"
    figure.suptitle(title, fontsize=10)
    with matplotlib.rc_context({"svg.hashsalt": "sweep"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)


def _draw_line(axes: Any, line: Sequence[dict[str, Any]], name: str, colour: str, over: str) -> None:
    """Few-shot cells joined by a line with a band; the k-fold cell hollow, since its test images are others."""
    few = [row for row in line if row["shots"] != ALL]
    start = ", random weights" if line[0]["random_weights"] else ""
    if line[0]["trivial"]:
        start = ", trivial"
    label = f"{line[0]['model']} ({PLURALS.get(str(line[0]['label']), 'labels unknown')}{start})"
    style = ":" if line[0]["trivial"] else "--" if line[0]["oracle"] else "-"
    if few:
        places, found = [row[over] for row in few], [row["measures"][name] for row in few]
        axes.plot(places, [one["value"] for one in found], style, marker="o", ms=4, color=colour, label=label)
        known = [(x, one["low"], one["high"]) for x, one in zip(places, found, strict=True) if one["low"] is not None]
        if known:
            axes.fill_between(*zip(*known, strict=True), color=colour, alpha=0.13, linewidth=0)
    for row in line[len(few) :]:
        one = row["measures"][name]
        bars = None if one["low"] is None else [[one["value"] - one["low"]], [one["high"] - one["value"]]]
        axes.errorbar(
            [row[over]], [one["value"]], bars, fmt="D", ms=5, mfc="white", color=colour, capsize=3,
            label=None if few else label,
        )  # fmt: skip
        if few:
            ends = [few[-1]["labelled"], row[over]], [few[-1]["measures"][name]["value"], one["value"]]
            axes.plot(*ends, ":", color=colour, lw=1, zorder=0)
