"""The card of a source folder: counts, sizes, areas, duplicates, and what is missing."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from converters.datasets.groups import with_groups
from converters.importing.statistics import Description, ImageSize, describe_category
from converters.sources.reading import find_categories, find_root, read_category

SYNTHETIC_NOTE = "SYNTHETIC: made by `python -m converters.sample`; says nothing about real products"
SUMMARY = (
    "category",
    "classes",
    "train good",
    "test good",
    "defective",
    "masks",
    "instances",
    "median area %",
    "imbalance",
    "incomplete folders",
    "problems",
)
CHANNELS = {1: "grey", 3: "RGB"}
MOST_SIZES = 4
LONGEST_BAR = 24  # characters
EIGHTHS = " ▏▎▍▌▋▊▉█"
CHEATING = 0.8  # max(AUROC, 1 - AUROC) from which the folder must count as known


def summary_rows(descriptions: Sequence[Description]) -> list[list[Any]]:
    """One row a category, in the order of SUMMARY, and a row of totals."""
    rows = [
        [
            f"{d.category} (synthetic)" if d.synthetic else d.category,
            len(d.classes),
            d.train_good,
            d.test_good,
            d.test_defective,
            d.masks,
            d.instances,
            _rounded(d.area_percent.get("median")),
            _rounded(d.class_imbalance),
            len(d.mvtec.missing) if d.mvtec else "-",
            len(d.problems),
        ]
        for d in descriptions
    ]
    columns = list(zip(*rows, strict=True))
    return [*rows, ["total", *map(_total, columns[1:])]]


def _total(column: Sequence[Any]) -> int | str:
    counts = [cell for cell in column if isinstance(cell, int)]
    return sum(counts) if counts else "-"


def _rounded(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def facts(description: Description) -> list[tuple[str, str]]:
    """Rows of (what the category holds, how much of it)."""
    d = description
    rows = [
        ("classes", f"{len(d.classes)}: {', '.join(sorted(c.name for c in d.classes))}" if d.classes else "none"),
        ("train", f"{d.train_good} good"),
        ("test", f"{d.test_good} good, {d.test_defective} defective"),
        ("masks", str(d.masks)),
        ("images", _sizes_text(d.sizes)),
        ("instances", f"{d.instances} (8-connected components)"),
    ]
    if d.groups:
        rows.append(("groups", f"{d.grouped_images} images in {d.groups}; a split keeps each in one part"))
    if d.area_percent:
        shares = "   ".join(f"{name} {share:.3g} %" for name, share in d.area_percent.items())
        rows.append(("defect area of an image", shares))
        rows.append(("largest / smallest class", f"{d.class_imbalance:.2f}"))
        rows.append(("good : defective", f"{d.train_good + d.test_good} : {d.test_defective}"))
    return rows


def _sizes_text(sizes: Sequence[ImageSize]) -> str:
    more = [f"and {len(sizes) - MOST_SIZES} more sizes"] if len(sizes) > MOST_SIZES else []
    return ", ".join([_size_text(size) for size in sizes[:MOST_SIZES]] + more) or "none"


def _size_text(size: ImageSize) -> str:
    return f"{size.images} of {size.width} x {size.height} px, {CHANNELS[size.channels]}"


def chart(description: Description) -> list[tuple[str, int, str, int, str]]:
    """The long tail: per class its images and its instances, each with a bar; the most frequent class first."""
    classes = description.classes
    most_images = max((c.images for c in classes), default=0)
    most_instances = max((c.instances for c in classes), default=0)
    return [
        (c.name, c.images, bar(c.images, most_images), c.instances, bar(c.instances, most_instances)) for c in classes
    ]


def bar(value: int, largest: int) -> str:
    """A bar of block characters; the largest value is LONGEST_BAR long, in steps of an eighth of a character."""
    whole, rest = divmod(max(1, round(8 * LONGEST_BAR * value / largest)), 8)
    return "█" * whole + EIGHTHS[rest].strip()


def notes(description: Description) -> list[str]:
    """One line each for what a user should know before training on the category."""
    d = description
    lines = completeness(d)
    lines += [f"byte-identical: {', '.join(group)}" for group in d.duplicates]
    if not d.duplicates:
        lines.append("byte-identical images: none")
    near = d.near_duplicates
    shown = "; e.g. " + ", ".join(" ~ ".join(pair) for pair in near.examples) if near.examples else ""
    lines.append(f"near-duplicates by perceptual hash (aligned products look alike): {near.pairs} pairs{shown}")
    split = "default split by these groups" if d.groups else "default split"
    if near.straddling:
        lines.append(
            f"LEAK? {near.straddling} of {near.clusters} clusters of near-duplicates, {near.straddling_images} images, "
            f"would lie in several parts of the {split}: where they show one object, keep them together with "
            "--group REGEX or --group-file CSV"
        )
    elif d.groups and near.clusters:
        lines.append(f"the {split} tears none of the {near.clusters} clusters of near-duplicates")
    lines += probes(d)
    if d.soft_masks:
        pixels = sum(d.soft_masks.values())
        lines.append(f"soft masks: {len(d.soft_masks)} have {pixels} pixels between 0 and the maximum")
    lines += d.asides
    return lines + [f"cannot be used: {problem}" for problem in d.problems]


def completeness(description: Description) -> list[str]:
    """Differences from MVTec AD's category of that name; nothing for other categories."""
    known = description.mvtec
    if known is None:
        return []
    lines = [f"INCOMPLETE: {line}" for line in known.missing] or ["complete: as many images as in MVTec AD"]
    lines.append(f"defect regions: {description.instances}; the complete category has {known.regions}")
    sides = sorted({side for size in description.sizes for side in (size.width, size.height)})
    if sides and sides != [known.side]:
        found = ", ".join(map(str, sides))
        lines.append(f"resized or cropped: images have sides of {found} px, in MVTec AD {known.side} px")
    return lines


def probes(description: Description) -> Iterator[str]:
    """Probes: does one number of a whole image give away the folder, or the defects?"""
    advice = {
        "train/good against test/good": "a model can cheat by knowing the folder: keep test/good in train and val",
        "test/good against defects": "an image-level score proves nothing here: trust boxes and pixels",
    }
    found = (description.folder_probe, description.defect_probe)
    for (groups, meaning), probe in zip(advice.items(), found, strict=True):
        if probe is None:
            continue
        if probe.auroc <= probe.chance:
            verdict = "no more than chance explains"
        else:
            verdict = f"{'above' if probe.auroc > CHEATING else 'from about'} {CHEATING} {meaning}"
        yield (
            f"{groups}: told apart best by the {probe.statistic}, AUROC {probe.auroc:.2f} "
            f"(by chance up to {probe.chance:.2f}); {verdict}"
        )


def card(description: Description, style: str) -> str:
    """One category as text: ``style`` is ``simple`` for terminals or ``github`` for Markdown."""
    heading = description.category
    parts = [f"## {heading}" if style == "github" else f"{heading}\n{'=' * len(heading)}"]
    if description.synthetic:
        parts.append(SYNTHETIC_NOTE)
    parts.append(table(facts(description), ("property", "value"), style))
    if description.classes:
        parts.append(table(chart(description), ("class", "images", "", "instances", ""), style))
    parts.append("\n".join(f"- {note}" for note in notes(description)))
    return "\n\n".join(parts)


def report(descriptions: Sequence[Description], style: str) -> str:
    """All categories as text, with a summary in front where there are several."""
    parts = [table(summary_rows(descriptions), SUMMARY, style)] if len(descriptions) > 1 else []
    return "\n\n".join(parts + [card(description, style) for description in descriptions])


def report_as_json(descriptions: Sequence[Description]) -> str:
    rows = summary_rows(descriptions)
    return to_json(
        {
            "schema": 1,
            "categories": [dataclasses.asdict(description) for description in descriptions],
            "total": {name: cell for name, cell in zip(SUMMARY, rows[-1], strict=True) if isinstance(cell, int)},
        }
    )


def describe_source(
    root: Path | None,
    category: str | None,
    layout: str,
    max_pixels: int,
    group: str | None,
    group_file: Path | None,
    as_json: bool,
    markdown: bool,
) -> None:
    """Print the card of each category; exits with 1 where files cannot be used."""
    if as_json and markdown:
        raise DatasetError("--json and --markdown exclude each other: leave one of them out")
    if group is not None and group_file is not None:
        raise DatasetError("--group and --group-file exclude each other: leave one of them out")
    folders = find_categories(find_root(root), category, layout)
    categories = (read_category(folder, max_pixels, layout) for folder in folders)
    descriptions = [describe_category(with_groups(found, group, group_file)) for found in categories]
    if as_json:
        click.echo(report_as_json(descriptions), nl=False)
    else:
        click.echo(report(descriptions, "github" if markdown else "simple"))
    if any(description.problems for description in descriptions):
        raise SystemExit(1)
