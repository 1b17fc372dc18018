"""Write a PASCAL VOC dataset: XML boxes and palette masks.

Boxes are 1-based and inclusive, as in VOC. Layout: Everingham et al., "The PASCAL Visual Object Classes
Challenge", devkit VOC2012. ``JPEGImages`` is only a name here: images keep their format.
"""

from pathlib import Path
from typing import Any

from converters.cli.command import command
from converters.datasets.options import conversion_options


@command()
@conversion_options
def main(**options: Any) -> None:
    """Write a PASCAL VOC dataset: DATASET/voc."""
    from converters.datasets.conversion import run
    from converters.formats.voc import VocWriter

    run([VocWriter], **options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
