"""Get MVTec AD: download an official archive, check it, unpack it, count what came out.

Addresses, SHA-256 and counts are in ``mvtec_facts.json``. The data are licensed CC BY-NC-SA 4.0 by MVTec Software
GmbH; see Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", 2019.
"""

from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, overwrite_option
from converters.sources.options import DEFAULT_ROOT


@command()
@click.option("--category", required=True, help="A category of MVTec AD, such as zipper, or `all` (5.3 GB).")
@click.option("--to", type=FOLDER, default=DEFAULT_ROOT, help="Folder that will hold the categories.")
@click.option("--url", help="Address of the archive, if the built-in one has moved.")
@click.option("--archive", "file", type=FOLDER, help="Use this archive instead of downloading one.")
@click.option("--accept-licence", is_flag=True, help="Accept CC BY-NC-SA 4.0 without being asked.")
@overwrite_option
def main(**options: Any) -> None:
    """Download MVTec AD, one category or all, and verify it.

    An interrupted download continues where it stopped. The archive stays beside the categories and is used, after
    a check, by later runs; delete it if you need the space.
    """
    from converters.importing.archives import download

    download(**options)


if __name__ == "__main__":
    main()
