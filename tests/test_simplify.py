"""`--simplify`: fewer vertices, the same parts and holes, and an IoU that an independent reader confirms."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import converted, refusal, run_cli, run_process, tree, write_category
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import random_masks
from pycocotools.coco import COCO
from scipy import ndimage

from converters.masks.instances import Instance, InstanceRule, find_instances
from converters.masks.polygons import centre_ring, corner_rings, filled_by_parity, filled_with_lines, simplified
from converters.verification import readers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
DISC = cv2.circle(cv2.circle(np.zeros((64, 64), np.uint8), (32, 30), 24, 1, -1), (30, 32), 9, 0, -1)
CROSS = cv2.line(DISC.copy() * 0, (2, 3), (60, 41), 1, 1)
CONVENTIONS = {
    "COCO": (corner_rings, filled_by_parity),
    "YOLO": (lambda instance, tolerance: [centre_ring(instance, tolerance)], filled_with_lines),
}


def parts_and_holes(mask: np.ndarray) -> tuple[int, int]:
    """By SciPy, not by the code under test: parts connect at corners, holes do not."""
    holes = ndimage.label(np.pad(mask == 0, 1, constant_values=True))[1] - 1
    return ndimage.label(mask, np.ones((3, 3)))[1], holes


def vertices(rings: list[np.ndarray]) -> int:
    return sum(len(ring) for ring in rings)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_round_hole_needs_few_vertices_and_stays(convention: str) -> None:
    trace, paint = CONVENTIONS[convention]
    (instance,) = find_instances(DISC)
    rings, iou = simplified(instance, 1.0, trace, paint)
    assert vertices(rings) < vertices(trace(instance, 0.0)) / 3
    painted = paint(rings, DISC.shape)
    assert parts_and_holes(painted) == (1, 1)
    assert iou == np.count_nonzero(painted & DISC) / np.count_nonzero(painted | DISC) > 0.95


def test_a_square_simplified_by_more_than_its_side_is_left_as_it_is() -> None:
    square = Instance(3, 4, np.ones((2, 2), np.uint8), 4)
    rings, iou = simplified(square, 8.0, *CONVENTIONS["COCO"])
    assert iou == 1.0
    assert {tuple(vertex) for vertex in rings[0].tolist()} == {(3, 4), (3, 6), (5, 6), (5, 4)}


@pytest.mark.parametrize("convention", CONVENTIONS)
@given(
    mask=random_masks(), tolerance=st.sampled_from([0.5, 1.0, 2.0, 8.0]), kind=st.sampled_from(["component", "image"])
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_parts_holes_and_boxes_of_any_mask_survive(
    convention: str, mask: np.ndarray, tolerance: float, kind: str
) -> None:
    trace, paint = CONVENTIONS[convention]
    for instance in find_instances(mask, InstanceRule(kind if convention == "COCO" else "component")):
        rings, iou = simplified(instance, tolerance, trace, paint)
        painted = paint(rings, mask.shape)
        alone = np.zeros_like(mask)
        x0, y0, x1, y1 = instance.xyxy
        alone[y0:y1, x0:x1] = instance.mask
        assert parts_and_holes(painted) == parts_and_holes(alone)
        assert iou == pytest.approx(np.count_nonzero(painted & alone) / np.count_nonzero(painted | alone))
        assert iou >= 0.5
        points = np.vstack(rings)
        assert np.abs(np.array([*points.min(0), *points.max(0)]) - instance.xyxy).max() <= 0.02


@given(mask=random_masks(), tolerance=st.sampled_from([0.5, 1.0, 2.0]))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_no_vertex_is_invented(mask: np.ndarray, tolerance: float) -> None:
    """What is left are vertices of the exact outline, the nearest of which is never further than the tolerance."""
    for instance in find_instances(mask):
        exact, fewer = np.vstack(corner_rings(instance)), np.vstack(corner_rings(instance, tolerance))
        assert {tuple(point) for point in fewer.tolist()} <= {tuple(point) for point in exact.tolist()}


# ---------------------------------------------------------------- whole runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    masks = {"crack": [np.roll(DISC, shift, 1) for shift in range(-3, 2)], "scratch": [CROSS] * 5}
    return write_category(tmp_path / "data", masks=masks)


@pytest.fixture(autouse=True)
def without_ultralytics(monkeypatch) -> None:
    monkeypatch.setattr(readers, "find_spec", lambda name: None)


def test_card_and_table_state_the_iou_that_pycocotools_finds(folder: Path, tmp_path: Path) -> None:
    result = run_cli("to_coco", "--root", folder, "--out", tmp_path / "out", "--simplify", 1, "--workers", 1)
    assert result.exit_code == 0, result.output
    dataset = tmp_path / "out" / "widget"
    ious = []
    for part in ("train", "val", "test"):
        coco = COCO(dataset / "coco" / "annotations" / f"instances_{part}.json")
        for entry in coco.dataset["annotations"]:
            name = coco.imgs[entry["image_id"]]["file_name"]
            truth = DISC if "crack" in name else CROSS
            if "crack" in name:
                truth = np.roll(DISC, int(name[-5]) - 3, 1)
            seen = coco.annToMask(entry)
            ious.append(np.count_nonzero(seen & truth) / np.count_nonzero(seen | truth))
            assert entry["area"] == truth.sum()
            assert entry["bbox"] == list(cv2.boundingRect(truth))
    said = json.loads((dataset / "card.json").read_text("utf-8"))["simplified"]
    assert list(said) == ["coco"]
    assert said["coco"]["tolerance"] == 1 and said["coco"]["instances"] == len(ious) == 10
    assert said["coco"]["mean_iou"] == pytest.approx(np.mean(ious))
    assert said["coco"]["min_iou"] == pytest.approx(min(ious))
    assert min(ious) < 1
    line = (
        f"simplified: coco, 10 outlines within 1 px of their masks, IoU mean {np.mean(ious):.4f}, min {min(ious):.4f}"
    )
    assert line in result.stdout and line in (dataset / "card.md").read_text("utf-8")


def test_zero_is_the_exact_dataset_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    exact = converted("all", folder, tmp_path / "exact")
    assert tree(exact) == tree(converted("all", folder, tmp_path / "zero", "--simplify", 0))
    assert "simplified" not in (exact / "card.json").read_text("utf-8")


def test_only_polygons_change_and_workers_do_not_matter(folder: Path, tmp_path: Path) -> None:
    exact = tree(converted("all", folder, tmp_path / "exact"))
    fewer = tree(converted("all", folder, tmp_path / "fewer", "--simplify", 2))
    two = tree(converted("all", folder, tmp_path / "two", "--simplify", 2, "--workers", 2))
    assert fewer == two
    changed = {path.split("/")[0] for path in exact if exact[path] != fewer[path]}
    assert changed == {"coco", "yolo-seg", "card.json", "card.md"}


def test_verify_prints_the_iou_and_accepts_it(folder: Path, tmp_path: Path) -> None:
    dataset = converted("all", folder, tmp_path / "out", "--simplify", 1)
    result = run_cli("verify", dataset)
    assert result.exit_code == 0, result.output
    said = json.loads((dataset / "card.json").read_text("utf-8"))["simplified"]["coco"]
    rows = {row["format"]: row for row in json.loads(run_cli("verify", dataset, "--json").stdout)[dataset.as_posix()]}
    assert rows["coco"]["IoU min"] == f"{said['min_iou']:.5f}" and rows["coco"]["IoU mean"] == f"{said['mean_iou']:.5f}"
    assert rows["masks"]["IoU min"] == rows["voc"]["IoU min"] == "1.00000"
    assert {rows[name]["boxes exact"] for name in ("yolo", "yolo-seg", "coco", "voc")} == {"10 of 10"}


@pytest.mark.parametrize("format_", ["coco", "yolo-seg"])
def test_verify_finds_a_vertex_that_moved_far(folder: Path, tmp_path: Path, format_: str) -> None:
    dataset = converted("all", folder, tmp_path / "out", "--simplify", 1)
    if format_ == "coco":
        path = dataset / "coco" / "annotations" / "instances_train.json"
        content = json.loads(path.read_text("utf-8"))
        segmentation = next(e for e in content["annotations"] if e["area"] > 500)["segmentation"][0]
        segmentation[4] += 3
        path.write_text(json.dumps(content), "utf-8")
    else:
        path = next(iter(sorted((dataset / "yolo-seg" / "labels").rglob("*crack*.txt"))))
        row = path.read_text("utf-8").split()
        row[9] = f"{float(row[9]) + 12 / 64:.8f}"
        path.write_text(" ".join(row) + "\n", "utf-8")
    result = run_cli("verify", dataset)
    assert result.exit_code == 1
    assert f"{format_}: IoU with the masks is not the card's" in result.stdout


def test_a_format_written_later_keeps_what_the_card_says_of_the_first(folder: Path, tmp_path: Path) -> None:
    converted("to_coco", folder, tmp_path / "out", "--simplify", 1)
    dataset = converted("to_masks", folder, tmp_path / "out")
    card = json.loads((dataset / "card.json").read_text("utf-8"))
    assert list(card["simplified"]) == ["coco"] and set(card["formats"]) == {"coco", "masks"}
    verified = run_cli("verify", dataset)
    least = f"{card['simplified']['coco']['min_iou']:.4f}"
    assert verified.exit_code == 0 and least != "1.0000"
    assert verified.stdout.splitlines()[-1] == (
        "All formats agree with the source masks, but for polygons (coco): these agree within the simplification "
        f"stated above, with an IoU of {least} or more."
    )
    dataset = converted("to_coco", folder, tmp_path / "out", "--overwrite")
    assert "simplified" not in json.loads((dataset / "card.json").read_text("utf-8"))


def test_resume_writes_anew_what_was_simplified_otherwise(folder: Path, tmp_path: Path) -> None:
    options = ("to_coco", "--root", folder, "--out", tmp_path / "out", "--workers", 1, "--resume", "--simplify")
    assert "wrote coco" in run_cli(*options, 1).stdout
    again = run_cli(*options, 1).stdout
    assert "kept" in again and "simplified: coco, 10 outlines" in again
    assert "exists: add --overwrite" in refusal(run_cli(*options, 2))


@pytest.mark.parametrize("command", [["to_yolo"], ["to_yolo", "--task", "obb"], ["to_coco", "--segmentation", "rle"]])
def test_what_has_no_polygons_refuses_it(folder: Path, tmp_path: Path, command: list[str]) -> None:
    line = refusal(run_cli(*command, "--root", folder, "--out", tmp_path / "out", "--simplify", 1))
    assert "--simplify is for polygons" in line
    assert not (tmp_path / "out").exists()


def test_a_dry_run_tells_the_iou(folder: Path, tmp_path: Path) -> None:
    result = run_cli("to_yolo", "--task", "segment", "--root", folder, "--simplify", 2, "--dry-run")
    assert "simplified: yolo-seg, 10 outlines within 2 px" in result.stdout


@pytest.mark.slow
def test_real_defects_are_as_the_card_says_through_ultralytics(screw: Path, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    command = ("to_yolo", "--task", "segment", "--root", screw, "--out", tmp_path, "--simplify", 2)
    assert run_process(*command).returncode == 0
    said = json.loads((tmp_path / "screw" / "card.json").read_text("utf-8"))["simplified"]["yolo-seg"]
    done = run_process("verify", tmp_path / "screw", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    ((row,),) = json.loads(done.stdout).values()
    assert row["reader"] == "ultralytics" and row["boxes exact"] == "135 of 135"
    assert float(row["IoU mean"]) == pytest.approx(said["mean_iou"], abs=0.001)
    assert float(row["IoU min"]) == pytest.approx(said["min_iou"], abs=0.02)
