"""Line charts of models as SVG: what the templates need to draw one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 300, 220, 44, 30, 8  # of a chart, in SVG units
Pairs = Iterable[Any]  # of x and y


@dataclass(frozen=True)
class Axis:
    """One axis: its name, the values at its ends, and ticks."""

    name: str
    low: float
    high: float
    ticks: Sequence[float]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value lies, 0..1 inside of it."""
        if self.logarithmic:
            return log(value / self.low) / log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


SHARE = (0.0, 0.25, 0.5, 0.75, 1.0)  # ticks


@dataclass(frozen=True)
class Line:
    """A model's curve, and points of its own on it."""

    points: Pairs = ()
    dots: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Series:
    model: str
    points: str  # of an SVG polyline
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    title: str
    x: str
    y: str
    x_ticks: list[tuple[float, str]]  # position, text
    y_ticks: list[tuple[float, str]]
    series: list[Series]
    chance: list[str] = field(default_factory=list)  # polylines of what needs no model


def draw(title: str, x: Axis, y: Axis, lines: Mapping[str, Line], chance: Sequence[Pairs] = ()) -> Chart:
    """A chart of the models' lines; dots beyond the axes are left out."""

    def place(pair: Any) -> tuple[float, float]:
        right, up = x.share(float(pair[0])), y.share(float(pair[1]))
        return (
            round(LEFT + right * (WIDTH - EDGE - LEFT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - EDGE), 1),
        )

    def polyline(points: Pairs) -> str:
        return " ".join("{},{}".format(*place(pair)) for pair in points)

    series = [
        Series(model, polyline(line.points), [place(dot) for dot in line.dots if dot[0] <= x.high and dot[1] <= y.high])
        for model, line in lines.items()
    ]
    return Chart(
        title,
        x.name,
        y.name,
        [(place((tick, y.low))[0], f"{tick:,.4g}") for tick in x.ticks],
        [(place((x.low, tick))[1], f"{tick:,.4g}") for tick in y.ticks],
        series,
        [polyline(points) for points in chance],
    )


def round_ticks(high: float, count: int = 5) -> list[float]:
    """Ticks from 0 to the next round number above ``high``."""
    step = high / (count - 1) or 1.0
    unit = 10 ** np.floor(np.log10(step))
    step = float(next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= step * (1 - 1e-9)))
    return [step * index for index in range(int(np.ceil(high / step - 1e-9)) + 1)]
