"""Settings of a training of YOLO or YOLO-World, and the names of their models. Imports no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FORMATS = {"detect": "yolo", "segment": "yolo-seg", "obb": "yolo-obb"}  # task -> the dataset's format
SUFFIXES = {"detect": "", "segment": "-seg", "obb": "-obb"}
SIZES = [f"{family}{size}" for family in ("yolo11", "yolo26") for size in "nsmlx"]
LIGHT = Path(__file__).with_name("yolo11n-light.yaml")  # ultralytics takes the `n` for a size: yolo11-light.yaml
PUBLISHED = "openai"  # the text tower that YOLO-World was trained with
TEMPLATE = "{defect} on a {category}"
PROMPT_LR = 2e-3  # few numbers, which may move far: a vector's components are about 0.04
PLAIN = [f"yolov8{size}" for size in "nsmlx"]  # YOLO-World's networks without words
ARCHS = [f"yolov8{size}-worldv2" for size in "smlx"]  # as published
WORLD_ARCHS = [*ARCHS, "yolov8n-worldv2"]


@dataclass(frozen=True)
class Starter:
    """A checkpoint that is installed with us, made by benchmarks/yolo_starter.py: a state_dict of ``LIGHT``."""

    file: Path
    sha256: str


STARTERS = {  # task -> what a training begins with where no published checkpoint can be had
    "detect": Starter(
        LIGHT.with_name(f"starter-{LIGHT.stem}.pth"), "60fb6b6e7ea2b72748cf0fc3c32ab475ff3983655ec3f4aaae3a5272d6c98cfb"
    )
}


@dataclass(frozen=True)
class Recipe:
    """Training settings, with defaults for 50 to 300 defect images of about 1024 px and small defects.

    These are for random weights and whole images; ``PRETRAINED`` below is for all other starts.
    """

    epochs: int = 100  # mAP stays 0 for the first ones from random weights; early stopping ends sooner
    imgsz: int = 640  # a defect of 0.1 % of a 1024 px image is 20 px wide here, and 10 px at 320
    crop: int = 0  # side of the squares that are trained on, px; 0: whole images
    batch: int = 8  # a small set needs many steps rather than smooth ones; -1: as many as fit the GPU
    lr: float = 1e-3  # AdamW's usual rate
    optimizer: str = "AdamW"  # `auto` would ignore --lr
    freeze: int = 0  # 10 keeps the backbone of a pre-trained start
    patience: int = 50  # val holds few defects, so its mAP is noisy
    background: float = 0.2  # share of good images in training: they prevent false alarms, but teach no defect
    mosaic: float = 1.0  # share of training images that are put together from parts of four
    degrees: float = 0.0  # up to 180 where products lie as they fall; boxes grow when they are turned

    def overrides(self) -> dict[str, Any]:
        """The same in ultralytics' words, with what products under a camera allow as augmentation."""
        settings = asdict(self) | {
            "lr0": self.lr,
            "freeze": self.freeze or None,
            "cos_lr": True,
            "scale": 0.25,  # a camera keeps its distance
            "close_mosaic": min(10, self.epochs // 5),  # its default of 10 means no mosaic at all in short runs
            "flipud": 0.5,  # a product has no "up" to its defects
            "fliplr": 0.5,
            "warmup_bias_lr": 0.0,  # its default of 0.1 is for SGD: a hundred times AdamW's rate
            "hsv_h": 0.0,  # colour is what some defects are
            "hsv_s": 0.2,
            "hsv_v": 0.3,
            "cache": "ram",  # small sets fit, and no image is decoded again in every epoch
            "nbs": max(1, self.batch),  # no accumulation over batches: steps are scarce
        }
        return {name: value for name, value in settings.items() if name not in ("lr", "background", "crop")}


# What a pre-trained start wants, from any checkpoint: docs/measurements/yolo.md. Squares are cut where they can be.
PRETRAINED = Recipe(epochs=30, imgsz=256, crop=384, batch=16, background=0.15, mosaic=0.0, degrees=180.0)
MOST_ENLARGED = 1.5  # of a square in training: more pixels would show nothing that is not there
WORLD_RECIPE = Recipe(lr=2e-4)  # the rate of the paper: a larger one makes the detector forget words


def recipe_for(random: bool, chosen: Mapping[str, Any], usual_crop: int) -> Recipe:
    """The recipe for random weights or a pre-trained start, with ``chosen`` (option -> value, None: not given).

    ``usual_crop`` is the side of squares that suits the images, px. Where it is 0, or --imgsz says how large whole
    images are to be, it is whole images, by default as from random weights: larger, and not turned, since of squares
    the outlines of defects are turned and of whole images their boxes.
    """
    given = {name: value for name, value in chosen.items() if value is not None}
    if random:
        return replace(Recipe(), **given)
    crop = given.get("crop", 0 if "imgsz" in given else usual_crop)
    if crop:
        enlarged = max(32, int(crop * MOST_ENLARGED) // 32 * 32)  # the network halves its input five times
        usual = replace(PRETRAINED, crop=crop, imgsz=min(PRETRAINED.imgsz, enlarged))
    else:
        usual = replace(PRETRAINED, crop=0, imgsz=Recipe.imgsz, degrees=Recipe.degrees)
    return replace(usual, **given)
