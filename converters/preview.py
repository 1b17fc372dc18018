"""Write contact sheets of a source folder: ``previews/CATEGORY/DEFECT.png``, and ``good.png``."""

from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, instance_options, overwrite_option
from converters.sources.options import source_options


@command()
@source_options
@click.option("--to", "target", type=FOLDER, default="previews", help="Output folder; one subfolder per category.")
@instance_options
@overwrite_option
def main(**options: Any) -> None:
    """Write contact sheets: per defect type some images with their masks, boxes and polygons.

    Exit code 1 means that some files cannot be used; they are listed.
    """
    from converters.drawing.contact_sheets import preview_source

    preview_source(**options)


if __name__ == "__main__":
    main()
