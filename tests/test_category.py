"""Trainers and comparison open only whole datasets, and only runs that were trained on the same labels."""

import json
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import converted, run_cli, without_tags, write_category

from converters.cli.errors import DatasetError
from finetune.detection.runs import fold_names
from finetune.runs.dataset import Dataset, how_to_make, open_dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, read_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_category(tmp_path / "data")


def finished_run(dataset: Dataset, folder: Path) -> Path:
    folder.mkdir()
    Run(folder, dataset, {"seed": 0}).finish()
    return folder


def reconverted(folder: Path, out: Path, *options: object) -> Dataset:
    return open_dataset(out, converted("to_coco", folder, out, "--overwrite", *options).name)


def test_a_run_is_read_for_the_dataset_that_it_was_trained_on(folder: Path, tmp_path: Path) -> None:
    run = finished_run(reconverted(folder, tmp_path / "out"), tmp_path / "run")
    same = reconverted(folder, tmp_path / "out", "--segmentation", "rle")
    assert read_run(run, same)["label_settings"]["class_names"] == ["crack", "hole"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--classes", "single"], "another class_names (['crack', 'hole']) than"),
        (["--instances", "image"], "another instances (component) than"),
        (["--merge-gap", 5], "another merge_gap (0) than"),
        (["--min-area", 9], "another min_area (1) than"),
    ],
    ids=str,
)
def test_a_run_of_other_labels_on_the_same_split_is_refused(
    folder: Path, tmp_path: Path, options: list[object], words: str
) -> None:
    before = reconverted(folder, tmp_path / "out")
    run = finished_run(before, tmp_path / "run")
    after = reconverted(folder, tmp_path / "out", *options)
    assert after.split["sha256"] == before.split["sha256"]
    with pytest.raises(DatasetError, match="train it again, or name another dataset") as refused:
        read_run(run, after)
    assert words in refused.value.message and "\n" not in refused.value.message


def test_a_run_on_tiles_is_none_on_whole_images(folder: Path, tmp_path: Path) -> None:
    whole = reconverted(folder, tmp_path / "out")
    run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", "--workers", 1, "--tile", 32)
    tiles = open_dataset(tmp_path / "out", "widget@tile-32")
    assert tiles.split["sha256"] == whole.split["sha256"]
    with pytest.raises(DatasetError, match="another tile"):
        read_run(finished_run(tiles, tmp_path / "run"), whole)


def test_a_record_without_labels_is_judged_by_its_split(folder: Path, tmp_path: Path) -> None:
    dataset = reconverted(folder, tmp_path / "out")
    run = finished_run(dataset, tmp_path / "run")
    record = json.loads((run / "run.json").read_text("utf-8"))
    del record["label_settings"]
    (run / "run.json").write_text(json.dumps(record), "utf-8")
    assert read_run(run, dataset)["dataset"] == "widget"
    with pytest.raises(DatasetError, match="another family"):
        read_run(run, reconverted(folder, tmp_path / "out", "--seed", 1))


def test_a_dataset_that_a_killed_run_moved_aside_is_brought_back(folder: Path, tmp_path: Path) -> None:
    """Between the two renames of publishing, the earlier dataset lies under a hidden name."""
    dataset = converted("to_coco", folder, tmp_path / "out")
    dataset.rename(dataset.with_name(f".{dataset.name}.earlier"))
    assert open_dataset(tmp_path / "out", dataset.name).classes == ["crack", "hole"]
    assert dataset.is_dir() and not dataset.with_name(f".{dataset.name}.earlier").exists()


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("to_coco", "coco/annotations/instances_val.json"),
        ("to_yolo", "yolo/labels/val/{}.txt"),
        ("to_masks", "masks/semantic/val/{}.png"),
    ],
)
@pytest.mark.parametrize("damage", [lambda content: content[:40] + b"x", lambda content: None], ids=["cut", "gone"])
def test_a_file_damaged_after_the_conversion_is_named(
    folder: Path, tmp_path: Path, command: str, file: str, damage: Callable[[bytes], bytes | None]
) -> None:
    dataset = open_dataset(tmp_path / "out", without_tags(converted(command, folder, tmp_path / "out")).name)
    name = next(name for name, label in dataset.labels("val").items() if label is not None)
    path = dataset.folder / file.format(Path(name).stem)
    content = damage(path.read_bytes())
    path.unlink()
    if content:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"^{re.escape(str(path))}: .*: convert again with --overwrite"):
        open_dataset(tmp_path / "out", dataset.name).labels("val")  # what was read is kept


ENTRY = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([1], "0"),
        ({"image_id": 1}, "0.category_id"),
        ({"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": []}, "0: neither bbox nor segmentation"),
        (ENTRY | {"image_id": [1]}, "0.image_id"),
        (ENTRY | {"category_id": "1"}, "0.category_id"),
        (ENTRY | {"category_id": 1.5}, "0.category_id"),
        (ENTRY | {"score": 95}, "0.score: Input should be less than or equal to 1"),
        (ENTRY | {"score": math.nan}, "0.score: Input should be a finite number"),
        (ENTRY | {"score": None}, "0.score"),
        (ENTRY | {"bbox": [1, 2, 3]}, "0.bbox: List should have at least 4 items"),
        (ENTRY | {"bbox": None}, "0.bbox"),
    ],
    ids=str,
)
def test_results_of_others_that_are_not_in_the_format_are_refused(
    folder: Path, tmp_path: Path, entry: object, words: str
) -> None:
    dataset, file = reconverted(folder, tmp_path / "out"), tmp_path / "theirs.json"
    file.write_text(json.dumps([entry]), "utf-8")
    with pytest.raises(DatasetError, match=f"theirs.json: {words}.*: COCO's results format is needed"):
        PredictionSet(file).detections(dataset, "test")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "look like corners, x1, y1, x2, y2"),
        (lambda x, y, w, h: [x / 48, y / 40, w / 48, h / 40], "are fractions, from 0 to 1"),
        (lambda x, y, w, h: [x + w, y + h, -w, -h], "has a width or height below 0"),
    ],
)
def test_boxes_in_another_form_are_refused_by_name(
    folder: Path, tmp_path: Path, change: Callable[..., list[float]], words: str
) -> None:
    dataset, file = reconverted(folder, tmp_path / "out"), tmp_path / "theirs.json"
    truth = dataset.ground_truth("test")["annotations"]

    def write(form: Callable[..., list[float]]) -> None:
        entries = [
            {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.9, "bbox": form(*a["bbox"])}
            for a in truth
        ]
        file.write_text(json.dumps(entries), "utf-8")

    write(lambda *box: list(box))
    assert len(PredictionSet(file).detections(dataset, "test") or ()) == len(truth)
    write(change)
    with pytest.raises(DatasetError, match=f"theirs.json: .*{words}.*: COCO's results format is needed"):
        PredictionSet(file).detections(dataset, "test")


def test_a_dataset_that_never_was_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such dataset"):
        open_dataset(tmp_path / "out", "widget")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "widget",
        "widget@kfold-3-1",
        "widget@tile-32",
        "widget@tile-32@kfold-3-2",
        "widget@few-shot-2-s5",
        "widget@few-shot-1-per-type-s0",
        "widget@paste-3",
        "widget@kfold-3-0@both-4-balanced-anywhere-s2",
        "all",
    ],
)
def test_the_commands_that_a_missing_dataset_is_to_be_made_with_make_it(tmp_path: Path, name: str) -> None:
    """As a shell would split them; the first one lacks only where the source lies."""
    folder = write_category(tmp_path / "data")
    if name == "all":
        write_category(tmp_path / "data", name="gadget")
    with pytest.raises(DatasetError, match="no such dataset") as told:
        open_dataset(tmp_path / "my out", name)
    commands = [shlex.split(command) for command in told.value.message.split("`")[1::2]]
    assert len(commands) == 1 + ("paste" in name or "both" in name)
    for number, (python, _, module, *arguments) in enumerate(commands):
        assert python == "python" and module.split(".")[0] == "converters"
        command = [module.removeprefix("converters.")] if "." in module else []
        more = () if number else ("--root", folder.parent)
        result = run_cli(*command, *arguments, *more, "--workers", 1)
        assert result.exit_code == 0, result.output
    assert open_dataset(tmp_path / "my out", name).classes


def test_only_what_is_missing_is_to_be_made(folder: Path, tmp_path: Path) -> None:
    converted("to_coco", folder, tmp_path)
    assert how_to_make(tmp_path, "widget@paste-3").startswith("`python -m converters.augment --dataset widget ")
    assert how_to_make(Path("datasets_out"), "a@b") == "`python -m converters all --category a@b`"


def test_folds_want_the_name_without_a_split() -> None:
    assert fold_names("widget@tile-32", 3)[2] == "widget@tile-32@kfold-3-2"
    with pytest.raises(DatasetError, match="--folds 3: give the name without @kfold-3-0: --category widget trains"):
        fold_names("widget@kfold-3-0", 3)
    with pytest.raises(DatasetError, match="--category widget@tile-32 trains on widget@tile-32@kfold-4-0 and"):
        fold_names("widget@tile-32@few-shot-2-s0", 4)
    assert fold_names("widget@kfold-3-0", None) == ["widget@kfold-3-0"]
