"""Write a YOLO dataset: boxes (``yolo/``), polygons (``yolo-seg/``) or rotated boxes (``yolo-obb/``).

One text file per image, one row per instance, coordinates divided by the image's width and height; an empty
file for every good image. Format: https://docs.ultralytics.com/datasets/
"""

from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.datasets.options import conversion_options, simplify_option


@command()
@click.option(
    "--task",
    type=click.Choice(["detect", "segment", "obb"]),
    default="detect",
    help="Boxes, polygons or rotated boxes.",
)
@simplify_option
@conversion_options
def main(task: str, **options: Any) -> None:
    """Write a YOLO dataset: DATASET/yolo, DATASET/yolo-seg or DATASET/yolo-obb.

    Polygon rows are made for ultralytics, which truncates vertices to whole pixels and paints the line: read
    that way they give back each mask with its holes. Loaders that round instead paint outlines up to a pixel
    off, which matters for thin defects: give those COCO or PNG masks.
    """
    from converters.datasets.conversion import run
    from converters.formats.yolo import WRITERS

    run([WRITERS[task]], **options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
