"""Prove a published dataset against its source masks, through other people's readers."""

from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER as PATH
from converters.cli.options import json_option, max_pixels_option, moved_source_option


@command()
@click.argument("datasets", type=PATH, nargs=-1, required=True)
@moved_source_option
@max_pixels_option
@json_option
def main(**options: Any) -> None:
    """Read every format of published datasets back with other people's readers, and compare with the masks.

    Exits with 1 where something differs. Nothing is written into the dataset.
    """
    from converters.verification.comparing import verify_datasets

    verify_datasets(**options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
