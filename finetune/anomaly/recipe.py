"""Settings of a memory of good patches."""

from dataclasses import dataclass

ARCHS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")  # torchvision's; the paper's is the last


@dataclass(frozen=True)
class Recipe:
    """What a run of normality goes by."""

    arch: str = "resnet18"
    weights: str = "DEFAULT"  # torchvision's name, a file, or none
    imgsz: int = 256  # side of the square input, px
    coreset: float = 0.1  # share of the cells of good images to remember, 0..1
    seed: int = 0
