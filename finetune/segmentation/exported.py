"""A tuned SAM as two ONNX files, and its answers by onnxruntime alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.measures.masks import TOP
from finetune.segmentation.evaluation import Map
from finetune.segmentation.graph import TOKENS, Decoder, Encoder
from finetune.segmentation.images import fitted
from finetune.segmentation.models import Segmenter
from finetune.segmentation.prompts import Prompt
from finetune.training.onnx_files import open_onnx, write_image_onnx, write_onnx

OUTPUTS = ("masks", "iou_predictions", "low_res_masks")


def write_files(segmenter: Segmenter, encoder: Path, decoder: Path, about: dict[str, Any]) -> list[Path]:
    """Write both; inputs and outputs of the decoder are those of Meta's own export, see ``graph.Decoder``."""
    sam = segmenter.sam
    (height, width), dim = sam.prompt_encoder.image_embedding_size, sam.prompt_encoder.embed_dim
    example = {
        "image_embeddings": torch.zeros(1, dim, height, width),
        "point_coords": torch.zeros(1, 3, 2),
        "point_labels": torch.tensor([[1.0, 2.0, 3.0]]),
        "mask_input": torch.zeros(1, 1, 4 * height, 4 * width),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor([60.0, 40.0]),
    }
    of_any_length = {"point_coords": {1: "points"}, "point_labels": {1: "points"}, "masks": {2: "height", 3: "width"}}
    about |= {"imgsz": sam.image_encoder.img_size}
    return [
        write_image_onnx(Encoder(sam), sam.image_encoder.img_size, ("image_embeddings",), encoder, about),
        write_onnx(Decoder(segmenter), example, OUTPUTS, of_any_length, decoder, about),
    ]


class Files:
    """Both files at work."""

    def __init__(self, encoder: Path, decoder: Path, side: int) -> None:
        """``side`` is that of the encoder's square, px."""
        self.encoder, self.decoder, self.side = open_onnx(encoder), open_onnx(decoder), side

    def open(self, image: NDArray[np.uint8]) -> Callable[[Any, Any], tuple[NDArray[np.float32], float]]:
        """A function of points (N x 2, px of the image) and their labels: logits, H x W, and the expected IoU."""
        embedding = self.encoder(image=image)["image_embeddings"]
        size = image.shape[:2]
        height, width = fitted(size, self.side)
        scale = np.array([width / size[1], height / size[0]])
        grid = 4 * embedding.shape[-1]

        def ask(points: Any, labels: Any) -> tuple[NDArray[np.float32], float]:
            found = self.decoder(
                image_embeddings=embedding,
                point_coords=(np.asarray(points) * scale).astype(np.float32)[None],
                point_labels=np.array([labels], np.float32),
                orig_im_size=np.array(size, np.float32),
                mask_input=np.zeros((1, 1, grid, grid), np.float32),
                has_mask_input=np.zeros(1, np.float32),
            )
            return found["masks"][0, 0], float(found["iou_predictions"][0, 0])

        return ask

    def boxes(self, image: NDArray[np.uint8], prompts: list[Prompt]) -> list[tuple[NDArray[np.float32], float]]:
        """Logits and expected IoU of each box."""
        ask = self.open(image)
        return [ask(prompt.box.reshape(2, 2), [2, 3]) for prompt in prompts if prompt.box is not None]

    def tokens(self, image: NDArray[np.uint8], classes: int) -> Map:
        """The learned tokens' map, as ``evaluation.token_map``."""
        ask = self.open(image)
        chances = np.stack([1 / (1 + np.exp(-ask([[0, 0]], [TOKENS + index])[0])) for index in range(1 + classes)])
        scores = [float(value) for value in chances.max((1, 2))]
        kinds = chances[1:].argmax(0).astype(np.uint16)
        return Map(np.round(chances[0] * TOP).astype(np.uint16), None, scores, [], kinds)
