"""Make a small synthetic dataset in MVTec AD layout, so that every stage runs with no download.

    python -m converters.sample --to data/sample

ROOT/CATEGORY/train/good/NNN.png, test/good/NNN.png, test/DEFECT/NNN.png, ground_truth/DEFECT/NNN_mask.png (8-bit
grey, 0 and 255), CATEGORY/synthetic.json. What the images show is in `scenes`.
"""

from pathlib import Path

import click

from converters.cli.options import FOLDER, command, overwrite_option, progress, seed_option, table, to_json
from converters.cli.publishing import publish

CATEGORIES = ("washer", "weave")
DEFECTS = ("scratch", "hole", "stain", "missing_part", "misplaced")
VERSION = 1
FULL_COUNTS = {"train/good": 60, "test/good": 60, **dict.fromkeys(DEFECTS, 40)}
SMALL_COUNTS = {"train/good": 8, "test/good": 8, **dict.fromkeys(DEFECTS, 6)}


def write_sample(folder: Path, seed: int, small: bool) -> None:
    """Write both categories into the existing empty `folder`."""
    from converters.synthetic.scenes import render_files

    counts = SMALL_COUNTS if small else FULL_COUNTS
    jobs = [(c, kind, n) for c in CATEGORIES for kind, count in counts.items() for n in range(count)]
    with progress(jobs, length=len(jobs), label="Rendering") as bar:
        for category, kind, number in bar:
            for name, data in render_files(seed, category, kind, number).items():
                path = folder / category / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    note = {"schema": 1, "generator": "converters.sample", "version": VERSION, "seed": seed, "small": small}
    for category in CATEGORIES:
        (folder / category / "synthetic.json").write_text(to_json(note), encoding="utf-8")


@command()
@click.option("--to", "target", type=FOLDER, default="data/sample", help="Folder to make.")
@seed_option
@click.option("--small", is_flag=True, help="6 images a defect type instead of 40, 8 + 8 good instead of 60 + 60.")
@overwrite_option
def main(target: Path, seed: int, small: bool, overwrite: bool) -> None:
    """Make a synthetic dataset in MVTec AD layout, so that every stage runs with no download.

    Two categories with five defect types each: washer (an object, RGB) and weave (a texture, grey).
    The same seed makes the same bytes.
    """
    with publish(target, overwrite) as folder:
        write_sample(folder, seed, small)
    counts = SMALL_COUNTS if small else FULL_COUNTS
    defects = f"{len(DEFECTS)} x {counts[DEFECTS[0]]}"
    rows = [(name, counts["train/good"], counts["test/good"], defects) for name in CATEGORIES]
    click.echo(table(rows, ("category", "train good", "test good", "defects")))
    click.echo(f"\nWritten to {target}. These images are synthetic: results on them say nothing about real parts.")
    click.echo(f"Next: python -m converters all --root {target} --category washer")


if __name__ == "__main__":
    main(prog_name="python -m converters.sample")
