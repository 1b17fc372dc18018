"""The sample dataset: synthetic products with defects in MVTec AD's layout."""

from collections.abc import Sequence
from pathlib import Path

import click

from converters.cli.publishing import publish
from converters.cli.terminal import progress, table, to_json
from converters.synthetic.catalogue import PRODUCTS, VERSION, counts_of
from converters.synthetic.sample_images import render_files


def write_sample(folder: Path, seed: int, small: bool, products: Sequence[str]) -> None:
    """Write the products' categories into the existing empty `folder`."""
    jobs = [(c, kind, n) for c in products for kind, count in counts_of(c, small).items() for n in range(count)]
    with progress(jobs, length=len(jobs), label="Rendering") as bar:
        for category, kind, number in bar:
            for name, data in render_files(seed, category, kind, number).items():
                path = folder / category / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    note = {"schema": 1, "generator": "converters.sample", "version": VERSION, "seed": seed, "small": small}
    for category in products:
        (folder / category / "synthetic.json").write_text(to_json(note), encoding="utf-8")


def make_sample(target: Path, seed: int, small: bool, products: Sequence[str], overwrite: bool) -> None:
    """Publish the sample, and print what is in it."""
    with publish(target, overwrite) as folder:
        write_sample(folder, seed, small, products)
    rows = []
    for name in products:
        counts = counts_of(name, small)
        kinds = PRODUCTS[name].DEFECTS
        rows.append((name, counts["train/good"], counts["test/good"], f"{len(kinds)} x {counts[kinds[0]]}"))
    click.echo(table(rows, ("category", "train good", "test good", "defects")))
    click.echo(f"\nWritten to {target}. These images are synthetic: results on them say nothing about real parts.")
    click.echo(f"Next: python -m converters all --root {target} --category {products[0]}")
