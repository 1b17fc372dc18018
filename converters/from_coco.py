"""Labels in a COCO file become a plain folder of images and masks.

Format: https://cocodataset.org/#format-data. Polygons and run lengths are decoded by pycocotools; a person's file may
hold anything, so they are checked first, since pycocotools is C that trusts its input.
"""

from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, import_options


@command()
@click.argument("file", type=FOLDER)
@click.option("--images", type=FOLDER, required=True, help="Folder that the image names in FILE start from.")
@import_options
def main(**options: Any) -> None:
    """Turn COCO labels into a folder of images and masks that every converter reads.

    FILE is a COCO file of instances, as CVAT, Label Studio, Roboflow or labelme export it. Images without labels
    are good. The folder holds one mask and one class an image; what does not fit is an error that names the image.
    """
    from converters.importing.coco_labels import import_coco

    import_coco(**options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
