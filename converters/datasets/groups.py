"""Groups as the user names them: by a pattern of the images' paths, or by a table."""

import dataclasses
import re
from pathlib import Path

import click

from converters.cli.errors import DatasetError
from converters.sources.samples import Category
from converters.sources.tables import read_pairs

HEADER = "image", "group"


def with_groups(category: Category, pattern: str | None, table: Path | None) -> Category:
    """The category with the groups of ``--group`` or ``--group-file`` instead of those that its layout knows.

    Images that they say nothing about belong to no group; how many these are is said on stderr. Raises DatasetError
    where no image gets a group.
    """
    if pattern is None and table is None:
        return category
    if pattern is not None:
        option, groups = f"--group {pattern}", _by_pattern(category, pattern)
    else:
        assert table is not None
        option, groups = f"--group-file {table}", _by_table(category, table)
    if not any(groups.values()):
        raise DatasetError(
            f"{option}: gives no image of {category.folder} a group; images are named by their path in it, "
            f"such as {next(iter(groups), 'test/crack/000.png')}"
        )
    alone = [key for key, group in groups.items() if not group]
    if alone:
        click.echo(f"{option}: {len(alone)} images of {category.name} are in no group, such as {alone[0]}", err=True)
    samples = [dataclasses.replace(sample, group=groups[sample.key]) for sample in category.samples]
    return dataclasses.replace(category, samples=samples)


def _by_pattern(category: Category, pattern: str) -> dict[str, str]:
    """Image key -> what the first bracket of the pattern holds, wherever it is found in the key; else empty."""
    found = ((sample.key, re.search(pattern, sample.key)) for sample in category.samples)
    return {key: (match[1] or "") if match else "" for key, match in found}


def _by_table(category: Category, path: Path) -> dict[str, str]:
    """Image key -> its group in the table, which names images with or without the category in front; else empty."""
    rows = {image: group for _, image, group in read_pairs(path, HEADER, "--group-file")}
    groups = {
        sample.key: rows.pop(sample.key, "") or rows.pop(f"{category.name}/{sample.key}", "")
        for sample in category.samples
    }
    left_out = {f"{problem.file}" for problem in category.problems}
    unknown = [name for name in rows if name not in left_out and not (category.folder.parent / name).is_file()]
    if unknown:
        click.echo(
            f"--group-file {path}: {len(unknown)} rows name no image of {category.name}, such as {unknown[0]}", err=True
        )
    return groups
