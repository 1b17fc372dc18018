"""Contact sheets of a category: per defect type some images with their masks, boxes and polygons."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from PIL import Image

from converters.cli.errors import DatasetError
from converters.cli.publishing import publish
from converters.cli.terminal import progress, table
from converters.drawing.panels import COLUMNS, defect_sheet, good_sheet
from converters.masks.instances import InstanceRule
from converters.masks.reading import instances_of
from converters.sources.reading import find_categories, find_root, read_category
from converters.sources.samples import GOOD, Category, Problem, Sample

ROWS = 6  # defective images on a sheet
HEADER = ("category", "sheet", "images", "shown")


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` (two or more) of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def write_sheets(category: Category, folder: Path, rule: InstanceRule) -> tuple[list[tuple[Any, ...]], list[Problem]]:
    """Write all sheets of a category into an existing folder, one after the other.

    Returns the rows of the table that a run prints, and the files that could not be used.
    """
    rows: list[tuple[Any, ...]] = []
    problems = list(category.problems)
    kinds = [kind for kind in (*category.defects, GOOD) if any(s.defect == kind for s in category.samples)]
    with progress(kinds, len(kinds), f"drawing {category.name}") as bar:
        for kind in bar:
            samples = [sample for sample in category.samples if sample.defect == kind]
            if kind == GOOD:
                sheet, shown = _good_sheet(category, samples)
            else:
                by_area, failed = rank_by_area(samples, rule)
                problems += failed
                if not by_area:
                    continue
                sheet, shown = _defect_sheet(category, kind, by_area, rule)
            sheet.save(folder / f"{kind}.png", compress_level=6)
            rows.append((category.name, f"{kind}.png", len(samples), shown))
    return rows, problems


def rank_by_area(samples: Sequence[Sample], rule: InstanceRule) -> tuple[list[Sample], list[Problem]]:
    """Samples by the area of their defects, smallest first, and those whose mask cannot be used."""
    areas: dict[Sample, int] = {}
    problems = []
    for sample in samples:
        try:
            areas[sample] = sum(instance.area for instance in instances_of(sample, rule)[0])
        except DatasetError as error:
            problems.append(Problem(sample.key, str(error)))
    return sorted(areas, key=lambda sample: (areas[sample], sample.key)), problems


def _defect_sheet(
    category: Category, kind: str, by_area: Sequence[Sample], rule: InstanceRule
) -> tuple[Image.Image, int]:
    chosen = spread(by_area, ROWS)
    order = "from the smallest to the largest defect area"
    if len(chosen) < len(by_area):
        subtitle = f"{len(chosen)} of {len(by_area)} images, evenly spaced {order}"
    else:
        subtitle = f"all {len(chosen)} images, {order}"
    defects = [(sample, instances_of(sample, rule)[0]) for sample in chosen]
    return defect_sheet(title(category, kind), subtitle, defects), len(chosen)


def _good_sheet(category: Category, samples: Sequence[Sample]) -> tuple[Image.Image, int]:
    rows = []
    for origin in sorted({sample.origin for sample in samples}, reverse=True):
        members = [sample for sample in samples if sample.origin == origin]
        chosen = spread(members, COLUMNS)
        rows.append((f"{origin}/{GOOD}: {len(chosen)} of {len(members)}", chosen))
    subtitle = "evenly spaced by name; the folders should differ in nothing but their names"
    return good_sheet(title(category, GOOD), subtitle, rows), sum(len(chosen) for _, chosen in rows)


def title(category: Category, kind: str) -> str:
    note = "   (synthetic: says nothing about real products)" if category.synthetic else ""
    return f"{category.name} / {kind}{note}"


def preview_source(
    root: Path | None,
    category: str | None,
    layout: str,
    max_pixels: int,
    target: Path,
    overwrite: bool,
    **rule: Any,
) -> None:
    """Write the sheets of each category; exits with 1 where files cannot be used."""
    folders = find_categories(find_root(root), category, layout)
    instance_rule = InstanceRule.of(rule)
    rows, problems = [], []
    for folder in folders:
        found = read_category(folder, max_pixels, layout)
        with publish(target / found.name, overwrite) as partial:
            written, failed = write_sheets(found, partial, instance_rule)
        rows += written
        problems += [f"cannot be used: {found.name}/{problem}" for problem in failed]
    click.echo(table(rows, HEADER))
    for line in problems:
        click.echo(line, err=True)
    click.echo(f"wrote {len(rows)} sheets to {target}")
    if problems:
        raise SystemExit(1)
