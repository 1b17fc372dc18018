"""Curves of decisions: cost over false rejects, and probability of detection over size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.comparison.charts import SHARE, Axis, Chart, Line, draw, round_ticks
from finetune.comparison.evidence import Evidence
from finetune.measures.detection_probability import FOUND
from finetune.measures.operating_points import Price, error_shares

GRID = np.linspace(0, 1, 201)
SIZE_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # px


def decision_charts(report: dict[str, Any], evidence: dict[str, dict[str, list[Evidence]]]) -> list[Chart]:
    """Those that there is something to draw of; ``evidence`` maps a model and a seed to one entry a test part."""
    told = {row["name"]: row["decisions"] for row in report["rows"] if row["decisions"]}
    charts = []
    if report["price"]:
        first = {name: next(iter(evidence[name].values())) for name in told}
        charts.append(cost_chart(Price(**report["price"]), told, first))
    if any("curve" in one["detection"] for one in told.values()):
        charts.append(detection_chart(told))
    return [chart for chart in charts if chart.series]


def cost_chart(price: Price, told: dict[str, Any], first: dict[str, list[Evidence]]) -> Chart:
    """Cost on test as the threshold falls; dots: at the threshold from val. Dashed: all pass, all are rejected."""
    lines, tops = {}, []
    for name, items in first.items():
        curves = [curve for item in items if (curve := missed_over_rejected(item)) is not None]
        found = told[name]["cost"]
        if curves:
            dots = [] if "why" in found else [(found["rejects"]["value"], found["per_1000"]["value"])]
            costs = price.per_1000(np.mean(curves, axis=0), GRID)
            lines[name] = Line(np.stack([GRID, costs]).T, dots)
            tops.append(float(costs.max()))
    pass_all, reject_all = price.per_1000(1, 0), price.per_1000(0, 1)
    ticks = round_ticks(max(pass_all, reject_all, *tops))
    axes = Axis("good images rejected", 0, 1, SHARE), Axis("cost of 1000 images", 0, ticks[-1], ticks)
    return draw("Cost over false rejects", *axes, lines, [[(0, cost), (1, cost)] for cost in (pass_all, reject_all)])


def missed_over_rejected(item: Evidence) -> NDArray[Any] | None:
    """The least share of defective images missed at each share of good ones rejected in GRID; None without a side."""
    defect = item.truth.labels > 0
    if defect.all() or not defect.any():
        return None
    _, missed, rejected = error_shares(defect, item.answer.scores[:, 0])
    return np.array([missed[rejected <= share + 1e-12].min() for share in GRID])


def detection_chart(told: dict[str, Any]) -> Chart:
    """Fitted curves; dots: a90."""
    curves = {name: one["detection"] for name, one in told.items() if "curve" in one["detection"]}
    ends = [curve["curve"][end][0] for curve in curves.values() for end in (0, -1)]
    low, high = min(ends), max(ends)
    ticks = [tick for tick in SIZE_TICKS if low <= tick <= high]
    lines = {
        name: Line(one["curve"], [(one["a90"], FOUND)] if low <= one["a90"] <= high else [])
        for name, one in curves.items()
    }
    axes = Axis("side of a square of its area, px", low, high, ticks, True), Axis("probability", 0, 1, SHARE)
    return draw("Probability of detection over size", *axes, lines, [[(low, FOUND), (high, FOUND)]])
