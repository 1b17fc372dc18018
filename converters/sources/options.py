"""The options that name a source folder."""

from pathlib import Path

import click

from converters.cli.options import CHOICE, FOLDER, bundle, max_pixels_option
from converters.sources.layouts import LAYOUTS

DEFAULT_ROOT = Path("data/mvtec_anomaly_detection")

source_options = bundle(
    click.option(
        "--root",
        type=FOLDER,
        show_default=f"$MVTEC_ROOT, else {DEFAULT_ROOT}",
        help="Folder that holds the categories, or one category's folder.",
    ),
    click.option("--category", help="Category to read, or `all`; not needed where --root is one."),
    click.option(
        "--layout", type=CHOICE(["auto", *LAYOUTS]), default="auto", help="Layout of the source; auto detects it."
    ),
    max_pixels_option,
)
