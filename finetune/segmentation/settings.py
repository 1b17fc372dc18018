"""Settings of a run of SAM's decoder: the options of the command, and the recipe that follows. No torch in here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.cli.errors import DatasetError
from finetune.training.weights import EMBEDDED, RANDOM

TINY, LITE0, MOBILE = "tiny", EMBEDDED, "mobile_sam"
ARCHS = (TINY, LITE0, MOBILE, "vit_b", "vit_l", "vit_h")
SIDE = 1024  # px that the published models take
LITE0_SIDE, LITE0_STEP = 512, 32  # px: what its starter has learned at, and what a side is a multiple of
STARTER = Path(__file__).with_name("starter-lite0.pt")  # installed with us, trained by benchmarks/sam_starter.py
STARTER_SHA256 = "ba7221cb28ca7528c7da00b420716aa2e8fc2580699919e6b7a2f9fb816f1f47"
WARM_UP = 2600  # steps
REFERENCE = 256  # SAM's own batch; its learning rate is scaled by the square root of the batch's share of that
RANDOM_RATE = 5e-4  # where everything is learned from scratch, after the warm-up
PART = r" *(?:decoder|prompt-encoder|all|lora:[1-9][0-9]*) *"  # of --train


@dataclass(frozen=True)
class Tiny:
    """The geometry of ``--arch tiny``: small enough to be trained from random weights on a CPU. Lite0 has its side."""

    side: int = 256  # of the square input, px
    patch: int = 8  # px a cell of the embedding; masks come out at patch / 4 px a cell
    width: int = 64  # of the image encoder
    depth: int = 2
    heads: int = 4
    window: int = 8  # cells a side within which the encoder attends
    dim: int = 64  # of the embedding and the prompts


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; SAM's own values but for those that depend on size."""

    prompt_encoder: bool = False  # trained beside the decoder
    image_encoder: bool = False
    lora: int = 0  # rank of adapters in the image encoder; 0 for none
    warm_up: int = 0  # steps on crops with synthetic shapes, before all else
    epochs: int = 30
    batch: int = 8  # images a step
    lr: float = 8e-4
    weight_decay: float = 0.1
    warmup: float = 0.1  # share of the steps in which the learning rate rises
    clip: float = 1.0  # norm of the gradient
    ema: float = 0.99
    patience: int = 10  # judgements without gain before a stop
    rounds: int = 2  # of prompt and answer in an interaction
    most: int = 16  # instances of an image in a step
    seed: int = 0

    @property
    def frozen(self) -> bool:
        """Does the image encoder stay as it is, so that its embeddings can be cached?"""
        return not (self.image_encoder or self.lora)


@dataclass(frozen=True)
class Request:
    """The request of the command line; raises DatasetError for options that don't go together."""

    runs: Path
    run_name: str
    arch: str | None  # None: vit_b if its published weights can be had, else lite0
    weights: str | None  # None: the published ones, or the starter that is installed
    train: str
    auto: bool
    instances: str
    synthetic_share: float | None
    pretrain: str | None
    pretrain_epochs: int | None
    views: int
    boxes: Path | None
    epochs: int
    imgsz: int | None
    batch: int
    lr: float | None
    warm_up: int | None
    patience: int
    cache_gb: float
    device: str
    seed: int
    resume: bool
    overwrite: bool

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise DatasetError("--overwrite: is not used with --resume; leave one of them out")
        if self.pretrain_epochs and not self.pretrain:
            raise DatasetError(
                "--pretrain-epochs: is used with --pretrain only; add that, or leave --pretrain-epochs out"
            )
        step = {TINY: Tiny.patch, LITE0: LITE0_STEP}.get(self.arch or LITE0)
        if step is None and self.imgsz not in (None, SIDE):
            raise DatasetError(f"--imgsz {self.imgsz}: {self.arch} takes {SIDE} px and nothing else")
        if step and self.tiny.side % step:
            raise DatasetError(f"--imgsz {self.imgsz}: {self.arch} needs a multiple of {step}")

    @property
    def tiny(self) -> Tiny:
        """The geometry of a tiny architecture, and the side of lite0; of no use to the others."""
        return Tiny(side=self.imgsz or (Tiny.side if self.arch == TINY else LITE0_SIDE))

    def recipe(self) -> Recipe:
        """The recipe that follows; raises DatasetError for parts to train that are unknown or don't go together."""
        trained = parse_train(self.train)
        if self.arch == MOBILE and trained["image_encoder"]:  # timm keeps its attention's biases between steps
            raise DatasetError(f"--train all: trains no image encoder of {MOBILE}; choose decoder or lora:4")
        from_scratch = self.weights == RANDOM and trained["image_encoder"]
        usual = WARM_UP if from_scratch and self.arch == TINY else 0
        if self.warm_up and not usual:
            raise DatasetError("--warm-up: is for --arch tiny --weights none --train all, which learns from scratch")
        return Recipe(
            **trained,
            warm_up=usual if self.warm_up is None else self.warm_up,
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr or (RANDOM_RATE if from_scratch else Recipe.lr * (self.batch / REFERENCE) ** 0.5),
            patience=self.patience,
            seed=self.seed,
        )


def parse_train(wanted: str) -> dict[str, Any]:
    """The parts that ``--train`` names, joined by commas, as settings of a Recipe; the decoder is always among them."""
    everything, rank = "all" in wanted, re.search(r"lora:(\d+)", wanted)
    if not re.fullmatch(f"{PART}(,{PART})*", wanted) or (everything and rank):
        raise DatasetError(
            f"--train {wanted}: known are decoder, prompt-encoder and lora:RANK (e.g. lora:4), joined by commas; or all"
        )
    return {
        "prompt_encoder": everything or "prompt-encoder" in wanted,
        "image_encoder": everything,
        "lora": int(rank[1]) if rank else 0,
    }
