"""The page of a comparison: one HTML file with its style, script, charts and images inside; it works offline."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from numpy.typing import NDArray

from finetune.comparison.charts import BOTTOM, EDGE, HEIGHT, LEFT, SHARE, WIDTH, Axis, Chart, Line, draw
from finetune.comparison.decision_charts import decision_charts
from finetune.comparison.evidence import Evidence
from finetune.comparison.gallery import KINDS, make_cases
from finetune.comparison.published import SHOWN
from finetune.comparison.tables import COSTS, HEADLINES, MEASURES, cell, defect_size
from finetune.measures import boxes, pixels, scores

TEMPLATES = Path(__file__).with_name("templates")
GRID = np.linspace(0, 1, 101)
COLOURS = 12  # in report.css; five models with all their prompt kinds
NONE = "\u2013"  # what is not known
FOREST = ("auroc", "macro_f1_defects", "map50", "dice")  # differences that are drawn


def render(report: dict[str, Any], evidence: dict[str, dict[str, list[Evidence]]]) -> str:
    """The page; ``evidence`` maps a model and a seed to one entry a test part."""
    oracles = {row["name"] for row in report["rows"] if row["oracle"]}
    cases = make_cases({name: next(iter(seeds.values())) for name, seeds in evidence.items()}, oracles)
    return (
        make_environment()
        .get_template("report.html")
        .render(
            report=report,
            measures=MEASURES,
            costs=COSTS,
            headlines=[name for name in HEADLINES if any(name in row["measures"] for row in report["rows"])],
            levels=list(dict.fromkeys(measure.level for measure in MEASURES.values())),
            best=best_of(report),
            chosen=chosen_from(report),
            colours={row["name"]: index % COLOURS + 1 for index, row in enumerate(report["rows"])},
            charts=make_charts(evidence, oracles),
            chart_box=(WIDTH, HEIGHT, LEFT, BOTTOM, EDGE),
            decision_charts=decision_charts(report, evidence),
            forest=[name for name in FOREST if any(name in row["differences"] for row in report["rows"])],
            reach=forest_reach(report),
            cases=cases,
            oracles=oracles,
            sides=[
                (told, rows) for told in (False, True) if (rows := [r for r in report["rows"] if r["oracle"] is told])
            ],
            kinds=KINDS,
            cell=cell,
            paper_measures=SHOWN,
            style=(TEMPLATES / "report.css").read_text("utf-8"),
            script=(TEMPLATES / "report.js").read_text("utf-8"),
        )
    )


def render_sheets(report: dict[str, Any]) -> dict[str, str]:
    """Model -> its acceptance as a page of its own, to be printed; none where nothing was asked for."""
    accepted = [row for row in report["rows"] if row["decisions"] and row["decisions"]["acceptance"]]
    accepted = [row for row in accepted if "why" not in row["decisions"]["acceptance"]]
    if not accepted:
        return {}
    template, style = make_environment().get_template("acceptance.html"), (TEMPLATES / "report.css").read_text("utf-8")
    return {row["name"]: template.render(report=report, row=row, style=style) for row in accepted}


def make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": human_size, "duration": human_duration, "quantity": human_quantity}
    environment.filters |= {"breakable": breakable, "amount": human_amount, "symbols": with_symbols}
    environment.filters["defect_size"] = defect_size
    return environment


def best_of(report: dict[str, Any]) -> dict[str, float]:
    """The best value of each measure among the automatic models, where there are two or more to choose from."""
    found = {name: _values(report, name) for name in MEASURES}
    return {
        name: min(values) if MEASURES[name].lower_is_better else max(values)
        for name, values in found.items()
        if len(values) > 1
    }


def chosen_from(report: dict[str, Any]) -> dict[str, int]:
    """The number of automatic models with each measure."""
    return {name: len(_values(report, name)) for name in MEASURES}


def _values(report: dict[str, Any], name: str) -> list[float]:
    found = [row["measures"].get(name, {}).get("value") for row in report["rows"] if not row["oracle"]]
    return [value for value in found if value is not None]


def forest_reach(report: dict[str, Any]) -> float:
    """The largest difference to be drawn, either way."""
    found = [row["differences"].get(name, {}) for row in report["rows"] for name in FOREST]
    bounds = [abs(one[side]) for one in found for side in ("low", "high") if one.get(side) is not None]
    return max(bounds, default=1.0) or 1.0


def make_charts(evidence: dict[str, dict[str, list[Evidence]]], oracles: set[str]) -> list[Chart]:
    """ROC and precision-recall of images, box precision over IoU, and PRO; each a mean over seeds and folds.

    Oracles have no curves of images, since their prompts give away which have defects.
    """
    items = {model: [item for folds in seeds.values() for item in folds] for model, seeds in evidence.items()}
    free = {model: found for model, found in items.items() if model not in oracles}
    charts = [
        _chart("ROC of images", "false-positive rate", "true-positive rate", free, _roc, chance=[(0, 0), (1, 1)]),
        _chart("Precision and recall of images", "recall", "precision", free, _precision_recall),
        _chart("Box precision over overlap", "IoU threshold", "mean AP", items, _over_iou, x_range=(0.5, 0.95)),
        _chart("Per-region overlap", "false-positive pixels", "mean overlap", items, _pro, _pro_point, (0, 0.3)),
    ]
    return [chart for chart in charts if chart.series]


def _chart(
    title: str,
    x: str,
    y: str,
    items: dict[str, list[Evidence]],
    curve: Any,
    dots: Any = lambda item: None,
    x_range: tuple[float, float] = (0.0, 1.0),
    chance: Sequence[tuple[float, float]] = (),
) -> Chart:
    lines = {}
    for model, found in items.items():
        curves, marks = ([one for item in found if (one := of(item)) is not None] for of in (curve, dots))
        points = np.mean(curves, axis=0).T if curves else []  # a fold without defects has none
        if curves or marks:
            lines[model] = Line(points, [tuple(np.mean(marks, axis=0))] if marks else [])
    ticks = np.linspace(*x_range, 4 if x_range != (0.0, 1.0) else 5).tolist()
    return draw(title, Axis(x, *x_range, ticks), Axis(y, 0.0, 1.0, SHARE), lines, [chance] if chance else [])


def _side_counts(item: Evidence) -> tuple[NDArray[Any], NDArray[Any]]:
    """True and false positives over falling thresholds, from none to all; both L + 1."""
    ones = np.ones((1, len(item.truth.names)))
    levels = scores.score_levels(item.truth.labels > 0, item.answer.scores[:, 0], ones)
    true, false = levels.at_least
    return np.append(0, true[0, ::-1]), np.append(0, false[0, ::-1])


def _roc(item: Evidence) -> NDArray[Any] | None:
    true, false = _side_counts(item)
    if not true[-1] or not false[-1]:
        return None
    return np.stack([GRID, np.interp(GRID, false / false[-1], true / true[-1])])


def _precision_recall(item: Evidence) -> NDArray[Any] | None:
    """The best precision at each recall or above, as it is usually drawn."""
    true, false = _side_counts(item)
    if not true[-1]:
        return None
    precision = true[1:] / (true[1:] + false[1:])
    recall = true[1:] / true[-1]
    return np.stack([GRID, [precision[recall >= step - 1e-12].max(initial=0.0) for step in GRID]])


def _over_iou(item: Evidence) -> NDArray[Any] | None:
    if item.matches is None or not any(match.instances.any() for match in item.matches):
        return None
    precision, _ = boxes.box_precision(item.matches, np.ones((1, len(item.truth.names))))
    return np.stack([np.linspace(0.5, 0.95, 10), np.nanmean(precision[0], axis=0)])


def _pro(item: Evidence) -> NDArray[Any] | None:
    if item.pixels is None or item.pixels.curve is None:
        return None
    grid = GRID * pixels.PRO_LIMITS[0]
    return np.stack([grid, np.interp(grid, *item.pixels.curve)])


def _pro_point(item: Evidence) -> tuple[float, float] | None:
    """The point of a binary map: only one, since it has no curve."""
    if item.pixels is None or item.pixels.level is None or not item.pixels.shares.any():
        return None
    counts = item.pixels.counts
    return counts["false"].sum() / counts["good"].sum(), counts["share"].sum() / item.pixels.shares.sum()


def breakable(name: str) -> Any:
    """A model's name as HTML, which may continue in the next line after / and _."""
    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(name))))


def with_symbols(text: str) -> str:
    return text.replace("<=", "≤").replace(">=", "≥")


def human_amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def human_size(value: float | None) -> str:
    return NONE if value is None else f"{value / 1e6:,.0f} MB" if value >= 1e6 else f"{value / 1e3:,.0f} kB"


def human_duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def human_quantity(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value:,.0f}"
