"""Options that would do nothing are refused at once, in one line that names them and the next step."""

import json
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY, refusal

from finetune.runs.run_folder import synthetic_images_of

SCRIPTS = ("yolo", "yolo_world", "sam_decoder", "classifier")
ALWAYS = {"--category", "--out", "--runs", "--device", "--json", "--eval-only"}
HONOURED = {  # by --eval-only
    "yolo": {*ALWAYS, "--data", "--export"},
    "yolo_world": ALWAYS,
    "classifier": {*ALWAYS, "--cost", "--heatmaps", "--precision"},
}


def told(script: str, *arguments: str) -> str:
    command = import_module(f"finetune.{script}").main
    return refusal(CliRunner().invoke(command, ["--category", "nowhere", "--out", "nowhere", *arguments]))


def written(option: click.Parameter) -> list[str]:
    """An option as it stands on a command line, with a value that it takes."""
    kind = option.type
    if getattr(option, "is_flag", False):
        return [option.opts[0]]
    if isinstance(kind, click.Choice):
        return [option.opts[0], kind.choices[0]]
    if isinstance(kind, click.IntRange):
        return [option.opts[0], str(kind.min)]
    return [option.opts[0], {"float range": "0.5", "integer": "1"}.get(kind.name, "some")]


@pytest.mark.parametrize("script", HONOURED)
def test_beside_eval_only_stands_what_it_honours_alone(script: str) -> None:
    aside = (["--world"], ["--config"])  # the latter reads its file first: tests/test_replay.py
    options = [option for option in import_module(f"finetune.{script}").main.params if option.opts not in aside]
    refused = set()
    for option in options:
        line = told(script, "--eval-only", "runs/nowhere", *written(option))
        if f"{option.opts[0]}: is not used with --eval-only RUN, which goes by the settings of that" in line:
            assert line.endswith(f"; leave {option.opts[0]} out\n")
            refused.add(option.opts[0])
        else:
            assert any(words in line for words in ("no such dataset", "no such file", "needs onnx", "one of them")), (
                line
            )
    assert refused == {option.opts[0] for option in options} - HONOURED[script]
    assert {"--epochs", "--seed", "--resume", "--overwrite"} <= refused


@pytest.mark.parametrize("script", ["yolo", "sam_decoder", "classifier"])
def test_epochs_of_a_first_training_need_one(script: str) -> None:
    line = told(script, "--pretrain-epochs", "3")
    assert "--pretrain-epochs: is used with --pretrain only; add that, or leave --pretrain-epochs out" in line
    assert "no such dataset" in told(script, "--pretrain-epochs", "3", "--pretrain", "more")


@pytest.mark.parametrize(("script", "arch"), [("yolo", "yolo11s"), ("yolo_world", "yolov8m-worldv2")])
def test_an_architecture_is_for_random_weights(script: str, arch: str) -> None:
    for weights in ((), ("--weights", "mine.pt")):
        assert "--arch: is used with --weights none only; add that" in told(script, "--arch", arch, *weights)
    assert "no such dataset" in told(script, "--arch", arch, "--weights", "none")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_is_either_gone_on_with_or_trained_anew(script: str) -> None:
    assert "--overwrite: is not used with --resume; leave one of them out" in told(script, "--resume", "--overwrite")


@pytest.mark.parametrize("script", SCRIPTS)
def test_refusals_come_before_torch_and_ultralytics(script: str) -> None:
    needs = ["--arch", "yolov8m-worldv2"] if script == "yolo_world" else ["--pretrain-epochs", "3"]
    given = [["--category", "x", "--eval-only", "runs/x", "--epochs", "3"], ["--category", "x", *needs]]
    if script == "classifier":
        given.append(["--category", "x", "--attempt", "deep", "--stride", "8"])
    code = (
        "import json, sys\n"
        f"from finetune.{script} import main\n"
        f"for arguments in {given!r}:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert end.code == 2\n"
        "print(json.dumps(sorted({'torch', 'ultralytics', 'numpy'} & set(sys.modules))))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert result.returncode == 0 and result.stderr.count("Error: ") == len(given), result.stderr
    assert json.loads(result.stdout) == []


def test_a_report_tells_made_images_of_either_training_apart() -> None:
    for record, expected in (
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
        (
            {"pretrained_on": "b", "synthetic_images": 5},
            ", first on b (5 synthetic images)",
        ),  # before there were two numbers
        ({"pretrained_on": "b", "synthetic_images": 7, "base": {}}, ", first on b (7 synthetic images in both)"),
    ):
        assert synthetic_images_of(record) == expected
