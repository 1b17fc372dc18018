"""The network: which blocks of a map of residuals are a defect, and of which class.

An adapted Swin transformer with shifted windows over residuals, as the abstract of H. Li et al. (arXiv 2306.03492) has
it; width, depth, the logits of classes and the standardised input are ours. Dropout is off: what is dropped are
channels of the input.
"""

import torch
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

WIDTH, HEADS, DEPTH, WINDOW = 144, 6, 4, 8  # a million parameters


class ResidualTransformer(nn.Module):
    """B x h x w x F residuals -> B x h x w x (1 + C) logits: a defect; and, of a defect, each class."""

    deviation: Tensor

    def __init__(self, deviation: Tensor, classes: int) -> None:
        """``deviation`` (F) of the residuals of good images, which the input is divided by."""
        super().__init__()
        self.register_buffer("deviation", deviation)
        self.enter = nn.Linear(len(deviation), WIDTH)
        shifts = (WINDOW // 2 * (index % 2) for index in range(DEPTH))
        layers = (SwinTransformerBlock(WIDTH, HEADS, [WINDOW] * 2, [shift] * 2) for shift in shifts)
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 1 + classes)

    def forward(self, residuals: Tensor) -> Tensor:
        found = self.norm(self.layers(self.enter(residuals / self.deviation)))
        with torch.autocast(residuals.device.type, enabled=False):  # 16 bits would tie blocks
            return self.head(found.float())
