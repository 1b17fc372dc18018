"""Make a small synthetic dataset in MVTec AD layout, so that every stage runs with no download.

    python -m converters.sample --to data/sample

ROOT/CATEGORY/train/good/NNN.png, test/good/NNN.png, test/DEFECT/NNN.png, ground_truth/DEFECT/NNN_mask.png (8-bit
grey, 0 and 255), CATEGORY/synthetic.json. What the images show: ``converters.synthetic.catalogue``.
"""

from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, overwrite_option, seed_option

SAMPLE, FOR_STARTERS = ("washer", "weave"), ("circuit", "plank")


@command()
@click.option("--to", "target", type=FOLDER, default="data/sample", help="Folder to make.")
@click.option(
    "--product",
    "products",
    multiple=True,
    type=click.Choice((*SAMPLE, *FOR_STARTERS)),
    default=SAMPLE,
    help="Product to draw; may be repeated. Starters have learned from circuit and plank: don't measure them there.",
)
@seed_option
@click.option("--small", is_flag=True, help="6 images a defect type instead of 40, 8 + 8 good instead of 60 + 60.")
@overwrite_option
def main(**options: Any) -> None:
    """Make a synthetic dataset in MVTec AD layout, so that every stage runs with no download.

    A category each of an object (RGB) and a texture (grey), with five defect types. The same seed makes the same bytes.
    """
    from converters.synthetic.sample_dataset import make_sample

    make_sample(**options)


if __name__ == "__main__":
    main()
