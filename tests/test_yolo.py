"""`finetune/yolo.py`: refusals before any work, and real trainings on a small dataset."""

import hashlib
import json
import pickle
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import Result
from conftest import blobs, converted, refusal, run_cli, save_noise, tree, write_category

pytest.importorskip("ultralytics")

import torch
from click.testing import CliRunner

from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from finetune import yolo
from finetune.detection import finished, runtime, training
from finetune.detection.crops import cut_train_part
from finetune.detection.dataset_view import usual_crop
from finetune.detection.evaluation import metric_rows, spread
from finetune.detection.figures import draw_figures, measure, worst_images
from finetune.detection.recipe import STARTERS, Recipe, Starter, recipe_for
from finetune.measures.boxes import SIZES, BoxEvaluation, box_confusion, box_metrics
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.run_folder import Run
from finetune.training.weights import find_weights

FAST = ("--weights", "none", "--epochs", 1, "--imgsz", 64, "--batch", 4, "--device", "cpu")


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A folder of datasets that holds `widget` in YOLO, YOLO-seg and COCO format."""
    root = tmp_path_factory.mktemp("datasets")
    folder = write_category(root / "data", size=(64, 64))
    converted("to_yolo", folder, root / "out")
    converted("to_yolo", folder, root / "out", "--task", "segment")
    converted("to_coco", folder, root / "out")
    return root / "out"


def run_yolo(*arguments: object) -> Result:
    return CliRunner().invoke(yolo.main, [str(argument) for argument in arguments])


def test_unknown_dataset_names_those_that_are_there(out):
    assert "holds widget" in refusal(run_yolo("--category", "gadget", "--out", out))


def test_a_data_yaml_of_ours_means_its_dataset_and_task(out, tmp_path, monkeypatch):
    """From any folder; what is refused then is refused of that dataset, by that task."""
    monkeypatch.chdir(out / "widget" / "yolo-seg")
    options = ("--data", "data.yaml", "--runs", tmp_path, "--weights", "none")
    assert "--arch yolo11n-light: finds boxes only; choose another for --task segment" in refusal(
        run_yolo(*options, "--arch", "yolo11n-light")
    )
    assert "--task detect: data.yaml is for segment" in refusal(run_yolo(*options, "--task", "detect"))
    assert "finds boxes only" in refusal(run_yolo(*options, "--arch", "yolo11n-light", "--task", "segment"))
    assert "--out: is not used with --data" in refusal(run_yolo(*options, "--out", out))
    assert "--folds: is not used with --data" in refusal(run_yolo(*options, "--folds", 3))


def test_the_dataset_is_named_once(out):
    file = out / "widget" / "yolo" / "data.yaml"
    assert "one of them" in refusal(run_yolo("--category", "widget", "--data", file))


def test_a_foreign_data_yaml_is_told_how_it_comes_in_and_comes_in_that_way(tmp_path, monkeypatch):
    """The commands of the message, as a shell would split them, end in a dataset that --category finds."""
    folder = tmp_path / "their data"
    for part in ("train", "val"):
        for index in range(6):
            save_noise(folder / part / "images" / f"{index}.png", (64, 64))
            row = "" if index == 5 else "0 0.1 0.1 0.6 0.1 0.6 0.6\n"
            (folder / part / "labels").mkdir(exist_ok=True)
            (folder / part / "labels" / f"{index}.txt").write_text(row, "utf-8")
    (folder / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [dent]\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    line = refusal(run_yolo("--data", folder / "data.yaml"))
    bring, convert = (shlex.split(part)[2:] for part in line.split("`")[1::2])
    assert bring[0] == "converters.from_yolo" and convert[0] == "converters"
    assert run_cli("from_yolo", *bring[1:]).exit_code == 0
    assert run_cli(*convert[1:], "--workers", 1).exit_code == 0
    category = shlex.split(line.split("then --category ")[1])[0]
    assert open_dataset(tmp_path / "datasets_out", category).classes == ["dent"]
    assert "no such file" in refusal(run_yolo("--data", "gone.yaml"))


def test_what_would_end_a_run_late_is_refused_first(tmp_path):
    masks = {"crack": [blobs(index, (48, 40)) for index in range(10)]}
    options = ("--category", "widget", "--out", tmp_path / "out", "--runs", tmp_path / "runs", "--weights", "none")
    big = write_category(tmp_path / "data", "mixed", masks, good=(4, 4))
    for path in (big / "test" / "good").iterdir():
        save_noise(path, (96, 80))
    converted("to_yolo", big, tmp_path / "out")
    line = refusal(run_yolo("--category", "mixed", *options[2:], "--crop", 32))
    assert "--crop: looks at whole images on one scale, and those of val and test have 48 to 96 px" in line
    few = write_category(tmp_path / "data", "few", {"crack": masks["crack"][:2]}, good=(1, 0))
    converted("to_yolo", few, tmp_path / "out")
    assert "the val part holds no image" in refusal(run_yolo("--category", "few", *options[2:]))
    assert not (tmp_path / "runs").exists()


def test_weights_that_cannot_be_had_name_the_file_and_the_flag(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path)
    assert "--weights mine.pt: no such file" in refusal(run_yolo(*options, "--weights", "mine.pt"))


def test_a_file_that_is_no_checkpoint_and_a_missing_device_are_one_line(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path)
    for name in ("notes.pt", "notes.md", "notes.onnx", "notes.yaml", "notes"):
        (tmp_path / name).write_text("nc: 1", "utf-8")
        line = refusal(run_yolo(*options, "--weights", tmp_path / name))
        assert f"--weights {tmp_path / name}: is no checkpoint of ultralytics (" in line
        assert "name a .pt file that its training has written, a published one such as yolo11n.pt, or none" in line
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "other.pt")
    assert "other.pt: is no checkpoint of ultralytics (Linear)" in refusal(
        run_yolo(*options, "--weights", tmp_path / "other.pt")
    )
    assert not (tmp_path / "widget").exists()
    assert "--device gpu: not on this machine" in refusal(run_yolo(*options, *FAST[:-1], "gpu"))


@pytest.mark.parametrize("amx", [False, True])
def test_a_cpu_keeps_channels_last_and_multiplies_bfloat16_where_it_can(monkeypatch, amx):
    network = torch.nn.Conv2d(3, 4, 3)
    network.predict = lambda images: {"boxes": network(images)}
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    images, plain = torch.randn(2, 3, 8, 8), network.predict
    before = plain(images)["boxes"]
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    runtime.suit_cpu(SimpleNamespace(device=torch.device("cpu"), model=network, optimizer=optimizer))
    assert optimizer.param_groups[0]["fused"] and not optimizer.param_groups[0]["foreach"]
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.weight.dtype == torch.float32 and (network.predict is not plain) == amx
    after = network.predict(images)["boxes"]
    assert after.dtype == torch.float32 and torch.allclose(after, before, atol=0.05)
    assert torch.equal(after, after.bfloat16().float()) == amx  # was it computed in bfloat16?


def test_a_failed_download_is_one_line_and_never_a_random_start():
    def fetch(name: str) -> Path:
        raise ConnectionError(f"cannot reach the host of {name}\nlong story")

    with pytest.raises(Exception, match=r"yolo11n.pt: could not be downloaded .cannot reach .* --weights FILE"):
        find_weights("yolo11n.pt", {"yolo11n.pt": "https://example.org/yolo11n.pt"}, fetch)


def test_the_start_is_named_and_an_installed_one_is_taken_where_nothing_published_can_be_had(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, starter = ["yolo11n", "yolo11s"], Starter(tmp_path / "starter.pth", "")
    monkeypatch.setattr(runtime, "fetch_weights", lambda name: tmp_path / "cache" / name)
    assert runtime.find_start(None, "yolo11n.pt", names, starter).name == "published yolo11n.pt"
    assert runtime.find_start("yolo11s.pt", "yolo11n.pt", names, starter).file == tmp_path / "cache" / "yolo11s.pt"
    assert runtime.find_start("none", "yolo11n.pt", names, starter) == runtime.Start(None, "random")
    Path("yolo11s.pt").write_bytes(b"mine")
    own = runtime.Start(Path("yolo11s.pt"), f"file {hashlib.sha256(b'mine').hexdigest()[:12]}")
    assert runtime.find_start("yolo11s.pt", "yolo11n.pt", names, starter) == own

    def fail(name: str) -> Path:
        raise ConnectionError(f"cannot reach the host of {name}")

    monkeypatch.setattr(runtime, "fetch_weights", fail)
    begun = runtime.find_start(None, "yolo11n.pt", names, starter)
    assert begun == runtime.Start(starter.file, "installed starter", starter)
    for wanted, installed in ((None, None), ("yolo11n.pt", starter)):
        with pytest.raises(DatasetError, match=r"--weights yolo11n.pt: could not be downloaded"):
            runtime.find_start(wanted, "yolo11n.pt", names, installed)


def test_without_a_network_and_options_training_begins_with_the_installed_starter(out, tmp_path, monkeypatch):
    """It is named in the first line and in the record; here the run ends before its first step."""
    began = []

    def fail(name: str) -> Path:
        raise ConnectionError("no network")

    def stop(model: object, *others: object) -> Path:
        began.append(model)
        raise DatasetError("stopped")

    monkeypatch.setattr(runtime, "fetch_weights", fail)
    monkeypatch.setattr(training, "train_in_turn", stop)
    result = run_yolo("--category", "widget", "--out", out, "--runs", tmp_path)
    why = "the published one is neither cached nor within reach"
    line = f"widget: YOLO from installed starter-yolo11n-light ({why}), squares of 32 px at 32 px"
    assert result.output.startswith(line) and result.output.endswith("stopped\n"), result.output
    settings = json.loads((tmp_path / "widget" / "yolo" / "seed-0" / "settings.json").read_text("utf-8"))
    assert settings["start"] == "installed starter-yolo11n-light"
    assert settings["weights_sha256"] == STARTERS["detect"].sha256
    assert STARTERS["detect"].file.stat().st_size < 6e6
    saved = torch.load(STARTERS["detect"].file, weights_only=True)
    state = began[0].model.state_dict()
    assert began[0].ckpt and saved.keys() == state.keys()
    assert all(torch.equal(saved[name].to(state[name].dtype), state[name]) for name in saved)


def test_a_starter_that_is_missing_or_another_file_is_one_line(tmp_path):
    for file in (tmp_path / "gone.pth", tmp_path / "other.pth"):
        (tmp_path / "other.pth").write_bytes(b"other")
        with pytest.raises(DatasetError, match=rf"{file.name}: is missing, damaged or of another version: install"):
            runtime.load_starter(Starter(file, STARTERS["detect"].sha256))


@pytest.mark.parametrize(
    ("random", "chosen", "usual", "expected"),
    [
        (False, {}, 384, (30, 384, 256, 180, 0)),
        (False, {}, 128, (30, 128, 192, 180, 0)),
        (False, {}, 0, (30, 0, 640, 0, 0)),
        (False, {"imgsz": 512, "degrees": 90}, 384, (30, 0, 512, 90, 0)),
        (False, {"crop": 0, "epochs": 7}, 384, (7, 0, 640, 0, 0)),
        (False, {"crop": 100, "mosaic": 0.5}, 0, (30, 100, 128, 180, 0.5)),
        (True, {"epochs": None}, 0, (100, 0, 640, 0, 1)),
        (True, {"crop": 384}, 0, (100, 384, 640, 0, 1)),
    ],
)
def test_defaults_depend_on_the_start_and_on_whether_squares_can_be_cut(random, chosen, usual, expected):
    recipe = recipe_for(random, chosen, usual)
    assert (recipe.epochs, recipe.crop, recipe.imgsz, recipe.degrees, recipe.mosaic) == expected


def test_squares_are_half_as_wide_as_the_images(out):
    dataset = open_dataset(out, "widget")
    assert usual_crop(dataset, "detect") == 32
    assert usual_crop(dataset, "segment") == 0


def test_a_gpu_trains_in_the_precision_that_it_has(monkeypatch):
    """No GPU here: what ultralytics' trainer is told for three kinds of device."""
    made = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: made.append(enabled))
    kinds = (
        ("cuda", True, "bf16", True, False),
        ("cuda", False, False, True, True),
        ("cpu", True, False, False, False),
    )
    for device, native, amp, mixed, scaled in kinds:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, has=native: has)
        trainer = SimpleNamespace(device=torch.device(device), args=SimpleNamespace(amp="bf16"))
        assert runtime.precision(trainer.device) == amp
        runtime.suit_gpu(trainer)
        assert (trainer.args.amp, trainer.amp, made.pop()) == (amp, mixed, scaled)


def test_a_batch_that_is_found_is_the_nominal_one_and_none_is_no_batch(out, tmp_path):
    trainer = SimpleNamespace(args=SimpleNamespace(nbs=-1), auto_batch=lambda: 48)
    runtime.count_found_batch(trainer)
    assert trainer.auto_batch() == trainer.args.nbs == 48
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--weights", "none")
    assert "name 1 or more, or -1" in refusal(run_yolo(*options, "--batch", 0))
    assert "--batch -1: is divided among 2 devices" in refusal(run_yolo(*options, "--batch", -1, "--device", "0,1"))


def test_a_want_of_memory_is_one_line_and_other_errors_stay_as_they_are():
    said = "--batch 8, --imgsz 640: out of memory; name a smaller --batch or"
    for error in (torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), RuntimeError("not enough memory")):
        with pytest.raises(DatasetError, match=said), runtime.out_of_memory_named(Recipe()):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), runtime.out_of_memory_named(Recipe()):
        raise RuntimeError("shapes differ")


def test_none_is_the_only_word_for_random_weights():
    assert find_weights("none", {}, Path) is None


def test_a_run_is_not_overwritten_by_accident(out, tmp_path):
    (tmp_path / "widget" / "yolo" / "seed-0").mkdir(parents=True)
    (tmp_path / "widget" / "yolo" / "seed-0" / "run.json").write_text("{}", "utf-8")
    assert "add --overwrite" in refusal(run_yolo("--category", "widget", "--out", out, "--runs", tmp_path, *FAST))


def test_ground_truth_from_yolo_labels_equals_coco(out, tmp_path):
    coco = open_dataset(out, "widget")
    (tmp_path / "widget").symlink_to(out / "widget")
    boxes = {part: coco._boxes_of_yolo(part) for part in ("train", "val", "test")}
    for part, truth in boxes.items():
        expected = coco.ground_truth(part)
        assert [(e["id"], e["file_name"]) for e in truth["images"]] == [
            (e["id"], e["file_name"]) for e in expected["images"]
        ]
        assert [(e["image_id"], e["category_id"]) for e in truth["annotations"]] == [
            (e["image_id"], e["category_id"]) for e in expected["annotations"]
        ]
        ours, theirs = ([e["bbox"] for e in side["annotations"]] for side in (truth, expected))
        assert np.allclose(ours, theirs, atol=1e-3)


def test_perfect_and_absent_detections_measure_one_and_zero(out):
    truth = open_dataset(out, "widget").ground_truth("test")
    perfect = [
        {key: e[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0} for e in truth["annotations"]
    ]
    assert box_metrics(truth, perfect).map == pytest.approx(1)
    assert box_metrics(truth, []).map50 == 0


def box(image: int, category: int, x: float, side: float, score: float | None = None) -> dict:
    entry = {"image_id": image, "category_id": category, "bbox": [x, 0, side, side], "area": side**2, "iscrowd": 0}
    return entry if score is None else {**entry, "score": score}


def truth_of(*annotations: dict) -> dict:
    return {
        "images": [{"id": number, "width": 400, "height": 400, "file_name": f"{number}.png"} for number in (1, 2, 3)],
        "categories": [{"id": 1, "name": "crack"}, {"id": 2, "name": "hole"}],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
    }


def test_threshold_is_chosen_on_val_and_used_on_test():
    """Val is right from 0.6 on. On test 0.6 finds one of two, beside one false alarm: F1 = 2 / (2 + 2)."""
    val = truth_of(box(1, 1, 0, 40), box(2, 2, 0, 40))
    said = [box(1, 1, 0, 40, 0.9), box(2, 2, 0, 40, 0.6), box(3, 1, 0, 40, 0.5)]
    test = truth_of(box(1, 1, 0, 40), box(2, 2, 0, 40))
    found = [box(1, 1, 0, 40, 0.7), box(3, 1, 0, 40, 0.65), box(2, 2, 0, 40, 0.5)]
    measured = measure({"val": BoxEvaluation(val, said), "test": BoxEvaluation(test, found)})
    assert measured["val"]["F1"] == 1
    assert measured["test"]["threshold"] == measured["val"]["threshold"] == pytest.approx(0.6)
    assert (measured["test"]["precision"], measured["test"]["recall"], measured["test"]["F1"]) == (0.5, 0.5, 0.5)


def test_without_defects_in_val_there_is_no_threshold():
    measured = measure({"val": BoxEvaluation(truth_of(), []), "test": BoxEvaluation(truth_of(box(1, 1, 0, 40)), [])})
    assert "threshold" not in measured["test"] and measured["test"]["mAP50"] == 0
    assert measured["val"]["mAP50"] is None and "NaN" not in to_json(measured)
    known = {"mAP50": 0.5, "mAP50-95": 0.25}
    assert spread([measured["val"], known, known]).startswith("mean and standard deviation of 2 folds: mAP50 0.500")
    assert (
        spread([measured["val"], measured["val"], known]) == "no standard deviation: 1 of 3 folds with defects in test"
    )
    assert list(metric_rows(measured["val"])) == [("mean", 0, "-", "-")]


def test_sizes_are_measured_apart():
    """Sides of 10, 50 and 200 px: small is missed, medium found exactly, large found with an IoU of 0.64."""
    truth = truth_of(box(1, 1, 0, 10), box(2, 1, 0, 50), box(3, 1, 0, 200))
    sizes = BoxEvaluation(truth, [box(2, 1, 0, 50, 0.9), box(3, 1, 0, 160, 0.8)], sizes=tuple(SIZES)).size_metrics()
    assert [(name, entry["instances"]) for name, entry in sizes.items()] == [("small", 1), ("medium", 1), ("large", 1)]
    assert [entry["AP50"] for entry in sizes.values()] == pytest.approx([0, 1, 1])
    assert [entry["AR100"] for entry in sizes.values()] == pytest.approx([0, 1, 0.3])  # 0.50, 0.55 and 0.60 of ten


def test_confusion_counts_wrong_classes_misses_and_false_alarms():
    truth = truth_of(box(1, 1, 0, 40), box(2, 2, 0, 40), box(3, 2, 0, 40))
    found = [box(1, 1, 0, 40, 0.9), box(2, 1, 0, 40, 0.8), box(1, 2, 200, 40, 0.7), box(3, 2, 0, 40, 0.1)]
    assert box_confusion(truth, found, 0.5).tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_worst_images_come_first():
    truth = truth_of(box(1, 1, 0, 40), box(2, 1, 0, 40))
    found = [box(1, 1, 0, 40, 0.9), box(2, 1, 200, 40, 0.8), box(3, 1, 0, 40, 0.6), box(1, 1, 200, 40, 0.1)]
    assert worst_images(BoxEvaluation(truth, found), 0.5) == [
        2,
        3,
    ]  # 2: a miss and a false alarm; 3: a false alarm; 1: right


def test_figures_are_drawn(out, tmp_path):
    dataset = open_dataset(out, "widget")
    truth = dataset.ground_truth("test")
    found = [{**entry, "score": 0.9} for entry in truth["annotations"][1:]]
    draw_figures(tmp_path, dataset, BoxEvaluation(truth, found), 0.5, "title")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.png", "precision_recall.png", "worst.png"]
    draw_figures(tmp_path / "few-shot", dataset, BoxEvaluation(truth, found), None, "title")
    assert [path.name for path in (tmp_path / "few-shot").iterdir()] == ["precision_recall.png"]


def test_squares_show_defects_where_the_masks_have_them(out, tmp_path):
    """The box of a square's polygon is that of the mask in it, or none where it shows less than a third."""
    dataset = open_dataset(out, "widget")
    cut_train_part(dataset, 32, tmp_path, tmp_path)
    name = next(name for name in dataset.images("train") if "crack" in name)
    index = int(name[-7:-4])
    ring = (4 + index % 5, 4 + index % 7, 20 + index % 5, 16 + index % 7)  # see conftest.blobs
    rows = [line.split() for line in (tmp_path / f"{Path(name).stem}@0_0.txt").read_text("utf-8").splitlines()]
    points = [np.array(row[1:], float).reshape(-1, 2) * 32 for row in rows]
    assert any(np.allclose([*found.min(axis=0), *found.max(axis=0)], ring, atol=1e-3) for found in points)
    assert (tmp_path / f"{Path(name).stem}@0_0.png").is_file()
    assert {row[0] for row in rows} == {"0"}


def test_a_square_with_nothing_but_a_speck_is_no_good_image(tmp_path):
    speck = np.zeros((48, 48), bool)
    speck[20:22, 20:22] = True
    folder = write_category(tmp_path / "data", masks={"speck": [speck] * 5}, size=(48, 48))
    dataset = Dataset(converted("all", folder, tmp_path / "out"))
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    names = cut_train_part(dataset, 24, tmp_path / "images", tmp_path / "labels")
    defects = [name for name, label in dataset.labels("train").items() if label is not None]
    corners = {name.partition("@")[2] for name in names if name.startswith(Path(defects[0]).stem)}
    assert corners == {"24_0.png", "24_12.png", "24_24.png", "0_24.png", "12_24.png"}
    assert not any(file.read_text() for file in (tmp_path / "labels").iterdir())


def test_damaged_images_are_refused_in_one_line(out, tmp_path):
    """Where squares are cut from train, and where the worst of test are drawn."""
    dataset = open_dataset(shutil.copytree(out, tmp_path / "out"), "widget")
    for part in ("train", "test"):
        for name in dataset.images(part):
            dataset.image_file(part, name).write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="no image that OpenCV reads"):
        cut_train_part(dataset, 32, tmp_path, tmp_path)
    with pytest.raises(DatasetError, match="no image that OpenCV reads"):
        draw_figures(tmp_path, dataset, BoxEvaluation(dataset.ground_truth("test"), []), 0.5, "title")


def test_ctrl_c_waits_for_the_end_of_a_training_step():
    class Model:
        def add_callback(self, event: str, function: object) -> None:
            assert event == "on_train_batch_end"
            self.step_ends = function

    model, ended = Model(), []
    with pytest.raises(KeyboardInterrupt), runtime.interrupted_between_batches(model):
        model.step_ends(None)
        signal.raise_signal(signal.SIGINT)  # nothing happens yet
        with pytest.raises(KeyboardInterrupt):
            model.step_ends(None)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)  # the second one does not wait
        ended.append("without another step, as after the last")
    assert ended
    with runtime.interrupted_between_batches(model):
        model.step_ends(None)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("epochs", "said"), [(0, "starts again"), (1, "with --resume continues")])
def test_an_interrupted_run_says_what_to_do_and_nothing_else(out, tmp_path, monkeypatch, epochs, said):
    for _ in range(epochs):
        (tmp_path / "train" / "weights").mkdir(parents=True)
        (tmp_path / "train" / "weights" / "last.pt").touch()

    def interrupted(*given):
        with training.told_to_resume(tmp_path, training.runs.has_last):
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_and_evaluate", interrupted)
    result = run_yolo("--category", "widget", "--out", out, "--runs", tmp_path / "runs")
    assert result.exit_code == 130 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"Interrupted: {tmp_path}: the same command {said}")


def test_a_training_that_was_killed_at_its_very_end_counts_as_ended(tmp_path):
    """ultralytics writes the last epoch with its optimizer, and takes that out a moment later."""
    import torch
    from ultralytics import YOLO

    assert runtime.state_of(tmp_path) == "absent"
    saved = {"epoch": 0, "train_args": {"epochs": 2}, "model": None, "ema": YOLO("yolo11n.yaml").model}
    for epoch, state in enumerate(("unfinished", "ended")):
        for name in ("last.pt", "best.pt"):
            torch.save(saved | {"epoch": epoch, "optimizer": {"moments": torch.ones(9)}}, tmp_path / name)
        assert runtime.state_of(tmp_path) == state
    best = torch.load(runtime.best_of(tmp_path), weights_only=False)
    assert best["epoch"] == -1 and best["optimizer"] is None and best["model"] is not None
    for name, look in (("last.pt", runtime.state_of), ("best.pt", runtime.best_of)):
        (tmp_path / name).write_bytes(b"half")
        with pytest.raises(DatasetError, match=f"{name}: is damaged"):
            look(tmp_path)


def test_what_goes_to_the_processes_of_several_gpus_can_be_pickled_and_waits_there_too(monkeypatch):
    """As ultralytics does it: all callbacks in one pickle. A child that hears of Ctrl-C twice still ends its step."""
    cloudpickle = pytest.importorskip("cloudpickle")
    from ultralytics import YOLO

    model = YOLO("yolo11n.yaml")
    with runtime.interrupted_between_batches(model, in_children=True):
        callbacks = pickle.loads(cloudpickle.dumps(model.callbacks))
        before = signal.getsignal(signal.SIGINT)
        callbacks["on_train_start"][-1](None)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            callbacks["on_train_batch_end"][-1](None)
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("no such thing", "a training process failed"),
        ("out of memory", "--batch 8, --imgsz 640: out of memory; name a smaller"),
    ],
)
def test_processes_print_into_the_log_and_their_failure_is_one_line(tmp_path, capfd, why, expected):
    log = tmp_path / "train.log"
    fail = f"import sys; print('told', flush=True); sys.exit({why!r})"
    failed = pytest.raises(DatasetError, match=expected)
    with failed, runtime.printed_into(log, True, Recipe()):
        subprocess.run([sys.executable, "-c", fail], check=True)
    assert log.read_text("utf-8") == f"told\n{why}\n"
    print("as before")
    shown = capfd.readouterr()
    assert shown.out == "as before\n" and shown.err.count("\n") == 1 and str(log) in shown.err


def test_a_batch_is_divided_among_devices_without_rest(out, tmp_path):
    line = refusal(run_yolo("--category", "widget", "--out", out, "--runs", tmp_path, *FAST[:-1], "0,1,2"))
    assert "--batch 4: is divided among 3 devices; name a multiple of 3" in line
    line = refusal(run_yolo("--category", "widget", "--out", out, "--runs", tmp_path, *FAST[:-1], "70,71"))
    assert "--device 70,71: not on this machine" in line


def test_resume_needs_a_run(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path)
    assert "holds no interrupted run" in refusal(run_yolo(*options, "--resume"))


def test_a_run_on_tiles_lies_among_those_of_whole_images_under_a_name_of_its_own(tmp_path):
    folder = write_category(tmp_path / "data", size=(64, 64))
    for options in ((), ("--tile", 48)):
        converted("to_yolo", folder, tmp_path, *options)
    runs = tmp_path / "runs"
    for name, run in (("widget", "yolo"), ("widget@tile-48", "yolo-tile-48")):
        line = refusal(run_yolo("--category", name, "--out", tmp_path, "--runs", runs, "--resume"))
        assert f"{runs / 'widget' / run / 'seed-0'} holds no interrupted run" in line
    assert f"{runs / 'widget' / 'mine' / 'seed-0'} holds no" in refusal(
        run_yolo("--category", "widget@tile-48", "--out", tmp_path, "--runs", runs, "--run", "mine", "--resume")
    )


def begun(runs: Path, dataset: str, **others: object) -> tuple[Path, dict[str, object]]:
    """A run that was interrupted in its first training, its folder and settings: the defaults, but for ``others``."""
    defaults = {option.name: option.default for option in yolo.main.params if isinstance(option, click.Option)}
    folder = runs / dataset / "yolo" / "seed-0"
    (folder / "train" / "weights").mkdir(parents=True)
    (folder / "train" / "weights" / "last.pt").touch()
    settings = {name: defaults[name] for name in ("task", "arch", "device", "seed")}
    settings |= {"command": ["finetune/yolo.py"], "weights": "none", "start": "random"}
    settings |= {"pretrain": None, "pretrain_epochs": None, "synthetic_share": None} | asdict(Recipe()) | others
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    return folder, settings


def test_a_resumed_run_has_the_settings_that_it_was_begun_with(out, tmp_path, monkeypatch):
    folder, _ = begun(tmp_path, "widget", epochs=7, pretrain="more")
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--resume")
    asked = []
    monkeypatch.setattr(training, "train_and_evaluate", lambda *given: asked.append(given) or {})
    assert run_yolo(*options, "--json").exit_code == 0
    ((request, recipe, _),) = asked
    assert request.pretrain == "more" and request.resume and recipe.epochs == 7
    assert f"--epochs 8: {folder} was begun with 7" in refusal(run_yolo(*options, "--epochs", 8))


def test_a_run_that_another_script_began_is_not_resumed(out, tmp_path):
    folder, settings = begun(tmp_path, "widget")
    del settings["task"]
    (folder / "settings.json").write_text(json.dumps(settings), "utf-8")
    line = refusal(run_yolo("--category", "widget", "--out", out, "--runs", tmp_path, "--resume"))
    assert f"--resume: {folder} was begun by another command" in line


def test_folds_that_were_not_trained_alike_are_not_put_together(tmp_path, monkeypatch):
    """As those of an earlier run are that an interrupted --overwrite had not come to. The first fold may be missing."""
    folder = write_category(tmp_path / "data", size=(64, 64))
    for fold in range(3):
        converted("to_yolo", folder, tmp_path / "out", "--protocol", "kfold", "--folds", 3, "--fold", fold)
    options = ("--category", "widget", "--out", tmp_path / "out", "--runs", tmp_path, "--folds", 3, "--resume")
    begun(tmp_path, "widget@kfold-3-1", epochs=7)
    other, settings = begun(tmp_path, "widget@kfold-3-2", epochs=8)
    assert f"--epochs 7: {other} was begun with 8; leave it out" in refusal(run_yolo(*options))

    (other / "settings.json").write_text(json.dumps(settings | {"epochs": 7, "device": "0"}), "utf-8")
    asked = []
    monkeypatch.setattr(training, "train_and_evaluate", lambda *given: asked.append(given) or {})
    assert run_yolo(*options, "--json").exit_code == 0
    assert [(request.resume, recipe.epochs) for request, recipe, _ in asked] == [(False, 7), (True, 7), (True, 7)]


def test_an_export_goes_by_the_settings_of_the_run(out, tmp_path, monkeypatch):
    folder, settings = begun(tmp_path, "widget", imgsz=96, tiles=None)
    dataset = open_dataset(out, "widget")
    Run(folder, dataset, settings).finish(model="YOLO")
    best = folder / "train" / "weights" / "best.pt"
    best.touch()

    def export(*given: object) -> Path:
        assert given == ("its model", 96, "cpu")
        best.with_suffix(".onnx").touch()
        return best.with_suffix(".onnx")

    monkeypatch.setattr(runtime, "load_model", lambda arch, file, task: "its model" if file == best else None)
    monkeypatch.setattr(runtime, "export_onnx", export)
    monkeypatch.setattr(finished, "find_spec", lambda name: name)
    for to in (None, tmp_path / "mine.onnx"):
        (file,) = finished.export_run(folder, dataset, "", to)
        assert file == (to or best.with_suffix(".onnx")) and file.is_file()
    monkeypatch.setattr(finished, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r"onnx is not installed: pip install -e '.\[export\]'"):
        finished.export_run(folder, dataset, "", None)


def test_folds_must_all_be_there_before_the_first_is_trained_on(out, tmp_path):
    line = refusal(run_yolo("--category", "widget", "--folds", 5, "--out", out, "--runs", tmp_path))
    assert "widget@kfold-5-0: no such dataset" in line


def test_a_first_training_never_sees_what_is_held_back(tmp_path):
    """Another split of the same images has some of our test images in its train part."""
    folder = write_category(tmp_path / "data", size=(64, 64))
    converted("to_yolo", folder, tmp_path / "out")
    converted("to_yolo", folder, tmp_path / "out", "--protocol", "kfold", "--folds", 3)
    options = ("--category", "widget", "--out", tmp_path / "out", "--runs", tmp_path, *FAST)
    line = refusal(run_yolo(*options, "--pretrain", "widget@kfold-3-0"))
    assert "keeps for val or test" in line


def test_light_architecture_and_squares_are_for_boxes(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--task", "segment", "--weights", "none")
    assert "finds boxes only" in refusal(run_yolo(*options, "--arch", "yolo11n-light"))
    assert "--crop: is for boxes" in refusal(run_yolo(*options, "--crop", 32))


def test_help_and_refusals_do_not_import_torch(out):
    asked = "yolo.main(['--help'], standalone_mode=False)"
    code = f"import sys; from finetune import yolo; {asked}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_training_leaves_a_whole_run_and_the_dataset_as_written(out, tmp_path, task, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("no network is needed with --weights none")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    before = tree(out)
    named = ("--category", "widget", "--out", out)
    if task == "segment":
        named = ("--data", out / "widget" / "yolo-seg" / "data.yaml")
    result = run_yolo(*named, "--runs", tmp_path / "runs", *FAST)
    assert result.exit_code == 0, result.output
    assert tree(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    folder = tmp_path / "runs" / "widget" / "yolo" / "seed-0"
    record = json.loads((folder / "run.json").read_text("utf-8"))
    dataset = open_dataset(out, "widget")
    assert record["split_sha256"] == dataset.split["sha256"]
    assert record["random_weights"] is True
    assert record["settings"]["imgsz"] == 64 and record["settings"]["task"] == task
    for part in ("val", "test"):
        detections = json.loads((folder / "predictions" / "tuned" / f"{part}.json").read_text("utf-8"))
        assert record["metrics"][part]["mAP50"] == box_metrics(dataset.ground_truth(part), detections).map50
        scores = (folder / "predictions" / "tuned" / f"{part}_scores.csv").read_text("utf-8").splitlines()
        assert scores[0] == "image,defect,crack,hole"
        assert {row.split(",")[0] for row in scores[1:]} == set(dataset.images(part))


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_damaged_image_is_never_left_out_silently(out, tmp_path, part):
    """ultralytics would train and measure on the others."""
    copy = shutil.copytree(out, tmp_path / "out")
    dataset = open_dataset(copy, "widget")
    name = next(name for name, label in dataset.labels(part).items() if label is not None)
    image = copy / "widget" / "yolo" / "images" / part / name
    image.write_bytes(image.read_bytes()[:60])
    result = run_yolo("--category", "widget", "--out", copy, "--runs", tmp_path, *FAST)
    start, said = result.stderr.splitlines()  # what it starts from is said before
    assert result.exit_code == 2 and start.startswith("widget: YOLO from random weights") and said.startswith("Error: ")
    assert name in said and said.endswith("convert again with --overwrite")
