"""Every trainer under one name, for those who installed the package: ``mvtec-train yolo --category screw``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import Commands


class Trainers(Commands):
    modules: ClassVar[Mapping[str, str]] = {
        "yolo": "finetune.yolo",
        "yolo-world": "finetune.yolo_world",
        "sam": "finetune.sam_decoder",
        "classifier": "finetune.classifier",
        "normality": "finetune.normality",
        "weakrest": "finetune.weakrest",
    }


@click.group(cls=Trainers, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train a model on a converted dataset, and measure it on the test part."""


if __name__ == "__main__":
    main(prog_name="python finetune/train.py")
