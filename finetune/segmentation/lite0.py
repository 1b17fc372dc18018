"""SAM's prompt encoder and mask decoder behind EfficientNet-Lite0, whose ImageNet weights are installed with us.

EfficientNet-Lite0: M. Tan and Q. Le, EfficientNet, ICML 2019, without squeeze-and-excitation. The neck brings its maps
together as feature pyramids do (T. Lin et al., CVPR 2017), but keeps what the finer ones show within a cell.
"""

from functools import cache

import timm
import torch
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.segmentation.drawn_prompts import DrawingPromptEncoder
from finetune.training.backbones import build_network, start_from
from finetune.training.published import TIMM, embedded_weights
from finetune.training.weights import EMBEDDED

PATCH, DIM = 16, 192
STAGES = {1: (4, 24), 2: (8, 40), 3: (16, 112), 4: (32, 320)}  # timm's index -> stride, channels
GREY = 127.5  # middle and half range of the pixels, as the encoder has learned to see them
BACKBONE = "image_encoder.backbone."  # what begins so is frozen, and not in the starter's file


class Lite0Encoder(nn.Module):
    """EfficientNet-Lite0 and a neck, B x 3 x S x S -> B x DIM x S/16 x S/16; S is a multiple of 32."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.img_size = side
        self.backbone = timm.create_model(TIMM, features_only=True, out_indices=tuple(STAGES))
        cells = [(PATCH // stride) ** 2 or 1 for stride, _ in STAGES.values()]
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels * count, DIM, 1, bias=False), LayerNorm2d(DIM))
            for (_, channels), count in zip(STAGES.values(), cells, strict=True)
        )
        self.neck = nn.Sequential(nn.GELU(), nn.Conv2d(DIM, DIM, 3, padding=1, bias=False), LayerNorm2d(DIM))

    def forward(self, frames: Tensor) -> Tensor:
        maps = [
            F.pixel_unshuffle(found, PATCH // stride) if stride <= PATCH else F.interpolate(found, scale_factor=2.0)
            for (stride, _), found in zip(STAGES.values(), self.backbone(frames), strict=True)
        ]
        return self.neck(torch.stack([lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]).sum(0))


def build_lite0(side: int) -> Sam:
    """A Sam on EfficientNet-Lite0 with random weights, in evaluation mode."""
    grid = side // PATCH
    return Sam(
        image_encoder=Lite0Encoder(side),
        prompt_encoder=DrawingPromptEncoder(
            embed_dim=DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(side, side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=DIM, mlp_dim=1024, num_heads=8),
        ),
        pixel_mean=[GREY] * 3,
        pixel_std=[GREY] * 3,
    ).eval()


def resize(sam: Sam, side: int) -> None:
    """Let a Sam on EfficientNet-Lite0 take images of ``side`` px: its weights fit all sizes."""
    grid = side // PATCH
    sam.image_encoder.img_size = side
    sam.prompt_encoder.image_embedding_size, sam.prompt_encoder.mask_input_size = (grid, grid), (4 * grid, 4 * grid)
    sam.prompt_encoder.input_image_size = (side, side)


@cache
def embedded_backbone() -> dict[str, Tensor]:
    """The installed ImageNet weights under the names that they have in a Sam."""
    network = build_network(EMBEDDED, 2, 32, "linear", 0.0, None)
    start_from(network, embedded_weights(), EMBEDDED)
    own = timm.create_model(TIMM, features_only=True, out_indices=tuple(STAGES)).state_dict()
    return {f"{BACKBONE}{name}": network.state_dict()[name] for name in own}


def completed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a file, float32, with those of the encoder where it leaves them out, as the starter's does."""
    floats = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    return floats if any(name.startswith(BACKBONE) for name in state) else embedded_backbone() | floats
