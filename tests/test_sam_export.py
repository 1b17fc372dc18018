"""A SAM as ONNX, in onnxruntime, beside itself in torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_sam import CLASSES, SMALL

from finetune.segmentation.evaluation import answer, token_map
from finetune.segmentation.exported import Files, write_files
from finetune.segmentation.graph import TOKENS
from finetune.segmentation.models import Segmenter, build_sam, framed
from finetune.segmentation.prompts import Prompt

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("arch", ["tiny", "lite0", pytest.param("mobile_sam", marks=pytest.mark.slow)])
def test_onnxruntime_gives_the_same_masks_on_images_of_any_shape(tmp_path: Path, arch: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    segmenter = Segmenter(build_sam(arch, SMALL), CLASSES, auto=True).eval().requires_grad_(False)
    segmenter.tokens.mul_(100)
    for value in segmenter.sam.mask_decoder.parameters():
        value.mul_(2)  # so that prompts matter more than roundings
    pair = write_files(segmenter, tmp_path / "e.onnx", tmp_path / "d.onnx", {})
    files = Files(*pair, segmenter.sam.image_encoder.img_size)
    point, outside = np.array([9, 12], np.float32), np.array([3, 9], np.float32)
    prompts = {
        "box": (Prompt(box=np.array([3, 4, 15, 20], np.float32)), [[3, 4], [15, 20]], [2, 3]),
        "point": (Prompt().with_point(point, 1), [point, [0, 0]], [1, -1]),
        "points": (Prompt().with_point(point, 1).with_point(outside, 0), [point, outside, [0, 0]], [1, 0, -1]),
    }
    for size in ((50, 64), (150, 97), (24, 24)) if arch != "mobile_sam" else ((300, 200),):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        with torch.no_grad():
            embedding = segmenter.sam.image_encoder(framed(segmenter.sam, image)[None])
        ask = files.open(image)
        for prompt, points, labels in prompts.values():
            ((expected, score),) = answer(segmenter, embedding, [prompt], size)
            found, told = ask(points, labels)
            assert found.shape == size and np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
            assert min(1, max(0, told)) == pytest.approx(score, abs=0.01)
        maps = token_map(segmenter, embedding, size), files.tokens(image, len(CLASSES))
        assert np.allclose(maps[0].scores, maps[1].scores, atol=0.01)
        assert np.abs(maps[0].heat.astype(int) - maps[1].heat).max() < 0.02 * 65535
        asked = [ask(points, labels)[0] for _, points, labels in prompts.values()]
        asked += [ask([[0, 0]], [TOKENS + index])[0] for index in range(3)]
        for index, first in enumerate(asked):
            assert all(np.abs(first - other).max() > 0.05 * np.abs(first).max() for other in asked[:index])
