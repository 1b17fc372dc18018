"""``python -m converters COMMAND``: every converter under one name, and ``all`` formats in one pass."""

from collections.abc import Mapping
from typing import Any, ClassVar

import click

from converters.cli.command import Commands, command
from converters.datasets.options import conversion_options, formats_option, simplify_option

COMMANDS = (
    "all",
    "to_yolo",
    "to_coco",
    "to_masks",
    "to_voc",
    "verify",
    "describe",
    "preview",
    "augment",
    "sample",
    "download",
    "from_coco",
    "from_yolo",
    "from_labelme",
)


class Converters(Commands):
    modules: ClassVar[Mapping[str, str]] = {
        name: "converters.__main__:convert_all" if name == "all" else f"converters.{name}" for name in COMMANDS
    }


@click.group(cls=Converters, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Masks become YOLO, COCO, PNG-mask and VOC datasets on one recorded split."""


@command()
@formats_option
@simplify_option
@conversion_options
def convert_all(formats: tuple[str, ...], **options: Any) -> None:
    """Write yolo, yolo-seg, coco, masks and voc, or what --formats says, reading each mask once."""
    from converters.datasets.conversion import run
    from converters.formats.coco import CocoWriter, RoboflowWriter
    from converters.formats.png_masks import MasksWriter
    from converters.formats.voc import VocWriter
    from converters.formats.yolo import DetectWriter, ObbWriter, SegmentWriter

    writers = (DetectWriter, SegmentWriter, ObbWriter, CocoWriter, RoboflowWriter, MasksWriter, VocWriter)
    run([writer for writer in writers if writer.folder in formats], **options)


if __name__ == "__main__":
    main(prog_name="python -m converters")
