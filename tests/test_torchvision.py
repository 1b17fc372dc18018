"""torchvision's CocoDetection on what we write; see tests/readers/ for supervision and datumaro."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import converted
from PIL import Image
from pycocotools.coco import COCO

from converters.sources.samples import PARTS

datasets = pytest.importorskip("torchvision.datasets")


@pytest.mark.parametrize("segmentation", ["polygon", "rle"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_coco_detection_loads_every_split_as_pycocotools_does(
    mode: str, segmentation: str, make_category: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_category(mode=mode)
    coco = converted("to_coco", folder, tmp_path / "out", "--segmentation", segmentation) / "coco"
    stems, annotations = [], 0
    for part in PARTS:
        path = coco / "annotations" / f"instances_{part}.json"
        loaded, truth = datasets.CocoDetection(coco / "images" / part, path), COCO(path)
        assert len(loaded) == len(truth.imgs) == len(list((coco / "images" / part).iterdir())) > 0
        for image_id, (image, target) in zip(loaded.ids, loaded, strict=True):
            entry = truth.imgs[image_id]
            stems.append(Path(entry["file_name"]).stem)
            source = Image.open(folder.joinpath(*entry["file_name"].split("__"))).convert("RGB")
            assert image.size == (entry["width"], entry["height"]) and image.tobytes() == source.tobytes()
            assert target == truth.loadAnns(truth.getAnnIds(image_id))
            masks = [loaded.coco.annToMask(found) for found in target]
            assert [int(mask.sum()) for mask in masks] == [found["area"] for found in target]
            annotations += len(target)
            if masks:
                _, defect, name = stems[-1].split("__")
                mask = np.asarray(Image.open(folder / "ground_truth" / defect / f"{name}_mask.png"))
                assert ((np.sum(masks, axis=0) > 0) == (mask > 0)).all()
    assert len(set(stems)) == len(stems) == 10 + 6  # two defects of five, three good for training and three for test
    assert annotations == 10 * 2  # a ring and a scratch each
