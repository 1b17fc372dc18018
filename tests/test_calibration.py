"""The calibration part in the formats: where thresholds are looked for, and nowhere a trainer learns from."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import converted, refusal, run_cli, write_category

from converters.cli.errors import DatasetError
from converters.datasets.records import read_card, read_split
from finetune.detection.evaluation import predict
from finetune.detection.runs import check_trainable
from finetune.runs.dataset import Dataset, how_to_make


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("calibration")
    options = ("--formats", "yolo,coco,coco-roboflow,masks,voc", "--good-val", 0.4)
    return Dataset(converted("all", write_category(root / "data", good=(10, 5)), root / "out", *options))


def test_coco_and_masks_hold_it_and_what_trainers_read_does_not(dataset: Dataset) -> None:
    names = set(dataset.images("calibration"))
    assert len(names) == 4 and all(name.startswith("train__good__") for name in names)
    for folder in ("coco", "masks"):
        assert {path.name for path in (dataset.folder / folder / "images" / "calibration").iterdir()} == names
    assert dataset.ground_truth("calibration")["annotations"] == []
    assert "calibration" not in (dataset.folder / "yolo" / "data.yaml").read_text("utf-8")
    for folder in ("yolo", "voc", "coco-roboflow"):
        files = {path.stem for path in (dataset.folder / folder).rglob("*") if path.is_file()}
        assert not files & {Path(name).stem for name in names}
    assert {row["images"] for row in read_card(dataset.folder)["counts"] if row["part"] == "calibration"} == {4}
    assert run_cli("verify", dataset.folder).exit_code == 0


def test_a_set_of_boxes_alone_gets_coco_for_its_calibration_images(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = Dataset(converted("to_yolo", write_category(tmp_path / "data", good=(10, 5)), out, "--good-val", 0.4))
    assert found.labels("calibration") == dict.fromkeys(found.images("calibration"))
    assert found.image_file("calibration", found.images("calibration")[0]).parts[-4:-1] == (
        "coco",
        "images",
        "calibration",
    )
    assert read_split(found.folder)["good_val"] == 0.4  # the format that was added kept the split


def test_yolo_looks_at_calibration_images_where_its_own_folder_has_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = Dataset(converted("to_yolo", write_category(tmp_path / "data", good=(10, 5)), out, "--good-val", 0.4))
    seen: list[Path] = []

    class Model:
        def predict(self, path: str, **settings: object) -> list[SimpleNamespace]:
            seen.append(Path(path))
            boxes = SimpleNamespace(xyxy=np.array([[1.0, 2, 11, 12]]), cls=np.zeros(1), conf=np.array([0.5]))
            return [SimpleNamespace(obb=None, masks=None, boxes=boxes)]

    names = found.images("calibration")
    results = list(predict(Model(), found, "detect", "calibration", names, 64, "cpu"))
    assert [entry["image_id"] for entry in results] == [found.image_ids[name] for name in names]
    assert [path.name for path in seen] == names and all(path.is_file() for path in seen)


def test_trainers_that_need_defects_refuse_the_official_protocol(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", good=(10, 4))
    converted("all", folder, tmp_path / "out", "--formats", "yolo,coco", "--protocol", "official")
    with pytest.raises(DatasetError, match="train part shows no defect to learn from"):
        check_trainable(Dataset(tmp_path / "out" / "widget@official"), 1, "cpu")
    assert "--protocol official" in how_to_make(tmp_path / "out", "screw@official")


def test_official_is_refused_where_there_is_nothing_to_keep_to(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", good=(10, 0))
    line = refusal(run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", "--protocol", "official"))
    assert "there is no test/good: take another --protocol" in line
