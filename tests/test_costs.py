"""What comparisons rest on: saved maps equal the floats, levels cost a model's own labels, answers are timed alike."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import converted, write_category
from fake_runs import heat, write_run
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve
from test_compare import SIZE, discs

from converters.cli.errors import DatasetError
from finetune.comparison.evidence import gather, plain
from finetune.comparison.rows import Row
from finetune.comparison.wording import banners
from finetune.measures.heat_levels import middle_of
from finetune.measures.masks import GOOD_PIXELS
from finetune.measures.pixels import area_to, pro_curve
from finetune.measures.scores import best_threshold
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, run_folder
from finetune.runs.truth import Truth, truth_of
from finetune.training.timing import IMAGES, cost_of_answers


@pytest.fixture(scope="module")
def widget(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("costs")
    masks = {name: [discs(index, kind) for index in range(10)] for kind, name in enumerate(("crack", "hole"))}
    return Dataset(converted("all", write_category(root / "data", masks=masks, good=(4, 15), size=SIZE), root / "out"))


@pytest.mark.parametrize("label", ["good", "class", "mask"])
def test_measures_of_saved_maps_are_those_of_the_floats(widget: Dataset, tmp_path: Path, label: str) -> None:
    """Maps of any scale, over four decades, with test above the scale of val, as in few-shot splits."""
    random, run = np.random.default_rng(3), Run(run_folder(tmp_path, widget, "model", 0), widget, {})
    floats: dict[str, dict[str, np.ndarray]] = {}
    for part, strength in (("val", 1.0), ("test", 6.0)):
        truth = Truth(widget, part)
        shown = (0.02 * np.exp(4 * heat(truth, i, 0.55, random)) for i in range(len(truth.names)))
        floats[part] = {
            name: (one * np.where(truth.mask(i), strength, 1) * random.lognormal(0, 1.2, one.shape)).astype(np.float32)
            for i, (name, one) in enumerate(zip(truth.names, shown, strict=True))
        }
    good = truth_of(widget, "val").labels == 0
    peaks = np.array([one.max() for one in floats["val"].values()])
    middle = middle_of(peaks[good], float(peaks.max()))
    for part, maps in floats.items():
        scores = {name: [one.max() / (one.max() + middle), 0.2, 0.1] for name, one in maps.items()}
        run.write_predictions("tuned", part, [], scores)
        run.write_heatmaps("tuned", part, maps, middle)
    run.describe_set("tuned", model="m", label=label, heatmap_middle=middle)
    source = PredictionSet(run.folder / "predictions" / "tuned")
    item, truth = gather(source, widget), truth_of(widget, "test")
    found = plain([item])
    maps = [floats["test"][name] for name in truth.names]
    masks = np.stack([truth.mask(index) for index in range(len(maps))])
    stacked = np.stack(maps)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), stacked.ravel()), abs=1e-3)
    assert found["aupro_0.3"] == pytest.approx(_aupro(stacked, masks, truth, 0.3), abs=1e-3)
    known = truth_of(widget, "val")
    shown = np.stack([floats["val"][name] for name in known.names])
    if label == "mask":  # the floats' own best Dice
        marked = np.stack([known.mask(index) for index in range(len(shown))]).ravel()
        precision, recall, values = precision_recall_curve(marked, shown.ravel())
        best = int((2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1].argmax())
        level = np.nextafter(values[best - 1], np.float32(np.inf))  # the lowest level that does it
    elif label == "class":
        level = best_threshold(known.labels > 0, peaks)
    else:
        level = np.quantile(shown[known.labels == 0], GOOD_PIXELS)
    assert found["dice"] == pytest.approx(f1_score(masks.ravel(), stacked.ravel() >= level), abs=1e-3)
    assert 0.05 < found["pixel_ap"] < 0.999


def _aupro(maps: np.ndarray, masks: np.ndarray, truth: Truth, limit: float) -> float:
    """From the ranks of the float values, which keep all of their order."""
    values, ranks = np.unique(maps, return_inverse=True)
    ranks = ranks.reshape(maps.shape)
    shares, negative = np.zeros(len(values)), np.bincount(ranks[masks == 0], minlength=len(values)).astype(float)
    for index, regions in enumerate(truth.regions):
        for inside in (region.of(ranks[index]) for region in regions):
            shares += np.bincount(inside, minlength=len(values)) / len(inside)
    return float(area_to(*pro_curve(shares, negative), limit))


def with_other_labels(dataset: Dataset, folder: Path, change: Callable[[dict[str, Any]], None]) -> Dataset:
    """A copy whose val has other annotations."""
    shutil.copytree(dataset.folder, folder)
    path = folder / "coco" / "annotations" / "instances_val.json"
    truth = json.loads(path.read_text())
    for entry in truth["annotations"]:
        change(entry)
    path.unlink()  # a link, it may be
    path.write_text(json.dumps(truth))
    return Dataset(folder)


def other_place(entry: dict[str, Any]) -> None:
    entry["bbox"], entry["segmentation"] = [1, 1, 9, 5], [[1, 1, 10, 1, 10, 6, 1, 6]]


def other_class(entry: dict[str, Any]) -> None:
    entry["category_id"] = 3 - entry["category_id"]
    other_place(entry)


@pytest.mark.parametrize(
    ("kind", "label", "change", "moves"),
    [
        ("good", "good", other_class, False),
        ("class", "class", other_place, False),
        ("class", "mask", other_place, True),  # so the test would see it
        ("box", "box", other_place, True),
    ],
)
def test_thresholds_come_from_labels_of_a_models_own_kind(
    widget: Dataset, tmp_path: Path, kind: str, label: str, change: Any, moves: bool
) -> None:
    folder = write_run(tmp_path / "runs", widget, "model", {"tuned": (kind, 0.7)}) / "predictions" / "tuned"
    about = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps(about | {"label": label}))
    other = with_other_labels(widget, tmp_path / "other" / widget.name, change)
    items = [gather(PredictionSet(folder), dataset) for dataset in (widget, other)]
    ours, theirs = ((item.threshold, item.box_threshold, item.pixels and item.pixels.level) for item in items)
    assert None not in ours and (ours != theirs) == moves


def test_what_a_model_decides_itself_stands(widget: Dataset, tmp_path: Path) -> None:
    folder = write_run(tmp_path, widget, "model", {"tuned": ("class", 0.7)})
    run, truth = Run(folder, widget, {}), truth_of(widget, "test")
    decided = np.where(np.arange(len(truth.names)) % 3 == 0, 2, truth.labels)
    run.write_decisions("tuned", "test", dict(zip(truth.names, decided.tolist(), strict=True)))
    source = PredictionSet(folder / "predictions" / "tuned")
    item = gather(source, widget)
    assert item.threshold is None and item.predicted is not None and item.predicted.tolist() == decided.tolist()
    assert plain([item])["f1"] == pytest.approx(f1_score(truth.labels > 0, decided > 0))
    row = Row("model", "tuned", {"0": {widget.name: source}}, {"0": {widget.name: {}}}, {"0": [item]})
    assert any("thresholds of its own, from val: model" in banner for banner in banners([widget], [row]))
    path = source.source / "test_decisions.csv"
    path.write_text(path.read_text().replace("hole", "hoel"))
    with pytest.raises(DatasetError, match=r"test_decisions.csv: what is 'hoel'\?"):
        gather(source, widget)


def test_boxes_of_coarse_maps_are_not_measured_and_that_is_said(widget: Dataset, tmp_path: Path) -> None:
    folder = write_run(tmp_path, widget, "model", {"tuned": ("class", 0.7)}) / "predictions" / "tuned"
    about, source = json.loads((folder / "set.json").read_text()), PredictionSet(folder)
    assert "map50" in plain([gather(source, widget)])
    (folder / "set.json").write_text(json.dumps(about | {"cells": 8}))
    source = PredictionSet(folder)
    item = gather(source, widget)
    found = plain([item])
    assert not {"map50", "ap50_any"} & found.keys() and {"dice", "aupro_0.3", "f1"} <= found.keys()
    row = Row("model", "tuned", {"0": {widget.name: source}}, {"0": {widget.name: {}}}, {"0": [item]})
    assert any("fewer than 32 cells a side: model (8)" in banner for banner in banners([widget], [row]))


def test_an_answer_is_timed_after_a_first_one_as_the_median_of_twenty() -> None:
    asked: list[str] = []

    def answer(name: str) -> None:
        asked.append(name)
        time.sleep(0.05 if len(asked) in (1, 5) else 0.002)  # a slow first one, and one that stalls

    cost = cost_of_answers(answer, [str(number) for number in range(60)], "cpu")
    assert asked == ["0", *(str(number) for number in range(0, 60, 3))] and len(asked) == 1 + IMAGES
    assert cost["gpu_peak_memory_mb"] is None and 0.002 <= float(cost["seconds_per_image"] or 0) < 0.03
