"""Measures against other people's: scikit-learn, pycocotools, and recorded values of anomalib and MVTec's own code."""

import contextlib
import io
import json

import numpy as np
import pytest
from aupro.record import LIMITS, RECORDED, cases
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import distance_transform_cdt
from sklearn import metrics as sk

from finetune.measures import boxes, pixels
from finetune.measures.bootstrap import interval, resample
from finetune.measures.masks import regions
from finetune.measures.scores import auroc, average_precision, best_threshold, decisions, macro_f1_defects, score_levels

RANDOM = np.random.default_rng(3)
ONES = np.ones((1, 200))
LABELS = (RANDOM.random(200) < 0.4).astype(int)
SCORES = np.round(RANDOM.normal(LABELS, 1.0), 1)  # many ties
WEIGHTS = RANDOM.integers(0, 4, (5, 200)).astype(float)


# --------------------------------------------------------------------------------------------- scores of images


@pytest.mark.parametrize("weights", [ONES, WEIGHTS], ids=["plain", "resampled"])
def test_auroc_and_ap_equal_scikit_learn(weights: np.ndarray) -> None:
    levels = score_levels(LABELS, SCORES, weights)
    for row, area, precision in zip(weights, auroc(levels), average_precision(levels), strict=True):
        assert area == pytest.approx(sk.roc_auc_score(LABELS, SCORES, sample_weight=row), abs=1e-9)
        assert precision == pytest.approx(sk.average_precision_score(LABELS, SCORES, sample_weight=row), abs=1e-9)


def test_areas_are_nan_where_a_side_is_empty() -> None:
    levels = score_levels(np.zeros(3), np.arange(3), np.ones((1, 3)))
    assert np.isnan(auroc(levels)).all() and np.isnan(average_precision(levels)).all()


def test_decisions_equal_scikit_learn() -> None:
    called = SCORES >= 0.6
    kinds = [(LABELS == 1) & called, (LABELS == 0) & called, (LABELS == 1) & ~called, (LABELS == 0) & ~called]
    found = decisions(*(np.array([kind.sum()], float) for kind in kinds))
    assert found["f1"][0] == pytest.approx(sk.f1_score(LABELS, called), abs=1e-9)
    assert found["balanced_accuracy"][0] == pytest.approx(sk.balanced_accuracy_score(LABELS, called), abs=1e-9)
    assert found["false_alarms"][0] == pytest.approx(100 * called[LABELS == 0].mean(), abs=1e-9)


def test_threshold_has_the_best_f1_of_all() -> None:
    chosen = best_threshold(LABELS, SCORES)
    best = max(sk.f1_score(LABELS, cut <= SCORES) for cut in np.unique(SCORES))
    assert sk.f1_score(LABELS, chosen <= SCORES) == pytest.approx(best, abs=1e-12)


def test_threshold_lies_halfway_between_separated_sides() -> None:
    assert best_threshold(np.array([0, 0, 1]), np.array([0.1, 0.2, 0.8])) == pytest.approx(0.5)


def test_threshold_without_defects_is_a_quantile_of_good_images() -> None:
    assert best_threshold(np.zeros(101), np.arange(101)) == pytest.approx(95)


def test_macro_f1_defects_equals_scikit_learn_over_the_types_that_occur() -> None:
    truth, predicted = RANDOM.integers(0, 4, 90), RANDOM.integers(0, 5, 90)  # class 4 is predicted but never shown
    matrix = sk.confusion_matrix(truth, predicted, labels=range(5)).astype(float)
    expected = sk.f1_score(truth, predicted, labels=[1, 2, 3], average="macro")
    assert macro_f1_defects(matrix[None])[0] == pytest.approx(expected, abs=1e-9)


# -------------------------------------------------------------------------------------------------------- boxes


def synthetic_boxes(images: int = 12, seed: int = 0) -> tuple[dict, list[dict]]:
    """A COCO ground truth of three classes and detections of it: jittered, doubled, missing, false, tied scores."""
    random = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(1, images + 1):
        for _ in range(random.integers(0, 4)):
            x, y, w, h = (float(v) for v in (*random.integers(0, 60, 2), *random.integers(8, 40, 2)))
            entry = {"image_id": image, "category_id": int(random.integers(1, 4)), "bbox": [x, y, w, h]}
            annotations.append(entry | {"id": len(annotations) + 1, "area": w * h, "iscrowd": 0})
            for _ in range(random.integers(0, 3)):
                box = [float(v) for v in np.array([x, y, w, h]) + random.normal(0, 3, 4)]
                detections.append(entry | {"bbox": box, "score": round(float(random.random()), 1)})
        box = [float(v) for v in random.integers(5, 50, 4)]
        detections.append({"image_id": image, "category_id": 1, "bbox": box, "score": round(float(random.random()), 1)})
    truth = {
        "info": {},
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"type{i}"} for i in range(1, 5)],  # the fourth has no instances
    }
    return truth, detections


def by_pycocotools(truth: dict, detections: list[dict], use_classes: bool = True) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.params.useCats = int(use_classes)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(4))
def test_box_metrics_equal_pycocotools(seed: int) -> None:
    truth, detections = synthetic_boxes(seed=seed)
    stats = by_pycocotools(truth, detections)
    found = boxes.box_metrics(truth, detections)
    assert (found.map, found.map50) == pytest.approx((stats[0], stats[1]), abs=1e-9)
    precision, recall = boxes.box_precision(boxes.match_boxes(truth, detections), np.ones((1, 12)))
    assert np.nanmean(precision) == pytest.approx(stats[0], abs=1e-9)
    assert np.nanmean(precision[..., 0]) == pytest.approx(stats[1], abs=1e-9)
    assert np.nanmean(recall) == pytest.approx(stats[8], abs=1e-9)
    any_class, _ = boxes.box_precision(boxes.match_boxes(truth, detections, use_classes=False), np.ones((1, 12)))
    assert any_class.mean() == pytest.approx(by_pycocotools(truth, detections, use_classes=False)[0], abs=1e-9)


def test_box_precision_of_a_resample_is_that_of_the_images_repeated() -> None:
    truth, detections = synthetic_boxes()
    weights = np.random.default_rng(1).integers(0, 3, (1, 12)).astype(float)
    copies = [(image, copy) for image in range(1, 13) for copy in range(int(weights[0, image - 1]))]
    ids = {pair: number for number, pair in enumerate(copies, start=1)}

    def repeated(entries: list[dict], key: str) -> list[dict]:
        return [e | {key: ids[image, copy]} for image, copy in copies for e in entries if e[key] == image]

    annotations = [e | {"id": i} for i, e in enumerate(repeated(truth["annotations"], "image_id"), start=1)]
    bigger = truth | {"images": repeated(truth["images"], "id"), "annotations": annotations}
    expected = by_pycocotools(bigger, repeated(detections, "image_id"))
    precision, recall = boxes.box_precision(boxes.match_boxes(truth, detections), weights)
    assert np.nanmean(precision) == pytest.approx(expected[0], abs=1e-9)
    assert np.nanmean(recall) == pytest.approx(expected[8], abs=1e-9)


def test_no_detections_are_zero_precision() -> None:
    truth, _ = synthetic_boxes()
    precision, recall = boxes.box_precision(boxes.match_boxes(truth, []), np.ones((1, 12)))
    assert np.nanmax(precision) == np.nanmax(recall) == 0
    assert boxes.best_box_threshold(boxes.match_boxes(truth, [])) > 1


def test_box_threshold_has_the_best_f1() -> None:
    truth, detections = synthetic_boxes()
    matches = boxes.match_boxes(truth, detections)
    scores, hit = (
        np.concatenate([getattr(m, name) if name == "scores" else m.hit[0] for m in matches])
        for name in ("scores", "hit")
    )
    total = len(truth["annotations"])
    f1 = {cut: 2 * hit[scores >= cut].sum() / ((scores >= cut).sum() + total) for cut in np.unique(scores)}
    assert f1[boxes.best_box_threshold(matches)] >= max(f1.values()) - 0.03  # ties in scores are cut as a whole


# ------------------------------------------------------------------------------------------------------- pixels


def shares_and_negatives(maps: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all N images together at each distinct score, as 16-bit levels of the same order."""
    distinct, index = np.unique(maps, return_inverse=True)
    levels = index.reshape(maps.shape).astype(np.uint16)
    counts = [pixels.level_counts(*pair) for pair in zip(levels, map(regions, masks), strict=True)]
    return tuple(sum(one[side][: len(distinct)] for one in counts) for side in (2, 1))


@pytest.mark.parametrize("name", cases())
def test_aupro_equals_anomalib_and_mvtec(name: str) -> None:
    recorded = json.loads(RECORDED.read_text())["aupro"][name]
    share, negative = shares_and_negatives(*cases()[name])
    for limit in LIMITS:
        value = pixels.aupro(share[None], negative[None], limit)[0]
        assert value == pytest.approx(recorded[str(limit)]["mvtec"], abs=1e-6)
        assert value == pytest.approx(recorded[str(limit)]["anomalib"], abs=1e-6)


def test_pro_curve_equals_its_definition_at_every_threshold() -> None:
    maps, masks = cases()["many ties"]
    rate, overlap = pixels.pro_curve(*shares_and_negatives(maps, masks))
    for cut in np.unique(maps):
        hit = maps >= cut
        found = [region.of(h).mean() for h, mask in zip(hit, masks, strict=True) for region in regions(mask)]
        assert np.interp(hit[masks == 0].mean(), rate, overlap) == pytest.approx(np.mean(found), abs=1e-9)


def test_regions_connect_at_corners_and_weigh_the_same() -> None:
    mask = np.zeros((9, 9), np.uint8)
    mask[0:2, 0:2] = mask[2:4, 2:4] = 1  # one region of 8 pixels
    mask[8, 8] = 1
    assert [(region.box, region.pixels.sum()) for region in regions(mask)] == [((0, 0, 4, 4), 8), ((8, 8, 1, 1), 1)]
    positive, negative, share = pixels.level_counts(mask.astype(np.uint16) * 7, regions(mask))
    assert (positive[7], negative[0], share[7]) == (9, 72, pytest.approx(2)) and positive.sum() == 9


@pytest.mark.parametrize("place", [np.s_[0:0], np.s_[30:50, 40:60], np.s_[0:12, 300:400]])
def test_boundary_counts_are_those_of_whole_images(place: tuple) -> None:
    hit, mask = np.zeros((2, 300, 400), np.uint8)
    hit[place] = mask[20:45, 30:55] = 1
    for ratio in pixels.BOUNDARY_RATIOS:
        ours, theirs = (pixels.boundary(side, ratio) for side in (hit, mask))
        found = pixels.boundary_counts(hit, mask)
        assert found[f"inter{ratio}"] == (ours & theirs).sum() and found[f"union{ratio}"] == (ours | theirs).sum()


@pytest.mark.parametrize("ratio", pixels.BOUNDARY_RATIOS)
def test_boundary_is_what_lies_within_the_distance_of_the_contour(ratio: float) -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[0:120, 50:200] = 1  # touches the edge, which counts as contour
    mask[40:60, 90:130] = 0
    mask[200:203, 300:390] = 1
    distance = distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    expected = (mask > 0) & (distance <= round(ratio * 500))
    assert (pixels.boundary(mask, ratio) == expected).all()


def test_iou_and_dice_of_known_counts() -> None:
    found = pixels.overlap_measures(np.array([6.0]), np.array([2.0]), np.array([4.0]))
    assert found["iou"][0] == pytest.approx(6 / 12) and found["dice"][0] == pytest.approx(12 / 18)


# ---------------------------------------------------------------------------------------------------- bootstrap


def test_resamples_keep_classes_and_duplicates_together() -> None:
    strata = ["good"] * 6 + ["crack"] * 5
    groups = ["a", "a", *"bcde", *"fghij"]
    weights = resample(strata, groups, 200, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert weights[:, 1:6].sum(axis=1) == pytest.approx(5) and weights[:, 6:].sum(axis=1) == pytest.approx(5)
    assert weights.std(axis=0).min() > 0
    assert (weights == resample(strata, groups, 200, np.random.default_rng(0))).all()


def test_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(0, 1, 100)
    weights = resample(["all"] * 100, list(range(100)), 2000, np.random.default_rng(1))
    low, high = interval(weights @ values / 100)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)
    weights = resample(["all"] * 3, list(range(3)), 20_000, np.random.default_rng(1))
    assert (weights @ values[:3] / 3).var() == pytest.approx(values[:3].var(ddof=1) / 3, rel=0.03)  # unbiased


def test_interval_of_what_is_mostly_undefined_is_none() -> None:
    assert interval(np.array([0.5, np.nan, np.nan])) is None
