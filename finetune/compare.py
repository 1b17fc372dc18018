"""Compare models on the same test images, with intervals: one report.

    python finetune/compare.py --dataset screw
    python finetune/compare.py --family screw@kfold-5                        # all folds of one split
    python finetune/compare.py --category all --no-html                      # categories x models, for a paper
    python finetune/compare.py --dataset screw --results theirs=results.json   # anyone's COCO results

It reads the ground truth and the runs' predictions for val and test, never a model. Thresholds are chosen on val.
"""

import re
import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.errors import DatasetError
from converters.cli.options import FOLDER, Number, json_option, out_option, seed_option
from finetune.comparison.tables import BASELINE

SHARE = Number(0, 1, min_open=True, max_open=True)


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


def _requirements(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[tuple[str, float]]:
    """(kind, limit in 0..1) of ``escapes<=1%,rejects<=5%``."""
    found = []
    for text in (value or "").replace(" ", "").split(",") if value is not None else ():
        matched = re.fullmatch(r"(escapes|rejects)<=?(\d+(?:\.\d+)?)%", text)
        if not matched or not 0 < float(matched[2]) < 100:
            raise click.BadParameter(f"{text!r}: limits such as escapes<=1%,rejects<=5% are needed")
        found.append((matched[1], float(matched[2]) / 100))
    if len({kind for kind, _ in found}) < len(found):
        raise click.BadParameter(f"{value!r}: names one of them twice")
    return found


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
@click.option("--prevalence", type=SHARE, help="Share of images with a defect in use, for costs; 0.01 is one in 100.")
@click.option("--cost-escape", type=Number(0), help="Cost of a defective image that passes (--prevalence).")
@click.option("--cost-reject", type=Number(0), help="Cost of a good image that is rejected (--prevalence).")
@click.option(
    "--accept",
    callback=_requirements,
    metavar="LIMITS",
    help="A sheet a model that says whether it meets, e.g., `escapes<=1%,rejects<=5%`, and what would prove it.",
)
@click.option("--html/--no-html", default=True, help="Write the page index.html.")
@click.option(
    "--report", "target", type=FOLDER, show_default="RUNS/DATASET/report", help="Where the report is written."
)
@seed_option
@json_option
def main(**options: Any) -> None:
    """Compare all runs of a dataset on its test images; write a report with 95 % intervals.

    The report folder holds index.html (one file, works offline), report.json, report.md, tables/*.csv and, with
    --accept, acceptance/MODEL.html.
    """
    price = [options.pop(name) for name in ("prevalence", "cost_escape", "cost_reject")]
    if any(value is not None for value in price) and None in price:
        raise DatasetError("--prevalence, --cost-escape and --cost-reject: costs take all three")
    accept = options.pop("accept")
    from finetune.comparison.collection import compare_runs
    from finetune.comparison.decisions import Asked
    from finetune.measures.acceptance import Requirement
    from finetune.measures.operating_points import Price

    asked = Asked(None if None in price else Price(*price), tuple(Requirement(*one) for one in accept))
    compare_runs(**options, asked=asked)


if __name__ == "__main__":
    main(prog_name="python finetune/compare.py")
