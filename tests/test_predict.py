"""`finetune/predict.py` beside its models: which images it takes, and labels that come back."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run_cli, save_noise
from PIL import Image
from predicted import run_predict

from converters.cli.errors import DatasetError
from converters.masks.rle import encode
from finetune.prediction import new_images
from finetune.prediction.image_files import find_images
from finetune.runs.answers import Answer, Predictor


def masks() -> list[np.ndarray]:
    """Two defects: a ring, and a scratch of one pixel."""
    first, second = (np.zeros((40, 48), np.uint8) for _ in range(2))
    first[4:16, 4:20], first[8:12, 9:15], second[30, 3:40] = 1, 0, 1
    return [first, second]


def look(image: np.ndarray) -> Answer:
    found = [
        {
            "category_id": 1,
            "bbox": [float(v) for v in cv2.boundingRect(mask)],
            "score": 0.9,
            "segmentation": encode(mask),
        }
        for mask in masks()
    ]
    score = 0.9 if image.mean() > 100 else 0.1
    return Answer([score, score], found if score > 0.5 else [], np.full(image.shape[:2], score, np.float32))


@pytest.fixture
def predicted(tmp_path, monkeypatch) -> tuple[Path, object]:
    """A folder of three images, one of them broken, and what a model that finds two defects says."""
    folder = tmp_path / "new"
    save_noise(folder / "a" / "000.png")
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(folder / "dark.png")
    (folder / "broken.png").write_bytes(b"no image")
    model = Predictor(look, ["crack"], 0.5)
    monkeypatch.setattr(new_images, "open_predictor", lambda *_: model)
    return folder, run_predict("run", folder, "--to", tmp_path / "to", "--pre-label", "coco")


def test_a_broken_image_is_listed_and_skipped(predicted, tmp_path):
    _, result = predicted
    assert result.exit_code == 1 and "skipped: broken.png is no image" in result.stderr, result.output
    rows = (tmp_path / "to" / "verdicts.csv").read_text().splitlines()
    assert rows[1:] == ["a/000.png,defect,0.9,0.5,crack,2", "dark.png,good,0.1,0.5,,0"]
    assert sorted(path.name for path in (tmp_path / "to" / "heat_maps").iterdir()) == ["a__000.png", "dark.png"]
    assert "broken.png: is no image" in (tmp_path / "to" / "index.html").read_text()
    assert len(json.loads((tmp_path / "to" / "predictions.json").read_text())) == 2


def test_labels_come_back_without_a_lost_pixel(predicted, tmp_path):
    folder, _ = predicted
    (folder / "broken.png").unlink()
    back = run_cli("from_coco", tmp_path / "to" / "pre-labels.json", "--images", folder, "--to", tmp_path / "back")
    assert back.exit_code == 0, back.output
    (mask,) = [path for path in (tmp_path / "back" / "masks").rglob("*.png") if np.asarray(Image.open(path)).any()]
    assert np.array_equal(np.asarray(Image.open(mask)) > 0, sum(masks()) > 0)


def test_files_folders_and_patterns_name_each_image_once(tmp_path):
    for name in ("a/1.png", "a/b/2.png", "c.png"):
        save_noise(tmp_path / name)
    found = find_images([str(tmp_path / "*.png"), str(tmp_path / "a"), str(tmp_path / "c.png")])
    assert [image.name for image in found] == ["a/1.png", "a/b/2.png", "c.png"]
    with pytest.raises(DatasetError, match="leads to no image"):
        find_images([str(tmp_path / "*.bmp")])
