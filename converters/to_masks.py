"""Write PNG masks: ``masks/semantic/`` (class index + 1) and ``masks/instance/`` (16-bit ids) beside the images."""

from pathlib import Path
from typing import Any

from converters.cli.command import command
from converters.datasets.options import conversion_options


@command()
@conversion_options
def main(**options: Any) -> None:
    """Write PNG masks: DATASET/masks, semantic (palette, class index + 1) and instance (16 bit)."""
    from converters.datasets.conversion import run
    from converters.formats.png_masks import MasksWriter

    run([MasksWriter], **options)


if __name__ == "__main__":
    main(prog_name=f"python -m converters.{Path(__file__).stem}")
