"""The options of the commands that write a dataset."""

import re

import click

from converters.cli.options import (
    CHOICE,
    FOLDER,
    FOLDS,
    Number,
    any_seed_option,
    bundle,
    images_option,
    instance_options,
    json_option,
    on_error_option,
    out_option,
    overwrite_option,
    workers_option,
)
from converters.sources.options import source_options


def _ratios(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int, int]:
    try:
        train, val, test = (int(part) for part in value.split("/"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not three whole numbers such as 60/20/20") from None
    if min(train, val, test) < 1 or train + val + test != 100:
        raise click.BadParameter(f"{value!r}: three positive numbers that add up to 100 are needed")
    return train, val, test


def _pattern(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    try:
        brackets = re.compile(value or "()").groups
    except re.error as error:
        raise click.BadParameter(f"{value!r} is no regular expression ({error})") from None
    if not brackets:
        raise click.BadParameter(f"{value!r}: put what names the group in brackets, such as '(lot[0-9]+)'")
    return value


FORMATS = ("yolo", "yolo-seg", "yolo-obb", "coco", "coco-roboflow", "masks", "voc")


def _formats(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    if unknown := [name for name in names if name not in FORMATS]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(FORMATS)}")
    return names


formats_option = click.option(
    "--formats",
    default="yolo,yolo-seg,coco,masks,voc",
    callback=_formats,
    help=f"Formats to write, with commas between them; there are {', '.join(FORMATS)}.",
)
simplify_option = click.option(
    "--simplify",
    type=Number(0, 100),
    default=0.0,
    help="Tolerance for simplifying polygons (Douglas-Peucker), px; 0 keeps them exact.",
)
split_options = bundle(
    click.option(
        "--protocol",
        type=CHOICE(["stratified", "kfold", "few-shot", "official"]),
        default="stratified",
        help="How images are divided into train, val and test.",
    ),
    click.option(
        "--ratios", default="60/20/20", callback=_ratios, help="Percent train/val/test (stratified, few-shot)."
    ),
    click.option("--folds", type=FOLDS, default=5, help="Number of folds (kfold)."),
    click.option("--fold", type=click.IntRange(0), default=0, help="Fold that is the test part (kfold)."),
    click.option("--shots", type=click.IntRange(1), default=10, help="Defect images to train on (few-shot)."),
    click.option(
        "--good-val",
        type=Number(0, 1, max_open=True),
        default=0.0,
        help="Share of train's good images for the part `calibration`: thresholds alone come from it.",
    ),
    click.option("--per", type=CHOICE(["category", "type"]), default="category", help="Unit in which --shots counts."),
    any_seed_option,
)
group_options = bundle(
    click.option(
        "--group",
        metavar="REGEX",
        callback=_pattern,
        show_default="as the layout knows",
        help="Images stay in one part whose paths in the category have the same first bracket of this expression.",
    ),
    click.option(
        "--group-file", type=FOLDER, metavar="CSV", help="Table (image,group) of images that stay in one part."
    ),
)
class_options = bundle(
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
tile_options = bundle(
    click.option(
        "--tile",
        type=click.IntRange(32),
        show_default="whole images",
        help="Cut images into squares of this side, px, after the split; the dataset is called NAME@tile-SIDE.",
    ),
    click.option(
        "--overlap",
        type=Number(0, 0.9),
        default=0.2,
        help="Minimum overlap of neighbouring tiles, as a fraction of their side (--tile).",
    ),
)
output_options = bundle(
    out_option,
    images_option,
    workers_option,
    on_error_option,
    overwrite_option,
    click.option(
        "--resume",
        is_flag=True,
        help="Keep what an earlier run wrote, and go on where it was killed, if nothing has changed.",
    ),
    click.option("--log-json", type=FOLDER, help="Append a line of JSON per dataset to this file."),
    click.option("--dry-run", is_flag=True, help="Print the table, write nothing."),
    json_option,
)
conversion_options = bundle(
    source_options, split_options, group_options, class_options, instance_options, tile_options, output_options
)
