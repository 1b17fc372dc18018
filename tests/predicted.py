"""Predicts the test part's image files as new images, and holds what comes out against the run's saved predictions."""

import csv
import json
import runpy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from PIL import Image

from finetune import export, predict
from finetune.comparison.evidence import gather
from finetune.measures.heat_levels import to_values
from finetune.runs.dataset import open_dataset
from finetune.runs.predictions import PredictionSet, image_scores


def run_predict(*arguments: object):
    return CliRunner().invoke(predict.main, [str(argument) for argument in arguments])


def check_same_as_saved(run: Path, out: Path, to: Path, set_name: str = "tuned", *arguments: object) -> None:
    """Same boxes and verdicts as the evaluation's, scores within 1e-4, as they are read by `compare`."""
    dataset = open_dataset(out, json.loads((run / "run.json").read_text("utf-8"))["dataset"])
    names = dataset.images("test")
    files = [dataset.image_file("test", name) for name in names]
    result = run_predict(run, *files, "--to", to, "--out", out, "--device", "cpu", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    saved = PredictionSet(run / "predictions" / set_name)
    before = saved.detections(dataset, "test") or []
    keys = {number: name for name, number in dataset.image_ids.items()}
    ours = json.loads((to / "predictions.json").read_text("utf-8"))
    assert len(ours) == len(before) and before
    boxes = [
        sorted((name, e["category_id"], *e["bbox"], e["score"]) for name, e in entries)
        for entries in (
            [(entry["file_name"], entry) for entry in ours],
            [(keys[entry["image_id"]], entry) for entry in before],
        )
    ]
    assert [row[:2] for row in boxes[0]] == [row[:2] for row in boxes[1]]
    assert np.allclose([row[2:6] for row in boxes[0]], [row[2:6] for row in boxes[1]], atol=0.011)
    assert np.allclose([row[6] for row in boxes[0]], [row[6] for row in boxes[1]], atol=1e-4)
    scores = saved.scores(dataset, "test") or image_scores(names, dataset.image_ids, len(dataset.classes), before)
    threshold = gather(saved, dataset).threshold
    with (to / "verdicts.csv").open(encoding="utf-8") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == names
    for name, row in rows.items():
        assert float(row["score"]) == pytest.approx(scores[name][0], abs=1e-4)
        assert float(row["threshold"]) == pytest.approx(threshold, abs=1e-5)
        assert row["verdict"] == ("defect" if scores[name][0] >= threshold else "good")
        assert (to / "overlays" / f"{Path(name).stem}.jpg").is_file()
        heat = saved.heatmap("test", name)
        assert (to / "heat_maps" / f"{Path(name).stem}.png").is_file() == (heat is not None)
    page = (to / "index.html").read_text("utf-8")
    assert page.count("<li>") >= len(names) and "http" not in page


def check_odd_images(run: Path, out: Path, folder: Path, refused: Sequence[str] = ()) -> None:
    """What is no image, or of a kind that the converters refuse, is listed and skipped with exit code 1.

    Images of whatever shape get a verdict, but for those ``refused``.
    """
    folder.mkdir()
    odd = {"column": (700, 1, "L"), "dot": (1, 1, "L"), "line": (1, 700, "RGB"), "usual": (20, 30, "RGB")}
    for name, (height, width, mode) in odd.items():
        Image.new(mode, (width, height)).save(folder / f"{name}.png")
    Image.fromarray(np.full((20, 30), 40000, np.uint16)).save(folder / "deep.png")
    Image.new("RGBA", (30, 20)).save(folder / "sheer.png")
    whole = (folder / "usual.png").read_bytes()
    for name, data in {"broken": whole[: len(whole) // 2], "empty": b"", "words": b"no image"}.items():
        (folder / f"{name}.png").write_bytes(data)
    result = run_predict(run, folder, "--to", folder.with_name("odd-to"), "--out", out, "--device", "cpu")
    assert result.exit_code == 1, (result.output, result.exception)
    skipped = [line.split()[1] for line in result.stderr.splitlines() if line.startswith("skipped: ")]
    names = ("broken", "empty", "sheer", "words", *refused)
    assert skipped == sorted(f"{name}.png" for name in names), (result.stderr, result.exception)
    with (folder.with_name("odd-to") / "verdicts.csv").open(encoding="utf-8") as file:
        judged = [row["image"] for row in csv.DictReader(file)]
    assert judged == sorted(f"{name}.png" for name in {*odd, "deep"}.difference(refused))


def check_heat(look, run: Path, dataset, name: str, set_name: str = "tuned") -> None:
    """A predictor's heat map of an image of test is the saved one."""
    from finetune.prediction.image_files import read_pixels

    saved = PredictionSet(run / "predictions" / set_name)
    before = to_values(saved.heatmap("test", name), saved.about["heatmap_middle"])
    heat = look(read_pixels(dataset.image_file("test", name), 10**8)).heat
    assert heat is not None and np.allclose(heat, before, rtol=2e-3, atol=1e-4)


def check_export(run: Path, out: Path, file: Path) -> str:
    """Exported, checked, and judged by the example for line PCs: the saved scores within 5e-3, and the heat map.

    What was printed.
    """
    exported = CliRunner().invoke(export.main, [str(run), "--out", str(out), "--to", str(file), "--check"])
    assert exported.exit_code == 0, (exported.output, exported.exception)
    assert "largest difference" in exported.output and "no verdict flips" in exported.output
    dataset, saved = open_dataset(out, "tile"), PredictionSet(run / "predictions" / "tuned")
    space = runpy.run_path(str(REPOSITORY / "docs" / "examples" / "line_pc.py"))
    model, scores, threshold = space["load"](str(file)), saved.scores(dataset, "test"), gather(saved, dataset).threshold
    assert scores is not None
    for name in dataset.images("test"):
        defective, score, _, heat = space["judge"](model, dataset.image_file("test", name))
        assert score == pytest.approx(scores[name][0], abs=5e-3), exported.output  # 0.003 seen of normality at random
        assert bool(defective) == (scores[name][0] >= threshold), exported.output
        if heat is not None:
            before = to_values(saved.heatmap("test", name), saved.about["heatmap_middle"])
            assert np.allclose(heat, before, rtol=0.01, atol=0.01 * before.max())
    return exported.output
