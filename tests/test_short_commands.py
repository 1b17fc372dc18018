"""Commands without options: which dataset they take, and formats that are written when they are needed."""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import converted, refusal, run_cli, run_process, tree, write_category

from converters.cli.errors import DatasetError
from finetune.compare import main as compare
from finetune.normality import main as normality
from finetune.runs.dataset import choose_dataset, open_dataset
from finetune.runs.run_folder import Run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two datasets, of which `a` was converted last."""
    for name in ("b", "a"):
        converted("to_yolo", write_category(tmp_path / "data", name), tmp_path / "out")
    os.utime(tmp_path / "out" / "b" / ".published", ns=(0, 0))
    return tmp_path / "out"


def test_of_two_datasets_the_one_converted_last_is_taken(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert choose_dataset(out, None) == "a"
    assert capsys.readouterr().err == f"Dataset: a, converted last of the 2 in {out} (--category names another)\n"
    assert choose_dataset(out, "b") == "b" and not capsys.readouterr().err


def test_a_trainer_without_category_says_which_dataset_it_takes_in_its_first_line(out: Path, tmp_path: Path) -> None:
    shutil.rmtree(out / "b")
    result = CliRunner().invoke(normality, ["--out", str(out), "--runs", str(tmp_path), "--weights", "gone.pt"])
    assert result.exit_code == 2 and result.stderr.startswith(f"Dataset: a, the only dataset in {out}")


@pytest.mark.parametrize("command", [normality, compare], ids=["trainer", "compare"])
def test_without_any_dataset_one_line_tells_how_to_make_one(command: Callable, tmp_path: Path) -> None:
    line = refusal(CliRunner().invoke(command, ["--out", str(tmp_path / "out")]))
    assert "holds no dataset; make one with `python -m converters all --category NAME`" in line


def test_compare_takes_the_dataset_with_the_newest_run(out: Path, tmp_path: Path) -> None:
    for when, name in enumerate(("a", "b")):
        folder = tmp_path / "runs" / name / "model" / "seed-0"
        folder.mkdir(parents=True)
        Run(folder, open_dataset(out, name), {"seed": 0}).finish()
        os.utime(folder / "run.json", (when, when))
    result = CliRunner().invoke(compare, ["--out", str(out), "--runs", str(tmp_path / "runs")])
    assert "Dataset: b, with the newest run of the 2" in result.stderr


def test_compare_without_any_run_says_so_of_the_dataset_that_trainers_take(out: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(compare, ["--out", str(out), "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 2 and "Dataset: a, converted last of the 2" in result.stderr
    assert "no finished run; train one" in result.stderr


OPTIONS = ("--protocol", "kfold", "--fold", 2, "--seed", 7, "--instances", "image", "--images", "copy")


@pytest.mark.parametrize(
    ("name", "command"), [("masks", ("to_masks",)), ("yolo-seg", ("to_yolo", "--task", "segment"))]
)
def test_a_format_written_later_equals_one_written_at_first(tmp_path: Path, name: str, command: tuple) -> None:
    first, *task = command
    options = (*OPTIONS[:6], *OPTIONS[8:]) if task else OPTIONS
    folder = write_category(tmp_path / "data")
    converted("to_coco", folder, tmp_path / "one", *options)
    converted(first, folder, tmp_path / "two", *task, *options)
    before = (tmp_path / "one/widget@kfold-5-2/.published").stat().st_mtime_ns
    later = open_dataset(tmp_path / "one", "widget@kfold-5-2")
    assert tree(later.format(name)) == tree(tmp_path / "two/widget@kfold-5-2" / name)
    assert not any(path.is_symlink() or path.stat().st_nlink > 2 for path in later.format(name).rglob("*.png"))
    assert (later.folder / ".published").stat().st_mtime_ns == before, "it would be the one converted last"
    assert run_cli("verify", later.folder).exit_code == 0


def command_in(message: str) -> list[str]:
    found = re.search(r"`python -m converters\.(.*?)`", message)
    assert found
    return shlex.split(found[1])


def test_without_its_source_the_whole_command_is_printed(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data")
    converted("to_coco", folder, tmp_path / "out", *OPTIONS)
    away = folder.rename(tmp_path / "away")
    dataset = open_dataset(tmp_path / "out", "widget@kfold-5-2")
    with pytest.raises(DatasetError, match="is gone") as refused:
        dataset.format("masks")
    away.rename(folder)
    words = command_in(refused.value.message)
    assert run_process(*words).returncode == 0, words
    assert sorted(path.name for path in dataset.folder.iterdir() if path.is_dir()) == ["coco", "masks"]


def test_a_changed_source_is_refused(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data")
    dataset = open_dataset(tmp_path / "out", converted("to_coco", folder, tmp_path / "out").name)
    next((folder / "train" / "good").iterdir()).unlink()
    with pytest.raises(DatasetError, match="source has changed"):
        dataset.format("masks")


def test_tiles_and_made_images_print_the_commands_that_add_a_format(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", masks={"crack": 10}, good=(6, 6))
    converted("to_coco", folder, tmp_path / "out", "--tile", 40, "--overlap", 0.5)
    tiles = open_dataset(tmp_path / "out", "widget@tile-40")
    with pytest.raises(DatasetError, match="no such format") as refused:
        tiles.format("masks")
    assert run_process(*command_in(refused.value.message)).returncode == 0
    assert (tiles.folder / "masks").is_dir()
    converted("to_coco", folder, tmp_path / "out")
    assert run_cli("augment", "--dataset", "widget", "--out", tmp_path / "out", "--count", 3).exit_code == 0
    made = open_dataset(tmp_path / "out", "widget@paste-3")
    with pytest.raises(DatasetError, match="no such format") as refused:
        made.format("masks")
    for part in refused.value.message.split(", then "):
        assert run_process(*command_in(part)).returncode == 0, part
    assert (made.folder / "masks").is_dir()
