"""Operating points, acceptance and probability of detection against scipy, published numbers and cases by hand."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import converted, refusal, write_category
from fake_runs import write_run
from scipy import optimize, stats
from test_compare import SIZE, compare, discs

from converters.cli.errors import DatasetError
from finetune.comparison import published
from finetune.comparison.published import beside_ours, protocol_of, published_figures, published_table
from finetune.measures import acceptance, detection_probability, operating_points
from finetune.measures.detection_probability import detection_curve, fit_logistic
from finetune.measures.operating_points import Price, threshold_for_recall, threshold_for_rejects
from finetune.predict import main as predict
from finetune.runs.dataset import Dataset
from finetune.runs.held_out import rejects_threshold
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import read_record

REPOSITORY = Path(__file__).parents[1]

# ---------------------------------------------------------------- operating points


def test_a_threshold_keeps_its_share_for_new_images() -> None:
    """Of 10,000 draws of 99 good images and a new one, as many reach the threshold as it says."""
    random = np.random.default_rng(0)
    draws = random.random((10_000, 100))
    reached = [row[99] >= threshold_for_rejects(row[:99], 0.01) for row in draws]
    assert stats.binomtest(sum(reached), 10_000, 0.01).pvalue > 0.01
    missed = [row[99] < threshold_for_recall(row[:99], 0.95) for row in draws]
    assert stats.binomtest(sum(missed), 10_000, 0.05).pvalue > 0.01


def test_too_few_images_give_no_threshold() -> None:
    assert threshold_for_rejects(np.arange(98.0), 0.01) is None
    assert threshold_for_rejects(np.arange(99.0), 0.01) == np.nextafter(98.0, np.inf)  # none of these reaches it
    assert threshold_for_rejects(np.arange(39.0), 0.05) == np.nextafter(37.0, np.inf)  # one of them does: 2 of 40
    assert threshold_for_recall(np.arange(18.0), 0.95) is None and threshold_for_recall(np.arange(19.0), 0.95) == 0
    assert [operating_points.images_needed(share) for share in (0.01, 0.05, 1 - 0.99)] == [99, 19, 99]


def test_the_cheapest_threshold_is_the_one_of_all_thresholds() -> None:
    random = np.random.default_rng(1)
    defect = random.random(60) < 0.4
    scores = np.round(random.normal(defect * 1.0, 1), 1)
    price = Price(0.02, 40, 1.5)

    def cost(threshold: float) -> float:
        called = scores >= threshold
        return 1000 * (0.02 * 40 * (~called)[defect].mean() + 0.98 * 1.5 * called[~defect].mean())

    found = operating_points.cheapest_threshold(defect, scores, price)
    assert found is not None and cost(found) == pytest.approx(min(cost(t) for t in [*scores, np.inf]))
    assert price.per_1000(1, 0) == pytest.approx(800) and price.per_1000(0, 1) == pytest.approx(1470)
    low, high = price.bounds(0.1, (0.05, 0.2), 0.0, (0.0, 0.1))
    assert low == pytest.approx(40) and high == pytest.approx(80 + np.hypot(80, 147))
    assert operating_points.cheapest_threshold(np.zeros(3, bool), np.arange(3.0), price) is None


# ---------------------------------------------------------------- acceptance


@pytest.mark.parametrize(("failures", "images", "limit"), [(0, 59, 0.05), (3, 200, 0.05), (10, 40, 0.1)])
def test_confidence_is_the_binomial_test_of_scipy(failures: int, images: int, limit: float) -> None:
    below = stats.binomtest(failures, images, limit, alternative="less").pvalue
    assert 1 - acceptance.confidence_below(failures, images, limit) == pytest.approx(below)
    above = stats.binomtest(failures, images, limit, alternative="greater").pvalue
    assert 1 - acceptance.confidence_above(failures, images, limit) == pytest.approx(above)
    bound = stats.binomtest(failures, images, alternative="less").proportion_ci(0.95, "exact").high
    assert acceptance.upper_bound(failures, images) == pytest.approx(bound)


def test_images_to_prove_a_limit() -> None:
    """59 and 299 without a failure are the textbook's (0.95^59 < 0.05 < 0.95^58); 93 and 124 those of 1 and 2."""
    needed = acceptance.images_to_prove
    assert [needed(0, 0, limit, False) for limit in (0.05, 0.01)] == [59, 299]
    assert [needed(failures, 30, 0.05, False) for failures in (0, 1, 2)] == [29, 93 - 30, 124 - 30]
    assert needed(0, 59, 0.05, True) == 0 and needed(3, 30, 0.05, True) is None
    assert (needed(2, 80, 0.05, False), needed(2, 80, 0.05, True)) == (44, 143)  # the example of docs/decisions.md
    assert acceptance.confidence_below(2, 80, 0.05) == pytest.approx(0.769, abs=5e-4)
    more = needed(1, 100, 0.02, True)  # one in 100 fails on: 5 in 500 are too few, 7 in 700 prove it
    assert more is not None and stats.binom.cdf(5, 500, 0.02) > 0.05 > stats.binom.cdf(7, 700, 0.02)
    assert 400 < more < 600


# ---------------------------------------------------------------- probability of detection

# Temperature (F) and distress of O-rings at 23 launches: S. Dalal, E. Fowlkes, B. Hoadley, JASA 1989.
TEMPERATURES = "66 70 69 68 67 72 73 70 57 63 70 78 67 53 67 75 70 81 76 79 75 76 58"
DISTRESS = "01000000111001000000101"


def test_the_fit_has_the_published_coefficients() -> None:
    x, hit = np.array(TEMPERATURES.split(), float), np.array([mark == "1" for mark in DISTRESS])
    intercept, slope = fit_logistic(x, hit)
    assert (intercept, slope) == (pytest.approx(15.0429, abs=1e-4), pytest.approx(-0.2322, abs=1e-4))


def sizes_and_hits(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    sizes = np.exp(random.uniform(np.log(3), np.log(80), count))
    return sizes, random.random(count) < 1 / (1 + np.exp(6 - 2.5 * np.log(sizes)))


def test_a90_and_its_bound_are_those_of_an_independent_fit() -> None:
    """The bound by scipy.optimize on the whole likelihood surface, with a90 as a constraint."""
    sizes, hit = sizes_and_hits()
    found = detection_curve(sizes, hit)
    assert not isinstance(found, str) and found.a90_95 is not None
    x = np.log(sizes)

    def cost(theta: Any) -> float:
        logits = theta[0] + theta[1] * x
        return float(np.logaddexp(0, np.where(hit, -logits, logits)).sum())

    best = optimize.minimize(cost, [0, 1], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert found.a90 == pytest.approx(np.exp((np.log(9) - best.x[0]) / best.x[1]), rel=1e-4)
    through = {"type": "eq", "fun": lambda theta: theta[0] + theta[1] * np.log(found.a90_95) - np.log(9)}
    bound = optimize.minimize(cost, best.x, constraints=through, method="SLSQP", options={"ftol": 1e-12})
    assert 2 * (bound.fun - best.fun) == pytest.approx(stats.chi2.ppf(0.9, 1), rel=1e-3)
    assert found.a90_95 > found.a90


def test_no_curve_where_there_is_nothing_to_fit() -> None:
    sizes, hit = sizes_and_hits()
    assert detection_curve(sizes[:39], hit[:39]) == "39 defects, and a curve needs 40"
    assert "all of 80 defects found" in str(detection_curve(sizes, hit | True))
    assert "any steep curve fits" in str(detection_curve(sizes, sizes > 20))
    assert "not found more often" in str(detection_curve(sizes, ~hit))


def test_a_bound_that_nothing_bounds_is_none() -> None:
    sizes = np.geomspace(3, 80, 44)
    found = detection_curve(sizes, np.arange(44) % 4 != 0)  # three in four found at any size
    assert isinstance(found, str) or found.a90_95 is None
    assert detection_probability.LEAST_DEFECTS == 40


# ---------------------------------------------------------------- in reports, run.json and predict


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category with images for calibration, and a run of three models."""
    root = tmp_path_factory.mktemp("decisions")
    masks = {name: [discs(index, kind) for index in range(50)] for kind, name in enumerate(("crack", "hole"))}
    category = write_category(root / "data", masks=masks, good=(60, 30), size=SIZE)
    out = converted("all", category, root / "out", "--formats", "coco,masks", "--good-val", 0.4)
    dataset = Dataset(out)
    parts = ("val", "test", "calibration")
    for name, kind in (("classifier", "class"), ("normality", "good"), ("yolo", "box")):
        write_run(root / "runs", dataset, name, {"tuned": (kind, 0.75)}, parts=parts)
    return root


@pytest.fixture(scope="module")
def report(root: Path) -> dict[str, Any]:
    options = ("--prevalence", 0.01, "--cost-escape", 50, "--cost-reject", 1, "--accept", "escapes<=10%,rejects<=5%")
    result = compare(root, root / "runs", *options, "--report", root / "report")
    assert result.exit_code == 0, result.output
    return json.loads((root / "report" / "report.json").read_text("utf-8"))


def decisions(report: dict[str, Any], model: str) -> dict[str, Any]:
    return next(row["decisions"] for row in report["rows"] if row["name"] == model)


def scores(root: Path, model: str, part: str) -> dict[str, float]:
    path = root / "runs/widget" / model / "seed-0/predictions/tuned" / f"{part}_scores.csv"
    with path.open(encoding="utf-8") as file:
        return {row["image"]: float(row["defect"]) for row in csv.DictReader(file)}


def test_points_are_from_calibration_and_measured_on_test(root: Path, report: dict[str, Any]) -> None:
    point = next(one for one in decisions(report, "classifier")["points"] if one["point"] == "rejects <= 5 %")
    good = sorted(scores(root, "classifier", "calibration").values())
    assert point["from"] == "calibration" and point["of"] == len(good) == 24
    assert point["thresholds"][0] == np.nextafter(good[-1], np.inf)  # one of 25 at most, as 24 are there
    test = scores(root, "classifier", "test")
    rejected = {name: score >= point["thresholds"][0] for name, score in test.items()}
    for side, is_good in (("recall", False), ("rejects", True)):
        hits = [hit for name, hit in rejected.items() if ("__good__" in name) is is_good]
        assert point[side]["value"] == pytest.approx(np.mean(hits)) and point[side]["of"] == len(hits)
        bounds = stats.binomtest(sum(hits), len(hits)).proportion_ci(0.95, "exact")
        assert (point[side]["low"], point[side]["high"]) == pytest.approx((bounds.low, bounds.high), abs=1e-6)
    few = next(one for one in decisions(report, "classifier")["points"] if one["point"] == "rejects <= 1 %")
    assert few["why"] == "needs 99 good images in calibration, which has 24" and "recall" not in few


def test_run_json_has_the_same_points(root: Path, report: dict[str, Any]) -> None:
    record = read_record(root / "runs/widget/yolo/seed-0")
    (told,) = record["operating_points"].values()
    ours = decisions(report, "yolo")["points"]
    assert [one["threshold"] for one in told if one["threshold"] is not None] == [
        one["thresholds"][0] for one in ours if "thresholds" in one
    ]
    assert [one["recall"]["count"] for one in told if "recall" in one] == [
        one["recall"]["count"] for one in ours if "recall" in one
    ]


def test_a_model_of_good_images_looks_at_no_defect_of_val(report: dict[str, Any]) -> None:
    told = decisions(report, "normality")
    recalls = [one for one in told["points"] if one["point"].startswith("recall")]
    assert {one["why"] for one in recalls} == {"looks at good images alone, and this needs defects of val"}
    assert (
        told["cost"]["threshold"] == "its own" and decisions(report, "yolo")["cost"]["threshold"] == "cheapest on val"
    )


def test_an_acceptance_sheet_counts_escapes_at_the_threshold_for_rejects(root: Path, report: dict[str, Any]) -> None:
    told = decisions(report, "classifier")["acceptance"]
    assert told["from"] == "calibration, for rejects <= 5 %"
    escapes, rejects = told["requirements"]
    test, (threshold,) = scores(root, "classifier", "test"), told["thresholds"]
    assert escapes["count"] == sum(score < threshold for name, score in test.items() if "__good__" not in name)
    assert rejects["count"] == sum(score >= threshold for name, score in test.items() if "__good__" in name)
    assert told["passes"] == (escapes["confidence"] >= 0.95 and rejects["confidence"] >= 0.95)
    text = (root / "report/acceptance/classifier.html").read_text("utf-8")
    assert ("Does not pass" in text) is not told["passes"] and "escapes ≤ 10 %" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_defect_is_found_where_its_image_is_called_and_a_tenth_of_it_is_marked(report: dict[str, Any]) -> None:
    told = decisions(report, "yolo")["detection"]
    assert (
        told["defects"] == sum(size["of"] for size in told["sizes"]) > report["test"]["images"] - report["test"]["good"]
    )
    assert told["found"] == sum(size["count"] for size in told["sizes"])
    assert "curve" in told or "why" in told


def test_good_images_of_folders_that_differ_are_told_apart(tmp_path: Path) -> None:
    category = write_category(tmp_path / "data", masks={"crack": 10}, good=(40, 110), size=SIZE)
    for path in (category / "test" / "good").iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 3)  # darker than those of train/good
    dataset = Dataset(converted("to_coco", category, tmp_path / "out", "--good-val", 0.5))
    write_run(tmp_path / "runs", dataset, "yolo", {"tuned": ("box", 0.7)}, parts=("val", "test", "calibration"))
    result = compare(tmp_path, tmp_path / "runs", "--report", tmp_path / "report")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert report["folders_apart"]["auroc"] == 1.0
    points = [one for one in decisions(report, "yolo")["points"] if one["point"] == "rejects <= 5 %"]
    assert [(one["from"], one["of"]) for one in points] == [("calibration", 20), ("val", 22)]
    assert points[1]["rejects_of_calibration"]["of"] == 20 and "rejects_of_calibration" not in points[0]
    assert "look different" in (tmp_path / "report/index.html").read_text("utf-8")


def test_tables_are_there_as_csv(root: Path, report: dict[str, Any]) -> None:
    tables = {
        path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in (root / "report/tables").glob("*")
    }
    assert {"measures", "cost", "classes", "operating_points", "prices", "acceptance", "detection"} <= tables.keys()
    (row,) = [one for one in tables["measures"] if (one["model"], one["measure"]) == ("yolo", "map50")]
    known = next(one["measures"]["map50"] for one in report["rows"] if one["name"] == "yolo")
    assert float(row["value"]) == known["value"] and float(row["low"]) == known["low"]
    page = (root / "report/index.html").read_text("utf-8")
    assert "Cost over false rejects" in page and 'id="decisions"' in page and "Acceptance: yolo" in page


def test_predict_takes_a_point_of_the_run(root: Path) -> None:
    dataset, source = Dataset(root / "out/widget"), PredictionSet(root / "runs/widget/yolo/seed-0/predictions/tuned")
    good = max(scores(root, "yolo", "calibration").values())
    assert rejects_threshold(source, dataset, 0.05) == np.nextafter(good, np.inf)
    with pytest.raises(DatasetError, match="--rejects 1%: needs 99 good images in calibration, which has 24"):
        rejects_threshold(source, dataset, 0.01)
    line = CliRunner().invoke(predict, ["run", "image.png", "--to", "to", "--rejects", "1"])
    assert line.exit_code == 2 and "is no share such as 1%" in line.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prevalence", 0.01), "costs take all three"),
        (("--accept", "escapes<1"), "limits such as escapes<=1%,rejects<=5% are needed"),
        (("--accept", "rejects<=1%,rejects<=2%"), "twice"),
    ],
)
def test_what_is_asked_for_is_checked(root: Path, options: tuple[Any, ...], words: str) -> None:
    assert words in refusal(compare(root, root / "runs", *options))


# ---------------------------------------------------------------- published figures


def official(root: Path, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> Dataset:
    """A small folder called `screw`, converted to the official protocol; ``facts`` are what MVTec's is said to hold."""
    category = write_category(root / "data", "screw", masks={"crack": 3}, good=(10, 4))
    found = Dataset(root / "out/screw@official")
    if not found.folder.is_dir():
        converted("to_coco", category, root / "out", "--protocol", "official")
    if facts:
        monkeypatch.setattr(published, "known_facts", lambda: {"categories": {"screw": facts}})
    return found


def test_an_incomplete_folder_never_stands_beside_a_papers_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = official(tmp_path, monkeypatch)
    assert protocol_of(dataset) == "official (incomplete)"
    told = beside_ours([dataset])
    assert told["figures"] == [] and "train/good: 10 of 320" in told["why"]
    write_run(tmp_path / "runs", dataset, "normality", {"tuned": ("good", 0.8)})
    result = compare(tmp_path, tmp_path / "runs", dataset="screw@official")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "runs/screw@official/report/index.html").read_text("utf-8")
    assert "None stands here" in page and "official (incomplete)" in page and "PatchCore" not in page


def test_a_complete_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = official(tmp_path, monkeypatch, train_good=10, test_good=4, defects={"crack": 3})
    assert protocol_of(dataset) == "official"
    told = beside_ours([dataset])
    assert told["why"] is None
    assert {one["measures"]["auroc"] for one in told["figures"]} == {0.960, 0.985}  # of screw, by their sources
    more = official(tmp_path, monkeypatch, train_good=10, test_good=4, defects={"crack": 2})
    assert "test/crack: 3 of 2" in str(beside_ours([more])["why"])


def test_docs_hold_the_table_of_published_figures() -> None:
    text = (REPOSITORY / "docs/published.md").read_text("utf-8")
    assert published_table() in text
    assert all(one["source"] and one["protocol"] and one["mask_threshold"] for one in published_figures())
