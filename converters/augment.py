"""More defects from the few there are: defects of train are pasted into good images of train, with exact masks.

The dataset that comes out, ``screw@paste-500``, holds the images of ``screw`` in the same parts and, in train, the
synthetic ones, which lie in its folder ``synthetic/``. ``augment.json`` tells each synthetic image's parents;
``synthetic.png`` shows some of them.
"""

from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import (
    any_seed_option,
    images_option,
    json_option,
    max_pixels_option,
    moved_source_option,
    out_option,
    overwrite_option,
    workers_option,
)
from converters.synthetic.request import ANYWHERE, BOTH, OBJECT, PASTE, PERLIN, PRIOR


@command()
@click.option("--dataset", "name", required=True, metavar="NAME", help="Dataset in --out to augment.")
@out_option
@moved_source_option
@click.option("--count", type=click.IntRange(1), default=500, help="Number of synthetic images.")
@click.option(
    "--method",
    type=click.Choice([PASTE, PERLIN, BOTH]),
    default=PASTE,
    help="Real defects pasted, noise blobs of a class `synthetic`, or half of each.",
)
@click.option(
    "--place",
    type=click.Choice([PRIOR, OBJECT, ANYWHERE]),
    default=PRIOR,
    help="Place defects where their type occurs on the product, anywhere on it, or anywhere in the image.",
)
@click.option("--balance", is_flag=True, help="Make more images of the rarer defect types.")
@any_seed_option
@workers_option
@images_option
@max_pixels_option
@overwrite_option
@json_option
def main(**options: Any) -> None:
    """Write the dataset NAME@METHOD-COUNT: NAME and, in its train part, synthetic images with exact masks.

    Defects and good images come from the train part only; val and test are those of NAME.
    """
    from converters.synthetic.augmentation import augment_dataset

    augment_dataset(**options)


if __name__ == "__main__":
    main()
