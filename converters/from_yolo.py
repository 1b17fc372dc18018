"""Labels in YOLO's segment format become a plain folder of images and masks.

Format: https://docs.ultralytics.com/datasets/segment/. Outlines are painted as ultralytics paints them: coordinates
times the image's size, truncated to whole pixels, filled together with their line.
"""

from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, import_options


@command()
@click.argument("data_yaml", type=FOLDER)
@import_options
def main(**options: Any) -> None:
    """Turn YOLO segment labels into a folder of images and masks that every converter reads.

    DATA_YAML names the classes and the folders of images; labels lie in labels/ beside images/. Images without
    labels are good. The parts train, val and test are joined: a conversion splits them. The folder holds one mask
    and one class an image; what does not fit is an error that names the image.
    """
    from converters.importing.yolo_labels import import_yolo

    import_yolo(**options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
