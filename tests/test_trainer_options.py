"""Options of the trainers that would do nothing are refused at once, in one line that names the next step."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
from click.testing import CliRunner
from conftest import REPOSITORY, refusal

from finetune.runs.run_folder import synthetic_images_of

SCRIPTS = ("yolo", "yolo_world", "sam_decoder", "classifier")


def told(script: str, *arguments: str) -> str:
    command = import_module(f"finetune.{script}").main
    return refusal(CliRunner().invoke(command, ["--category", "nowhere", "--out", "nowhere", *arguments]))


@pytest.mark.parametrize("script", ["yolo", "sam_decoder", "classifier"])
def test_epochs_of_a_first_training_need_one(script: str) -> None:
    line = told(script, "--pretrain-epochs", "3")
    assert "--pretrain-epochs" in line and "--pretrain" in line.replace("--pretrain-epochs", "")
    assert "no such dataset" in told(script, "--pretrain-epochs", "3", "--pretrain", "more")


@pytest.mark.parametrize(("script", "arch"), [("yolo", "yolo11s"), ("yolo_world", "yolov8m-worldv2")])
def test_an_architecture_is_for_random_weights(script: str, arch: str) -> None:
    for weights in ((), ("--weights", "mine.pt"))[: 1 if script == "yolo_world" else 2]:  # a plain YOLOv8 is a start
        line = told(script, "--arch", arch, *weights)
        assert "--arch" in line and "--weights none" in line
    assert "no such dataset" in told(script, "--arch", arch, "--weights", "none")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_is_either_resumed_or_trained_again(script: str) -> None:
    line = told(script, "--resume", "--overwrite")
    assert "--resume" in line and "--overwrite" in line and "no such dataset" not in line


@pytest.mark.parametrize("script", SCRIPTS)
def test_refusals_come_before_torch_and_ultralytics(script: str) -> None:
    needs = ["--arch", "yolov8m-worldv2"] if script == "yolo_world" else ["--pretrain-epochs", "3"]
    given = [["--category", "x", "--resume", "--overwrite"], ["--category", "x", *needs]]
    code = (
        "import json, sys\n"
        f"from finetune.{script} import main\n"
        f"for arguments in {given!r}:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert end.code == 2\n"
        "print(json.dumps(sorted({'torch', 'ultralytics'} & set(sys.modules))))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert result.returncode == 0 and result.stderr.count("Error: ") == len(given), result.stderr
    assert json.loads(result.stdout) == []


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, ""),
        ({"synthetic_images": 5}, ", 5 synthetic images in train"),
        (
            {"pretrained_on": "b", "synthetic_images": 5, "pretrain_synthetic_images": 5},
            ", first on b (5 synthetic images)",
        ),
        (
            {"pretrained_on": "b", "synthetic_images": 7, "pretrain_synthetic_images": 4},
            ", first on b (4 synthetic images), 3 synthetic images in train",
        ),
    ],
)
def test_a_report_tells_synthetic_images_of_either_training_apart(record: dict, expected: str) -> None:
    assert synthetic_images_of(record) == expected
