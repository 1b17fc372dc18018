"""SAM's prompt encoder, which draws boxes and points as mask prompts too."""

from typing import Any

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor

SPOT = 2.0  # standard deviation of a drawn point, in cells of the mask prompt


class DrawingPromptEncoder(PromptEncoder):
    """SAM's prompt encoder, which draws boxes and points as a mask prompt too, unless there is one.

    Codes of places take SAM millions of images to understand; what is drawn shows its cells what they are.
    """

    def forward(self, points: Any, boxes: Tensor | None, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        side, grid = self.input_image_size[0], self.mask_input_size[0]
        if masks is None:
            drawn = [draw_boxes(boxes, side, grid)] if boxes is not None else []
            drawn += [draw_points(points[0], points[1], side, grid)] if points is not None else []
            masks = torch.stack(drawn).sum(0) if drawn else None
        return super().forward(points, boxes, masks)


def draw_boxes(boxes: Tensor, side: int, grid: int) -> Tensor:
    """Boxes (N x 4, px of the input, which is ``side`` px) as mask prompts, N x 1 x grid x grid logits.

    1 where a cell lies in the box, -1 where it doesn't, and in proportion between.
    """
    near, far = (boxes * grid / side).reshape(-1, 2, 2, 1).unbind(1)  # N x 2 x 1 each: x and y
    cells = torch.arange(grid, device=boxes.device)
    across, down = (torch.minimum(far, cells + 1) - torch.maximum(near, cells)).clamp(0, 1).unbind(1)
    return (2 * down[:, :, None] * across[:, None, :] - 1)[:, None]


def draw_points(points: Tensor, labels: Tensor, side: int, grid: int) -> Tensor:
    """Points (N x K x 2, x and y, pixel centres) as mask prompts, N x 1 x grid x grid logits.

    A soft spot around each, up to 1 for the label 1 and down to -1 for 0; elsewhere nothing is known: 0.
    """
    cells = torch.arange(grid, dtype=torch.float32, device=points.device) + 0.5
    near = torch.exp(-(((points[..., None] + 0.5) * grid / side - cells) ** 2) / (2 * SPOT**2))  # N x K x 2 x grid
    spots = near[:, :, 1, :, None] * near[:, :, 0, None, :]
    signs = (labels == 1).float() - (labels == 0).float()
    return (spots * signs[..., None, None]).sum(1, keepdim=True).clamp(-1, 1)
