"""`--config run.json`: a run is trained again as it was, with what stands beside it on the command line instead."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from conftest import converted, refusal, tree
from test_classifier import SIDE, write_images

from finetune.runs.run_folder import read_begun

pytest.importorskip("torchcam")

import torch

from finetune.training.backbones import build_network

torch.set_num_threads(1)
SCRIPTS = ("yolo", "yolo_world", "sam_decoder", "classifier", "normality", "weakrest")
ASIDE = {"--config", "--overwrite", "--resume", "--json"}  # what is not replayed


def written(option: click.Parameter) -> list[str]:
    """An option as it stands on a command line, with a value that it takes."""
    kind = option.type
    if getattr(option, "is_flag", False):
        return [option.opts[0]]
    if isinstance(kind, click.Choice):
        return [option.opts[0], kind.choices[0]]
    if isinstance(kind, click.IntRange):
        return [option.opts[0], str(max(1, kind.min or 1))]
    return [option.opts[0], {"float range": "0.5", "integer": "1"}.get(kind.name, "some")]


def command(script: str) -> click.Command:
    return import_module(f"finetune.{script}").main


def call(script: str, *arguments: object) -> Result:
    return CliRunner().invoke(command(script), [str(argument) for argument in arguments])


def done(script: str, *arguments: object) -> Result:
    result = call(script, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text("utf-8"))


def run_file(folder: Path, *words: str, **others: object) -> Path:
    """A run.json that this command line left."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(
        json.dumps({"schema": 1, "command": list(map(str, words)), "settings": {}, "versions": {}, **others}), "utf-8"
    )
    return folder / "run.json"


def params(script: str, *arguments: object) -> dict:
    """What click makes of a command line; nothing is trained."""
    return command(script).make_context(script, [str(argument) for argument in arguments]).params


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tiles")
    convert(root, root / "out")
    return root


def convert(root: Path, out: Path, *options: object) -> None:
    folder = root / "data" / "tile"
    for writer in ("to_masks", "to_coco"):
        converted(writer, folder if folder.is_dir() else write_images(root / "data"), out, *options)


@pytest.fixture
def normal(data, tmp_path) -> Path:
    """A run of the quickest trainer, in a folder of runs of its own."""
    where = ("--out", data / "out", "--runs", tmp_path, "--device", "cpu")
    done("normality", "--category", "tile", *where, "--weights", "none", "--imgsz", 64, "--overwrite", "--json")
    return tmp_path / "tile" / "normality" / "seed-0"


def test_a_replay_gives_the_same_predictions(data, tmp_path):
    where = ("--out", data / "out", "--runs", tmp_path, "--device", "cpu")
    recipe = ("--weights", "none", "--attempt", "deep", "--epochs", 2, "--imgsz", SIDE, "--batch", 5, "--lr", 0.002)
    done("classifier", "--dataset", "tile", *where, *recipe, "--optimizer", "SGD", "--no-heatmaps", "--seed", 3)
    runs = tmp_path / "tile"
    first = runs / "classifier" / "seed-3"
    result = done("classifier", "--config", first / "run.json", "--run", "again")
    again = runs / "again" / "seed-3"
    assert "Not as in" not in result.stderr
    assert tree(again / "predictions") == tree(first / "predictions")
    assert record_of(again)["settings"] == record_of(first)["settings"]

    words = record_of(again)["command"]  # stands alone
    assert words[0] == "finetune/classifier.py" and "--config" not in words and "--no-heatmaps" in words
    shutil.rmtree(first)
    done("classifier", "--config", again / "run.json", "--run", "third")
    assert tree(runs / "third" / "seed-3" / "predictions") == tree(again / "predictions")

    result = done("classifier", "--config", again / "run.json", "--seed", 4)
    assert f"Not as in {again / 'run.json'}: seed 4 (was 3)\n" in result.stderr
    assert tree(runs / "again" / "seed-4" / "predictions") != tree(again / "predictions")


def test_the_command_line_overrules_the_run(normal, tmp_path):
    result = done("normality", "--config", normal / "run.json", "--run", "large", "--imgsz", 96)
    assert f"Not as in {normal / 'run.json'}: imgsz 96 (was 64)\n" in result.stderr
    assert "AUROC" in result.stdout  # a table: --json is of the moment
    before, after = record_of(normal), record_of(tmp_path / "tile" / "large" / "seed-0")
    assert after["settings"] == before["settings"] | {"imgsz": 96}


def test_a_run_is_not_replaced_by_its_replay_unless_that_is_asked_for(normal):
    """The run was made with --overwrite."""
    assert f"{normal} exists: add --overwrite" in refusal(call("normality", "--config", normal / "run.json"))
    before = tree(normal / "predictions")
    shutil.rmtree(normal / "predictions")
    done("normality", "--config", normal / "run.json", "--overwrite")
    assert tree(normal / "predictions") == before
    done("normality", "--config", normal / "run.json", "--overwrite")  # of a run that is a replay of itself


def test_another_split_is_no_replay(data, normal, tmp_path):
    convert(data, tmp_path / "other", "--seed", 1)
    replay = ("--config", normal / "run.json", "--out", tmp_path / "other", "--run", "other")
    line = refusal(call("normality", *replay))
    assert f"--config {normal / 'run.json'}: was trained on another split" in line and "--category" in line
    assert not (tmp_path / "tile" / "other").exists()
    done("normality", *replay, "--category", "tile")


def test_other_labels_are_no_replay(data, normal, tmp_path):
    convert(data, tmp_path / "other", "--classes", "single")
    replay = ("--config", normal / "run.json", "--out", tmp_path / "other", "--overwrite")
    assert "another split, or other labels, than" in refusal(call("normality", *replay))
    assert (normal / "run.json").is_file()


def test_other_weights_are_no_replay(data, tmp_path):
    file = tmp_path / "start.pt"
    options = (
        "--out",
        data / "out",
        "--runs",
        tmp_path,
        "--device",
        "cpu",
        "--arch",
        "resnet18",
        "--weights",
        file,
        "--imgsz",
        64,
    )
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(build_network("resnet18", 2, 64, "linear", 0.0, None).state_dict(), file)
        if not seed:
            done("normality", "--category", "tile", *options)
    run = tmp_path / "tile" / "normality" / "seed-0" / "run.json"
    replay = ("--config", run, "--run", "other")
    line = refusal(call("normality", *replay))
    assert f"--config {run}: began with other weights than lie there now" in line and "--weights" in line
    result = done("normality", *replay, "--weights", file)
    assert "weights_sha256" in result.stderr


def test_another_fold_of_the_same_command_is_part_of_the_replay(data, tmp_path):
    """As of `yolo.py --folds 3`: the run is one of several, and the others have other splits of the same family."""
    for fold in range(2):
        convert(data, tmp_path / "out", "--protocol", "kfold", "--folds", 3, "--fold", fold)
    options = ("--out", tmp_path / "out", "--runs", tmp_path, "--device", "cpu", "--weights", "none", "--imgsz", 64)
    done("normality", "--category", "tile@kfold-3-0", *options)
    file = tmp_path / "tile@kfold-3-0" / "normality" / "seed-0" / "run.json"
    record = json.loads(file.read_text("utf-8"))
    record["command"][record["command"].index("tile@kfold-3-0")] = "tile@kfold-3-1"  # as if both were one command's
    file.write_text(json.dumps(record), "utf-8")
    done("normality", "--config", file)
    file.write_text(json.dumps(record | {"family": "0"}), "utf-8")
    assert "another split" in refusal(call("normality", "--config", file, "--run", "other"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_of_a_recipe_is_replayed_and_can_be_overruled(script, tmp_path):
    for option in command(script).params:
        words = written(option)
        if option.opts[0] in {"--category", "--data"}:
            continue
        file = run_file(tmp_path / "run", f"/somewhere/{script}.py", "--category", "x", *words)
        plain, same = params(script, "--category", "x"), params(script, "--config", file)
        if option.opts[0] in ASIDE:
            assert same == plain, option.name
            continue
        assert same == params(script, "--category", "x", *words), option.name
        for other in getattr(option, "secondary_opts", []):
            assert params(script, "--config", file, other) == params(script, "--category", "x", other)
        if len(words) == 2 and not isinstance(option.type, click.Choice):
            least = max(0, getattr(option.type, "min", None) or 0)
            other = {"integer": 7, "integer range": least + 1, "float range": 0.25}.get(option.type.name, "another")
            given = (option.opts[0], other)
            assert params(script, "--config", file, *given) == params(script, "--category", "x", *given), option.name


def test_a_dataset_takes_the_place_of_either_way_of_naming_it(tmp_path):
    file = run_file(tmp_path, "yolo.py", "--data", "out/x/yolo/data.yaml", "--epochs", "3")
    line = refusal(call("yolo", "--config", file, "--category", "y"))
    assert "names its dataset by --data" in line
    line = refusal(call("yolo", "--config", file, "--out", "elsewhere"))
    assert "--out: is not used with --data" in line
    told = ("--out", "there", "--task", "segment", "--folds", "3")
    file = run_file(tmp_path, "yolo.py", "--category", "x", *told, "--epochs", "3")
    assert params("yolo", "--config", file, "--data", "d") == params("yolo", "--data", "d", "--epochs", 3)


def test_a_replayed_option_does_not_stand_in_the_way_of_those_given(tmp_path):
    """--arch is for --weights none only: a start from a file leaves it aside, as it cannot be taken out."""
    file = run_file(tmp_path, "yolo.py", "--category", "nowhere", "--weights", "none", "--arch", "yolo11s")
    assert "no such dataset" in refusal(call("yolo", "--config", file, "--weights", "mine.pt"))
    line = refusal(call("yolo", "--config", file, "--weights", "mine.pt", "--arch", "yolo11m"))
    assert "--arch: is used with --weights none only" in line


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_no_run_of_this_script_is_refused(script, tmp_path):
    def told(file: Path) -> str:
        line = refusal(call(script, "--config", file))
        assert line.startswith(f"Error: --config {file}: ")
        return line

    other = SCRIPTS[SCRIPTS.index(script) - 1]
    line = told(run_file(tmp_path, f"finetune/{other}.py", "--category", "x"))
    assert f"is a run of finetune/{other}.py; replay it with that, not with finetune/{script}.py" in line
    line = told(run_file(tmp_path, f"finetune/{script}.py", "--category", "x", "--foo", "3", commit="0a1b2c"))
    assert "does not know its options (No such option '--foo'" in line and "at commit 0a1b2c" in line
    assert "unexpected x" in told(run_file(tmp_path, f"finetune/{script}.py", "x"))
    assert "No such file" in told(tmp_path / "absent.json")
    assert "name the run.json of a run" in told(tmp_path)
    for text in (
        "{",
        "\x00",
        "[]",
        "3",
        "{}",
        '{"command": []}',
        '{"command": "x"}',
        '{"command": [3]}',
        '{"command": ["x"], "settings": []}',
    ):
        (tmp_path / "run.json").write_text(text, "utf-8")
        assert "name the run.json of a run" in told(tmp_path / "run.json")
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x00")
    assert "name the run.json of a run" in told(tmp_path / "run.json")


def test_a_resumed_run_tells_the_command_that_began_it(data, tmp_path):
    """Settings that --resume takes from the run's beginning may be absent from the command that continues with it."""
    where = ("--category", "tile", "--out", data / "out", "--runs", tmp_path, "--device", "cpu", "--no-heatmaps")
    recipe = ("--weights", "none", "--attempt", "deep", "--epochs", 1, "--imgsz", SIDE)
    folder = tmp_path / "tile" / "classifier" / "seed-0"
    done("classifier", *where, *recipe)
    begun = record_of(folder)["command"]
    assert begun == ["finetune/classifier.py", *map(str, (*where, *recipe))]
    (folder / "run.json").unlink()
    done("classifier", *recipe, *where, "--resume", "--repeat", 2)
    assert record_of(folder)["command"] == begun
    assert record_of(folder.with_name("seed-1"))["command"][-2:] == ["--repeat", "2"]  # its own, not that of the first
    assert "command" not in read_begun(folder)
