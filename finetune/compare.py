"""Compare models on the same test images, with intervals: one report.

    python finetune/compare.py --dataset screw
    python finetune/compare.py --family screw@kfold-5                        # all folds of one split
    python finetune/compare.py --category all --no-html                      # categories x models, for a paper
    python finetune/compare.py --dataset screw --results theirs=results.json   # anyone's COCO results

It reads the ground truth and the runs' predictions for val and test, never a model. Thresholds are chosen on val.
"""

import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import FOLDER, json_option, out_option, seed_option
from finetune.comparison.tables import BASELINE


def _results(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    pairs = [value.partition("=")[::2] for value in values]
    if not all(name and path for name, path in pairs):
        raise click.BadParameter("NAME=PATH is needed, e.g. theirs=results.json")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise click.BadParameter(f"{', '.join(names)}: each needs a name of its own")
    missing = [path for _, path in pairs if not Path(path).exists()]
    if missing:
        raise click.BadParameter(f"{missing[0]}: no such file or folder")
    return [(name, Path(path)) for name, path in pairs]


@command()
@click.option(
    "--category",
    "--dataset",
    "name",
    metavar="NAME",
    show_default="the one with the newest run",
    help="Dataset in --out; `all` for every one with runs.",
)
@click.option("--family", metavar="NAME@kfold-K", help="All folds of one split, instead of --category.")
@out_option
@click.option(
    "--runs",
    type=FOLDER,
    multiple=True,
    default=["runs"],
    help="Folder of runs, of one dataset's runs, or of one run; repeat.",
)
@click.option(
    "--results",
    multiple=True,
    callback=_results,
    metavar="NAME=PATH",
    help="Other predictions: a COCO results file for test, or a folder like predictions/SET; repeat.",
)
@click.option(
    "--baseline",
    metavar="MODEL",
    show_default=f"{BASELINE}, else the cheapest labels",
    help="Model that the others are compared with.",
)
@click.option("--bootstrap", "count", type=click.IntRange(100), default=1000, help="Number of bootstrap resamples.")
@click.option("--html/--no-html", default=True, help="Write the page index.html.")
@click.option(
    "--report", "target", type=FOLDER, show_default="RUNS/DATASET/report", help="Where the report is written."
)
@seed_option
@json_option
def main(**options: Any) -> None:
    """Compare all runs of a dataset on its test images; write a report with 95 % intervals.

    The report folder holds index.html (one file, works offline), report.json and report.md.
    """
    from finetune.comparison.collection import compare_runs

    compare_runs(**options)


if __name__ == "__main__":
    main(prog_name="python finetune/compare.py")
