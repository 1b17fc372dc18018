"""Whole runs: what lies in the dataset, what is printed, and what is left alone."""

import functools
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, converted, refusal, run_cli, run_process, save_mask, save_noise, tree, write_category

from converters.__main__ import COMMANDS

MakeCategory = Callable[..., Path]
FORMATS = ("coco", "masks", "voc", "yolo", "yolo-seg")


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """{path: (mtime, mode)} of every file and folder; link counts and change times may differ."""
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_mode) for p in [folder, *folder.rglob("*")]}


def images(dataset: Path, name: str = "yolo") -> list[str]:
    return sorted(path.name for path in (dataset / name / "images").glob("*/*"))


# ---------------------------------------------------------------- reproducible


def test_one_and_two_workers_write_byte_identical_trees(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", masks={"crack": 9, "hole": 8, "stain": 7})
    results = [
        run_cli("all", "--root", folder, "--out", tmp_path / name / "out", "--workers", workers)
        for name, workers in (("one", 1), ("two", 2), ("again", 2))
    ]
    assert [result.exit_code for result in results] == [0, 0, 0], results[1].output
    one, two, again = (tree(tmp_path / name / "out" / "widget") for name in ("one", "two", "again"))
    assert one == two == again
    assert len(one) > 30 * len(FORMATS)


@pytest.mark.slow
def test_screw_is_byte_identical_with_one_and_two_workers(screw: Path, screw_datasets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"  # of the same name, as cards tell it
    done = run_process("all", "--root", screw, "--out", out, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert tree(out / "screw") == tree(screw_datasets / "screw")


def test_the_source_is_left_byte_for_byte_with_its_times(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    before = tree(folder), stamps(folder)
    for images_as in ("link", "copy", "symlink"):
        converted("all", folder, tmp_path / "out", "--images", images_as, "--overwrite")
    assert (tree(folder), stamps(folder)) == before


# ---------------------------------------------------------------- one dataset, several runs


def test_a_second_format_joins_the_first_and_leaves_it_byte_for_byte(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out")
    before = tree(dataset)
    assert converted("to_coco", folder, tmp_path / "out") == dataset
    after = tree(dataset)
    kept = {path: digest for path, digest in before.items() if not path.startswith("card.")}
    assert {path: after.get(path) for path in kept} == kept
    assert [path for path in after if path.endswith("split.json")] == ["split.json"]
    assert {path.split("/")[0] for path in after} == {"yolo", "coco", "split.json", "card.json", "card.md"}


def test_formats_one_by_one_are_the_same_as_all_at_once(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    for command, *options in (("to_voc",), ("to_yolo", "--task", "segment"), ("to_masks",), ("to_coco",), ("to_yolo",)):
        converted(command, folder, tmp_path / "each", *options)
    converted("all", folder, tmp_path / "once")
    assert tree(tmp_path / "each" / "widget") == tree(tmp_path / "once" / "widget")


@pytest.mark.parametrize(
    "change", [["--seed", 1], ["--ratios", "50/25/25"], ["--classes", "single"], ["--min-area", 3]], ids=str
)
def test_another_split_or_other_options_are_refused_without_overwrite(
    make_category: MakeCategory, tmp_path: Path, change: list[object]
) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out")
    before = tree(dataset)
    line = refusal(run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", *change))
    assert str(dataset) in line and "--overwrite" in line
    assert tree(dataset) == before


def test_a_changed_source_is_refused_without_overwrite(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    converted("to_yolo", folder, tmp_path / "out")
    mask = folder / "ground_truth" / "crack" / "000_mask.png"
    mask.unlink()
    save_mask(mask, np.ones((40, 48)))
    assert "other sources" in refusal(run_cli("to_coco", "--root", folder, "--out", tmp_path / "out"))


def test_the_card_says_where_a_split_leaves_no_defects(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    for shots, said in ((1, True), (6, False)):
        options = ("--protocol", "few-shot", "--shots", shots)
        result = run_cli("to_masks", "--root", folder, "--out", tmp_path, *options)
        assert result.exit_code == 0, result.output
        card = (tmp_path / f"widget@few-shot-{shots}-s0" / "card.md").read_text("utf-8")
        for text in (result.stdout, card):
            assert ("train holds no image of " in text) == said
            assert "val holds no defect: " in text
    assert "holds no" not in run_cli("to_masks", "--root", folder, "--out", tmp_path).stdout


def test_the_same_format_is_replaced_only_with_overwrite(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out")
    line = refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out"))
    assert f"{dataset}/yolo exists: add --overwrite to replace it, or --resume to keep what is written already" in line
    assert run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--resume").exit_code == 0
    before = tree(dataset)
    (dataset / "yolo" / "stale.txt").write_text("x")
    converted("to_yolo", folder, tmp_path / "out", "--overwrite")
    assert tree(dataset) == before


def test_overwriting_with_another_split_removes_formats_of_the_old_one_and_says_so(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category()
    dataset = converted("all", folder, tmp_path / "out")
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--seed", 1, "--overwrite")
    assert result.exit_code == 0
    assert "removing coco, masks, voc, yolo-seg" in result.stderr
    assert sorted(path.name for path in dataset.iterdir() if path.is_dir()) == ["yolo"]
    assert tree(dataset) == tree(converted("to_yolo", folder, tmp_path / "b" / "out", "--seed", 1)) | {
        name: tree(dataset)[name] for name in ("card.json", "card.md")
    }


def test_a_folder_that_is_no_dataset_is_never_replaced(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    (tmp_path / "out" / "widget").mkdir(parents=True)
    (tmp_path / "out" / "widget" / "thesis.tex").write_text("years of work")
    assert "leaves it alone" in refusal(run_cli("all", "--root", folder, "--out", tmp_path / "out", "--overwrite"))
    assert (tmp_path / "out" / "widget" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_card_is_refused_in_one_line(make_category: MakeCategory, tmp_path: Path, content: str) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out")
    (dataset / "card.json").write_text(content)
    assert str(dataset) in refusal(run_cli("to_coco", "--root", folder, "--out", tmp_path / "out"))


def test_datasets_of_other_protocols_lie_beside_it(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    converted("to_yolo", folder, tmp_path / "out")
    converted("to_yolo", folder, tmp_path / "out", "--protocol", "kfold", "--fold", 2)
    converted("to_yolo", folder, tmp_path / "out", "--protocol", "few-shot", "--shots", 2)
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert names == ["widget", "widget@few-shot-2-s0", "widget@kfold-5-2"]
    assert len(images(tmp_path / "out" / "widget@few-shot-2-s0")) < len(images(tmp_path / "out" / "widget"))


# ---------------------------------------------------------------- what is printed


def test_the_table_counts_images_and_instances_per_part_and_class(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(masks={"crack": 5, "hole": 10}, good=(7, 5))
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["train", "good", "10", "0"] in rows
    assert ["train", "crack", "3", "6"] in rows and ["test", "hole", "2", "4"] in rows
    assert result.stderr == ""


def test_json_holds_the_same_counts(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(masks={"crack": 5}, good=(7, 5))
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert report["dataset"] == "widget" and report["left_out"] == []
    assert {"part": "train", "class": "crack", "images": 3, "instances": 6} in report["counts"]
    card = json.loads((tmp_path / "out" / "widget" / "card.json").read_text("utf-8"))
    assert card["counts"] == report["counts"] and card["schema"] == 1


def test_a_dry_run_prints_the_same_and_writes_nothing(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(masks={"crack": 5})
    (folder / "test" / "crack" / "bad.png").write_bytes(b"")
    options = ["--root", folder, "--out", tmp_path / "out", "--on-error", "skip"]
    dry = run_cli("all", *options, "--dry-run")
    assert dry.exit_code == 1 and not (tmp_path / "out").exists()
    wet = run_cli("all", *options)
    assert [*dry.stdout.splitlines()[:-1]] == [*wet.stdout.splitlines()[:-1]]
    assert "would write" in dry.stdout.splitlines()[-1]


def test_a_dry_run_leaves_out_what_a_format_would(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    options = ["--root", folder, "--out", tmp_path / "out", "--task", "segment", "--instances", "image"]
    assert "2 separate parts" in refusal(run_cli("to_yolo", *options, "--dry-run"))


def test_duplicates_and_incomplete_downloads_are_said_in_the_card(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", name="screw", masks={"thread_top": 4})
    (folder / "test" / "good" / "twin.png").write_bytes((folder / "train" / "good" / "000.png").read_bytes())
    dataset = converted("to_yolo", folder, tmp_path / "out")
    card = json.loads((dataset / "card.json").read_text("utf-8"))
    assert card["duplicates"] == [["test/good/twin.png", "train/good/000.png"]]
    assert "screw/test/thread_top: 4 of 23 images" in card["incomplete"]
    assert "screw/test/thread_top: 4 of 23 images" in (dataset / "card.md").read_text("utf-8")
    assert (dataset / "yolo" / "images" / "train" / "test__good__twin.png").exists()


def test_min_area_counts_what_it_leaves_out(make_category: MakeCategory, tmp_path: Path) -> None:
    mask = np.zeros((40, 48), np.uint8)
    mask[2, 2] = mask[10:20, 10:20] = 1
    folder = make_category(masks={"crack": [mask] * 4})
    result = run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", "--min-area", 2)
    assert "left out: 4 instances below --min-area" in result.stdout
    card = json.loads((tmp_path / "out" / "widget" / "card.json").read_text("utf-8"))
    assert card["below_min_area"] == 4 and sum(row["instances"] for row in card["counts"]) == 4


def test_soft_masks_are_counted(make_category: MakeCategory, tmp_path: Path) -> None:
    from PIL import Image

    folder = make_category(masks={"crack": 4})
    path = folder / "ground_truth" / "crack" / "001_mask.png"
    values = np.asarray(Image.open(path)).copy()
    values[0, :3] = (50, 128, 200)
    Image.fromarray(values).save(path)
    result = run_cli("to_coco", "--root", folder, "--out", tmp_path / "out")
    assert "soft masks: 1 have 3 pixels" in result.stdout


# ---------------------------------------------------------------- bad files


def test_skip_goes_on_lists_what_is_missing_and_exits_with_one(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    (folder / "test" / "good" / "bad.png").write_bytes(b"nonsense")
    (folder / "ground_truth" / "crack" / "001_mask.png").unlink()
    save_mask(folder / "ground_truth" / "hole" / "002_mask.png", np.zeros((40, 48)))
    result = run_cli("all", "--root", folder, "--out", tmp_path / "out", "--on-error", "skip")
    assert result.exit_code == 1
    bad = {"test/good/bad.png", "test/crack/001.png", "test/hole/002.png"}
    assert all(f"left out: {name}" in result.stdout for name in bad)
    dataset = tmp_path / "out" / "widget"
    assert {entry["file"] for entry in json.loads((dataset / "card.json").read_text("utf-8"))["left_out"]} == bad
    assert all(name in (dataset / "card.md").read_text("utf-8") for name in bad)
    assert len(images(dataset)) == 16 - 2 and not {name.replace("/", "__") for name in bad} & set(images(dataset))


@pytest.mark.parametrize("workers", [1, 2])
def test_stop_ends_with_one_line_and_nothing_published(
    make_category: MakeCategory, tmp_path: Path, workers: int
) -> None:
    folder = make_category()
    save_mask(folder / "ground_truth" / "hole" / "002_mask.png", np.zeros((40, 48)))
    done = run_process("all", "--root", folder, "--out", tmp_path / "out", "--workers", workers)
    line = refusal(done)
    assert "hole/002_mask.png: the mask is empty" in line and done.stdout == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".widget.lock"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_workers_have_ended_before_their_folder_is_removed(
    make_category: MakeCategory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would write into a folder that is being deleted, and deleting it could fail."""
    folder = make_category()
    save_mask(folder / "ground_truth" / "crack" / "000_mask.png", np.zeros((40, 48)))
    show = functools.partial(click.progressbar, file=Terminal())  # without a terminal click passes a close on
    monkeypatch.setattr("converters.datasets.pipeline.progress", lambda items, n, label: show(items, n, label))
    result = run_cli("to_masks", "--root", folder, "--out", tmp_path / "out", "--workers", 2)
    assert "mask is empty" in refusal(result)
    assert multiprocessing.active_children() == [] and result.exc_info  # its traceback keeps the generators alive


def test_the_first_of_several_bad_files_is_named_with_the_number_of_the_others(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category()
    for name in ("x.png", "y.png", "z.png"):
        (folder / "test" / "good" / name).write_bytes(b"")
    line = refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out"))
    assert f"{folder}/test/good/x.png" in line and "2 more" in line and "--on-error skip" in line


def test_one_instance_per_image_is_refused_by_yolo_polygons_by_name(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    folder = make_category()
    options = ["--root", folder, "--out", tmp_path / "out", "--instances", "image"]
    assert "crack/000_mask.png" in refusal(run_cli("to_yolo", "--task", "segment", *options))
    result = run_cli("to_yolo", *options)
    assert result.exit_code == 0
    label = next((tmp_path / "out" / "widget" / "yolo" / "labels").glob("*/test__crack__000.txt"))
    assert len(label.read_text().splitlines()) == 1


def test_formats_that_leave_out_different_images_do_not_share_a_dataset(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    options = ["--root", make_category(masks={"crack": 3}), "--out", tmp_path / "out", "--on-error", "skip"]
    options += ["--instances", "image"]
    assert run_cli("to_yolo", "--task", "segment", *options).exit_code == 1
    before = tree(tmp_path / "out" / "widget")
    assert "yolo-seg leaves out other images" in refusal(run_cli("to_coco", *options))
    assert tree(tmp_path / "out" / "widget") == before


# ---------------------------------------------------------------- images


def test_images_are_hard_links_by_default(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    dataset = converted("all", folder, tmp_path / "out")
    assert len(images(dataset)) == 16
    for path in dataset.rglob("test__crack__*.png"):
        if path.parts[-3] == "images" or path.parent.name == "JPEGImages":
            assert path.stat().st_ino == (folder / path.name.replace("__", "/")).stat().st_ino


def test_copies_share_nothing_with_the_source(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out", "--images", "copy")
    for path in (dataset / "yolo" / "images").glob("*/*.png"):
        source = folder / path.name.replace("__", "/")
        assert path.stat().st_ino != source.stat().st_ino and path.read_bytes() == source.read_bytes()


def test_symlinks_lead_to_the_source(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out", "--images", "symlink")
    for path in (dataset / "yolo" / "images").glob("*/*.png"):
        assert path.is_symlink() and path.resolve() == folder / path.name.replace("__", "/")


# ---------------------------------------------------------------- classes


def names(dataset: Path) -> list[str]:
    return list(yaml.safe_load((dataset / "yolo" / "data.yaml").read_text("utf-8"))["names"].values())


def test_classes_are_the_defect_types_in_alphabetical_order(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(masks={"stain": 3, "crack": 3, "hole": 3})
    assert names(converted("to_yolo", folder, tmp_path / "out")) == ["crack", "hole", "stain"]


def test_a_single_class_is_called_defect(make_category: MakeCategory, tmp_path: Path) -> None:
    dataset = converted("to_yolo", make_category(), tmp_path / "out", "--classes", "single")
    assert names(dataset) == ["defect"]
    rows = [row for path in dataset.glob("yolo/labels/*/*.txt") for row in path.read_text().splitlines()]
    assert len(rows) == 20 and {row.split()[0] for row in rows} == {"0"}


def test_dropped_combined_images_are_no_class(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(masks={"combined": 4, "hole": 4})
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--combined", "drop")
    assert names(tmp_path / "out" / "widget") == ["hole"]
    assert "not used: 4 images, --combined drop" in result.stdout


def test_all_categories_make_one_dataset_each(make_category: MakeCategory, tmp_path: Path) -> None:
    for name in ("nut", "bolt"):
        make_category(name=name)
    result = run_cli("to_yolo", "--root", tmp_path / "data", "--category", "all", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name[0] != ".") == ["bolt", "nut"]


def test_all_categories_in_one_dataset_have_prefixed_classes_and_names(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    make_category(name="nut", masks={"bent": 3})
    make_category(name="bolt", masks={"bent": 3, "thin": 3})
    options = ["--root", tmp_path / "data", "--category", "all", "--classes", "category-defect"]
    result = run_cli("all", *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    dataset = tmp_path / "out" / "all"
    assert names(dataset) == ["bolt-bent", "bolt-thin", "nut-bent"]
    assert {name.split("__")[0] for name in images(dataset)} == {"bolt", "nut"}
    split = json.loads((dataset / "split.json").read_text("utf-8"))["parts"]
    assert {key.replace("/", "__") for key in split} == set(images(dataset))
    label = next((dataset / "yolo" / "labels").glob("*/nut__test__bent__000.txt"))
    assert {row.split()[0] for row in label.read_text().splitlines()} == {"2"}


# ---------------------------------------------------------------- the command line


def test_two_folds_are_too_few_for_a_reason(make_category: MakeCategory) -> None:
    line = refusal(run_cli("to_yolo", "--root", make_category(), "--protocol", "kfold", "--folds", 2))
    assert "'--folds': 2 folds leave none to train on, as test is one and val the next: 3 or more are needed" in line


@pytest.mark.parametrize(
    "options",
    [
        ["--ratios", "60/20"],
        ["--ratios", "60/20/30"],
        ["--ratios", "100/0/0"],
        ["--folds", "2"],
        ["--workers", "0"],
        ["--images", "steal"],
        ["--merge-gap", "-1"],
        ["--protocol", "kfold", "--fold", "5"],
        ["--protocol", "few-shot", "--shots", "999"],
        ["--no-such-option"],
        ["extra"],
    ],
    ids=" ".join,
)
def test_bad_usage_exits_with_two_and_writes_nothing(
    make_category: MakeCategory, tmp_path: Path, options: list[str]
) -> None:
    result = run_cli("to_yolo", "--root", make_category(), "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and "Error: " in result.stderr and result.stdout == ""
    assert not (tmp_path / "out").exists()


def cpu_of_help(*module: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", *module, "--help"], capture_output=True, text=True, cwd=REPOSITORY)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stdout.startswith("Usage: "), done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_within_four_tenths_of_a_second(command: str) -> None:
    module = ("converters", "all") if command == "all" else (f"converters.{command}",)
    assert min(cpu_of_help(*module) for _ in range(3)) < 0.4


def test_the_working_directory_and_relative_roots_do_not_matter(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = run_process("to_yolo", "--root", "data/widget", "--out", "out", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out" / "widget") == tree(converted("to_yolo", folder, tmp_path / "b" / "out")) | {
        "card.json": tree(tmp_path / "out" / "widget")["card.json"]
    }


def test_a_new_image_is_seen(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category()
    dataset = converted("to_yolo", folder, tmp_path / "out")
    save_noise(folder / "test" / "good" / "new.png")
    converted("to_yolo", folder, tmp_path / "out", "--overwrite")
    assert "test__good__new.png" in images(dataset)


# ---------------------------------------------------------------- what reviewers found


@pytest.mark.parametrize(
    "command",
    [
        ("preview", "--root", "{root}", "--category", "widget", "--to", "{root}"),
        ("sample", "--to", "{root}", "--small"),
    ],
)
def test_overwrite_never_deletes_what_was_not_written_here(make_category, command) -> None:
    folder = make_category()
    before = tree(folder)
    asked = [word.format(root=folder.parent) for word in command]
    assert "leaves it alone" in refusal(run_cli(*asked, "--overwrite"))
    assert tree(folder) == before


def test_left_out_images_do_not_move_the_ids_of_others(make_category, tmp_path: Path) -> None:
    folder = make_category()

    def ids(out: Path) -> dict[str, int]:
        files = (out / "widget" / "coco" / "annotations").glob("*.json")
        return {entry["file_name"]: entry["id"] for f in files for entry in json.loads(f.read_text())["images"]}

    converted("to_coco", folder, tmp_path / "whole")
    save_mask(folder / "ground_truth" / "crack" / "000_mask.png", np.ones((40, 48)) * (np.arange(48) < 2))
    options = ("--root", folder, "--out", tmp_path / "part", "--min-area", 100)
    assert run_cli("to_coco", *options).exit_code == 0
    part = ids(tmp_path / "part")
    assert part.items() < ids(tmp_path / "whole").items()


def test_defects_that_lose_all_instances_are_left_out_and_not_good(make_category, tmp_path: Path) -> None:
    folder = make_category()
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path, "--min-area", 10_000)
    assert result.exit_code == 0, result.output
    assert result.output.count("all of its instances are below --min-area") == 10
    assert all("good" in name for name in images(tmp_path / "widget"))


def test_images_where_none_are_looked_for_are_named(make_category, tmp_path: Path) -> None:
    folder = make_category()
    save_noise(folder / "test" / "loose.png")
    save_noise(folder / "test" / "crack" / "deeper" / "000.png")
    line = refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path))
    assert "test/loose.png: lies where no image is looked for" in line and "(and 1 more" in line


def test_class_names_that_would_stand_for_two_types_are_refused(make_category, tmp_path: Path) -> None:
    make_category(name="a-b", masks={"c": 3})
    folder = make_category(name="a", masks={"b-c": 3})
    options = ("--root", folder.parent, "--category", "all", "--classes", "category-defect", "--out", tmp_path / "out")
    assert "a-b-c would stand for two defect types" in refusal(run_cli("to_yolo", *options))


def test_dry_run_refuses_what_the_run_would_refuse(make_category, tmp_path: Path) -> None:
    folder = make_category()
    converted("to_yolo", folder, tmp_path)
    assert "add --overwrite" in refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path, "--dry-run"))


def test_resume_keeps_only_what_the_same_command_wrote(make_category, tmp_path: Path) -> None:
    folder = make_category()
    converted("to_coco", folder, tmp_path)
    options = ("--root", folder, "--out", tmp_path, "--segmentation", "rle")
    assert "add --overwrite" in refusal(run_cli("to_coco", *options, "--resume"))


def test_a_dataset_behind_a_link_finds_its_source(make_category, tmp_path: Path) -> None:
    folder = make_category()
    (tmp_path / "big" / "disk").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "big" / "disk")
    converted("to_coco", folder, tmp_path / "out")
    assert run_cli("verify", tmp_path / "out" / "widget").exit_code == 0


def test_a_dataset_is_never_written_into_its_source(make_category) -> None:
    folder = make_category()
    before = tree(folder)
    assert "would lie in the source" in refusal(run_cli("to_coco", "--root", folder, "--out", folder / "test"))
    assert tree(folder) == before


@pytest.mark.parametrize(("option", "protocol"), [("--fold", "kfold"), ("--shots", "few-shot")])
def test_options_of_another_protocol_are_refused(make_category, tmp_path: Path, option: str, protocol: str) -> None:
    line = refusal(run_cli("to_coco", "--root", make_category(), "--out", tmp_path / "out", option, 2))
    assert f"add --protocol {protocol}" in line
