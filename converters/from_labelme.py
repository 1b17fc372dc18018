"""labelme's JSON files become a plain folder of images and masks.

Format: https://github.com/wkentaro/labelme. Shapes are painted as labelme paints them, by Pillow.
"""

from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, import_options


@command()
@click.argument("folder", type=FOLDER)
@import_options
def main(**options: Any) -> None:
    """Turn labelme's labels into a folder of images and masks that every converter reads.

    FOLDER holds labelme's JSON files; images lie where these say, or by their names anywhere below. Polygons,
    rectangles, circles and masks are taken, points and lines cover no area. Images without a JSON file are good. The
    folder that is written holds one mask and one class an image; what does not fit is an error that names the image.
    """
    from converters.importing.labelme_labels import import_labelme

    import_labelme(**options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
