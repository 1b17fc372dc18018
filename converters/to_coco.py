"""Write a COCO dataset: ``coco/annotations/instances_PART.json`` beside ``coco/images/PART/``, or as Roboflow has it.

Segmentations are polygons on pixel corners that pycocotools decodes to exactly the mask, holes included, or
RLE. Boxes and areas come from the mask, also where polygons are simplified. Format: https://cocodataset.org/#format-data
"""

from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.datasets.options import conversion_options, simplify_option


@command()
@click.option(
    "--style",
    type=click.Choice(["coco", "roboflow"]),
    default="coco",
    help="Names of files and folders; RF-DETR, SAM 3's configs and Roboflow read roboflow's.",
)
@click.option("--segmentation", type=click.Choice(["polygon", "rle"]), default="polygon", help="Polygons or RLE.")
@simplify_option
@conversion_options
def main(style: str, segmentation: str, **options: Any) -> None:
    """Write a COCO dataset: DATASET/coco or, in Roboflow's folders train, valid and test, DATASET/coco-roboflow.

    pycocotools decodes both kinds of segmentation to exactly the mask. A hole lies in the polygon of its
    instance, over a bridge of no width: programs that show polygons may show that line.
    """
    from converters.datasets.conversion import run
    from converters.formats.coco import WRITERS

    run([WRITERS[style, segmentation]], **options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
