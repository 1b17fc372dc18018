"""Options that several commands share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# Modules of converters.sources.reading, in the order in which a folder is tried; four could be taken for MVTec AD's.
LAYOUTS = ("loco", "mvtec_ad_2", "btad", "kolektor", "mvtec", "visa", "magnetic_tile", "folder")


def _bundle(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _ratios(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int, int]:
    try:
        train, val, test = (int(part) for part in value.split("/"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not three whole numbers such as 60/20/20") from None
    if min(train, val, test) < 1 or train + val + test != 100:
        raise click.BadParameter(f"{value!r}: three positive numbers that add up to 100 are needed")
    return train, val, test


class Number(click.FloatRange):
    """A finite number; click lets NaN through every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no number")
        return number


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
    "--max-pixels", type=click.IntRange(1), default=256_000_000, help="Refuse images larger than this."
)
simplify_option = click.option(
    "--simplify",
    type=Number(0, 100),
    default=0.0,
    help="Drop polygon vertices that lie this near to the line between others, px; 0 is exact.",
)
synthetic_share_option = click.option(
    "--synthetic-share",
    type=Number(0, 1, max_open=True),
    default=None,
    show_default="all that there are",
    help="Share of synthetic images (converters.augment) in the train part; all real ones stay.",
)
images_option = click.option(
    "--images",
    type=CHOICE(["link", "copy", "symlink"]),
    default="link",
    help="How images come into the dataset; link means hard link.",
)
source_options = _bundle(
    click.option(
        "--root",
        type=FOLDER,
        default=None,
        show_default="$MVTEC_ROOT, else data/mvtec_anomaly_detection",
        help="Folder that holds the categories, or one category's folder.",
    ),
    click.option("--category", default=None, help="Category to read, or `all`; not needed where --root is one."),
    click.option(
        "--layout", type=CHOICE(["auto", *LAYOUTS]), default="auto", help="How the source is laid out; auto guesses."
    ),
    max_pixels_option,
)
split_options = _bundle(
    click.option(
        "--protocol",
        type=CHOICE(["stratified", "kfold", "few-shot"]),
        default="stratified",
        help="How images are divided into train, val and test.",
    ),
    click.option(
        "--ratios",
        default="60/20/20",
        callback=_ratios,
        help="Percent train/val/test (stratified, few-shot).",
    ),
    click.option("--folds", type=FOLDS, default=5, help="Number of folds (kfold)."),
    click.option("--fold", type=click.IntRange(0), default=0, help="Fold that is the test part (kfold)."),
    click.option("--shots", type=click.IntRange(1), default=10, help="Defect images to train on (few-shot)."),
    click.option("--per", type=CHOICE(["category", "type"]), default="category", help="What --shots counts."),
    any_seed_option,
)
class_options = _bundle(
    click.option(
        "--classes",
        type=CHOICE(["defect", "single", "category-defect"]),
        default="defect",
        help="One class per defect type, one for all, or one per category and type.",
    ),
    click.option(
        "--combined",
        type=CHOICE(["keep", "drop", "train-only"]),
        default="keep",
        help="What to do with MVTec's `combined` type (several defects in one image).",
    ),
)
instance_options = _bundle(
    click.option(
        "--instances",
        type=CHOICE(["component", "image"]),
        default="component",
        help="One instance per connected component, or one per image.",
    ),
    click.option("--merge-gap", type=click.IntRange(0), default=0, help="Join components closer than this, px."),
    click.option("--connectivity", type=CHOICE(["8", "4"]), default="8", help="Do pixels connect at corners?"),
    click.option("--min-area", type=click.IntRange(1), default=1, help="Leave out smaller instances, px."),
)
tile_options = _bundle(
    click.option(
        "--tile",
        type=click.IntRange(32),
        default=None,
        show_default="whole images",
        help="Cut images into squares of this side, px, after the split; the dataset is called NAME@tile-SIDE.",
    ),
    click.option(
        "--overlap",
        type=Number(0, 0.9),
        default=0.2,
        help="Least share of a tile that it has in common with the next (--tile).",
    ),
)
output_options = _bundle(
    out_option,
    images_option,
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=None,
        show_default="one per core",
        help="Processes; the result does not depend on it.",
    ),
    click.option(
        "--on-error",
        type=CHOICE(["stop", "skip"]),
        default="stop",
        help="Stop at a bad file, or continue, list it, and exit with 1.",
    ),
    overwrite_option,
    click.option("--resume", is_flag=True, help="Keep datasets that are written already, if nothing has changed."),
    click.option("--log-json", type=FOLDER, help="Append a line of JSON per dataset to this file."),
    click.option("--dry-run", is_flag=True, help="Print the table, write nothing."),
    json_option,
)
import_options = _bundle(
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
    click.option(
        "--on-error",
        type=CHOICE(["stop", "skip"]),
        default="stop",
        help="Stop at a bad image, or continue, list it, and exit with 1.",
    ),
    max_pixels_option,
    overwrite_option,
)
conversion_options = _bundle(
    source_options, split_options, class_options, instance_options, tile_options, output_options
)
