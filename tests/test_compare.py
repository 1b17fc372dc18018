"""The comparison on hand-made runs: what is refused, what is chosen on val, what is kept apart, what is pooled."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import REPOSITORY, converted, refusal, write_category
from fake_runs import results_file, write_run
from sklearn import metrics as sk

from converters.cli.errors import DatasetError
from finetune.compare import main
from finetune.measures.bootstrap import resample
from finetune.measures.pixels import aupro, level_counts
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.truth import Truth

SIZE = (96, 80)
MASKS = {"crack": 14, "hole": 14, "rare": 7}


def discs(index: int, value: int) -> np.ndarray:
    """One or two filled squares, elsewhere for each image."""
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    x, y = 5 + (index * 13 + value * 7) % 60, 5 + (index * 7) % 45
    mask[y : y + 14, x : x + 18] = 1
    if index % 3 == 0:
        mask[70:78, 4:20] = 1
    return mask


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories, converted to the default split, and one of them to the folds of a split."""
    root = tmp_path_factory.mktemp("compare")
    masks = {name: [discs(i, k) for i in range(count)] for k, (name, count) in enumerate(MASKS.items())}
    for name in ("widget", "gadget"):
        folder = write_category(root / "data", name, masks, good=(4, 20), size=SIZE)
        shutil.copy(folder / "test/good/000.png", folder / "test/good/001.png")  # byte-identical
        converted("all", folder, root / "out")
    for fold in range(3):
        options = ("--protocol", "kfold", "--folds", 3, "--fold", fold)
        converted("to_coco", root / "data" / "widget", root / "out", *options)
    return root


@pytest.fixture(scope="session")
def widget(root: Path) -> Dataset:
    return Dataset(root / "out" / "widget")


@pytest.fixture(scope="session")
def runs(root: Path, widget: Dataset) -> Path:
    """One run of each family; never written to by a test."""
    runs = root / "runs"
    write_run(runs, widget, "classifier", {"tuned": ("class", 0.6)})
    for seed in range(3):
        write_run(runs, widget, "yolo", {"tuned": ("box", 0.95)}, seed)
    write_run(runs, widget, "world", {"zero-shot": ("box", 0.3)}, random_weights=True)
    write_run(runs, widget, "sam", {"gt-box": ("mask", 0.98), "yolo-box": ("mask", 0.8)})
    write_run(runs, widget, "normality", {"tuned": ("good", 0.6)})
    return runs


def compare(root: Path, runs: Path, *arguments: object, dataset: str = "widget") -> Result:
    given = ["--dataset", dataset] if "--family" not in arguments else []
    options = [*given, "--out", root / "out", "--runs", runs, "--bootstrap", 100, *arguments]
    return CliRunner().invoke(main, [str(option) for option in options])


def report_of(root: Path, runs: Path, to: Path, *arguments: object) -> dict:
    result = compare(root, runs, "--no-html", "--report", to, *arguments)
    assert result.exit_code == 0, result.output
    return json.loads((to / "report.json").read_text())


@pytest.fixture(scope="session")
def report(root: Path, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return report_of(root, runs, tmp_path_factory.mktemp("report") / "r")


def row_of(report: dict, name: str) -> dict:
    return next(row for row in report["rows"] if row["name"] == name)


def test_measures_equal_those_computed_from_the_files(report: dict, runs: Path, widget: Dataset) -> None:
    folder = runs / "widget/classifier/seed-0/predictions/tuned"
    with (folder / "test_scores.csv").open() as file:
        scores = {row["image"]: float(row["defect"]) for row in csv.DictReader(file)}
    labels = [label is not None for label in widget.labels("test").values()]
    values = [scores[name] for name in widget.images("test")]
    found = row_of(report, "classifier")["measures"]
    assert found["auroc"]["value"] == pytest.approx(sk.roc_auc_score(labels, values), abs=1e-9)
    assert found["ap"]["value"] == pytest.approx(sk.average_precision_score(labels, values), abs=1e-9)


def test_boxes_equal_those_of_the_training_script(report: dict, runs: Path, widget: Dataset) -> None:
    from finetune.measures.boxes import box_metrics

    expected = [
        box_metrics(widget.ground_truth("test"), json.loads(path.read_text())).map
        for path in sorted(runs.glob("widget/yolo/seed-*/predictions/tuned/test.json"))
    ]
    assert row_of(report, "yolo")["measures"]["map"]["value"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_pixel_measures_equal_scikit_learn_and_aupro(report: dict, runs: Path, widget: Dataset) -> None:
    from finetune.runs.predictions import PredictionSet
    from finetune.runs.truth import Truth

    truth, told = Truth(widget, "test"), PredictionSet(runs / "widget/classifier/seed-0/predictions/tuned")
    maps = np.stack([told.heatmap("test", name) for name in truth.names])
    masks = np.stack([truth.mask(index) for index in range(len(maps))])
    found = row_of(report, "classifier")["measures"]
    expected = sk.average_precision_score(masks.ravel(), maps.ravel())
    assert found["pixel_ap"]["value"] == pytest.approx(expected, abs=1e-9)
    counts = [level_counts(heat, regions) for heat, regions in zip(maps, truth.regions, strict=True)]
    share, negative = (sum(one[side] for one in counts)[None] for side in (2, 1))
    assert found["aupro_0.3"]["value"] == pytest.approx(aupro(share, negative, 0.3)[0], abs=1e-9)
    level = round(65535 * row_of(report, "classifier")["thresholds"]["pixel"][0])
    assert found["iou"]["value"] == pytest.approx(sk.jaccard_score(masks.ravel(), maps.ravel() >= level), abs=1e-9)
    assert found["aupro_0.3"]["low"] < found["aupro_0.3"]["value"] < found["aupro_0.3"]["high"]


def test_binary_maps_get_a_point_and_no_curve(report: dict) -> None:
    for name in ("yolo", "sam/yolo-box"):
        found = row_of(report, name)["measures"]
        assert "aupro_0.3" not in found and {"pro", "pixel_fpr"} <= found.keys()
    assert "aupro_0.3" in row_of(report, "normality")["measures"]


def test_heat_maps_give_boxes(report: dict) -> None:
    assert row_of(report, "classifier")["measures"]["ap50_any"]["value"] > 0.1
    normality = row_of(report, "normality")["measures"]
    assert "ap50_any" in normality and not {"map50", "macro_f1_defects"} & normality.keys()  # it tells no types


def test_thresholds_do_not_depend_on_test(root: Path, runs: Path, tmp_path: Path, report: dict) -> None:
    shutil.copytree(runs / "widget/classifier", tmp_path / "runs/widget/classifier")
    path = tmp_path / "runs/widget/classifier/seed-0/predictions/tuned/test_scores.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line.split(',')[0]},0.01,0,0,0" for line in lines[1:])]) + "\n")
    changed = row_of(report_of(root, tmp_path / "runs", tmp_path / "r"), "classifier")
    known = row_of(report, "classifier")
    assert changed["thresholds"] == known["thresholds"]
    assert changed["measures"]["f1"]["value"] != known["measures"]["f1"]["value"]


def test_oracles_are_kept_apart(report: dict) -> None:
    assert [row["name"] for row in report["rows"] if row["oracle"]] == ["sam/gt-box"] == [report["rows"][-1]["name"]]
    assert not any("gt-box" in sentence for sentence in report["sentences"])
    assert any("Oracle" in banner and "sam/gt-box" in banner for banner in report["banners"])
    assert any("random weights" in banner and "world" in banner for banner in report["banners"])


def test_oracles_get_no_credit_for_what_their_prompt_says(report: dict) -> None:
    oracle, automatic = row_of(report, "sam/gt-box"), row_of(report, "sam/yolo-box")
    assert not {"auroc", "ap", "f1", "false_alarms", "macro_f1_defects"} & oracle["measures"].keys()
    assert not {"auroc", "macro_f1_defects"} & oracle["differences"].keys() and oracle["confusion"] is None
    assert {"map50", "dice"} <= oracle["measures"].keys()
    assert {"auroc", "macro_f1_defects"} <= automatic["measures"].keys()
    assert not any("found" in known for known in oracle["classes"])


def test_beyond_noise_needs_three_seeds(root: Path, runs: Path, widget: Dataset, tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs", widget, "strong", {"tuned": ("box", 1.0)}, seed)
        write_run(tmp_path / "runs", widget, "weak", {"tuned": ("box", 0.5)}, seed)
    three = report_of(root, tmp_path / "runs", tmp_path / "three", "--baseline", "weak")
    assert row_of(three, "strong")["differences"]["map50"]["verdict"] == "beyond noise"
    assert any("beyond noise" in sentence for sentence in three["sentences"])
    for name in ("strong", "weak"):
        shutil.rmtree(tmp_path / f"runs/widget/{name}/seed-2")
    two = report_of(root, tmp_path / "runs", tmp_path / "two", "--baseline", "weak")
    assert row_of(two, "strong")["differences"]["map50"]["verdict"] == "fewer than 3 seeds"
    assert not any("beyond noise" in sentence for sentence in two["sentences"])


def test_a_model_alone_is_not_said_to_succeed(root: Path, widget: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path / "runs", widget, "yolo", {"tuned": ("box", 0.1)})
    told = report_of(root, tmp_path / "runs", tmp_path / "report")["sentences"]
    assert told and all(": only yolo does this, with " in sentence for sentence in told)


def test_one_network_tells_what_dearer_labels_bring(root: Path, widget: Dataset, tmp_path: Path) -> None:
    for name, kind, skill in (("weakrest-tags", "class", 0.3), ("weakrest-masks", "mask", 0.9)):
        write_run(tmp_path / "runs", widget, name, {"tuned": (kind, skill)}, model="residual transformer")
    report = report_of(root, tmp_path / "runs", tmp_path / "report")
    dear, cheap = (row_of(report, f"weakrest-{kind}")["measures"]["pixel_ap"]["value"] for kind in ("masks", "tags"))
    told = "Masks instead of class labels for the same network (weakrest-masks, weakrest-tags): pixel AP "
    assert report["sentences"][-1].startswith(f"{told}{dear - cheap:+.2f} (")


def test_a_model_does_not_differ_from_its_copy(root: Path, runs: Path, tmp_path: Path) -> None:
    for name in ("classifier", "copy"):
        shutil.copytree(runs / "widget/classifier", tmp_path / "runs/widget" / name)
    report = report_of(root, tmp_path / "runs", tmp_path / "r")
    for found in row_of(report, "copy")["differences"].values():
        assert found["value"] == found["low"] == found["high"] == 0  # paired: the same resamples for both


def test_labels_cost_what_their_kind_takes(report: dict, widget: Dataset) -> None:
    labels = [widget.labels(part).values() for part in ("train", "val")]
    defects = sum(label is not None for part in labels for label in part)
    squares = sum(len(widget.ground_truth(part)["annotations"]) for part in ("train", "val"))
    expected = {"classifier": defects, "yolo": 2 * squares, "sam/gt-box": 4 * squares, "normality": 0}
    assert {name: row_of(report, name)["labelling"]["clicks"] for name in expected} == expected
    assert row_of(report, "yolo")["labelling"]["images"] == defects


def test_markdown_tells_costs_too(root: Path, runs: Path, tmp_path: Path) -> None:
    report = report_of(root, runs, tmp_path / "r")
    text = (tmp_path / "r/report.md").read_text()
    line = next(line for line in text.partition("## Cost")[2].splitlines() if line.startswith("| yolo "))
    paid = row_of(report, "yolo")["labelling"]
    clicks = f"{paid['clicks']} ({paid['train']} + {paid['val']})"
    assert [cell.strip() for cell in line.split("|")][1:7] == ["yolo", "-", "box", clicks, "1.0", "-"]


def test_rare_types_carry_a_warning(report: dict) -> None:
    few = {known["class"]: known["few"] for known in report["test"]["classes"]}
    assert few["rare"]
    for known, entry in zip(report["test"]["classes"], row_of(report, "yolo")["classes"], strict=True):
        assert known["images"] < 10 and entry["ap50"]["low"] is None  # too few for an interval
        assert entry["found"]["images"] == [known["images"]] and entry["found"]["low"] < entry["found"]["high"]


def test_image_measures_say_of_how_many_images(report: dict) -> None:
    good, defective = report["test"]["good"], report["test"]["images"] - report["test"]["good"]
    found = row_of(report, "yolo")["measures"]
    sizes = {name: one.get("images") for name, one in found.items() if "images" in one}
    assert sizes == {"auroc": [good, defective], "recall": [defective], "false_alarms": [good]}


def test_p_values_are_corrected_over_the_rows_of_a_measure(report: dict) -> None:
    tested = [one for row in report["rows"] if (one := row["differences"].get("dice"))]
    smallest = min(tested, key=lambda one: one["p"])
    assert len(tested) > 2 and smallest["p_holm"] == pytest.approx(min(1, len(tested) * smallest["p"]))


def test_image_measures_that_brightness_reaches_are_struck_through(tmp_path: Path) -> None:
    folder = write_category(
        tmp_path / "data", masks={"crack": [discs(index, 0) for index in range(12)]}, good=(4, 12), size=SIZE
    )
    for path in (folder / "test" / "crack").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) // 4)  # the darker, the more defective
    dataset = Dataset(converted("all", folder, tmp_path / "out"))
    write_run(tmp_path / "runs", dataset, "classifier", {"tuned": ("class", 0.9)})
    result = compare(tmp_path, tmp_path / "runs")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "runs/widget/report/report.json").read_text())
    grey = {one["name"]: one["measures"] for one in report["trivial"]}["mean grey level"]
    assert grey["auroc"]["value"] == grey["balanced_accuracy"]["value"] == 1.0 and grey["auroc"]["low"] < 0.9
    found = row_of(report, "classifier")["measures"]
    assert {name for name, one in found.items() if "reached_by" in one} == {
        "auroc", "ap", "f1", "balanced_accuracy", "recall", "false_alarms"
    }  # fmt: skip
    assert "reached_by" not in found["dice"]
    assert any("image measures prove nothing where they are struck through" in banner for banner in report["banners"])
    assert "mean grey level alone does as well" in report["sentences"][0]
    assert "~~1.00 [" in (tmp_path / "runs/widget/report/report.md").read_text()
    assert "<s>1.00</s>" in (tmp_path / "runs/widget/report/index.html").read_text()


def test_trivial_scores_equal_scikit_learns(report: dict, widget: Dataset) -> None:
    """Which way round they count comes from val."""
    aurocs = {}
    for part in ("val", "test"):
        labels = [label is not None for label in widget.labels(part).values()]
        files = [widget.image_file(part, name) for name in widget.images(part)]
        grey = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).mean() for path in files]
        aurocs[part] = [sk.roc_auc_score(labels, values) for values in (grey, [path.stat().st_size for path in files])]
    expected = [test if val >= 0.5 else 1 - test for val, test in zip(*aurocs.values(), strict=True)]
    found = {one["name"]: one["measures"]["auroc"]["value"] for one in report["trivial"]}
    assert [found["mean grey level"], found["file size"]] == pytest.approx(expected)
    assert report["test"]["prevalence"] == pytest.approx(0.03, abs=0.02)


def test_same_seed_same_report(root: Path, runs: Path, tmp_path: Path, report: dict) -> None:
    assert report_of(root, runs, tmp_path / "again") == report
    other = report_of(root, runs, tmp_path / "other", "--seed", 1)
    ours, theirs = (row_of(one, "yolo")["measures"]["map"] for one in (report, other))
    assert ours["value"] == theirs["value"] and (ours["low"], ours["high"]) != (theirs["low"], theirs["high"])


def test_few_shot_thresholds_come_from_good_images(root: Path, tmp_path: Path) -> None:
    options = ("--protocol", "few-shot", "--shots", 4)
    converted("to_coco", root / "data" / "widget", root / "out", *options)
    few = Dataset(root / "out" / "widget@few-shot-4-s0")
    assert not any(label is not None for label in few.labels("val").values())
    write_run(tmp_path / "runs", few, "yolo", {"tuned": ("box", 0.9)})
    write_run(tmp_path / "runs", few, "classifier", {"tuned": ("class", 0.6)})
    report = report_of(root, tmp_path / "runs", tmp_path / "r", "--dataset", few.name)
    for name in ("yolo", "classifier"):
        found = row_of(report, name)
        assert all(0 < value[0] <= 1 for value in found["thresholds"].values())
        assert found["measures"]["f1"]["value"] > 0.3
    assert row_of(report, "yolo")["measures"]["dice"]["value"] > 0.2


def test_two_runs_of_one_name_are_refused(root: Path, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "widget/yolo", tmp_path / "more/widget/yolo")
    assert "are both called yolo" in refusal(compare(root, runs, "--no-html", "--runs", tmp_path / "more"))


def test_a_row_without_a_score_is_refused(root: Path, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "widget/classifier", tmp_path / "runs/widget/classifier")
    path = tmp_path / "runs/widget/classifier/seed-0/predictions/tuned/test_scores.csv"
    lines = path.read_text().splitlines()
    name = lines[1].split(",")[0]
    path.write_text("\n".join([lines[0], f"{name},,0,0,0", *lines[2:]]))
    assert f"{name} has no defect score" in refusal(compare(root, tmp_path / "runs"))
    path.write_text("\n".join([lines[0], *lines[2:]]))
    assert f"no row for {name}" in refusal(compare(root, tmp_path / "runs"))


def test_runs_of_another_split_or_family_are_refused(root: Path, runs: Path, tmp_path: Path) -> None:
    for key, word in (("split_sha256", "another split"), ("family", "another family")):
        shutil.copytree(runs / "widget/yolo/seed-0", tmp_path / key / "widget/yolo/seed-0")
        path = tmp_path / key / "widget/yolo/seed-0/run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: "0" * 64}))
        line = refusal(compare(root, tmp_path / key, "--no-html"))
        assert word in line and "yolo/seed-0" in line


def test_a_run_under_way_is_not_compared(root: Path, runs: Path, tmp_path: Path) -> None:
    for name in ("classifier", "yolo"):
        shutil.copytree(runs / "widget" / name, tmp_path / "runs/widget" / name)
    (tmp_path / "runs/widget/classifier/seed-0/run.json").unlink()
    assert [row["name"] for row in report_of(root, tmp_path / "runs", tmp_path / "r")["rows"]] == ["yolo"]


def test_someone_elses_coco_results_are_compared(root: Path, runs: Path, widget: Dataset, tmp_path: Path) -> None:
    path = results_file(tmp_path / "theirs.json", widget)
    report = report_of(root, runs, tmp_path / "r", "--results", f"theirs={path}")
    row = row_of(report, "theirs")
    assert {"auroc", "map50", "pixel_ap"} <= row["measures"].keys()
    assert not {"f1", "macro_f1_defects", "iou", "pro"} & row["measures"].keys()  # without val there is no threshold
    assert row["thresholds"]["image"] == [None]
    assert any("No predictions for val" in banner and "theirs" in banner for banner in report["banners"])
    assert "theirs" in (tmp_path / "r/report.md").read_text()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image_id": 1}, "image_id 1 is not in test"),
        ({"category_id": 9}, "category_id 9 is none of 1 to 3"),
        ({"category_id": "1"}, "0.category_id: Input should be a valid integer, not '1': COCO's"),
        ({"image_id": [5]}, "0.image_id: Input should be a valid integer, not [5]"),
        ({"score": None}, "0.score: Field required"),
        ({"score": 85.0}, "0.score: Input should be less than or equal to 1, not 85.0"),
        ({"score": "0.9"}, "0.score: Input should be a valid number, not '0.9'"),
        ({"bbox": [1, 2, 3]}, "0.bbox: List should have at least 4 items after validation, not 3, not [1, 2, 3]"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, "neither polygons nor run lengths of 96 x 80 px"),
        ({"segmentation": {"size": [80, 96], "counts": [5, 99999]}}, "cannot be decoded (Invalid RLE"),
        ({"segmentation": [[0, 0, 9, 9, 1e9, 0]]}, "a point lies far outside the image"),
        ({"segmentation": "mask"}, "neither polygons nor run lengths"),
    ],
)
def test_results_that_do_not_fit_are_refused(
    root: Path, runs: Path, widget: Dataset, tmp_path: Path, change: dict, word: str
) -> None:
    path = results_file(tmp_path / "theirs.json", widget)
    entries = json.loads(path.read_text())
    assert widget.image_ids[next(name for name in widget.images("train"))] == 1
    entries[0] |= change
    path.write_text(json.dumps([{k: v for k, v in entry.items() if v is not None} for entry in entries]))
    assert word in refusal(compare(root, runs, "--no-html", "--results", f"theirs={path}"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "its boxes look like corners"),
        (lambda x, y, w, h: [x / 96, y / 80, w / 96, h / 80], "its boxes are fractions"),
        (lambda x, y, w, h: [x + w, y + h, -w, -h], "a width or height below 0"),
    ],
)
def test_boxes_of_another_format_are_refused(widget: Dataset, tmp_path: Path, change: Any, word: str) -> None:
    def told(change: Any) -> PredictionSet:
        found = [
            {"image_id": entry["image_id"], "category_id": 1, "score": 0.9, "bbox": list(change(*entry["bbox"]))}
            for entry in widget.ground_truth("test")["annotations"]
        ]
        (tmp_path / "theirs.json").write_text(json.dumps(found))
        return PredictionSet(tmp_path / "theirs.json")

    assert told(lambda *box: box).detections(widget, "test")
    with pytest.raises(DatasetError, match=word):
        told(change).detections(widget, "test")


def test_results_have_a_name_of_their_own(root: Path, runs: Path, widget: Dataset, tmp_path: Path) -> None:
    path = results_file(tmp_path / "theirs.json", widget)
    line = refusal(compare(root, runs, "--no-html", "--results", f"yolo={path}"))
    assert "--results yolo=: a run is called yolo, too" in line
    assert "a name of its own" in refusal(compare(root, runs, "--results", f"a={path}", "--results", f"a={path}"))


def test_a_box_with_an_empty_mask_beside_it_is_a_box(root: Path, runs: Path, widget: Dataset, tmp_path: Path) -> None:
    path = results_file(tmp_path / "theirs.json", widget)
    plain = report_of(root, runs, tmp_path / "r", "--results", f"theirs={path}")
    path.write_text(json.dumps([entry | {"segmentation": None} for entry in json.loads(path.read_text())]))
    again = report_of(root, runs, tmp_path / "r", "--results", f"theirs={path}")
    assert row_of(again, "theirs")["measures"] == row_of(plain, "theirs")["measures"]


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("runs/widget/yolo/seed-0/predictions/tuned/val_scores.csv", b"\xff\xfe", "is no CSV table"),
        ("runs/widget/yolo/seed-0/predictions/tuned/test.json", None, "holds val.json, but no test.json"),
        ("out/widget/coco/annotations/instances_test.json", b'{"info": ', "cannot be read"),
        ("out/widget/coco/annotations/instances_test.json", b"{}", "cannot be read"),
        ("out/widget/masks/images/test/{}", b"no image", "is no image that OpenCV reads"),
    ],
)
def test_damaged_files_are_named(
    root: Path, widget: Dataset, tmp_path: Path, file: str, content: bytes | None, word: str
) -> None:
    shutil.copytree(root / "out/widget", tmp_path / "out/widget", dirs_exist_ok=True)
    write_run(tmp_path / "runs", widget, "yolo", {"tuned": ("box", 0.9)})
    path = tmp_path / file.format(widget.images("test")[0])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    line = refusal(compare(tmp_path, tmp_path / "runs"))
    assert word in line and str(path if content else path.parent) in line


def test_boxes_without_val_say_what_is_missing(root: Path, widget: Dataset, tmp_path: Path) -> None:
    (write_run(tmp_path, widget, "yolo", {"tuned": ("box", 0.9)}) / "predictions/tuned/val.json").unlink()
    report = report_of(root, tmp_path, tmp_path / "r")
    assert "No boxes for val, so no thresholds for boxes and pixels: yolo." in report["banners"]
    assert {"f1", "map50"} <= report["rows"][0]["measures"].keys() and "iou" not in report["rows"][0]["measures"]


def test_what_any_seed_has_to_say_is_said(root: Path, widget: Dataset, tmp_path: Path) -> None:
    write_run(tmp_path, widget, "yolo", {"tuned": ("box", 0.9)})
    settings = {"seed": 1, "epochs": 300}
    more = {"random_weights": True, "settings": settings}
    write_run(tmp_path, widget, "yolo", {"tuned": ("box", 0.9)}, 1, **more)
    report = report_of(root, tmp_path, tmp_path / "r")
    assert "Started from random weights: yolo." in report["banners"] and report["rows"][0]["random_weights"]
    assert any(banner.startswith("yolo: a mean over runs that differ in epochs,") for banner in report["banners"])


def test_seeds_alone_are_no_difference(report: dict) -> None:
    assert not any("a mean over runs" in banner for banner in report["banners"])


@pytest.mark.parametrize(("count", "parts"), [(2, {"train": 2, "test": 1}), (10, {"train": 7, "val": 2, "test": 2})])
def test_parts_without_good_images_or_without_any(
    tmp_path: Path, count: int, parts: dict[str, int], recwarn: pytest.WarningsRecorder
) -> None:
    masks = {"crack": [discs(index, 0) for index in range(count)]}
    folder = write_category(tmp_path / "data", masks=masks, good=(1, 0), size=SIZE)
    dataset = Dataset(converted("all", folder, tmp_path / "out"))
    assert {part: len(dataset.images(part)) for part in ("train", "val", "test") if dataset.images(part)} == parts
    write_run(tmp_path / "runs", dataset, "yolo", {"tuned": ("box", 0.9)})
    maps = write_run(tmp_path / "runs", dataset, "classifier", {"tuned": ("class", 0.9)})
    for part in ("val", "test"):  # a classifier of whole images: AUROC alone, and no number here
        shutil.rmtree(maps / f"predictions/tuned/{part}_heatmaps", ignore_errors=True)
    result = compare(tmp_path, tmp_path / "runs")
    assert result.exit_code == 0, result.output
    assert ("No predictions for val" in result.stderr) == ("val" not in parts)
    written = json.loads((tmp_path / "runs/widget/report/report.json").read_text())
    assert row_of(written, "classifier")["measures"]["auroc"]["value"] is None
    assert not any("AUROC" in sentence for sentence in written["sentences"])


def test_folds_without_defects_are_left_out_of_rankings(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    masks = {"crack": [discs(index, 0) for index in range(2)]}
    folder = write_category(tmp_path / "data", masks=masks, good=(4, 9), size=SIZE)
    values = []
    for fold in range(3):
        converted("all", folder, tmp_path / "out", "--protocol", "kfold", "--folds", 3, "--fold", fold)
        dataset = Dataset(tmp_path / f"out/widget@kfold-3-{fold}")
        write_run(tmp_path / "runs", dataset, "normality", {"tuned": ("good", 0.5)})
        write_run(tmp_path / "runs", dataset, "yolo", {"tuned": ("box", 0.9)})
        single = report_of(tmp_path, tmp_path / "runs", tmp_path / "r", "--dataset", dataset.name)
        values.append(row_of(single, "normality")["measures"]["aupro_0.3"]["value"])
    assert values.count(None) == 1
    result = compare(tmp_path, tmp_path / "runs", "--family", "widget@kfold-3")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "runs/widget@kfold-3/report/report.json").read_text())
    known = [value for value in values if value is not None]
    assert row_of(written, "normality")["measures"]["aupro_0.3"]["value"] == pytest.approx(np.mean(known))
    assert ",nan" not in (tmp_path / "runs/widget@kfold-3/report/index.html").read_text()
    assert not [one for one in recwarn if "empty slice" in str(one.message)]


def test_tiles_of_an_image_are_resampled_together(root: Path) -> None:
    converted("all", root / "data/widget", root / "tiles", "--tile", 48)
    truth = Truth(Dataset(root / "tiles/widget@tile-48"), "test")
    assert truth.groups == [name.partition("@")[0] + ".png" for name in truth.names]
    of_image = Truth(Dataset(root / "out/widget"), "test")
    labels = dict(zip(of_image.names, of_image.labels.tolist(), strict=True))
    assert truth.strata == [labels[group] for group in truth.groups]
    assert truth.strata != truth.labels.tolist()  # tiles without a defect, of images that show one
    weights = resample(truth.strata, truth.groups, 5, np.random.default_rng(0))
    for group in set(truth.groups):
        assert np.ptp(weights[:, [index for index, one in enumerate(truth.groups) if one == group]], axis=1).max() == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--baseline", "nobody"), "there are classifier"),
        (("--dataset", "nothing"), "no such dataset"),
        (("--family", "nothing@kfold-3"), "--category nothing --protocol kfold --folds 3 --fold 0 --out"),
        (("--family", "widget"), "--family widget: is no split; name one like NAME@kfold-5"),
    ],
)
def test_what_is_not_there_is_one_line(root: Path, runs: Path, arguments: tuple, word: str) -> None:
    assert word in refusal(compare(root, runs, "--no-html", *arguments))


def test_no_runs_is_one_line(root: Path, tmp_path: Path) -> None:
    assert "no finished run" in refusal(compare(root, tmp_path))
    for flag in ("--category", "--dataset"):
        line = refusal(CliRunner().invoke(main, [f"{flag}=widget", "--family", "widget@kfold-3"]))
        assert line == "Error: --category and --family: leave one of them out\n"


def test_runs_of_yolo_on_tiles_are_looked_for_among_those_of_whole_images(root: Path, tmp_path: Path) -> None:
    folder = root / "data" / "widget"
    for options in ((), ("--protocol", "kfold", "--folds", 3)):
        converted("to_coco", folder, tmp_path, "--tile", 48, *options)
    options = ("--out", tmp_path, "--runs", tmp_path / "runs", "--no-html")
    for given, wanted in (
        (("--category", "widget@tile-48"), "--category widget"),
        (("--family", "widget@tile-48@kfold-3"), "--category widget@kfold-3-0"),
    ):
        line = refusal(CliRunner().invoke(main, [str(option) for option in (*given, *options)]))
        assert line.endswith(f"on tiles are measured on whole images: use {wanted}\n")


@pytest.fixture(scope="session")
def made(root: Path, widget: Dataset) -> Dataset:
    """The same dataset with two synthetic images in train, one of a class of its own, as ``augment`` has them."""
    folder = root / "synthetic" / "widget@paste-2"
    shutil.copytree(widget.folder, folder)
    split = json.loads((folder / "split.json").read_text())
    split["parts"] |= {f"zz-synthetic/{name}.png": "train" for name in ("a", "b")}
    split["base"] = {"dataset": "widget", "sha256": widget.split["sha256"], "synthetic_images": "0" * 64}
    (folder / "split.json").write_text(json.dumps(split))
    made = Dataset(folder)
    for part in ("train", "val", "test"):
        path = folder / f"coco/annotations/instances_{part}.json"
        truth = json.loads(path.read_text())
        truth["info"]["split_sha256"] = made.split["sha256"]
        path.write_text(json.dumps(truth))
    card = json.loads((folder / "card.json").read_text())
    card |= {"synthetic_images": 2, "classes": [*card["classes"], "synthetic"]}
    (folder / "card.json").write_text(json.dumps(card))
    return made


def test_runs_with_made_images_stand_beside_those_without(
    root: Path, runs: Path, widget: Dataset, made: Dataset, tmp_path: Path
) -> None:
    write_run(tmp_path / "runs", made, "bank", {"tuned": ("good", 0.9)})  # synthetic images show defects: it saw none
    folder = write_run(tmp_path / "runs", made, "yolo", {"tuned": ("box", 0.9)})
    path = folder / "predictions/tuned/test.json"
    found = json.loads(path.read_text())
    stranger = found[0] | {"category_id": len(widget.classes) + 1, "score": 1.0}
    path.write_text(json.dumps([*found, stranger]))  # of the class that only synthetic images have
    result = compare(root, runs, "--runs", folder.parents[1], "--no-html", "--report", tmp_path / "r")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r/report.json").read_text())
    row = row_of(report, "yolo@paste-2")
    assert row["synthetic_images"] == 2 and row["measures"]["map50"]["value"] > 0.3
    assert "mask + 2 synthetic images" in result.stdout  # which are cut out along masks, whatever the model learns from
    good = row_of(report, "bank@paste-2")
    assert (good["label"], good["synthetic_images"]) == ("good", None)
    known = [entry for entry in found if entry["category_id"] <= len(widget.classes)]
    from finetune.measures.boxes import box_metrics

    expected = box_metrics(widget.ground_truth("test"), known).map50
    assert row["measures"]["map50"]["value"] == pytest.approx(expected, abs=1e-9)


def test_runs_with_made_images_of_another_split_are_refused(
    root: Path, runs: Path, made: Dataset, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "runs", made, "yolo", {"tuned": ("box", 0.9)})
    record = json.loads((folder / "run.json").read_text())
    record["base"]["sha256"] = "1" * 64
    (folder / "run.json").write_text(json.dumps(record))
    assert "another split" in refusal(compare(root, runs, "--runs", folder, "--no-html"))


# ------------------------------------------------------------------------------------------- folds and categories


@pytest.fixture(scope="session")
def folds(root: Path) -> list[Dataset]:
    return [Dataset(root / "out" / f"widget@kfold-3-{fold}") for fold in range(3)]


@pytest.fixture(scope="session")
def fold_runs(root: Path, folds: list[Dataset]) -> Path:
    for number, fold in enumerate(folds):
        write_run(root / "folds", fold, "yolo", {"tuned": ("box", 0.7 + 0.1 * number)})
        write_run(root / "folds", fold, "classifier", {"tuned": ("class", 0.6)})
    return root / "folds"


def test_folds_average_rankings_and_pool_counts(
    root: Path, folds: list[Dataset], fold_runs: Path, tmp_path: Path
) -> None:
    report = report_of(root, fold_runs, tmp_path / "r", "--family", "widget@kfold-3")
    singles = [report_of(root, fold_runs, tmp_path / fold.name, "--dataset", fold.name) for fold in folds]
    assert report["name"] == "widget@kfold-3" and report["test"]["images"] == sum(s["test"]["images"] for s in singles)
    whole, parts = row_of(report, "yolo"), [row_of(single, "yolo") for single in singles]
    for name in ("auroc", "map50", "pixel_ap"):
        assert whole["measures"][name]["value"] == pytest.approx(np.mean([p["measures"][name]["value"] for p in parts]))
    good = [single["test"]["good"] for single in singles]
    alarms = [p["measures"]["false_alarms"]["value"] * n / 100 for p, n in zip(parts, good, strict=True)]
    assert whole["measures"]["false_alarms"]["value"] == pytest.approx(100 * sum(alarms) / sum(good))
    assert whole["confusion"] == np.sum([p["confusion"] for p in parts], axis=0).tolist()


def test_folds_have_a_page_too(root: Path, fold_runs: Path, tmp_path: Path) -> None:
    result = compare(root, fold_runs, "--family", "widget@kfold-3", "--report", tmp_path / "r")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "r/index.html").read_text()
    assert (
        "3 of 3 folds" in page and page.count('<article class="case"') == 55
    )  # 35 defects and 20 good ones, each once


def test_every_defect_is_tested_once_over_the_folds(root: Path, fold_runs: Path, tmp_path: Path) -> None:
    report = report_of(root, fold_runs, tmp_path / "r", "--family", "widget@kfold-3")
    assert [known["images"] for known in report["test"]["classes"]] == list(MASKS.values())


def test_a_model_without_all_folds_is_left_out_and_told(root: Path, fold_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(fold_runs, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/widget@kfold-3-1/yolo")
    result = compare(root, tmp_path / "runs", "--no-html", "--family", "widget@kfold-3")
    assert result.exit_code == 0 and "left out: yolo, seed 0: no run on widget@kfold-3-1" in result.stderr
    written = json.loads((tmp_path / "runs/widget@kfold-3/report/report.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["classifier"]


def test_all_categories_make_a_table_for_a_paper(root: Path, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    gadget = Dataset(root / "out" / "gadget")
    write_run(tmp_path / "runs", gadget, "classifier", {"tuned": ("class", 0.5)})
    result = compare(root, tmp_path / "runs", "--no-html", "--json", dataset="all")
    assert result.exit_code == 0, result.output
    reports = json.loads(result.stdout)
    assert [report["name"] for report in reports] == ["gadget", "widget"]
    text = (tmp_path / "runs/report/report.md").read_text()
    values = [row_of(report, "classifier")["measures"]["auroc"]["value"] for report in reports]
    line = next(line for line in text.splitlines() if line.startswith("| mean of 2"))
    assert f"{np.mean(values):.3f}" in line and line.split("|")[6].strip() == "-"  # yolo-box has one category: no mean
    grey = [next(one for one in report["trivial"] if one["name"] == "mean grey level") for report in reports]
    mean = np.mean([one["measures"]["auroc"]["value"] for one in grey])
    assert line.split("|")[7].strip().strip("*") == f"{mean:.3f}"
    assert (tmp_path / "runs/gadget/report/report.md").is_file()


def test_all_categories_go_where_they_are_told(root: Path, runs: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second time replaces the first
        result = compare(root, runs, "--no-html", "--report", tmp_path / "r", dataset="all")
        assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "r").glob("*/report.md")} == {"report.md"}
    assert {path.parent.name for path in (tmp_path / "r").glob("*/report.md")} == {"all", "widget"}
    assert "widget,classifier,False,image,auroc," in (tmp_path / "r/all/measures.csv").read_text("utf-8")


def test_a_dataset_of_all_categories_is_no_category_more(root: Path, runs: Path, tmp_path: Path) -> None:
    """`--classes category-defect` calls it `all`; alone, it has a report as any other."""
    shutil.copytree(root / "out", tmp_path / "out")
    converted("all", root / "data", tmp_path / "out", "--category", "all", "--classes", "category-defect")
    shutil.copytree(runs, tmp_path / "runs")
    write_run(tmp_path / "runs", Dataset(tmp_path / "out/all"), "classifier", {"tuned": ("class", 0.5)})
    result = compare(tmp_path, tmp_path / "runs", "--no-html", "--json", dataset="all")
    assert [report["name"] for report in json.loads(result.stdout)] == ["widget"]
    shutil.rmtree(tmp_path / "runs/widget")
    result = compare(tmp_path, tmp_path / "runs", "--no-html", "--json", dataset="all")
    assert json.loads(result.stdout)["name"] == "all"


def test_single_runs_can_be_named(root: Path, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "widget", tmp_path / "runs/widget")
    folders = [tmp_path / "runs/widget" / name / "seed-0" for name in ("yolo", "classifier")]
    result = compare(root, folders[0], "--runs", folders[1], "--no-html")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "runs/widget/report/report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["classifier", "yolo"]


# ---------------------------------------------------------------------------------------------------------- house


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = ("numpy", "cv2", "sklearn", "scipy", "torch", "jinja2", "pycocotools")
    told = run_python(f"import sys, finetune.compare; print([name for name in {heavy} if name in sys.modules])")
    assert told.strip() == "[]"


def test_comparing_imports_no_model_code(root: Path, runs: Path, tmp_path: Path) -> None:
    options = [
        "--dataset",
        "widget",
        "--out",
        root / "out",
        "--runs",
        runs,
        "--bootstrap",
        100,
        "--report",
        tmp_path / "r",
    ]
    told = run_python(
        f"import sys; from finetune.compare import main; main({[str(o) for o in options]}, standalone_mode=False); "
        "print([name for name in ('torch', 'ultralytics', 'segment_anything', 'torchvision') if name in sys.modules])"
    )
    assert told.splitlines()[-1] == "[]"


def test_it_runs_as_a_file(root: Path, runs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "finetune/compare.py", "--dataset", "widget", "--out", root / "out", "--runs", runs]
    options = ["--bootstrap", "100", "--no-html", "--report", tmp_path / "r"]
    told = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "AUROC" in told.stdout and "oracles, prompted with ground truth" in told.stdout
