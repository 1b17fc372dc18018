"""`finetune/classifier.py`: refusals before any work, parts by themselves, and real trainings on synthetic images."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import REPOSITORY, converted, refusal, run_cli, without_tags
from PIL import Image
from sklearn import metrics

pytest.importorskip("torchcam")

import torch
from predicted import check_export, check_heat, check_odd_images, check_same_as_saved

from finetune import classifier
from finetune.classification import ladder, training
from finetune.classification import loop as fitting
from finetune.classification.finished import evaluate_again
from finetune.classification.loop import Job, features_of, fit, load_network, logits_of, mixing, source_of
from finetune.classification.recipes import ATTEMPTS, IMBALANCE, Attempt
from finetune.export import main as export
from finetune.measures import decisions
from finetune.measures.masks import regions_above
from finetune.predict import main as predict
from finetune.prediction.new_images import open_predictor
from finetune.runs.dataset import open_dataset
from finetune.training import heat_maps as heatmaps
from finetune.training import published as training_published
from finetune.training.backbones import build_network, head_of, known_networks, start_from
from finetune.training.checkpoints import load_state, save_state
from finetune.training.images import augmentation, load_images, normalise
from finetune.training.painted_defects import CELLS, paint_defects
from finetune.training.published import fetch_weights
from finetune.training.weights import find_weights

torch.set_num_threads(1)
SIDE = 48
COUNTS = {"train/good": 12, "test/good": 12, "test/dark": 12, "test/line": 12}


def draw(kind: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise with a dark square (`dark`) or a bright line (`line`) somewhere; image and mask, SIDE x SIDE."""
    image = generator.normal(110, 12, (SIDE, SIDE)) + generator.uniform(-20, 20)
    mask = np.zeros((SIDE, SIDE), bool)
    y, x = generator.integers(4, SIDE - 16, 2)
    if kind == "dark":
        mask[y : y + 10, x : x + 10] = True
        image[mask] -= 90
    elif kind == "line":
        mask[y : y + 2, 4:-4] = True
        image[mask] += 110
    return np.clip(image, 0, 255).astype(np.uint8), mask


def write_images(root: Path, counts: dict[str, int] = COUNTS) -> Path:
    generator = np.random.default_rng(0)
    for place, count in counts.items():
        part, kind = place.split("/")
        for index in range(count):
            image, mask = draw(kind, generator)
            path = root / "tile" / part / kind / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            if kind != "good":
                truth = root / "tile" / "ground_truth" / kind / f"{index:03d}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(truth)
    return root / "tile"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A folder of datasets that holds `tile` as masks and COCO."""
    root = tmp_path_factory.mktemp("tiles")
    folder = write_images(root / "data")
    for command in ("to_masks", "to_coco"):
        converted(command, folder, root / "out")
    return root / "out"


FAST = ("--weights", "none", "--imgsz", SIDE, "--device", "cpu", "--precision", "float32")


def run(out: Path, runs: Path, *arguments: object) -> Result:
    command = ["--category", "tile", "--out", out, "--runs", runs, *arguments]
    return CliRunner().invoke(classifier.main, [str(argument) for argument in command])


def trained(out: Path, runs: Path, *arguments: object) -> dict:
    """Train, and return the first row of the printed table."""
    result = run(out, runs, *FAST, "--json", *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)[0]


def job(**changes: object) -> Job:
    attempt = replace(Attempt(arch="deep", epochs=2, batch=8, imgsz=SIDE, precision="float32"), **changes)
    return Job(attempt, 3, None, "cpu", 0)


# ------------------------------------------------------------------------------------------------------ refusals


def test_weights_that_cannot_be_had_name_the_file_and_the_flag(out, tmp_path):
    assert "--weights mine.pt: no such file" in refusal(
        run(out, tmp_path, "--attempt", "plain", "--weights", "mine.pt")
    )


def test_our_own_network_has_no_published_weights(out, tmp_path):
    line = refusal(run(out, tmp_path, "--attempt", "deep"))
    assert "--weights DEFAULT: --arch deep is our own" in line


def test_published_weights_go_through_torchvision_and_fail_in_one_line(monkeypatch):
    known = training_published.published("resnet18")
    assert {"DEFAULT", "IMAGENET1K_V1"} <= set(known)

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(Exception, match=r"--weights DEFAULT: could not be downloaded \(no route to host\).*FILE"):
        find_weights("DEFAULT", {name: known[name].url for name in known}, lambda name: fetch_weights(known[name]))


def test_unknown_architecture_is_refused(out, tmp_path):
    line = refusal(run(out, tmp_path, *FAST, "--arch", "resnet19"))
    assert "--arch resnet19: known are lite0, fine, deep, alexnet" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "fine", "--imgsz", 60], "--arch fine can't take images of --imgsz 60: a multiple of 8 is needed"),
        (["--arch", "vit_b_32", "--imgsz", 32], "add --no-heatmaps"),
        (["--lr", "nan"], "nan is no number"),
        (["--seed", -1], "-1 is not in the range"),
    ],
    ids=str,
)
def test_what_would_fail_in_or_after_the_training_is_refused_before_it(out, tmp_path, arguments, words):
    assert words in refusal(run(out, tmp_path, *FAST, "--attempt", "plain", *arguments))
    assert not (tmp_path / "tile").exists()


def test_images_of_one_kind_leave_nothing_to_learn(tmp_path):
    converted("to_coco", write_images(tmp_path / "data", {"train/good": 6, "test/good": 6}), tmp_path / "out")
    line = refusal(run(tmp_path / "out", tmp_path / "runs", *FAST))
    assert "its train part shows nothing but good images" in line


def test_thresholds_are_not_chosen_without_defects_in_val(tmp_path):
    few_shot = ("--protocol", "few-shot", "--shots", 4)
    converted("to_coco", write_images(tmp_path / "data"), tmp_path / "out", *few_shot)
    given = ("--category", "tile@few-shot-4-s0", "--no-heatmaps", "--imbalance", "thresholds")
    assert "shows no defect to choose them by" in refusal(run(tmp_path / "out", tmp_path / "runs", *FAST, *given))


@pytest.mark.parametrize("steps", [1, 4, 5, 6])
def test_a_cosine_of_few_steps_ends_at_nought(steps):
    network, attempt = build_network("deep", 3, SIDE, "linear", 0.0, None), replace(ATTEMPTS["focal"], epochs=1)
    optimizer = fitting.make_optimizer(network, attempt)
    schedule = fitting.make_schedule(optimizer, attempt, steps)
    for _ in range(steps - 1):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] < attempt.lr / 1000


def test_a_resumed_run_does_not_pass_its_rest_off_as_its_training(out, tmp_path):
    given = ("--run", "v1.2", "--attempt", "plain", "--arch", "deep", "--epochs", 1, "--no-heatmaps", "--repeat", 2)
    assert trained(out, tmp_path, *given)["seconds"] > 0
    assert {path.name for path in (tmp_path / "tile").glob("*-table.*")} == {"v1.2-table.json", "v1.2-table.md"}
    assert json.loads((tmp_path / "tile" / "v1.2-table.json").read_text())["rows"][0]["seeds"] == 2
    record = tmp_path / "tile" / "v1.2" / "seed-1" / "run.json"
    assert json.loads(record.read_text())["train_seconds"] > 0
    assert trained(out, tmp_path, *given, "--resume")["seconds"] is None
    assert json.loads(record.read_text())["train_seconds"] is None
    last = record.with_name("last.pt")
    last.write_bytes(last.read_bytes()[:1000])
    assert f"{last} is damaged: train again" in refusal(run(out, tmp_path, *FAST, *given, "--resume"))


def test_input_size_that_a_network_cannot_take_is_refused(out, tmp_path):
    line = refusal(run(out, tmp_path, *FAST, "--attempt", "plain", "--arch", "vit_b_16", "--imgsz", 50))
    assert "--arch vit_b_16 can't take images of --imgsz 50" in line


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"not a checkpoint", "weights_only=True; name a file that `torch.save(model.state_dict(), FILE)` has w"),
        ({"epoch": 3}, "holds no state_dict"),
        ({"fc.weight": torch.zeros(2, 2)}, "doesn't fit --arch resnet18"),
    ],
)
def test_checkpoint_that_does_not_fit_is_one_line(out, tmp_path, content, complaint):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    line = refusal(run(out, tmp_path, "--attempt", "plain", "--imgsz", SIDE, "--weights", path))
    assert str(path) in line and complaint in line


def test_checkpoint_that_would_run_code_is_refused(tmp_path, out):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pt")
    line = refusal(run(out, tmp_path, "--attempt", "plain", "--imgsz", SIDE, "--weights", tmp_path / "evil.pt"))
    assert "weights_only=True" in line
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------ parts


def test_labels_are_equal_from_tags_coco_yolo_and_masks(out, tmp_path):
    folder = write_images(tmp_path / "data")
    for command in ("to_yolo", "to_masks", "to_coco"):
        without_tags(converted(command, folder, tmp_path / command))
    tags = open_dataset(out, "tile")
    coco, yolo, masks = (open_dataset(tmp_path / command, "tile") for command in ("to_coco", "to_yolo", "to_masks"))
    for part in ("train", "val", "test"):
        labels = tags.labels(part)
        assert labels == coco.labels(part) == yolo.labels(part) == masks.labels(part)
        assert all(("good" in name) == (label is None) for name, label in labels.items())
        assert {label for name, label in labels.items() if "line" in name} == {coco.classes.index("line")}


def test_a_torchvision_checkpoint_fills_all_but_the_head(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(1)
    published = resnet18(num_classes=1000)
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    network = build_network("resnet18", 3, SIDE, "mlp", 0.0, None)
    start_from(network, tmp_path / "resnet18.pth", "resnet18")
    assert torch.equal(network.layer4[1].conv2.weight, published.layer4[1].conv2.weight)
    assert head_of(network)[0] == "fc"


@pytest.mark.parametrize(
    "arch", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "deep", "fine"]
)
def test_networks_get_a_head_and_a_map_of_limited_stride(arch):
    torch.manual_seed(0)
    coarse = build_network(arch, 3, 64, "linear", 0.0, None).eval()
    fine = build_network(arch, 3, 64, "linear", 0.0, 8).eval()
    pixels = torch.zeros(1, 3, 64, 64)
    assert coarse(pixels).shape == fine(pixels).shape == (1, 3)
    assert {k: v.shape for k, v in coarse.state_dict().items()} == {k: v.shape for k, v in fine.state_dict().items()}


def test_stride_sets_the_size_of_the_last_map():
    sides = {}
    for stride in (None, 16, 8):
        network = build_network("resnet18", 3, 64, "linear", 0.0, stride).eval()
        network.layer4.register_forward_hook(lambda m, i, o, stride=stride: sides.update({stride: o.shape[-1]}))
        network(torch.zeros(1, 3, 64, 64))
    assert sides == {None: 2, 16: 4, 8: 8}


def test_a_defect_of_one_cell_is_seen_by_the_largest_cell_and_lost_in_the_average():
    """By hand: one cell of 1.6 among 1,600 is 1.6 as the largest and 0.001 on average; from 0.8 on, it is a defect."""
    network = build_network("lite0", 2, 320, "cells", 0.0, None).eval()
    with torch.no_grad():
        for parameter in [*network.cells.parameters(), *network.head.parameters()]:
            parameter.zero_()
        network.cells.projections[0].weight[5, 7] = 1  # the finest stage's feature 7 becomes feature 5
        network.head[-1].weight[1, 5], network.head[-1].bias[1] = 1, -0.8
    good = [torch.zeros(1, features, side, side) for features, side in ((40, 40), (112, 20))]
    defect = [good[0].clone(), *good[1:]]
    defect[0][0, 7, 21, 33] = 1.6
    cells = network.cells(defect)
    assert network(good)[0].tolist() == [0, pytest.approx(-0.8)]
    assert network(defect)[0].tolist() == [0, pytest.approx(1.6 - 0.8, abs=1e-4)]
    assert network.head(network.standard(cells.mean((2, 3))))[0, 1].item() == pytest.approx(0.001 - 0.8, abs=1e-4)
    assert cells[0, 5].argmax().item() == 21 * 40 + 33


def test_every_torchvision_classifier_is_offered():
    assert {"resnet18", "convnext_tiny", "efficientnet_b0", "vit_b_16", "swin_t", "densenet121"} <= set(
        known_networks()
    )


def test_augmentation_keeps_size_and_type_and_changes_only_at_random():
    image = torch.arange(3 * SIDE * SIDE).remainder(256).to(torch.uint8).view(3, SIDE, SIDE)
    for kind in ("none", "camera", "strong"):
        torch.manual_seed(0)
        changed = augmentation(kind, SIDE)(image)
        assert changed.shape == image.shape and changed.dtype == torch.uint8
        torch.manual_seed(0)
        assert torch.equal(changed, augmentation(kind, SIDE)(image))
        assert torch.equal(changed, image) == (kind == "none")


def test_augmentation_turns_no_corner_black():
    white = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    changed = torch.stack([augmentation("camera", 64)(white) for _ in range(60)])
    assert changed.min() > 150  # the exposure alone: 0.8 of white


def test_made_up_defects_change_what_they_name_and_nothing_far_from_it():
    generator = np.random.default_rng(0)
    image, other = (generator.integers(0, 255, (96, 96, 3)).astype(np.uint8) for _ in range(2))
    kinds = set()
    for _ in range(40):
        painted, classes = paint_defects(image, other, generator)
        changed = (painted != image).any(2)
        assert changed[classes > 0].mean() > 0.99 if classes.any() else True
        kinds |= set(np.unique(classes).tolist())
    assert kinds == set(range(CELLS))


def test_mixing_gives_labels_the_shares_of_their_images():
    torch.manual_seed(0)
    labels = torch.arange(4)
    mixed, shares = mixing(0.4, 4)(torch.eye(4).view(4, 4, 1, 1), labels)
    assert torch.equal(mixed[:, :, 0, 0], shares) and shares.sum(1).allclose(torch.ones(4))
    assert (shares > 0).sum() > 4
    assert mixing(0.0, 4)(mixed, labels) == (mixed, labels)


def test_temperature_repairs_overconfidence_and_changes_no_decision():
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 1, (400, 3))
    labels = np.array([generator.choice(3, p=row) for row in decisions.softmax(truth)])
    sharp = truth * 4
    temperature = decisions.fit_temperature(sharp, labels)
    assert temperature == pytest.approx(4, rel=0.25)
    before, after = decisions.softmax(sharp), decisions.softmax(sharp, temperature)
    assert (before.argmax(1) == after.argmax(1)).all()
    assert decisions.calibration_error(after, labels) < decisions.calibration_error(before, labels) / 2


def test_calibration_error_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35], [0.35, 0.65]])
    labels = np.array([0, 1, 0, 0])  # bin of 0.95: half right; bin of 0.65: half right
    assert decisions.calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)


def test_thresholds_find_a_rare_class_that_argmax_never_names():
    probabilities = np.array([[0.9, 0.1]] * 8 + [[0.7, 0.3]] * 2)
    labels = np.array([0] * 8 + [1] * 2)
    thresholds = decisions.fit_thresholds(probabilities, labels)
    assert (decisions.decide(probabilities, thresholds) == labels).all()


def test_macro_f1_of_resamples_equals_scikit_learns():
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(0)
    labels, found = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    ours = decisions._weighted_f1(labels, found, np.ones((1, 50)))[0]
    assert ours == pytest.approx(f1_score(labels, found, average="macro"))
    low, high = decisions.f1_interval(labels, [found])
    assert low < ours < high


def test_boxes_of_a_map_are_its_regions():
    heat = np.zeros((20, 30), np.float32)
    heat[2:5, 4:10], heat[12, 20] = 0.5, 0.9
    found = [(region.box, peak) for region, peak in regions_above(heat, 0.4)]
    assert found == [((4, 2, 6, 3), 0.5), ((20, 12, 1, 1), pytest.approx(0.9))]
    assert regions_above(heat, 0.95) == []


def test_pointing_game_hits_the_mask_and_knows_its_chance(out):
    dataset = open_dataset(out, "tile")
    images = load_images(dataset, "test", SIDE)
    semantic = dataset.format("masks") / "semantic" / "test"
    truth = [np.asarray(Image.open(semantic / name)).astype(np.float32) for name in images.names]
    scores = heatmaps.pointing_game(dataset, "test", images, truth)
    assert scores["pointing"] == 1.0 and 0.05 < scores["pointing_chance"] < 0.9


# ------------------------------------------------------------------------------------------------------ trainings


def scores_of(folder: Path, part: str = "test") -> str:
    return (folder / "predictions" / "tuned" / f"{part}_scores.csv").read_text()


@pytest.fixture(scope="module")
def finished(out, tmp_path_factory) -> tuple[Path, dict]:
    runs = tmp_path_factory.mktemp("runs")
    row = trained(out, runs, "--attempt", "plain", "--arch", "deep", "--epochs", 20, "--batch", 8, "--lr", 3e-3)
    return runs / "tile" / "classifier" / "seed-0", row


def test_a_short_training_learns_to_tell_the_classes(finished):
    folder, row = finished
    assert row["macro_f1"] > 0.6 and row["auroc"] > 0.7  # chance: 0.33 and 0.5
    record = json.loads((folder / "run.json").read_text())
    assert record["random_weights"] and record["metrics"]["test"]["macro_f1"] == row["macro_f1"]
    assert len(record["history"]) == 20
    assert all((folder / f"{name}.png").stat().st_size > 5000 for name in ("learning", "confusion", "reliability"))


def test_the_default_learns_from_the_installed_start_alone_and_shows_where(out, tmp_path):
    result = run(out, tmp_path, "--imgsz", 2 * SIDE, "--epochs", 12, "--lr", 1e-2, "--device", "cpu", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    row = json.loads(result.stdout)[0]
    assert row["macro_f1"] > 0.6 and row["pointing"] > 0.5 + row["pointing_chance"]
    folder = tmp_path / "tile" / "classifier" / "seed-0"
    assert json.loads((folder / "run.json").read_text())["start"] == "embedded ImageNet"
    dataset = open_dataset(out, "tile")
    check_heat(open_predictor(folder, out, "cpu", None, None).look, folder, dataset, dataset.images("test")[-1])
    check_export(folder, out, tmp_path / "model.onnx")


def test_predictions_are_in_the_shared_format(finished, out):
    folder, _ = finished
    dataset = open_dataset(out, "tile")
    about = json.loads((folder / "predictions" / "tuned" / "set.json").read_text())
    assert about["label"] == "class" and about["heatmap_middle"] > 0
    with (folder / "predictions" / "tuned" / "test_scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(dataset.images("test"))
    for row in rows:
        assert float(row["defect"]) == pytest.approx(sum(float(row[name]) for name in dataset.classes), abs=1e-5)
        heat = Image.open(folder / "predictions" / "tuned" / "test_heatmaps" / row["image"])
        assert np.asarray(heat).shape == (SIDE, SIDE) and np.asarray(heat).dtype == np.uint16


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_predict_writes_the_same_predictions_and_measures_to_the_bit(finished, out):
    folder, _ = finished
    before = contents(folder)
    (folder / "predictions" / "tuned" / "test_scores.csv").unlink()
    result = CliRunner().invoke(predict, [str(folder), "--part", "test", "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout == f"{folder}: val and test of tile predicted again; the measures are in its run.json\n"
    assert contents(folder) == before


def test_predict_and_export_want_a_run_of_ours(finished, out, tmp_path):
    record = json.loads((finished[0] / "run.json").read_text())
    for command in ([predict, "--part", "test"], [export]):
        main, *options = command
        given = [str(tmp_path), *options, "--out", str(out)]
        (tmp_path / "run.json").unlink(missing_ok=True)
        assert "holds no finished run (no run.json)" in refusal(CliRunner().invoke(main, given))
        (tmp_path / "run.json").write_text(json.dumps(record | {"model": "ours"}))
        assert "is of the model ours, which no trainer here makes" in refusal(CliRunner().invoke(main, given))


def test_logits_after_loading_are_equal_to_the_bit(out, tmp_path):
    dataset = open_dataset(out, "tile")
    train, val = (load_images(dataset, part, SIDE) for part in ("train", "val"))
    network, _ = fit(job(ema=0.9), train, val, tmp_path, resume=False)
    again = load_network(job(), tmp_path / "model.pt")
    assert np.array_equal(logits_of(network, val, job()), logits_of(again, val, job()))
    assert features_of(again, source_of(job(), again, val, "none", 0), 8).shape == (len(val), 256)


@pytest.mark.filterwarnings("error")
def test_measures_are_those_of_scikit_learn_and_good_images_alone_are_no_matter_for_a_warning():
    random = np.random.default_rng(0)
    labels, called = random.integers(0, 4, (2, 60))
    labels, called = labels.tolist(), called.tolist()
    found = decisions.measure(labels, called)
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, called))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, called, average="macro"))
    assert set(decisions.measure(np.zeros(5, int), np.zeros(5, int)).values()) == {1.0}
    one_alarm = decisions.measure(np.zeros(5, int), np.array([0, 0, 0, 0, 2]))
    assert one_alarm["accuracy"] == one_alarm["balanced_accuracy"] == 0.8


CACHED = {"arch": "lite0", "head": "cells", "views": 2}


@pytest.mark.parametrize("changes", [{"schedule": "cosine", "optimizer": "AdamW", "ema": 0.9}, {"mixup": 0.4}, CACHED])
def test_a_resumed_training_ends_where_an_unbroken_one_does(out, tmp_path, monkeypatch, changes):
    dataset = open_dataset(out, "tile")
    train, val = (load_images(dataset, part, SIDE) for part in ("train", "val"))
    settings = job(**{"epochs": 3, "augment": "camera", "dropout": 0.2, "head": "mlp"} | changes)
    folders = [tmp_path / name for name in ("whole", "broken")]
    for folder in folders:
        folder.mkdir()
    whole, _ = fit(settings, train, val, folders[0], resume=False)
    real = torch.manual_seed
    monkeypatch.setattr(
        torch, "manual_seed", lambda seed: (_ for _ in ()).throw(KeyboardInterrupt) if seed == 2 else real(seed)
    )
    with pytest.raises(KeyboardInterrupt):
        fit(settings, train, val, folders[1], resume=False)
    monkeypatch.undo()
    resumed, standing = fit(settings, train, val, folders[1], resume=True)
    assert standing.epoch == 3
    assert np.array_equal(logits_of(whole, val, settings), logits_of(resumed, val, settings))


def test_from_maps_the_new_parts_learn_and_the_rest_stays_as_it_was_and_is_looked_at_once(out, tmp_path):
    dataset = open_dataset(out, "tile")
    train, val = (load_images(dataset, part, SIDE) for part in ("train", "val"))
    settings = job(**CACHED, augment="camera")
    before = fitting.start_network(settings, train, tmp_path, False).state_dict()
    network, _ = fit(settings, train, val, tmp_path, resume=False)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert {key.partition(".")[0] for key in changed} == {"cells", "standard", "head"}
    seen = dict(settings.looked)
    assert sorted(len(maps.views) for maps in seen.values()) == [1, 2]
    from_maps = fitting.judge(network, seen[next(key for key in seen if val.names[0] in key)], val.labels, 8)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits_of(network, val, settings)), val.labels).item()
    assert from_maps["val_loss"] == pytest.approx(loss, abs=1e-2)
    again = replace(settings, attempt=replace(settings.attempt, imbalance="oversample"))
    fit(again, train, val, tmp_path, resume=False)
    assert settings.looked == seen


def test_a_run_with_other_settings_is_not_resumed(out, tmp_path):
    options = (*FAST, "--attempt", "deep", "--epochs", 1, "--no-heatmaps")
    assert run(out, tmp_path, *options).exit_code == 0
    assert "was begun with lr 0.001, not 0.5" in refusal(run(out, tmp_path, *options, "--resume", "--lr", 0.5))
    begun = json.loads((tmp_path / "tile" / "classifier" / "seed-0" / "run.json").read_text())["settings"]
    result = run(out, tmp_path, "--resume")  # what is not given is as the run was begun with
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads((tmp_path / "tile" / "classifier" / "seed-0" / "run.json").read_text())["settings"] == begun


def test_a_run_goes_on_with_the_weights_that_it_was_begun_with_alone(out, tmp_path):
    """By what is in the file, not by its name."""
    start = tmp_path / "start.pt"
    options = (*FAST[2:], "--attempt", "deep", "--epochs", 1, "--no-heatmaps", "--weights", start)
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_state(build_network("deep", 3, SIDE, "mlp", 0.3, None).state_dict(), tmp_path / f"{seed}.pt")
    start.write_bytes((tmp_path / "0.pt").read_bytes())
    assert run(out, tmp_path, *options).exit_code == 0
    folder = tmp_path / "tile" / "classifier" / "seed-0"
    known = hashlib.sha256(start.read_bytes()).hexdigest()
    assert json.loads((folder / "run.json").read_text())["weights_sha256"] == known
    start.write_bytes((tmp_path / "1.pt").read_bytes())
    now = hashlib.sha256(start.read_bytes()).hexdigest()
    line = refusal(run(out, tmp_path, *options, "--resume"))
    assert f"{folder} was begun with weights_sha256 {known[:60]}, not {now[:60]}; give what it was begun with" in line


def test_other_processes_leave_it_to_the_first_one_to_look_at_the_run(out, tmp_path, monkeypatch):
    """The first one may just have made its folder, with no settings in it yet."""
    monkeypatch.setenv("RANK", "1")
    dataset = open_dataset(out, "tile")
    assert training.open_run(tmp_path, dataset, {}, resume=True, overwrite=False).folder == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_the_saved_weights_whole(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    save_state({"weight": torch.ones(1)}, path)

    def killed(state: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state({"weight": torch.zeros(1)}, path)
    assert load_state(path)["weight"] == 1


def test_two_trainings_with_one_seed_are_equal(out, tmp_path):
    options = ("--attempt", "augment", "--arch", "deep", "--epochs", 1, "--no-heatmaps")
    for name in ("first", "second"):
        trained(out, tmp_path, *options, "--run", name)
    first, second = (tmp_path / "tile" / name / "seed-0" for name in ("first", "second"))
    assert scores_of(first) == scores_of(second)


@pytest.mark.parametrize("method", ["oversample", "undersample", "logit-adjust", "smote", "decoupled", "thresholds"])
def test_every_kind_of_method_trains_and_reloads(out, tmp_path, method):
    pytest.importorskip("imblearn")
    options = ("--attempt", "deep", "--epochs", 1, "--no-heatmaps", "--imbalance", method)
    trained(out, tmp_path, *options)
    folder = tmp_path / "tile" / "classifier" / "seed-0"
    before = contents(folder)
    evaluate_again(folder, open_dataset(out, "tile"), "cpu")
    after, record = contents(folder), folder / "run.json"
    ours, theirs = (json.loads(side.pop(record)) for side in (before, after))
    assert after == before and ours.keys() == theirs.keys()
    assert {key for key in ours if ours[key] != theirs[key]} <= {"seconds_per_image"}


def test_the_pretext_task_runs_on_good_images_alone(out, tmp_path):
    trained(out, tmp_path, "--attempt", "pretext", "--pretext", 3, "--epochs", 1, "--no-heatmaps")
    folder = tmp_path / "tile" / "classifier" / "seed-0"
    assert (folder / "pretext.pt").is_file()


def test_made_up_defects_are_for_our_own_network(out, tmp_path):
    for given in (("--attempt", "plain"), ("--attempt", "all", "--arch", "resnet18"), ("--imbalance", "all")):
        line = refusal(run(out, tmp_path, *FAST, *given, "--pretext", 3))
        assert "--pretext: only our own network `fine`" in line


def test_pretext_is_for_the_attempts_of_a_ladder_that_have_one_and_for_all_methods_of_one_attempt():
    found = ladder.plan("base", "all", "none", {"pretext": 7, "lr": 0.5})
    assert [(label, name) for label, name, _ in found] == [(name, f"base-{name}") for name in ATTEMPTS]
    assert {label: attempt.pretext for label, _, attempt in found if attempt.pretext} == {"pretext": 7}
    assert {attempt.lr for _, _, attempt in found} == {0.5}
    found = ladder.plan("base", "focal", "all", {"pretext": 7, "arch": "fine"})
    assert [(label, attempt.pretext) for label, _, attempt in found] == [(method, 7) for method in IMBALANCE]
    assert [name for _, name, _ in found][:2] == ["base-focal", "base-focal-oversample"]
    assert [step[:2] for step in ladder.plan("b", "focal", "smote", {})] == [("focal, smote", "b")]


def test_options_that_would_do_nothing_are_refused(out, tmp_path):
    assert "--pretrain-epochs: is used with --pretrain only" in refusal(run(out, tmp_path, "--pretrain-epochs", 3))
    line = refusal(run(out, tmp_path, "--resume", "--overwrite"))
    assert "--overwrite: is not used with --resume; leave one of them out" in line
    for given, arch in (
        ((), "lite0"),
        (("--attempt", "deep"), "deep"),
        (("--attempt", "all", "--arch", "fine"), "fine"),
    ):
        line = refusal(run(out, tmp_path, *FAST, *given, "--stride", 8))
        assert f"--stride: is for torchvision's networks, and that of `{arch}` is fixed; leave it out" in line
    ladder.check_acting([ATTEMPTS["plain"]], {"stride"})
    ladder.check_acting(list(ATTEMPTS.values()), {"stride"})  # some of the ladder are torchvision's


# --------------------------------------------------------------------------------------------------- synthetic images


TWO_STAGES = ("--attempt", "deep", "--epochs", 2, "--pretrain-epochs", 2, "--no-heatmaps")


@pytest.fixture(scope="module")
def made(out) -> str:
    """The name of a dataset that holds `tile` and 12 synthetic images."""
    result = run_cli("augment", "--dataset", "tile", "--out", out, "--count", 12, "--workers", 1)
    assert result.exit_code == 0, result.output
    return "tile@paste-12"


def test_a_first_training_on_made_images_is_where_the_second_begins(out, made, tmp_path, monkeypatch):
    begun = []
    real = fitting.start_network
    monkeypatch.setattr(fitting, "start_network", lambda *given: begun.append(given) or real(*given))
    trained(out, tmp_path, *TWO_STAGES, "--pretrain-epochs", 3, "--pretrain", made)
    folder = tmp_path / "tile" / "classifier" / "seed-0"
    before, after = (dict(zip(("job", "train", "folder", "resume", "start"), given, strict=True)) for given in begun)
    dataset, first = open_dataset(out, "tile"), open_dataset(out, made)
    assert before["train"].names == first.images("train") and before["start"] is None
    assert after["train"].names == dataset.images("train") and after["start"] == folder / "pretrain" / "model.pt"
    network, saved = real(*begun[1]).state_dict(), torch.load(folder / "pretrain" / "model.pt", weights_only=True)
    assert all(torch.equal(network[key], saved[key]) for key in saved)

    record = json.loads((folder / "run.json").read_text())
    assert (record["pretrained_on"], record["synthetic_images"], record["pretrain_synthetic_images"]) == (made, 12, 12)
    evaluate_again(folder, dataset, "cpu")
    assert json.loads((folder / "run.json").read_text()) == record
    assert record["settings"]["pretrain_split_sha256"] == first.split["sha256"] != record["split_sha256"]
    assert [len(record[key]) for key in ("pretrain_history", "history")] == [3, 2]
    assert record["weights_bytes"] == (folder / "model.pt").stat().st_size


@pytest.mark.parametrize("epoch", [1, 2, 3, 4], ids=["first", "within first", "between", "within second"])
def test_a_run_of_two_stages_goes_on_in_either(out, made, tmp_path, monkeypatch, epoch):
    """Interrupted in one of its four epochs: two on synthetic images, two on real ones."""
    options = (*TWO_STAGES, "--pretrain", made)
    trained(out, tmp_path, *options, "--run", "whole")
    count, real = iter(range(1, 100)), fitting.one_epoch

    def interrupted(*given: object) -> float:
        if next(count) == epoch:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(fitting, "one_epoch", interrupted)
    stopped = run(out, tmp_path, *FAST, *options, "--run", "broken")
    assert stopped.exit_code == 130
    assert stopped.stderr.rstrip().endswith("seed-0: the same command with --resume continues")
    monkeypatch.setattr(fitting, "one_epoch", real)
    if epoch > 1:
        assert "was interrupted" in refusal(run(out, tmp_path, *FAST, *options, "--run", "broken"))
    other = ("--pretrain-epochs", 1, "--run", "broken", "--resume")
    assert "was begun with pretrain_epochs 2, not 1" in refusal(run(out, tmp_path, *other))
    trained(out, tmp_path, "--run", "broken", "--resume")
    whole, broken = (tmp_path / "tile" / name / "seed-0" for name in ("whole", "broken"))
    assert scores_of(broken) == scores_of(whole)
    histories = [json.loads((folder / "run.json").read_text())["pretrain_history"] for folder in (whole, broken)]
    assert histories[0] == histories[1]


def test_made_images_may_have_a_class_more(out, tmp_path):
    result = run_cli("augment", "--dataset", "tile", "--out", out, "--count", 4, "--workers", 1, "--method", "both")
    assert result.exit_code == 0, result.output
    trained(out, tmp_path, *TWO_STAGES, "--pretrain", "tile@both-4")
    assert scores_of(tmp_path / "tile" / "classifier" / "seed-0").startswith("image,defect,dark,line\n")


def test_a_first_training_that_shows_val_or_has_other_classes_is_refused(out, tmp_path):
    folder, datasets = write_images(tmp_path / "data"), tmp_path / "out"
    for name, options in (("other", ("--seed", 1)), ("single", ("--classes", "single"))):
        converted("to_coco", folder, datasets, *options).rename(datasets / name)
    (datasets / "tile").symlink_to(out / "tile")
    line = refusal(run(datasets, tmp_path / "runs", *FAST, "--pretrain", "other"))
    assert "--pretrain other: its train part holds" in line and "keeps for val or test" in line
    line = refusal(run(datasets, tmp_path / "runs", *FAST, "--pretrain", "single"))
    assert "--pretrain single: its classes (defect) are not those of tile (dark, line)" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_ladder_writes_one_table(out, tmp_path):
    result = run(out, tmp_path, *FAST, "--attempt", "all", "--epochs", 1, "--pretext", 2)
    assert result.exit_code == 0, (result.output, result.exception)
    text = (tmp_path / "tile" / "classifier-table.md").read_text()
    assert all(f"| {name} " in text for name in ATTEMPTS)
    assert json.loads((tmp_path / "tile" / "classifier-table.json").read_text())["rows"][0]["seeds"] == 1


@pytest.mark.slow
def test_the_long_tail_table_has_a_row_with_an_interval_for_every_method(out, tmp_path):
    pytest.importorskip("imblearn")
    options = ("--imgsz", 32, "--attempt", "deep", "--imbalance", "all", "--epochs", 1, "--no-heatmaps")
    result = run(out, tmp_path, *FAST, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    rows = json.loads((tmp_path / "tile" / "classifier-table.json").read_text())["rows"]
    assert [row["what"] for row in rows] == list(IMBALANCE)
    for row in rows:
        low, high = row["macro_f1_interval"] or (0, 1)  # none where all images are called the same
        assert 0 <= low <= row["macro_f1"] <= high <= 1
    title, header, rule, *body, runs = result.stdout.splitlines()
    assert "random weights" in title and header.split()[0] == "macro-F1" and runs.startswith("runs: ")
    assert [line.split()[0] for line in body] == list(IMBALANCE)
    known = [int(row["macro_f1_interval"] is not None) for row in rows]
    assert any(known) and [line.count(" to ") for line in body] == known
    assert all(len(line) <= len(rule) for line in body)
    text = (tmp_path / "tile" / "classifier-table.md").read_text()
    assert all(f"| {name} " in text for name in IMBALANCE)


@pytest.mark.slow
def test_the_best_attempt_learns(out, tmp_path):
    row = trained(out, tmp_path, "--attempt", "pretext", "--pretext", 80, "--epochs", 20)
    assert row["macro_f1"] > 0.5  # the majority class alone scores 0.17


WATCHED = """
import hashlib, json, sys
from pathlib import Path
from finetune.classification import loop as fitting
from finetune.classification import views
from finetune.classifier import main

folder, arguments = Path(sys.argv[1]), sys.argv[2:]
rank, epoch, loss, shown = fitting.place()[0], fitting.one_epoch, [], []
views.augmentation = lambda *_: lambda image: shown.append(hashlib.md5(image.numpy()).hexdigest()) or image

def train(name, stop, run, *more):
    def watched(job, network, *rest):
        if len(loss) == stop:
            raise KeyboardInterrupt
        shown.clear()
        loss.append(epoch(job, network, *rest))
        weights = b"".join(value.detach().numpy().tobytes() for value in network.parameters())
        file = folder / f"{name}-{len(loss)}-rank-{rank}.json"
        file.write_text(json.dumps([hashlib.md5(weights).hexdigest(), shown]))
        return loss[-1]

    loss.clear()
    fitting.one_epoch = watched
    try:
        main([*arguments, "--run", run, *more])
    except SystemExit as end:
        return end.code

ends = train("whole", 4, "whole"), train("broken", 3, "broken"), train("resumed", 4, "broken", "--resume")
assert ends == (0, 130, 0), ends
"""


@pytest.mark.slow
def test_two_processes_train_one_model_and_resume_it(out, made, tmp_path):
    """Each sees half of the images, both have the same weights after each epoch, and a resumed run ends as a whole one.

    Two epochs on synthetic images and two on real ones; the run called `broken` is interrupted in the last of them.
    """
    (tmp_path / "watched.py").write_text(WATCHED)
    arguments = ["--category", "tile", "--out", out, "--runs", tmp_path, *FAST, *TWO_STAGES, "--pretrain", made]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--", tmp_path / "watched.py", tmp_path, *arguments]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("macro-F1") == 2  # of the whole run and the resumed one, by the first process

    def seen(epoch: str) -> list[tuple[str, list[str]]]:
        """By process: a digest of the weights after an epoch, and those of its images."""
        return [json.loads((tmp_path / f"{epoch}-rank-{rank}.json").read_text()) for rank in (0, 1)]

    for epoch, name in ((1, made), (2, made), (3, "tile"), (4, "tile")):
        (weights, shown), (others, rest) = seen(f"whole-{epoch}")
        assert weights == others
        count = len(open_dataset(out, name).images("train"))
        assert len(shown) == len(rest) == count // 2 and len({*shown, *rest}) == 2 * (count // 2)
    assert seen("resumed-1") == seen("whole-4") != seen("whole-3")
    whole, broken = (scores_of(tmp_path / "tile" / name / "seed-0") for name in ("whole", "broken"))
    assert broken == whole


def test_help_comes_without_heavy_imports():
    for name in ("classifier", "normality"):
        code = (
            "import sys, runpy\n"
            "sys.argv = ['command', '--help']\n"
            f"try: runpy.run_module('finetune.{name}', run_name='__main__')\n"
            "except SystemExit as end: print(end.code, sorted({'cv2', 'torch', 'sklearn'} & set(sys.modules)))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY
        )
        assert result.stdout.endswith("0 []\n"), result.stdout + result.stderr


def test_normalised_pixels_have_imagenets_mean():
    grey = torch.full((1, 3, 2, 2), 124, dtype=torch.uint8)
    assert normalise(grey, "resnet18")[0, 0, 0, 0].item() == pytest.approx((124 / 255 - 0.485) / 0.229, abs=1e-6)
    assert normalise(grey, "lite0")[0, 0, 0, 0].item() == pytest.approx((124 / 255 - 0.5) / 0.5, abs=1e-6)


# ---------------------------------------------------------------- new images


def test_new_images_get_the_answers_of_the_evaluation(finished, out, tmp_path):
    folder, _ = finished
    check_same_as_saved(folder, out, tmp_path / "to")
    check_odd_images(folder, out, tmp_path / "odd")
    dataset = open_dataset(out, "tile")
    check_heat(open_predictor(folder, out, "cpu", None, None).look, folder, dataset, dataset.images("test")[-1])
    check_export(folder, out, tmp_path / "model.onnx")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(finished, out):
    folder, _ = finished
    command = [sys.executable, "benchmarks/predict.py", folder, "--out", out, "--images", "200", "--first", "50"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    peaks = json.loads(done.stdout)["peak_memory_mb"]
    assert list(peaks) == ["50", "200"] and 0 <= peaks["200"] - peaks["50"] < 8
