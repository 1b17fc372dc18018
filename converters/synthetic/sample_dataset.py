"""The sample dataset: synthetic products with defects in MVTec AD's layout."""

from pathlib import Path

import click

from converters.cli.publishing import publish
from converters.cli.terminal import progress, table, to_json
from converters.synthetic.catalogue import DEFECTS, FULL_COUNTS, PRODUCTS, SMALL_COUNTS, VERSION
from converters.synthetic.sample_images import render_files


def write_sample(folder: Path, seed: int, small: bool) -> None:
    """Write all products' categories into the existing empty `folder`."""
    counts = SMALL_COUNTS if small else FULL_COUNTS
    jobs = [(c, kind, n) for c in PRODUCTS for kind, count in counts.items() for n in range(count)]
    with progress(jobs, length=len(jobs), label="Rendering") as bar:
        for category, kind, number in bar:
            for name, data in render_files(seed, category, kind, number).items():
                path = folder / category / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    note = {"schema": 1, "generator": "converters.sample", "version": VERSION, "seed": seed, "small": small}
    for category in PRODUCTS:
        (folder / category / "synthetic.json").write_text(to_json(note), encoding="utf-8")


def make_sample(target: Path, seed: int, small: bool, overwrite: bool) -> None:
    """Publish the sample, and print what is in it."""
    with publish(target, overwrite) as folder:
        write_sample(folder, seed, small)
    counts = SMALL_COUNTS if small else FULL_COUNTS
    defects = f"{len(DEFECTS)} x {counts[DEFECTS[0]]}"
    rows = [(name, counts["train/good"], counts["test/good"], defects) for name in PRODUCTS]
    click.echo(table(rows, ("category", "train good", "test good", "defects")))
    click.echo(f"\nWritten to {target}. These images are synthetic: results on them say nothing about real parts.")
    click.echo(f"Next: python -m converters all --root {target} --category {next(iter(PRODUCTS))}")
