"""Options that several commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def bundle(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator, in their order."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


class Number(click.FloatRange):
    """A finite number; click lets NaN through every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no number")
        return number


class Percent(click.ParamType):
    """A share such as ``1%``, as 0..1 without its ends."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = math.nan
        if not 0 < share < 1 or not str(value).endswith("%"):
            self.fail(f"{value!r} is no share such as 1%", param, ctx)
        return share


class FoldCount(click.IntRange):
    """A number of folds; click's own message does not say why it is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        folds: int = click.INT.convert(value, param, ctx)
        if folds < 3:
            self.fail(f"{folds} folds leave none to train on, as test is one and val the next: 3 or more are needed")
        return folds


FOLDER = click.Path(path_type=Path)
FOLDS = FoldCount(3)
CHOICE = click.Choice
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result table as JSON.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
out_option = click.option("--out", type=FOLDER, default="datasets_out", help="Where datasets are written.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of every random choice."
)  # what the generators of all libraries take
any_seed_option = click.option("--seed", type=int, default=0, help="Seed of every random choice.")  # for hashes
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), default=256_000_000, help="Refuse images of more pixels than this."
)
synthetic_share_option = click.option(
    "--synthetic-share",
    type=Number(0, 1, max_open=True),
    show_default="all of them",
    help="Share of synthetic images (converters.augment) in the train part; all real ones stay.",
)
images_option = click.option(
    "--images",
    type=CHOICE(["link", "copy", "symlink"]),
    default="link",
    help="How images are placed in the dataset; link is a hard link.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    show_default="one per core",
    help="Number of processes; the result does not depend on it.",
)
on_error_option = click.option(
    "--on-error",
    type=CHOICE(["stop", "skip"]),
    default="stop",
    help="Stop at a bad file, or continue, list it, and exit with 1.",
)
moved_source_option = click.option(
    "--root", type=FOLDER, help="Where the dataset's source lies, if it has moved since the conversion."
)
instance_options = bundle(
    click.option(
        "--instances",
        type=CHOICE(["component", "image"]),
        default="component",
        help="One instance per connected component, or one per image.",
    ),
    click.option("--merge-gap", type=click.IntRange(0), default=0, help="Join components closer than this, px."),
    click.option(
        "--connectivity", type=CHOICE(["8", "4"]), default="8", help="Pixels at corners connect (8) or not (4)."
    ),
    click.option("--min-area", type=click.IntRange(1), default=1, help="Leave out smaller instances, px."),
)
import_options = bundle(
    click.option("--to", type=FOLDER, required=True, help="Folder to write: images/, masks/ and classes.csv."),
    click.option(
        "--mixed",
        type=CHOICE(["stop", "combined"]),
        default="stop",
        help="Images of several classes: an error, or the class `combined`.",
    ),
    click.option(
        "--touching",
        type=CHOICE(["stop", "merge"]),
        default="stop",
        help="Instances that touch or overlap: an error, or one instance.",
    ),
    on_error_option,
    max_pixels_option,
    overwrite_option,
)
