"""MobileSAM: SAM's prompt encoder and mask decoder behind TinyViT-5M, an encoder of 6 instead of 90 million weights.

C. Zhang et al., Faster Segment Anything, 2023; K. Wu et al., TinyViT, ECCV 2022. The encoder is timm's, whose weights
have other names than those in MobileSAM's file.
"""

import re
from typing import Any

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from finetune.segmentation.settings import SIDE

PATCH, DIM = 16, 256
RENAMED = (  # in MobileSAM's file, and here
    (r"^image_encoder\.patch_embed\.seq\.0\.", "image_encoder.patch_embed.conv1."),
    (r"^image_encoder\.patch_embed\.seq\.2\.", "image_encoder.patch_embed.conv2."),
    (r"^(image_encoder\..*)\.c\.", r"\1.conv."),
    (r"^image_encoder\.layers\.(\d)\.blocks\.", r"image_encoder.stages.\1.blocks."),
)
MERGING = re.compile(r"^image_encoder\.layers\.(\d)\.downsample\.")  # there at the end of a stage, here before the next
UNUSED = re.compile(r"^image_encoder\.(head|norm_head)\.|attention_bias_idxs$")  # TinyViT's classifier; derived indices


class MobileEncoder(nn.Module):
    """TinyViT-5M without its classifier, and SAM's neck: B x 3 x 1024 x 1024 -> B x 256 x 64 x 64."""

    img_size = SIDE

    def __init__(self) -> None:
        super().__init__()
        whole: Any = TinyVit(
            embed_dims=(64, 128, 160, 320),
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
        )
        self.patch_embed, self.stages = whole.patch_embed, whole.stages
        self.stages[3].downsample.conv2.conv.stride = (1, 1)  # MobileSAM keeps 1/16 of the side
        self.neck = nn.Sequential(
            nn.Conv2d(320, DIM, 1, bias=False),
            LayerNorm2d(DIM),
            nn.Conv2d(DIM, DIM, 3, padding=1, bias=False),
            LayerNorm2d(DIM),
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.neck(self.stages(self.patch_embed(frames)))


def build_mobile() -> Sam:
    """A MobileSAM with random weights, in evaluation mode."""
    grid = SIDE // PATCH
    return Sam(
        image_encoder=MobileEncoder(),
        prompt_encoder=PromptEncoder(
            DIM, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=DIM, mlp_dim=2048, num_heads=8),
        ),
    ).eval()


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a MobileSAM checkpoint under the names that they have here."""
    found = {}
    for name, value in state.items():
        if UNUSED.search(name):
            continue
        for theirs, ours in RENAMED:
            name = re.sub(theirs, ours, name)
        name = MERGING.sub(lambda match: f"image_encoder.stages.{int(match[1]) + 1}.downsample.", name)
        found[name] = value
    return found
