"""CPU seconds of outlining a wire mesh, one instance with many holes: four times the holes, how many times the time?

    python benchmarks/outlines.py

A hole is joined to the outline by a bridge, and looking for its other end along all that was joined before takes the
square of the holes. Exits with 1 where a format takes more than LIMIT s for 3,600 holes, or grows faster than GROWTH.
"""

import time
from collections.abc import Callable

import click
import cv2
import numpy as np

from converters.cli.command import command
from converters.cli.terminal import table
from converters.formats.coco import polygons
from converters.formats.yolo import polygon_row
from converters.masks.instances import Instance, InstanceRule, find_instances

HOLES = (900, 3600)
LIMIT, GROWTH, REPEATS = 3.0, 6.0, 5  # s; times the time for four times the holes; rounds, the fastest counts


def mesh(holes: int) -> Instance:
    """Wires of one pixel, four apart."""
    side = 5 * round(holes**0.5)
    mask = np.zeros((side, side), np.uint8)
    mask[::5] = mask[:, ::5] = 1
    mask[-1] = mask[:, -1] = 1
    (instance,) = find_instances(mask, InstanceRule())
    return instance


def seconds(outline: Callable[[Instance], object], holes: int) -> float:
    """Of the fastest round; each begins with the mask, so that nothing is kept from the one before."""
    best = float("inf")
    for _ in range(REPEATS):
        instance = mesh(holes)
        started = time.process_time()
        outline(instance)
        best = min(best, time.process_time() - started)
    return best


@command()
def main() -> None:
    """Print CPU seconds of both kinds of polygons for 900 and 3,600 holes."""
    cv2.setNumThreads(1)
    kinds: dict[str, Callable[[Instance], object]] = {
        "YOLO polygon": lambda instance: polygon_row(instance, 0, 300, 300),
        "COCO polygon": polygons,
    }
    rows = []
    for name, outline in kinds.items():
        few, many = (seconds(outline, holes) for holes in HOLES)
        rows.append((name, few, many, many / few))
    header = ("kind", *(f"{holes} holes, s" for holes in HOLES), "times")
    click.echo(table([(name, f"{a:.3f}", f"{b:.3f}", f"{c:.1f}") for name, a, b, c in rows], header))
    if any(many > LIMIT or growth > GROWTH for _, _, many, growth in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python benchmarks/outlines.py")
