"""The sweep: what its cells are, how one is run, what the curve says, and that Ray tries again and cleans up."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import REPOSITORY, refusal, write_category
from scipy import stats
from test_compare import SIZE, discs

from converters.cli.errors import DatasetError
from finetune.sweep import main
from finetune.sweeps import learning_curve
from finetune.sweeps.cells import Cell, CellError, cells, make_dataset, recipes, run_cell
from finetune.sweeps.grid import make_report, ray_at, run_cells, write
from finetune.sweeps.request import Sweep

# A training script with the options that all of them share; how it behaves is written in a file beside it.
SCRIPT = f"""
import os, sys, time
sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "tests")!r}]
from pathlib import Path
here = Path(__file__)
order = here.with_suffix(".txt").read_text() if here.with_suffix(".txt").exists() else ""
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
dataset = options["--dataset"]
with here.with_suffix(".log").open("a") as file:
    print(dataset, os.getpid(), os.getppid(), file=file)
if order == "refuse":
    sys.exit(print("Error: no such weights", file=sys.stderr) or 2)
if order == "crash":
    raise MemoryError("too large")
if order == "wait" and len(here.with_suffix(".log").read_text().splitlines()) == 1:
    time.sleep(60)
from fake_runs import write_run
from finetune.runs.dataset import Dataset
shots = 4 if "kfold" in dataset else int(dataset.split("-")[2])
skill = min(0.9, 0.5 + 0.1 * shots)
write_run(Path(options["--runs"]), Dataset(Path(options["--out"]) / dataset), options["--run"],
          {{"tuned": ("box", skill)}}, int(options["--seed"]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    masks = {name: [discs(index, kind) for index in range(10)] for kind, name in enumerate(("crack", "hole"))}
    write_category(root / "data", "widget", masks=masks, good=(4, 10), size=SIZE)
    return root


@pytest.fixture
def sweep(root: Path, tmp_path: Path) -> Sweep:
    """A grid of 2 folds, 1 and 4 shots and one model, whose script is a stand-in; datasets are made once."""
    for model in ("yolo", "classifier", "normality"):
        (tmp_path / f"{model}.py").write_text(SCRIPT, "utf-8")
    return Sweep(
        ("widget",), ("yolo",), 2, ("1", "4"), root / "out", tmp_path / "runs", root / "data", 0, False, {}, tmp_path
    )


# ---------------------------------------------------------------------------------------------------------- cells


def test_datasets_are_named_and_made_as_the_converters_do(sweep: Sweep) -> None:
    found = recipes(replace(sweep, folds=3, shots=("4", "all")))
    assert [recipe.dataset for recipe in found] == [
        *(f"widget@few-shot-4-s{fold}" for fold in range(3)),
        *(f"widget@kfold-3-{fold}" for fold in range(3)),
    ]
    for recipe in (found[1], found[4]):
        assert make_dataset(recipe, replace(sweep, folds=3)) == recipe.dataset
        split = json.loads((sweep.out / recipe.dataset / "split.json").read_text("utf-8"))
        assert split["protocol"] == recipe.rule.protocol
    assert (found[1].rule.shots, found[1].rule.seed, found[4].rule.fold) == (4, 1, 1)


def test_shots_of_one_fold_share_their_test_part(sweep: Sweep) -> None:
    tests: dict[int, list[set[str]]] = {0: [], 1: []}
    for recipe in recipes(sweep):
        make_dataset(recipe, sweep)
        parts = json.loads((sweep.out / recipe.dataset / "split.json").read_text("utf-8"))["parts"]
        tests[recipe.fold].append({key for key, part in parts.items() if part == "test"})
    assert tests[0][0] == tests[0][1] and tests[1][0] == tests[1][1]
    assert tests[0][0] != tests[1][0]


def run_first(sweep: Sweep) -> Any:
    cell = cells(sweep)[0]
    return run_cell(cell, sweep, make_dataset(cell.recipe, sweep))


def test_a_finished_cell_is_kept_and_measured_alike(sweep: Sweep) -> None:
    first = run_first(sweep)
    assert (first.status, first.labelled, first.attempts) == ("trained", 1, 1)
    assert 0 < first.sets["tuned"]["measures"]["auroc"] <= 1
    again = run_first(sweep)
    assert again.status == "kept" and again.sets == first.sets
    assert len((sweep.scripts / "yolo.log").read_text().splitlines()) == 1


def test_a_finished_cell_of_other_arguments_is_refused(sweep: Sweep) -> None:
    run_first(sweep)
    with pytest.raises(DatasetError, match="other --runs"):
        run_first(replace(sweep, arguments={"yolo": ("--epochs", "3")}))


def test_sam_comes_after_the_detector_and_takes_its_boxes(sweep: Sweep) -> None:
    (sweep.scripts / "sam_decoder.py").write_text(SCRIPT, "utf-8")
    both = replace(sweep, models=("sam", "yolo"), shots=("1",), folds=1)
    detector, segmenter = cells(both)
    assert (detector.model, segmenter.model) == ("yolo", "sam") and segmenter.before(both) == detector
    assert segmenter.before(replace(both, models=("sam",))) is detector.before(both) is None
    dataset = make_dataset(detector.recipe, both)
    run_cell(segmenter, both, dataset, run_cell(detector, both, dataset))
    record = json.loads((both.runs / dataset / "sam/seed-0/run.json").read_text())
    assert record["command"][-2:] == ["--boxes", str(both.runs / dataset / "yolo/seed-0")]


def test_what_comes_again_is_told_apart_from_what_may_not(sweep: Sweep) -> None:
    (sweep.scripts / "yolo.txt").write_text("refuse")
    with pytest.raises(DatasetError, match="no such weights"):
        run_first(sweep)
    (sweep.scripts / "yolo.txt").write_text("crash")
    with pytest.raises(CellError, match="exit code 1: MemoryError: too large"):
        run_first(sweep)
    with pytest.raises(DatasetError, match="has 12 images to train on"):
        make_dataset(recipes(replace(sweep, shots=("99",)))[0], sweep)


# ---------------------------------------------------------------------------------------------------------- curve


def record(shots: str, fold: int, score: float, category: str = "widget", **about: Any) -> dict[str, Any]:
    labelled = 80 if shots == "all" else int(shots)
    answer = {"about": {"label": "box", **about}, "measures": {"auroc": score}, "clicks": 3 * labelled}
    sets = {"tuned": answer}
    return {
        "category": category, "model": "yolo", "shots": shots, "fold": fold, "labelled": labelled, "sets": sets,
        "trivial": {}, "random_weights": True, "status": "trained", "dataset": category, "attempts": 1, "reason": "",
        "seconds": 1.0,
    }  # fmt: skip


SCORES = {"2": [0.60, 0.70, 0.62], "4": [0.66, 0.78, 0.64], "8": [0.75, 0.80, 0.71], "all": [0.9, 0.92, 0.97]}


def grid(category: str = "widget", lift: float = 0.0) -> list[dict[str, Any]]:
    return [
        record(shots, fold, score + lift, category)
        for shots, folds in SCORES.items()
        for fold, score in enumerate(folds)
    ]


def test_intervals_are_students() -> None:
    found = learning_curve.interval_over_folds(SCORES["2"])
    expected = stats.t.interval(0.95, 2, loc=0.64, scale=stats.sem(SCORES["2"]))
    assert found["value"] == pytest.approx(0.64)
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=1e-12)
    assert learning_curve.interval_over_folds([0.5]) == {"value": 0.5, "low": None, "high": None}
    assert learning_curve.interval_over_folds([0.99, 0.80], 0, 1)["high"] == 1


def test_steps_are_paired_within_folds() -> None:
    (gain,) = learning_curve.gains(learning_curve.scores(grid()))
    assert [(step["from"], step["to"]) for step in gain["steps"]] == [(2, 4), (4, 8)]
    for step, (before, after) in zip(gain["steps"], (("2", "4"), ("4", "8")), strict=True):
        test = stats.ttest_rel(SCORES[after], SCORES[before])
        low, high = test.confidence_interval(0.95)
        assert (step["low"], step["high"]) == pytest.approx((low, high), abs=1e-12)


def test_the_next_ten_labels_follow_the_logarithm() -> None:
    line = [record(shots, fold, 0.3 + 0.1 * math.log2(int(shots))) for shots in ("1", "2", "4") for fold in range(3)]
    (gain,) = learning_curve.gains(learning_curve.scores(line))
    assert gain["next"]["value"] == pytest.approx(0.1 * math.log2(14 / 4))


def test_a_fold_that_failed_is_left_out_of_pairs_and_counted() -> None:
    records = [one for one in grid() if (one["shots"], one["fold"]) != ("4", 1)]
    entries = learning_curve.scores(records)
    assert [point["folds"] for point in learning_curve.points(entries)] == [3, 2, 3, 3]
    (gain,) = learning_curve.gains(entries)
    assert gain["steps"][0]["value"] == pytest.approx((0.06 + 0.02) / 2)


def test_oracles_have_no_score_for_what_they_are_told() -> None:
    (point,) = learning_curve.points(learning_curve.scores([record("2", 0, 1.0, oracle=True)]))
    assert point["measures"] == {} and point["oracle"]


def test_a_trivial_score_stands_beside_the_models_and_strikes_their_image_measures() -> None:
    records = [record("2", fold, 0.6) | {"trivial": {"sharpness": {"auroc": 0.7}}} for fold in range(2)]
    model, trivial = learning_curve.points(learning_curve.scores(records))
    assert model["measures"]["auroc"]["reached_by"] == "sharpness" and not model["trivial"]
    assert trivial["model"] == "sharpness" and trivial["measures"]["auroc"]["value"] == 0.7
    assert "| ~~0.60" in learning_curve.as_markdown(report_of(records))


def test_several_categories_have_a_mean() -> None:
    found = learning_curve.points(learning_curve.scores([*grid(), *grid("gadget", 0.02)]))
    means = {one["shots"]: one for one in found if one["category"] == "mean of 2 categories"}
    assert means["8"]["measures"]["auroc"]["value"] == pytest.approx(sum(SCORES["8"]) / 3 + 0.01)
    assert means["all"]["labelled"] == 80


def test_categories_without_a_fold_in_common_have_no_mean() -> None:
    found = learning_curve.scores([record("2", 0, 0.5, "widget"), record("2", 1, 0.5, "gadget")])
    assert {one["category"] for one in found} == {"widget", "gadget"}


def test_a_category_whose_cells_all_failed_has_no_picture(tmp_path: Path) -> None:
    failed = record("2", 0, 0.5, "gadget") | {"status": "failed", "sets": {}}
    report = report_of([record("2", 0, 0.5, "widget"), failed])
    text = learning_curve.as_markdown(report)
    assert "(curve-widget.svg)" in text and "## gadget" in text and "curve-gadget" not in text


def report_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    entries = learning_curve.scores(records)
    return {
        "categories": sorted({one["category"] for one in records}), "shots": ["2", "4", "8", "all"], "folds": 3,
        "synthetic": True, "banners": learning_curve.banners(records, synthetic=True), "cells": records,
        "points": learning_curve.points(entries), "gains": learning_curve.gains(entries),
    }  # fmt: skip


def test_report_says_what_labels_buy(tmp_path: Path) -> None:
    report = report_of([*grid(), *grid("gadget", 0.02)])
    write(report, tmp_path / "report")
    text = " ".join((tmp_path / "report/report.md").read_text("utf-8").split())
    assert "| yolo | box | all | 80 | 240 | 3 | 0.93 [0.84, 1.00] |" in text
    for words in ("> Synthetic images", "> Started from random weights: yolo."):
        assert words in text
    assert "yolo, AUROC: from 4 to 8 labelled defect images +0.06 [" in text
    assert "| mean of 2 | 0.940 |" in text
    for category in ("widget", "gadget", "mean-of-2-categories"):
        for axis in ("curve", "clicks"):
            assert (
                tmp_path / f"report/{axis}-{category}.png"
            ).stat().st_size > 5000 and f"({axis}-{category}.svg)" in text
    svg = (tmp_path / "report/curve-widget.svg").read_bytes()
    write(report, tmp_path / "again")
    assert (tmp_path / "again/curve-widget.svg").read_bytes() == svg


# -------------------------------------------------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--shots", "1,some"), "whole numbers"),
        (("--shots", "0,1"), "whole numbers"),
        (("--models", "yolo,yolo"), "each once"),
        (("--models", "resnet"), "known are classifier, normality, yolo"),
        (("--args", "resnet=--epochs 3"), "NAME being one of"),
        (("--args", 'yolo=--weights "a'), "No closing quotation"),
        (("--args", "yolo=--config a/run.json"), "--config is for a single run"),
        (("--folds", "2"), "3 folds or more"),
    ],
)
def test_bad_usage_is_one_line(arguments: tuple[str, ...], hint: str) -> None:
    assert hint in refusal(CliRunner().invoke(main, ["--categories", "widget", "--models", "yolo", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--categories", "widget,gadget"), "has no category 'gadget'; it holds widget"),
        (("--categories", "widget", "--root", "nowhere"), "nowhere: no such folder. Name your data with --root"),
    ],
)
def test_categories_are_looked_for_before_ray_starts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], hint: str
) -> None:
    monkeypatch.setattr("finetune.sweeps.grid.ray_at", None)
    options = ("--models", "yolo", "--root", root / "data", "--out", tmp_path, *arguments)
    assert hint in refusal(CliRunner().invoke(main, [str(option) for option in options]))


def test_ray_that_does_not_start_is_one_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **settings: object) -> None:
        raise Exception("The current node timed out during startup. This could happen\nbecause the raylet failed.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=fails, shutdown=lambda: None))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    options = ("--categories", "widget", "--models", "yolo", "--root", root / "data", "--out", tmp_path, "--runs")
    line = refusal(CliRunner().invoke(main, [str(option) for option in (*options, tmp_path / "runs")]))
    assert "Ray does not start on this machine (The current node timed out during startup); try again" in line


def test_without_ray_one_line_says_what_to_install(root: Path, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('No module named ray', name='ray')", "utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "finetune.sweep", "--categories", "widget", "--models", "yolo", "--runs", tmp_path,
         "--root", root / "data"],
        cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ray is not installed: pip install -e '.[ray]'" in refusal(result)


@pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed")
def test_no_cluster_is_one_line(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune.sweep", "--categories", "widget", "--models", "yolo", "--runs", tmp_path]
    command += ["--root", root / "data"]
    result = subprocess.run(
        [*command, "--address", "127.0.0.1:1"], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30
    )
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in refusal(result)


# ------------------------------------------------------------------------------------------------------------ ray


def needs_ray(test: Any) -> Any:
    """Ray is looked for and not imported: it reads the environment when it is."""
    return pytest.mark.slow(pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed")(test))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Any, seconds: float = 180) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return found


def kill_first_worker(log: Path) -> Iterator[int]:
    """Wait for the first training of a script, kill the Ray worker that started it, and yield the training."""
    _, training, worker = until(lambda: log.is_file() and log.read_text().splitlines())[0].split()
    os.kill(int(worker), signal.SIGKILL)
    yield int(training)


@needs_ray
def test_a_killed_worker_is_tried_again_and_what_fails_twice_is_reported(sweep: Sweep) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for model, order in (("yolo", "wait"), ("classifier", "crash"), ("normality", "refuse")):
        (sweep.scripts / f"{model}.txt").write_text(order)
    sweep = replace(sweep, models=("yolo", "classifier", "normality"), folds=1, shots=("1",))
    with ray_at(None) as ray:
        from ray._common.usage.usage_lib import usage_stats_enabled

        assert not usage_stats_enabled()
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        with ThreadPoolExecutor(1) as beside:
            killed = beside.submit(lambda: next(kill_first_worker(sweep.scripts / "yolo.log")))
            found = {cell.model: outcome for cell, outcome in run_cells(ray, sweep, 1, None)}
        until(lambda: not alive(killed.result()))  # no orphan continues writing into the run
        assert not (session / "usage_stats.json").exists()
        again = dict(run_cells(ray, replace(sweep, models=("yolo",)), 1, None))
    assert not session.exists()
    assert (found["yolo"].status, found["yolo"].attempts) == ("trained", 2)
    assert (found["classifier"].status, found["classifier"].attempts) == ("failed", 2)
    assert found["classifier"].reason.startswith("exit code 1: MemoryError: too large")
    assert (found["normality"].status, found["normality"].attempts) == ("failed", 1)
    assert found["normality"].reason == "no such weights"
    assert [outcome.status for outcome in again.values()] == ["kept"]
    report = make_report(sweep, [(Cell(recipes(sweep)[0], model), found[model]) for model in sweep.models])
    text = learning_curve.as_markdown(report)
    assert "3 cells, 2 failed" in text and "classifier, tried 2 times: exit code 1" in text


@needs_ray
def test_interrupted_sweep_leaves_no_process_and_the_next_one_goes_on(root: Path, tmp_path: Path) -> None:
    marker = str(tmp_path / "runs")
    command = [sys.executable, "-m", "finetune.sweep", "--categories", "widget", "--models", "normality"]
    command += ["--folds", "1", "--shots", "1,2", "--root", str(root / "data"), "--out", str(root / "out")]
    command += ["--runs", marker, "--args", "normality=--weights none --imgsz 64 --coreset 0.02"]
    there = set(Path("/tmp").glob("ray-*"))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    until(lambda: (tmp_path / "runs/sweep/logs/widget@few-shot-1-s0-normality.log").is_file())
    (session,) = set(Path("/tmp").glob("ray-*")) - there
    assert [one for one in command_lines() if str(session) in one]
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=180)
    assert process.returncode == 130, error
    assert error.splitlines()[-1].startswith("Interrupted")
    assert not session.exists()
    until(lambda: not [one for one in command_lines() if marker in one or str(session) in one], 20)
    result = subprocess.run(command, capture_output=True, check=False, cwd=REPOSITORY, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search("^normality +good ", result.stdout, re.MULTILINE)
    assert (tmp_path / "runs/sweep/report/curve-widget.svg").is_file()


def command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
