"""Settings of a training of YOLO or YOLO-World, and the options of the commands that set them. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from converters.cli.options import Number

FORMATS = {"detect": "yolo", "segment": "yolo-seg", "obb": "yolo-obb"}  # task -> the dataset's format
SUFFIXES = {"detect": "", "segment": "-seg", "obb": "-obb"}
SIZES = [f"{family}{size}" for family in ("yolo11", "yolo26") for size in "nsmlx"]
LIGHT = Path(__file__).with_name("yolo11n-light.yaml")  # ultralytics takes the `n` for a size: yolo11-light.yaml
PUBLISHED = "openai"  # the text tower that YOLO-World was trained with
TEMPLATE = "{defect} on a {category}"
ARCHS = [f"yolov8{size}-worldv2" for size in "smlx"]


@dataclass(frozen=True)
class Recipe:
    """Training settings, with defaults for 50 to 300 defect images of about 1024 px and small defects."""

    epochs: int = 100  # mAP stays 0 for the first ones from random weights; early stopping ends sooner
    imgsz: int = 640  # a defect of 0.1 % of a 1024 px image is 20 px wide here, and 10 px at 320
    batch: int = 8  # a small set needs many steps rather than smooth ones
    lr: float = 1e-3  # AdamW's usual rate
    optimizer: str = "AdamW"  # `auto` would ignore --lr
    freeze: int = 0  # 10 keeps the backbone of a pre-trained start
    patience: int = 50  # val holds few defects, so its mAP is noisy
    background: float = 0.2  # share of good images in training: they prevent false alarms, but teach no defect
    mosaic: float = 1.0  # share of training images that are put together from parts of four
    degrees: float = 0.0  # up to 180 where products lie as they fall; boxes grow when they are turned

    def overrides(self) -> dict[str, Any]:
        """The same in ultralytics' words, with what products under a camera allow as augmentation."""
        return {
            "epochs": self.epochs,
            "imgsz": self.imgsz,
            "batch": self.batch,
            "lr0": self.lr,
            "optimizer": self.optimizer,
            "freeze": self.freeze or None,
            "patience": self.patience,
            "cos_lr": True,
            "scale": 0.25,  # a camera keeps its distance
            "mosaic": self.mosaic,
            "degrees": self.degrees,
            "close_mosaic": min(10, self.epochs // 5),  # its default of 10 means no mosaic at all in short runs
            "flipud": 0.5,  # a product has no "up" to its defects
            "fliplr": 0.5,
            "warmup_bias_lr": 0.0,  # its default of 0.1 is for SGD: a hundred times AdamW's rate
            "hsv_h": 0.0,  # colour is what some defects are
            "hsv_s": 0.2,
            "hsv_v": 0.3,
            "amp": False,  # ultralytics would fetch another checkpoint to test it
            "cache": "ram",  # small sets fit, and no image is decoded again in every epoch
            "nbs": self.batch,  # no accumulation over batches: steps are scarce
        }


WORLD_RECIPE = Recipe(lr=2e-4)  # the rate of the paper: a larger one makes the detector forget words


def recipe_options(defaults: Recipe) -> Callable[[Any], Any]:
    """The options that make up a recipe, with its fields as parameters."""
    options = (
        click.option(
            "--epochs",
            type=click.IntRange(1),
            default=defaults.epochs,
            help="Passes over the training images, at most.",
        ),
        click.option("--imgsz", type=click.IntRange(32), default=defaults.imgsz, help="Longest side in training, px."),
        click.option("--batch", type=click.IntRange(1), default=defaults.batch, help="Images per training step."),
        click.option("--lr", type=Number(0, min_open=True), default=defaults.lr, help="Initial learning rate."),
        click.option(
            "--optimizer", type=click.Choice(["AdamW", "SGD", "MuSGD"]), default=defaults.optimizer, help="Optimizer."
        ),
        click.option(
            "--freeze", type=click.IntRange(0), default=defaults.freeze, help="Freeze this many of the first layers."
        ),
        click.option(
            "--patience", type=click.IntRange(1), default=defaults.patience, help="Epochs without gain before a stop."
        ),
        click.option(
            "--background",
            type=Number(0, 1, max_open=True),
            default=defaults.background,
            help="Fraction of defect-free images in training.",
        ),
        click.option(
            "--mosaic", type=Number(0, 1), default=defaults.mosaic, help="Probability of mosaic augmentation."
        ),
        click.option(
            "--degrees",
            type=Number(0, 180),
            default=defaults.degrees,
            help="Rotate training images by up to ± this many degrees.",
        ),
    )

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add
