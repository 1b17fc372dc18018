"""`finetune/yolo.py`: refusals before any work, and real trainings on a small dataset."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from conftest import REPOSITORY, converted, refusal, tree, write_category

pytest.importorskip("ultralytics")

from click.testing import CliRunner

from finetune import yolo
from finetune.category import open_dataset
from finetune.metrics import box_metrics
from finetune.weights import find_weights

FAST = ("--weights", "none", "--epochs", 1, "--imgsz", 64, "--batch", 4, "--device", "cpu")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A folder of datasets that holds `widget` in YOLO, YOLO-seg and COCO format."""
    root = tmp_path_factory.mktemp("datasets")
    folder = write_category(root / "data", size=(64, 64))
    converted("to_yolo", folder, root / "out")
    converted("to_yolo", folder, root / "out", "--task", "segment")
    converted("to_coco", folder, root / "out")
    return root / "out"


def run_yolo(*arguments: object) -> Result:
    return CliRunner().invoke(yolo.main, [str(argument) for argument in arguments])


def test_unknown_dataset_names_those_that_are_there(out):
    assert "holds widget" in refusal(run_yolo("--category", "gadget", "--out", out))


def test_missing_format_names_its_converter(out):
    line = refusal(run_yolo("--category", "widget", "--out", out, "--task", "obb"))
    assert "python -m converters.to_yolo --task obb --category widget" in line


def test_weights_that_cannot_be_had_name_the_file_and_the_flag(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path)
    assert "--weights mine.pt: no such file" in refusal(run_yolo(*options, "--weights", "mine.pt"))


def test_a_file_that_is_no_checkpoint_and_a_missing_device_are_one_line(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path)
    (tmp_path / "notes.pt").write_text("no checkpoint", "utf-8")
    assert "is no YOLO checkpoint" in refusal(run_yolo(*options, "--weights", tmp_path / "notes.pt"))
    assert "--device gpu: not on this machine" in refusal(run_yolo(*options, *FAST[:-1], "gpu"))


def test_a_failed_download_is_one_line_and_never_a_random_start():
    def fetch(name: str) -> Path:
        raise ConnectionError(f"cannot reach the host of {name}\nlong story")

    with pytest.raises(Exception, match=r"yolo11n.pt: could not be downloaded .cannot reach .* --weights FILE"):
        find_weights("yolo11n.pt", ["yolo11n.pt"], fetch)


def test_none_is_the_only_word_for_random_weights():
    assert find_weights("none", [], Path) is None


def test_a_run_is_not_overwritten_by_accident(out, tmp_path):
    (tmp_path / "widget" / "yolo" / "seed-0").mkdir(parents=True)
    (tmp_path / "widget" / "yolo" / "seed-0" / "run.json").write_text("{}", "utf-8")
    assert "add --overwrite" in refusal(run_yolo("--category", "widget", "--out", out, "--runs", tmp_path, *FAST))


def test_ground_truth_from_yolo_labels_equals_coco(out, tmp_path):
    coco = open_dataset(out, "widget")
    (tmp_path / "widget").symlink_to(out / "widget")
    boxes = {part: coco._boxes_of_yolo(part) for part in ("train", "val", "test")}
    for part, truth in boxes.items():
        expected = coco.ground_truth(part)
        assert [(e["id"], e["file_name"]) for e in truth["images"]] == [
            (e["id"], e["file_name"]) for e in expected["images"]
        ]
        assert [(e["image_id"], e["category_id"]) for e in truth["annotations"]] == [
            (e["image_id"], e["category_id"]) for e in expected["annotations"]
        ]
        ours, theirs = ([e["bbox"] for e in side["annotations"]] for side in (truth, expected))
        assert np.allclose(ours, theirs, atol=1e-3)


def test_perfect_and_absent_detections_measure_one_and_zero(out):
    truth = open_dataset(out, "widget").ground_truth("test")
    perfect = [
        {key: e[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for e in truth["annotations"]
    ]
    assert box_metrics(truth, perfect).map == pytest.approx(1)
    assert box_metrics(truth, []).map50 == 0


def test_help_and_refusals_do_not_import_torch(out):
    asked = "yolo.main(['--help'], standalone_mode=False)"
    code = f"import sys; from finetune import yolo; {asked}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_training_leaves_a_whole_run_and_the_dataset_as_written(out, tmp_path, task, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("no network is needed with --weights none")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    before = tree(out)
    result = run_yolo("--category", "widget", "--out", out, "--runs", tmp_path / "runs", "--task", task, *FAST)
    assert result.exit_code == 0, result.output
    assert tree(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    folder = tmp_path / "runs" / "widget" / "yolo" / "seed-0"
    record = json.loads((folder / "run.json").read_text("utf-8"))
    dataset = open_dataset(out, "widget")
    assert record["split_sha256"] == dataset.split["sha256"]
    assert record["random_weights"] is True
    assert record["settings"]["imgsz"] == 64
    for part in ("val", "test"):
        detections = json.loads((folder / "predictions" / "tuned" / f"{part}.json").read_text("utf-8"))
        assert record["metrics"][part]["mAP50"] == box_metrics(dataset.ground_truth(part), detections).map50
        scores = (folder / "predictions" / "tuned" / f"{part}_scores.csv").read_text("utf-8").splitlines()
        assert scores[0] == "image,defect,crack,hole"
        assert {row.split(",")[0] for row in scores[1:]} == set(dataset.images(part))


@pytest.mark.slow
def test_script_runs_from_anywhere_without_installation(out, tmp_path):
    command = [sys.executable, REPOSITORY / "finetune" / "yolo.py", "--category", "widget", "--out", out]
    settings = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": ""}, "capture_output": True, "text": True}
    result = subprocess.run([*map(str, command), *map(str, FAST)], check=False, **settings)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "runs" / "widget" / "yolo" / "seed-0" / "run.json").is_file()
