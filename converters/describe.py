"""Print the card of a source folder: counts, sizes, imbalance, duplicates, and what an incomplete download lacks."""

from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import json_option
from converters.datasets.options import group_options
from converters.sources.options import source_options


@command()
@source_options
@group_options
@json_option
@click.option("--markdown", is_flag=True, help="Print Markdown.")
def main(**options: Any) -> None:
    """Print the card of a source folder: counts, sizes, areas, imbalance, duplicates, and what is missing.

    Exit code 1 means that some files cannot be used; they are listed.
    """
    from converters.importing.source_card import describe_source

    describe_source(**options)


if __name__ == "__main__":
    main()
