"""`finetune/yolo_world.py`: refusals, words given and taken, and whole runs without CLIP, network or other traces."""

import importlib.abc
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import REPOSITORY, converted, refusal, tree, write_category
from predicted import check_odd_images, check_same_as_saved
from two_cpus import TwoCpus

pytest.importorskip("ultralytics")

import torch

from converters.cli.errors import DatasetError
from finetune import export, yolo_world
from finetune.detection import finished, world, world_training
from finetune.detection.dataset_view import view_of
from finetune.detection.recipe import Recipe
from finetune.detection.vocabulary import read_vectors, write_vectors
from finetune.measures.boxes import box_metrics
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.run_folder import Run, start_run

ARCH = "yolov8s-worldv2"
CLASSES = ["crack", "dent", "hole"]
FAST = ("--weights", "none", "--epochs", 1, "--imgsz", 64, "--batch", 4, "--device", "cpu")


class NoClip(importlib.abc.MetaPathFinder):
    """Makes any import of CLIP, and of the module of ultralytics that is built on it, fail the test."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name.split(".")[0] == "clip" or name == "ultralytics.nn.text_model":
            raise AssertionError(f"{name} is imported")


class NoSocket(socket.socket):
    """No socket but those between processes of this machine, over which torch's workers hand tensors."""

    def __init__(self, family: int = -1, *arguments: object, **named: object) -> None:
        assert family == socket.AF_UNIX, "a socket is opened"
        super().__init__(family, *arguments, **named)


@pytest.fixture
def offline(monkeypatch):
    """No CLIP, no socket."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a host is looked up")

    for name in [name for name in sys.modules if name == "ultralytics.nn.text_model" or name.split(".")[0] == "clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoClip(), *sys.meta_path])
    monkeypatch.setattr(socket, "socket", NoSocket)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A folder of datasets that holds `widget`, of three classes, in YOLO and COCO format."""
    root = tmp_path_factory.mktemp("datasets")
    folder = write_category(root / "data", masks=dict.fromkeys(CLASSES, 5), size=(64, 64))
    converted("to_yolo", folder, root / "out")
    converted("to_coco", folder, root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    """Ready vectors of the three classes."""
    file = tmp_path_factory.mktemp("vectors") / "words.npz"
    write_vectors(file, CLASSES, np.random.default_rng(0).normal(size=(3, 512)))
    return file


def run_world(*arguments: object) -> Result:
    return CliRunner().invoke(yolo_world.main, [str(argument) for argument in arguments])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--keep-vocabulary", "stain"), "--keep-vocabulary stain: no such class; the dataset has crack, dent, hole"),
        (("--device", "0,1", "--batch", 5), "--batch 5: is divided among 2 devices; name a multiple of 2"),
        (("--device", "98,99"), "--device 98,99: not on this machine"),
        (("--weights", "mine.pt"), "--weights mine.pt: no such file"),
        (("--prompts", "gone.yaml"), "gone.yaml"),
        (("--text-embeddings", "gone.npz"), "No such file or directory: 'gone.npz'"),
        (("--text-embeddings", "a.npz", "--prompts", "p.yaml"), "--prompts: is not used with --text-embeddings"),
        (("--text-embeddings", "a.npz", "--text-weights", "none"), "--text-weights: is not used with"),
        (("--template", "{defect}", "--prompts", "p.yaml"), "--template: is not used with --prompts"),
        (("--text-weights", "mine.pt"), "--text-weights mine.pt: no such file"),
        (("--template", "{colour}"), "--template '{colour}': has a field other than"),
    ],
)
def test_bad_usage_is_refused_in_one_line(out, tmp_path, arguments, expected):
    line = refusal(run_world("--category", "widget", "--out", out, "--runs", tmp_path, *FAST, *arguments))
    assert expected in line
    assert not (tmp_path / "widget").exists()


def test_resume_needs_a_run_and_folds_need_datasets(out, tmp_path):
    options = ("--category", "widget", "--out", out, "--runs", tmp_path)
    assert "holds no interrupted run" in refusal(run_world(*options, "--resume"))
    assert "widget@kfold-3-0: no such dataset" in refusal(run_world(*options, "--folds", 3))


def test_the_only_class_cannot_be_held_back(tmp_path):
    folder = write_category(tmp_path / "data", masks={"crack": 5})
    converted("to_yolo", folder, tmp_path / "out")
    line = refusal(run_world("--category", "widget", "--out", tmp_path / "out", *FAST, "--keep-vocabulary", "crack"))
    assert "is the only class" in line


def test_checkpoints_that_know_no_words_are_refused(out, vectors, tmp_path):
    from ultralytics import YOLO

    YOLO("yolo11n.yaml").save(tmp_path / "plain.pt")
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--text-embeddings", vectors)
    line = refusal(run_world(*options, "--weights", tmp_path / "plain.pt"))
    assert "plain.pt: knows no words" in line and "or add the --arch to build on it: yolov8s-worldv2," in line
    for name in ("notes.pt", "notes.md", "notes.yaml"):
        (tmp_path / name).write_text("nc: 1")
        line = refusal(run_world(*options, "--weights", tmp_path / name))
        assert f"{name}: is no checkpoint of ultralytics (" in line and "such as yolov8s-worldv2.pt" in line
    assert "--freeze 99: the network has" in refusal(run_world(*options, "--weights", "none", "--freeze", 99))


TEST = {"classes": [{"class": name, "instances": 1, "AP50": 0.5} for name in CLASSES], "mAP50": 0.5, "mAP50-95": 0.25}
SET = {"train_seconds": 1.0, "train_cpu_seconds": 2.0, "metrics": {"test": TEST}}
RESULTS = {
    "model": "YOLO-World",
    "random_weights": True,
    "random_text_weights": False,
    "weights_sha256": None,
    "sets": dict.fromkeys(world_training.SETS, SET),
}


def test_a_run_is_measured_again_with_its_own_words_and_start(out, vectors, tmp_path, monkeypatch):
    prompts = {name: [f"a {name}"] for name in CLASSES}
    settings = {"arch": ARCH, "weights": "none", "device": "cpu", "seed": 0, "imgsz": 64, "prompt_lr": 1e-3}
    settings |= {"text_model": "open_clip 1", "keep_vocabulary": None, "words": prompts}
    dataset = open_dataset(out, "widget")
    Run(tmp_path, dataset, settings).finish(**RESULTS)
    for name in ("tuned", "prompt-tuned"):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights" / "best.pt").touch()
    shutil.copy(vectors, tmp_path / "text_embeddings.npz")
    asked = []

    def ask(name: str, load: object, words: world.Words, run: Run, device: str, cost: dict) -> dict:
        asked.append((name, words.prompts, words.source))
        return SET

    monkeypatch.setattr(world_training, "ask", ask)
    finished.evaluate_again(tmp_path, dataset, "cpu")
    assert asked == [(name, prompts, "open_clip 1") for name in world_training.SETS]
    for option, words in (("weights", f"{tmp_path}: did not start from"), ("boxes", "--boxes: is not used for")):
        with pytest.raises(DatasetError, match=words):
            finished.evaluate_again(tmp_path, dataset, "cpu", **{option: vectors})


def test_folds_are_told_of_each_set_and_finished_ones_are_kept(vectors, tmp_path, monkeypatch):
    """A stand-in trains: how folds are trained for real is pinned with YOLO, whose loop over them this is."""
    folder = write_category(tmp_path / "data", masks=dict.fromkeys(CLASSES, 5), size=(64, 64))
    for fold in range(3):
        converted("to_yolo", folder, tmp_path / "out", "--protocol", "kfold", "--folds", 3, "--fold", fold)
    trained = []

    def train(request: world_training.Request, recipe: Recipe, dataset: Dataset) -> dict:
        trained.append(dataset.name)
        settings = request.settings() | asdict(recipe) | {"start": "random"}
        run = start_run(request.folder(dataset), dataset, settings, request.overwrite, settings)
        run.finish(**RESULTS)
        return world_training.measures_in(RESULTS)

    monkeypatch.setattr(world_training, "train_and_evaluate", train)
    options = ("--category", "widget", "--out", tmp_path / "out", "--runs", tmp_path, "--folds", 3)
    folds = [f"widget@kfold-3-{fold}" for fold in range(3)]
    for given in (("--text-embeddings", vectors, *FAST), ("--device", "cpu", "--resume")):
        result = run_world(*options, *given)
        assert result.exit_code == 0, (result.output, result.exception)
        for name in world_training.SETS:
            assert f"{name}: mean and standard deviation of 3 folds: mAP50 0.500" in result.output
        shutil.rmtree(tmp_path / folds[2])
    assert trained == [*folds, folds[2]]


def test_help_does_not_import_torch():
    asked = "yolo_world.main(['--help'], standalone_mode=False)"
    code = f"import sys; from finetune import yolo_world; {asked}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")


# ---------------------------------------------------------------- words


def test_words_swapped_are_scores_swapped_and_any_number_of_them_can_be_asked(vectors, offline):
    model = world.load_world(ARCH, None, seed=1)
    given = read_vectors(vectors, CLASSES)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def scores(order: list[int]) -> np.ndarray:
        world.set_words(model, [CLASSES[index] for index in order], given[order])
        with torch.inference_mode():
            return model.model.eval()(image)[0][0, 4:].numpy()  # classes x anchors, after the boxes

    assert scores([0, 1, 2]).shape[0] == 3
    assert np.allclose(scores([0, 1, 2]), scores([2, 0, 1])[[1, 2, 0]], atol=1e-6)
    assert model.names == {0: "hole", 1: "crack", 2: "dent"}
    assert scores([1]).shape[0] == 1


def test_random_starts_are_equal_for_a_seed_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    one, same, other = (world.load_world(ARCH, None, seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    name = "model.0.conv.weight"
    assert torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name])


def test_a_plain_yolov8_gives_all_tensors_that_fit_and_training_keeps_them(out, vectors, tmp_path):
    """Also of the class branch, which is narrower in the smallest network where ultralytics builds it for 3 classes."""
    from ultralytics import YOLO

    plain = YOLO("yolov8n.yaml")
    plain.save(tmp_path / "plain.pt")
    saved = YOLO(str(tmp_path / "plain.pt")).model.float().state_dict()  # in half precision
    made = world.load_world("yolov8n-worldv2", tmp_path / "plain.pt").model
    built = made.state_dict()
    same = {name for name, value in saved.items() if name in built and built[name].shape == value.shape}
    assert all(torch.equal(built[name], saved[name]) for name in same)
    assert {"model.0.conv.weight", "model.9.cv2.conv.weight", "model.22.cv3.0.1.conv.weight"} <= same
    model = world.load_world("yolov8n-worldv2", tmp_path / "plain.pt")
    assert world.shared_with(tmp_path / "plain.pt", model) == len(same) < len(built)

    trainer = object.__new__(world.word_trainer(made, CLASSES, read_vectors(vectors, CLASSES), False))
    trainer.data = {"channels": 3, "nc": 3}
    network = trainer.get_model()
    assert network.model[-1].nc == 3
    for name, value in network.state_dict().items():
        assert torch.equal(value, built[name]), name

    model.save(tmp_path / "world.pt")
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--text-embeddings", vectors)
    other = ("--arch", "yolov8s-worldv2", "--weights", tmp_path / "world.pt")
    assert "is a yolov8n-worldv2; leave --arch out" in refusal(run_world(*options, *other))


def test_prompt_tuning_has_a_rate_of_its_own_and_freezes_the_network(out, vectors, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(world_training.runtime, "train", lambda *given, **_: asked.append(given[2]))
    monkeypatch.setattr(world_training.runtime, "best_of", lambda folder: folder)
    monkeypatch.setattr(world_training, "settle_learned", lambda file: None)
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--text-embeddings", vectors, *FAST)
    monkeypatch.setattr(world_training, "ask", lambda name, *_: sys.exit(9) if name == "prompt-tuned" else {})
    assert run_world(*options, "--prompt-lr", 0.03).exit_code == 9
    tuned, prompted = asked
    assert tuned.lr == 2e-4 and tuned.freeze == 0
    assert prompted.lr == 0.03 and prompted.freeze == 23
    settings = json.loads((tmp_path / "widget" / "yolo-world" / "seed-0" / "settings.json").read_text())
    assert settings["prompt_lr"] == 0.03 and settings["start"] == "random" and settings["tensors_from_start"] is None


def test_vectors_that_are_trained_do_not_decay_and_others_do(vectors):
    start = world.load_world(ARCH, None).model
    for tune_words, decays in ((True, {0.0}), (False, {0.0, 0.5})):
        made = world.word_trainer(start, CLASSES, read_vectors(vectors, CLASSES), tune_words)
        trainer = object.__new__(made)
        trainer.data = {"channels": 3, "nc": 3}
        network = trainer.get_model()
        assert ("txt_feats" in dict(network.named_parameters())) is tune_words
        settings = {"name": "AdamW", "lr": 0.1, "momentum": 0.9, "decay": 0.5, "iterations": 10}
        groups = trainer.build_optimizer(model=network, **settings).param_groups
        assert {group["weight_decay"] for group in groups} == decays


@pytest.mark.parametrize("tune_words", [True, False])
def test_each_image_gets_its_own_order_of_words_as_from_ultralytics_and_learned_ones_get_gradients(vectors, tune_words):
    """Against ultralytics' own gathering, from the embeddings that it would have cached."""
    from ultralytics.models.yolo.world import WorldTrainer

    given = read_vectors(vectors, CLASSES)
    trainer = object.__new__(world.word_trainer(world.load_world(ARCH, None).model, CLASSES, given, tune_words))
    trainer.data, trainer.device, trainer.args = {"channels": 3}, torch.device("cpu"), SimpleNamespace(multi_scale=0.0)
    trainer.model = trainer.get_model()
    trainer.text_embeddings = dict(zip(CLASSES, torch.from_numpy(given), strict=True))
    batch = {"img": torch.zeros(2, 3, 32, 32), "texts": [["hole", "crack", "dent"], ["crack", "dent", "hole"]]}
    ours = trainer.preprocess_batch(dict(batch))["txt_feats"]
    assert torch.equal(ours, WorldTrainer.preprocess_batch(trainer, dict(batch))["txt_feats"])
    assert torch.equal(ours[0, 0], torch.from_numpy(given[2]))
    assert ours.requires_grad is tune_words
    if tune_words:
        ours[0, 0].sum().backward()
        assert trainer.model.txt_feats.grad[0].sum(1).tolist() == [0, 0, 512]


def test_a_class_without_which_a_part_is_empty_is_not_held_back(out, tmp_path):
    dataset = open_dataset(out, "widget")
    data = view_of(dataset, "detect", 0.5, tmp_path / "data")
    for image in (data.parent / "images" / "val").iterdir():
        if "__dent__" not in image.name:
            image.unlink()
    with pytest.raises(DatasetError, match="--keep-vocabulary dent: no image of val is left without it"):
        world.hold_back(data, dataset, "dent")


def test_a_class_held_back_leaves_the_training_view_and_the_dataset_stays_as_it_is(out, tmp_path):
    """Against the labels as they are in the dataset, read by hand."""
    before, dataset = tree(out), open_dataset(out, "widget")
    data = view_of(dataset, "detect", 0.5, tmp_path / "data")
    seen = {
        part: {path.name for path in (data.parent / "images" / part).iterdir()} for part in ("train", "val", "test")
    }
    world.hold_back(data, dataset, "dent")
    assert yaml.safe_load(data.read_text())["names"] == {0: "crack", 1: "hole"}
    for part in ("train", "val", "test"):
        left = {path.name for path in (data.parent / "images" / part).iterdir()}
        gone = {name for name in seen[part] if "__dent__" in name} if part != "test" else set()
        assert left == seen[part] - gone and (gone or part == "test")
        for name in left:
            text = (data.parent / "labels" / part / f"{Path(name).stem}.txt").read_text()
            theirs = (dataset.folder / "yolo" / "labels" / part / f"{Path(name).stem}.txt").read_text()
            expected = (
                theirs
                if part == "test"
                else "".join(
                    line.replace("2", "1", 1) if line.startswith("2") else line
                    for line in theirs.splitlines(keepends=True)
                )
            )
            assert text == expected
    assert tree(out) == before


# ---------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_three_results_without_clip_network_or_trace_elsewhere(out, vectors, tmp_path, monkeypatch, offline):
    from ultralytics import YOLOWorld

    monkeypatch.chdir(tmp_path)
    before = tree(out)
    options = ("--category", "widget", "--out", out, "--runs", "runs", "--text-embeddings", vectors, *FAST)
    result = run_world(*options, "--epochs", 2)
    assert result.exit_code == 0, (result.output, result.exception)
    assert tree(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]

    folder, dataset = tmp_path / "runs" / "widget" / "yolo-world" / "seed-0", open_dataset(out, "widget")
    record = json.loads((folder / "run.json").read_text())
    assert record["random_weights"] is True and record["random_text_weights"] is False
    assert list(record["sets"]) == ["zero-shot", "tuned", "prompt-tuned"]
    assert record["metrics"] == record["sets"]["tuned"]["metrics"]
    for field in ("seconds_per_image", "device", "weights_bytes", "train_cpu_seconds", "parameters"):
        assert record[field], field
    for name, found in record["sets"].items():
        about = json.loads((folder / "predictions" / name / "set.json").read_text())
        assert about["label"] == ("none" if name == "zero-shot" else "box") and about["oracle"] is False
        for part in ("val", "test"):
            detections = json.loads((folder / "predictions" / name / f"{part}.json").read_text())
            assert found["metrics"][part]["mAP50"] == box_metrics(dataset.ground_truth(part), detections).map50

    start = world.load_world(ARCH, None, seed=0).model.half().float()  # checkpoints hold half precision
    given = torch.from_numpy(read_vectors(vectors, CLASSES))[None]
    tuned, prompted = (
        YOLOWorld(str(folder / name / "weights" / "best.pt")).model.float() for name in ("tuned", "prompt-tuned")
    )
    assert torch.equal(tuned.txt_feats, given)
    assert not torch.equal(tuned.state_dict()["model.0.conv.weight"], start.state_dict()["model.0.conv.weight"])
    assert not torch.equal(prompted.txt_feats, given)
    assert (prompted.txt_feats - given).abs().max() < 0.1  # moved by a few steps, not replaced
    for name, value in start.state_dict().items():  # statistics of batch normalization among them
        assert torch.equal(prompted.state_dict()[name], value), name
    learned = read_vectors(folder / "prompt-tuned.npz", CLASSES)
    unit = prompted.txt_feats[0] / prompted.txt_feats[0].norm(dim=-1, keepdim=True)
    assert np.allclose(learned, unit.numpy(), atol=1e-3)

    best = YOLOWorld(str(folder / "prompt-tuned" / "weights" / "best.pt"))
    best.val(
        data=str(folder / "data" / "data.yaml"), imgsz=64, device="cpu", project=str(tmp_path / "val"), plots=False
    )
    with pytest.raises(AssertionError, match="is imported"):  # the ban works: ultralytics' own way is caught
        best.set_classes(["a scratch"])


@pytest.mark.slow
def test_a_class_known_by_its_words_alone_is_measured_beside_the_trained_ones_from_a_file(
    out, vectors, tmp_path, offline
):
    from ultralytics import YOLOWorld

    start = world.load_world(ARCH, None, seed=7)
    for head in start.model.model[-1].cv4:
        torch.nn.init.constant_(head.bias, -4.0)  # so that it finds something
    start.save(tmp_path / "start.pt")
    options = ("--category", "widget", "--out", out, "--runs", tmp_path, "--text-embeddings", vectors, *FAST)
    result = run_world(*options, "--keep-vocabulary", "dent", "--weights", tmp_path / "start.pt")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "dent (words only)" in result.output
    folder = tmp_path / "widget" / "yolo-world-without-dent" / "seed-0"
    record = json.loads((folder / "run.json").read_text())
    assert record["random_weights"] is False and record["weights_sha256"] == sha256(tmp_path / "start.pt")
    frozen = YOLOWorld(str(folder / "prompt-tuned" / "weights" / "best.pt")).model.state_dict()
    for name, value in start.model.half().float().state_dict().items():  # training began there
        assert torch.equal(frozen[name], value), name
    given = read_vectors(vectors, CLASSES)
    learned = read_vectors(folder / "prompt-tuned.npz", CLASSES)
    assert np.allclose(learned[1], given[1], atol=1e-6) and not np.allclose(learned, given, atol=1e-6)
    for name in ("tuned", "prompt-tuned"):
        assert YOLOWorld(str(folder / name / "weights" / "best.pt")).names == {0: "crack", 1: "hole"}
        about = json.loads((folder / "predictions" / name / "set.json").read_text())
        assert about["known_by_words_only"] == ["dent"]
        assert [e["class"] for e in record["sets"][name]["metrics"]["test"]["classes"]] == CLASSES
        asked = {e["category_id"] for e in json.loads((folder / "predictions" / name / "test.json").read_text())}
        assert asked <= {1, 2, 3}
    check_same_as_saved(folder, out, tmp_path / "to")
    check_odd_images(folder, out, tmp_path / "odd")
    told = CliRunner().invoke(
        export.main, [str(folder), "--out", str(out), "--to", str(tmp_path / "e.onnx"), "--check"]
    )
    assert told.exit_code == 0 and told.output.count("no verdict flips") == 2, (told.output, told.exception)
    (row,) = [line.split() for line in told.output.splitlines() if line.split()[:3] == ["tuned", "test", "mAP50"]]
    assert float(row[3]) == pytest.approx(record["sets"]["tuned"]["metrics"]["test"]["mAP50"], abs=1e-4)
    assert float(row[4]) == pytest.approx(float(row[3]), abs=0.01)


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_was_trained_goes_on_and_is_measured_again(out, vectors, tmp_path):
    """Interrupted while words are tuned: the detector is not trained again, the words continue from where they were."""
    script = [sys.executable, REPOSITORY / "finetune" / "yolo_world.py", "--category", "widget", "--out", out]
    script += ["--runs", tmp_path, "--text-embeddings", vectors, *FAST[:2], "--epochs", 3, *FAST[4:]]
    folder = tmp_path / "widget" / "yolo-world" / "seed-0"
    last, rows = folder / "prompt-tuned" / "weights" / "last.pt", folder / "prompt-tuned" / "results.csv"
    process = subprocess.Popen(list(map(str, script)), stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while not last.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "--resume" in process.stderr.read()
    done = len(rows.read_text("utf-8").splitlines()) - 1
    assert 1 <= done < 3
    detector = sha256(folder / "tuned" / "weights" / "best.pt")
    learned = torch.load(last, weights_only=False)["ema"].txt_feats.float()

    resume = ("--category", "widget", "--out", out, "--runs", tmp_path, "--device", "cpu", "--resume")
    assert "was begun with 3" in refusal(run_world(*resume, "--epochs", 7))
    assert "was begun with None" in refusal(run_world(*resume, "--prompts", "words.yaml"))
    assert "was interrupted" in refusal(run_world(*map(str, script[2:])))
    began = {}
    with pytest.MonkeyPatch.context() as patch:
        trained = world.word_trainer

        def note(start: object, classes: list[str], words: np.ndarray, tune_words: bool) -> object:
            began[tune_words] = words
            return trained(start, classes, words, tune_words)

        patch.setattr(world_training, "word_trainer", note)
        result = run_world(*resume)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "resumed" in result.output
    assert sha256(folder / "tuned" / "weights" / "best.pt") == detector
    assert list(began) == [True] and np.array_equal(began[True], learned[0].numpy())
    assert len(rows.read_text("utf-8").splitlines()) == 4
    record = json.loads((folder / "run.json").read_text())
    assert record["resumed"] is True and record["train_seconds"] is None and record["settings"]["epochs"] == 3
    assert "is a finished run" in refusal(run_world(*resume))

    finished.evaluate_again(folder, open_dataset(out, "widget"), "cpu")
    again = json.loads((folder / "run.json").read_text())
    assert again.keys() == record.keys()
    for name, found in again["sets"].items():
        assert found["metrics"] == record["sets"][name]["metrics"]


@pytest.mark.slow
def test_several_devices_tune_words_together_and_go_on_after_ctrl_c(out, vectors, tmp_path):
    """Begun, and continued with from last.pt: both ways, each process makes its trainer and its words from a file."""
    cpus = TwoCpus(tmp_path)
    script = [sys.executable, REPOSITORY / "finetune" / "yolo_world.py", "--category", "widget", "--out", out]
    script = list(map(str, [*script, "--runs", tmp_path, "--device", "0,1"]))
    settings = list(map(str, [*FAST[:-2], "--epochs", 3, "--text-embeddings", vectors]))
    folder = tmp_path / "widget" / "yolo-world" / "seed-0"
    code, said = cpus.interrupt([*script, *settings], folder / "prompt-tuned" / "weights" / "last.pt")
    logs = "".join(file.read_text("utf-8") for file in folder.glob("*.log"))
    assert code == 130, said + logs
    assert "--resume" in said and "Traceback" not in said
    assert 1 <= len((folder / "prompt-tuned" / "results.csv").read_text("utf-8").splitlines()) - 1 < 3
    cpus.check_weights("tuned", 3)
    detector = sha256(folder / "tuned" / "weights" / "best.pt")

    for file in cpus.seen.glob("predicted by *"):
        file.unlink()
    resumed = cpus.run([*script, "--resume"])
    assert resumed.returncode == 0, resumed.stderr + (folder / "prompt-tuned.log").read_text("utf-8")
    assert len((folder / "prompt-tuned" / "results.csv").read_text("utf-8").splitlines()) == 4
    assert sha256(folder / "tuned" / "weights" / "best.pt") == detector
    cpus.check_weights("prompt-tuned", 3)
    cpus.check_nothing_left()
    learned, given = (read_vectors(file, CLASSES) for file in (folder / "prompt-tuned.npz", vectors))
    assert 1e-4 < abs(learned - given).max() < 0.1

    dataset = open_dataset(out, "widget")
    (images,) = cpus.predicted()  # by one process
    val, test = (dataset.images(part) for part in ("val", "test"))
    timed = [test[0], *test]  # once more each, to see what an answer costs: there are fewer than 20
    assert sorted(Path(image).name for image in images) == sorted(3 * [*val, *test, *timed])
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["device"] == "0,1" and list(record["sets"]) == list(world_training.SETS)
