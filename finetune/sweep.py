"""Train every model on every category, fold and number of labels, in parallel, and draw learning curves.

    python -m finetune.sweep --categories screw,zipper --models yolo,classifier --folds 5 --shots 1,2,5,10,all
    python -m finetune.sweep --categories washer --models yolo,normality --folds 3 --shots 2,8 \
        --args "yolo=--weights none --epochs 3" --args "normality=--weights none"

Ray (https://docs.ray.io) decides what runs when: on this machine, or with --address on a cluster whose machines have
this repository installed and see the same folders. A cell that crashes is tried once more. Call it again after an
interruption: finished cells are kept.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import FOLDER, Number, json_option, out_option, overwrite_option, seed_option
from finetune.sweeps.request import ALL, CONVERT, SCRIPTS, order


def _names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise click.BadParameter(f"{value!r}: names with commas between them are needed, each once")
    return tuple(names)


def _models(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = _names(ctx, parameter, value)
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r}: known are {', '.join(SCRIPTS)}")
    return names


def _shots(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    wanted = _names(ctx, parameter, value)
    if not all(one == ALL or (one.isdecimal() and int(one) > 0) for one in wanted):
        raise click.BadParameter(f"{value!r}: whole numbers from 1 and `{ALL}` are needed, e.g. 1,2,5,10,{ALL}")
    return tuple(sorted(wanted, key=order))


def _arguments(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    found = {}
    for value in values:
        name, equals, arguments = value.partition("=")
        if not equals or name not in (*SCRIPTS, CONVERT) or name in found:
            raise click.BadParameter(
                f"{value!r}: NAME=ARGUMENTS is needed, NAME being one of {', '.join((*SCRIPTS, CONVERT))}, each once"
            )
        try:
            found[name] = tuple(shlex.split(arguments))
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: {error}") from None
        if any(word.partition("=")[0] == "--config" for word in found[name]):
            raise click.BadParameter(f"{value!r}: --config is for a single run; write its options out here")
    return found


@command()
@click.option(
    "--categories",
    callback=_names,
    metavar="A,B",
    show_default="that of the dataset converted last",
    help="Categories in --root.",
)
@click.option(
    "--models", required=True, callback=_models, metavar="A,B", help=f"Models to train, of {', '.join(SCRIPTS)}."
)
@click.option("--folds", type=click.IntRange(1), default=5, help="Folds of `all`, or draws of a number of shots.")
@click.option("--shots", default=ALL, callback=_shots, help="Labelled defect images to train on, e.g. 1,2,5,10,all.")
@click.option(
    "--args",
    "arguments",
    multiple=True,
    callback=_arguments,
    metavar="NAME=ARGUMENTS",
    help='Extra arguments for a model, e.g. "yolo=--weights none --epochs 3", or for `convert`; repeat.',
)
@click.option(
    "--root",
    type=FOLDER,
    default=None,
    show_default="as the converters",
    help="Source folder, to convert categories from.",
)
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Folder for runs; the report goes to RUNS/sweep.")
@click.option("--address", default=None, show_default="this machine", help="Ray cluster, e.g. auto or HOST:6379.")
@click.option("--cpus", type=Number(0, min_open=True), default=1, help="CPU cores per training.")
@click.option(
    "--gpus",
    type=Number(0),
    default=None,
    show_default="1 where there are GPUs",
    help="GPUs per training.",
)
@seed_option
@overwrite_option
@json_option
def main(**options: Any) -> None:
    """Train all cells of a grid (category, fold, number of labels, model); draw the learning curves.

    Datasets are converted where they are absent. RUNS/sweep/report holds report.json, report.md and the curves as PNG
    and SVG; RUNS/sweep/logs what the cells printed. Exit code 1: cells failed.
    """
    from finetune.sweeps.grid import run_sweep

    run_sweep(**options)


if __name__ == "__main__":
    main(prog_name="python -m finetune.sweep")
