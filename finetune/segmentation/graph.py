"""A SAM as two graphs, for ONNX: an image in, its embedding out; an embedding and a prompt in, a mask out."""

from typing import Any

import torch
from segment_anything.modeling import Sam
from segment_anything.utils.onnx import SamOnnxModel
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.segmentation.drawn_prompts import DrawingPromptEncoder, draw_boxes, draw_points
from finetune.segmentation.models import Segmenter
from finetune.training.onnx_files import antialiased_weights, lengths

CORNERS = (2, 3)  # labels of points: a box's first and second corner, as Meta's model has them (-1 none, 0 out, 1 in)
TOKENS = 4  # ours from here on: the learned token of any defect, then those of the classes


class Encoder(nn.Module):
    """H x W x 3 bytes -> the embedding, 1 x C x g x g, by the steps of ``models.framed``."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image: Tensor) -> Tensor:
        side = self.sam.image_encoder.img_size
        height, width, _ = lengths(image)
        longest = torch.maximum(height, width)
        new_height, new_width = ((2 * length * side + longest) // (2 * longest) for length in (height, width))
        rows, columns = (antialiased_weights(*pair, side) for pair in ((height, new_height), (width, new_width)))
        pixels = image.float().permute(2, 0, 1)
        for step in (lambda values: values @ columns.T, lambda values: rows @ values):  # Pillow rounds after each
            pixels = (step(pixels) + 0.5).floor().clamp(0, 255)
        there = (rows.sum(1)[:, None] > 0) & (columns.sum(1)[None] > 0)
        return self.sam.image_encoder(((pixels - self.sam.pixel_mean) / self.sam.pixel_std * there)[None])


class Decoder(SamOnnxModel):
    """Meta's graph of prompt encoder and decoder, with its inputs and outputs, for one prompt a call.

    What is other: points labelled TOKENS + k are learned token k; of the four masks a lone point gets the best of the
    last three, and all else the first, as in ``evaluation.answer``; what tiny and lite0 draw as a mask is drawn.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter.sam, return_single_mask=True)
        self.tokens = segmenter.tokens

    def _embed_points(self, point_coords: Tensor, point_labels: Tensor) -> Tensor:
        found = super()._embed_points(point_coords, point_labels)
        for label, token in enumerate(() if self.tokens is None else self.tokens, TOKENS):
            found = torch.where((point_labels == label)[..., None], token, found)
        return found

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """1 x C x g x g; 1 x N x 2, px of the encoder's square; 1 x N; 1 x 1 x 4g x 4g logits; whether they count;
        (height, width) -> logits 1 x 1 x H x W, the expected IoU, and the logits to go on with as ``mask_input``.
        """  # fmt: skip
        corners = [(point_coords * (point_labels == label)[..., None]).sum(1) for label in CORNERS]
        if isinstance(self.model.prompt_encoder, DrawingPromptEncoder):
            boxed = (point_labels == CORNERS[0]).any().float()
            grid = self.model.prompt_encoder.mask_input_size[0]
            drawn = boxed * draw_boxes(torch.cat(corners, 1), self.img_size, grid)
            drawn = drawn + draw_points(point_coords, point_labels, self.img_size, grid)
            mask_input = torch.where(has_mask_input.bool(), mask_input, drawn)
            known = ((point_labels >= 0) & (point_labels < TOKENS)).any().float()
            has_mask_input = torch.maximum(has_mask_input, known[None])
        low, ious = self.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
        )
        lone = (((point_labels == 0) | (point_labels == 1)).sum() == 1) & (point_labels.amax() < CORNERS[0])
        chosen = torch.where(lone, ious[:, 1:].argmax(1) + 1, 0)
        low, ious = low.index_select(1, chosen), ious.index_select(1, chosen)
        return self.mask_postprocessing(low, orig_im_size), ious, low

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """SAM's own two steps; Meta's method fixes the size of the example in the graph."""
        height, width = self.resize_longest_image_size(orig_im_size, self.img_size).unbind()
        square = F.interpolate(masks, (self.img_size, self.img_size), mode="bilinear", align_corners=False)
        to: Any = orig_im_size.to(torch.int64).unbind()
        return F.interpolate(square[..., :height, :width], to, mode="bilinear", align_corners=False)
