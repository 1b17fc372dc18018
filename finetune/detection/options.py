"""Options of the commands that train YOLO and YOLO-World, and what they say together. Imports no torch."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import click

from converters.cli.command import given_options
from converters.cli.errors import DatasetError
from converters.cli.options import FOLDER, FOLDS, Number, json_option, out_option, overwrite_option, seed_option
from finetune.detection.recipe import FORMATS, Recipe
from finetune.runs.replay import config_option

OPTIMIZERS = ("AdamW", "SGD", "MuSGD")


class Batch(click.IntRange):
    """Images a training step, or -1: as many as the GPU has room for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        batch: int = super().convert(value, param, ctx)
        if batch == 0:
            self.fail("0 images are no training step: name 1 or more, or -1 for what the GPU has room for")
        return batch


def training_options(
    archs: Sequence[str], recipe: Recipe, usual_name: str, usual_weights: str, random: Recipe | None = None
) -> Callable[[Any], Any]:
    """The options that both commands have; the first of ``archs`` is what is built from random weights.

    An option of the recipe that is not given is None, since its default depends on the start: ``recipe`` shows it for
    a pre-trained one, ``random`` for random weights, where they differ.
    """

    def usual(name: str) -> str:
        value, other = (asdict(each)[name] for each in (recipe, random or recipe))
        return f"{value:g}" + ("" if value == other else f"; random start: {other:g}")

    options = (
        click.option("--category", "--dataset", "name", metavar="NAME", help="Dataset in --out to train on."),
        out_option,
        click.option("--runs", type=FOLDER, default="runs", help="Where runs are written."),
        click.option("--run", "run_name", show_default=usual_name, help="Name of the run."),
        click.option("--folds", type=FOLDS, help="Train on NAME@kfold-FOLDS-0, -1 ... one after another."),
        click.option(
            "--arch", type=click.Choice(archs), default=archs[0], help="Architecture, where --weights is none."
        ),
        click.option(
            "--weights", show_default=usual_weights, help="Published name, checkpoint FILE, or none (random)."
        ),
        click.option(
            "--epochs",
            type=click.IntRange(1),
            show_default=usual("epochs"),
            help="Passes over the training images, at most.",
        ),
        click.option(
            "--imgsz",
            type=click.IntRange(32),
            show_default=f"1.5 x --crop, at most {recipe.imgsz}; {Recipe.imgsz} of whole images"
            if recipe.crop
            else usual("imgsz"),
            help="Longest side in training, px.",
        ),
        click.option(
            "--batch",
            type=Batch(-1),
            show_default=usual("batch"),
            help="Images per training step; -1: what fits the GPU.",
        ),
        click.option("--lr", type=Number(0, min_open=True), show_default=usual("lr"), help="Initial learning rate."),
        click.option(
            "--optimizer",
            type=click.Choice(OPTIMIZERS),
            show_default=recipe.optimizer,
            help="Optimization algorithm.",
        ),
        click.option(
            "--freeze",
            type=click.IntRange(0),
            show_default=usual("freeze"),
            help="How many of the first layers to freeze.",
        ),
        click.option(
            "--patience",
            type=click.IntRange(1),
            show_default=usual("patience"),
            help="Epochs without improvement before training stops.",
        ),
        click.option(
            "--background",
            type=Number(0, 1, max_open=True),
            show_default=usual("background"),
            help="Fraction of defect-free training images.",
        ),
        click.option(
            "--mosaic", type=Number(0, 1), show_default=usual("mosaic"), help="Probability of mosaic augmentation."
        ),
        click.option(
            "--degrees",
            type=Number(0, 180),
            show_default=f"{recipe.degrees:g} of crops, 0 of whole images" if recipe.crop else usual("degrees"),
            help="Random rotation, ± degrees.",
        ),
        click.option("--device", default="", show_default="GPU, else CPU", help="cpu, or numbers of GPUs: 0 or 0,1."),
        seed_option,
        click.option("--resume", is_flag=True, help="Continue an interrupted run."),
        config_option,
        overwrite_option,
        json_option,
    )

    return lambda function: reduce(lambda inner, option: option(inner), reversed(options), function)


def check_together(ctx: click.Context, replaced: Mapping[str, Sequence[str]]) -> None:
    """Raise DatasetError for an option of the command line that would do nothing beside the others.

    ``replaced`` maps a parameter to those that it takes the place of. Options that --config replays may do nothing:
    they cannot be taken out.
    """
    flags = {option.name: option.opts[0] for option in ctx.command.params}
    given, typed = given_options(ctx), given_options(ctx, replayed=False)
    for other, names in {"resume": ["overwrite"], **replaced}.items():
        for name in typed.intersection(names) if other in given else ():
            raise DatasetError(f"{flags[name]}: is not used with {flags[other]}; leave one of them out")


def named_by(data: Path) -> tuple[Path, str, str]:
    """OUT, NAME and the task that a data.yaml of ``converters.to_yolo`` stands for; raises DatasetError for any other.

    Another one has no recorded split, without which no run could be compared.
    """
    if not data.is_file():
        raise DatasetError(f"--data {data}: no such file")
    place = data.absolute().parent
    tasks = {kind: task for task, kind in FORMATS.items()}
    if data.name == "data.yaml" and place.name in tasks and (place.parent / "split.json").is_file():
        return place.parents[1], place.parent.name, tasks[place.name]
    to = f"data/{place.name}"
    raise DatasetError(
        f"--data {data}: has no recorded split, as it is no OUT/NAME/yolo/data.yaml of our converters; bring its "
        f"polygons in: `python -m converters.from_yolo {shlex.quote(str(data))} --to {shlex.quote(to)}`, then "
        f"`python -m converters all --root {shlex.quote(to)}`, then --category {shlex.quote(place.name)}"
    )
