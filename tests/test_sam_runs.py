"""Runs of SAM's decoder: interrupted, evaluated again, after another dataset, on two processes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import REPOSITORY, converted, refusal, write_category
from predicted import check_same_as_saved, run_predict

from converters.augment import main as augment
from converters.cli.errors import DatasetError
from converters.datasets.synthetic_images import KEYS
from finetune.detection import finished as detection
from finetune.runs.answers import Answer, Predictor
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.run_folder import Run
from finetune.sam_decoder import main
from finetune.segmentation import loop as sam_fitting
from finetune.segmentation.embedding_sources import encode, recolour
from finetune.segmentation.evaluation import seconds_of_boxes
from finetune.segmentation.finished import evaluate_again, export_run
from finetune.segmentation.images import MarkedImage, images_of
from finetune.segmentation.loop import fit
from finetune.segmentation.models import Segmenter, build_tiny, export, hash_of, load_sam, load_tuned, trained_state
from finetune.segmentation.settings import Recipe, Tiny
from finetune.segmentation.steps import Source, choose_trained
from finetune.segmentation.warm_up import warm_up

SMALL = Tiny(side=64)
WHOLE = ("--weights", "none", "--train", "all", "--warm-up", 2, "--epochs", 3, "--batch", 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sam")
    converted("to_masks", write_category(root / "data", good=(3, 3)), root / "out")
    return root / "out"


def sam_decoder(out: Path, runs: Path, *arguments: object) -> Result:
    given = ["--category", "widget", "--out", out, "--runs", runs, "--arch", "tiny", "--imgsz", 64, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in given])


def folder_of(runs: Path) -> Path:
    return runs / "widget" / "sam" / "seed-0"


@pytest.fixture(scope="module")
def unbroken(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of random weights, with a warm-up."""
    runs = tmp_path_factory.mktemp("runs")
    result = sam_decoder(out, runs, *WHOLE)
    assert result.exit_code == 0, result.output
    return folder_of(runs)


@pytest.mark.parametrize("side", [40, 64])
def test_warm_up_goes_for_any_side_of_the_input(out: Path, side: int) -> None:
    tiny = Tiny(side=side)
    segmenter = Segmenter(build_tiny(tiny), ["crack", "hole"], auto=False)
    before = hash_of(segmenter)
    warm_up(segmenter, tiny, images_of(open_dataset(out, "widget"), "train", joined=False), 1, recolour, 0)
    assert hash_of(segmenter) != before


# ----------------------------------------------------------------------------------------------------- interrupted


@pytest.mark.parametrize("step", [1, 3, 5], ids=["warmed up", "in the second epoch", "in the third"])
def test_interrupted_run_ends_as_an_unbroken_one(
    out: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Six images of train in batches of four: two steps an epoch."""
    learn, calls = sam_fitting.learn, []

    def interrupted(*given: object) -> float:
        calls.append(given)
        if len(calls) == step:
            raise KeyboardInterrupt
        return learn(*given)

    monkeypatch.setattr(sam_fitting, "learn", interrupted)
    result = sam_decoder(out, tmp_path, *WHOLE)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].endswith("the same command with --resume continues")
    assert "nothing unfinished" not in result.stderr
    assert "continue with --resume" in refusal(sam_decoder(out, tmp_path, *WHOLE))
    assert "begun with batch 4, not 3" in refusal(sam_decoder(out, tmp_path, *WHOLE, "--batch", 3, "--resume"))
    monkeypatch.setattr("finetune.segmentation.training.warm_up", None)  # not repeated
    monkeypatch.setattr(sam_fitting, "learn", learn)
    result = sam_decoder(out, tmp_path, "--resume")  # what is not given is as the run was begun with
    assert result.exit_code == 0, result.output
    folder = folder_of(tmp_path)
    assert (folder / "tuned.pt").read_bytes() == (unbroken / "tuned.pt").read_bytes()
    ours, theirs = (json.loads((path / "run.json").read_text()) for path in (folder, unbroken))
    assert ours["resumed"] and ours["train_seconds"] is None and theirs["train_seconds"] > 0
    assert ours["metrics"] == theirs["metrics"]
    assert [entry["val"] for entry in ours["history"]] == [entry["val"] for entry in theirs["history"]]
    assert not [path for path in folder.iterdir() if path.name.startswith(("last", "warm"))]
    assert "is a finished run" in refusal(sam_decoder(out, tmp_path, *WHOLE, "--resume"))


def test_test_part_without_a_defect_is_refused_before_the_training(tmp_path: Path) -> None:
    converted("to_masks", write_category(tmp_path / "data", masks={"crack": 1}), tmp_path / "out")
    assert "its test part shows no defect" in refusal(sam_decoder(tmp_path / "out", tmp_path, *WHOLE))


def test_resume_needs_a_run(out: Path, tmp_path: Path) -> None:
    assert "holds no interrupted run" in refusal(sam_decoder(out, tmp_path, *WHOLE, "--resume"))


def test_weights_of_the_epoch_that_val_likes_best_are_kept(out: Path, tmp_path: Path) -> None:
    segmenter = Segmenter(build_tiny(SMALL), ["crack", "hole"], auto=False)
    recipe = Recipe(image_encoder=True, epochs=3, batch=4, lr=1e-2)
    choose_trained(segmenter, recipe)
    seen: list[dict[str, torch.Tensor]] = []

    def judge() -> float:
        seen.append(trained_state(segmenter))
        return [0.1, 0.3, 0.2][len(seen) - 1]

    images = images_of(open_dataset(out, "widget"), "train", joined=False)
    fit(segmenter, partial(encode, segmenter), images, [0], recipe, judge, tmp_path / "last.pt", resume=False)
    kept = trained_state(segmenter)
    assert all(torch.equal(value, seen[1][name]) for name, value in kept.items())
    assert not all(torch.equal(value, seen[2][name]) for name, value in kept.items())


# -------------------------------------------------------------------------------------------------- measured again


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("train", ["decoder", "all"])
def test_finished_run_is_measured_anew_with_the_same_predictions(out: Path, tmp_path: Path, train: str) -> None:
    checkpoint, dataset = tmp_path / "start.pth", open_dataset(out, "widget")
    export(build_tiny(SMALL), checkpoint)
    result = sam_decoder(out, tmp_path, "--weights", checkpoint, "--train", train, "--auto", "--epochs", 1, "--seed", 3)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "widget" / "sam" / "seed-3"
    before, record = contents(folder / "predictions"), json.loads((folder / "run.json").read_text())
    assert len(before) > 20
    shutil.rmtree(folder / "predictions")
    other, moved = tmp_path / "other.pth", checkpoint.rename(tmp_path / "moved.pth")
    export(build_tiny(SMALL), other)
    with pytest.raises(DatasetError, match="no such file"):
        evaluate_again(folder, dataset, "cpu")
    with pytest.raises(DatasetError, match=f"--weights {other}: {folder} began with others"):
        evaluate_again(folder, dataset, "cpu", weights=other)
    evaluate_again(folder, dataset, "cpu", weights=moved)
    after = contents(folder / "predictions")
    told = [json.loads(side.pop("auto/set.json")) for side in (before, after)]
    assert after == before and all(about.pop("seconds_per_image") > 0 for about in told) and told[0] == told[1]
    anew = json.loads((folder / "run.json").read_text())
    changes = {key for key in anew.keys() | record.keys() if anew.get(key) != record.get(key)}
    assert changes <= {"seconds_per_image"}
    with pytest.raises(
        DatasetError, match=f"{checkpoint}: the training began with this checkpoint: name where .* --weights"
    ):
        export_run(folder, dataset, "cpu", tmp_path / "tuned.pth")
    exported = load_sam("tiny", *export_run(folder, dataset, "cpu", tmp_path / "tuned.pth", moved), SMALL)
    checkpoint.hardlink_to(moved)
    assert hash_of(exported) == hash_of(load_tuned(folder / "tuned.pt").sam)


def test_a_detector_s_time_is_known_of_the_same_kind_of_device_and_measurement_alone(out: Path, tmp_path: Path) -> None:
    dataset = open_dataset(out, "widget")
    boxes = write_boxes(tmp_path, dataset)
    assert seconds_of_boxes(boxes, "cpu") is None
    for facts, device, expected in (
        ({"device": "cpu", "gpu_peak_memory_mb": None}, "cpu", 0.5),
        ({"device": "cpu"}, "cpu", None),  # timed in another way
        ({"device": "cuda:0", "gpu_peak_memory_mb": 9}, "cpu", None),
        ({"device": "cuda:0", "gpu_peak_memory_mb": 9}, "cuda", 0.5),
    ):
        Run(boxes, dataset, {}).finish(model="YOLO", seconds_per_image=0.5, **facts)
        assert seconds_of_boxes(boxes, device) == expected


def write_boxes(folder: Path, dataset: Dataset, score: float = 0.9) -> Path:
    """What a run of YOLO leaves: the same box for every image."""
    (folder / "predictions" / "tuned").mkdir(parents=True)
    for part in ("val", "test"):
        ids = [dataset.image_ids[name] for name in dataset.images(part)]
        found = [{"image_id": id_, "category_id": 1, "bbox": [4, 4, 20, 16], "score": score} for id_ in ids]
        (folder / "predictions" / "tuned" / f"{part}.json").write_text(json.dumps(found))
    Run(folder, dataset, {}).finish(model="YOLO")
    return folder


def test_boxes_that_have_moved_are_named_and_must_be_the_same(out: Path, tmp_path: Path) -> None:
    dataset = open_dataset(out, "widget")
    boxes, others = write_boxes(tmp_path / "boxes", dataset), write_boxes(tmp_path / "others", dataset, 0.8)
    assert sam_decoder(out, tmp_path, "--weights", "none", "--epochs", 1, "--boxes", boxes).exit_code == 0
    folder = folder_of(tmp_path)
    before, record = contents(folder / "predictions"), json.loads((folder / "run.json").read_text())
    files = [(boxes / "predictions" / "tuned" / f"{part}.json").read_bytes() for part in ("val", "test")]
    assert record["settings"]["boxes_sha256"] == hashlib.sha256(b"".join(files)).hexdigest()
    moved = boxes.rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match=f"--boxes {boxes}: holds no predictions"):
        evaluate_again(folder, dataset, "cpu")
    with pytest.raises(DatasetError, match=f"--boxes {others}: {folder} began with other predictions, or none: name"):
        evaluate_again(folder, dataset, "cpu", boxes=others)
    shutil.rmtree(folder / "predictions")
    for given in (moved, moved / "predictions" / "tuned"):
        evaluate_again(folder, dataset, "cpu", boxes=given)
        assert contents(folder / "predictions") == before and "yolo-box/test.json" in before
        assert json.loads((folder / "run.json").read_text())["metrics"] == record["metrics"]
    others.rename(boxes)
    with pytest.raises(DatasetError, match="began with other predictions"):
        evaluate_again(folder, dataset, "cpu")  # in the old place


def test_new_images_with_boxes_of_a_run_get_the_answers_of_the_evaluation(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts by val's threshold of the run's own set, wherever the run of YOLO lies now."""
    dataset = open_dataset(out, "widget")
    boxes = write_boxes(tmp_path / "boxes", dataset)
    result = sam_decoder(out, tmp_path, "--weights", "none", "--epochs", 1, "--boxes", boxes)
    assert result.exit_code == 0, result.output
    boxes = boxes.rename(tmp_path / "moved")
    found = [{"category_id": 1, "bbox": [4, 4, 20, 16], "score": 0.9}]
    model = Predictor(lambda _: Answer([0.9, 0.9, 0], found), dataset.classes, threshold=0.95, run=boxes)
    monkeypatch.setattr(detection, "predictor", lambda *_: model)
    check_same_as_saved(folder_of(tmp_path), out, tmp_path / "to", "yolo-box", "--boxes", boxes)
    for name in ("val", "test"):  # other boxes than those that the run knows: judged as the run of YOLO does
        (boxes / "predictions" / "tuned" / f"{name}.json").write_text("[]")
    images = out / "widget" / "masks" / "images" / "test"
    run_predict(folder_of(tmp_path), images, "--to", tmp_path / "other", "--out", out, "--boxes", boxes)
    rows = (tmp_path / "other" / "verdicts.csv").read_text().splitlines()[1:]
    assert rows and all(row.split(",")[1] == "good" and row.split(",")[3] == "0.95" for row in rows)


def test_boxes_of_other_classes_are_refused(out: Path, tmp_path: Path) -> None:
    boxes = write_boxes(tmp_path / "boxes", open_dataset(out, "widget"))
    record = json.loads((boxes / "run.json").read_text())
    record["label_settings"]["class_names"] = ["defect"]  # as with --classes single
    (boxes / "run.json").write_text(json.dumps(record))
    line = refusal(sam_decoder(out, tmp_path, "--weights", "none", "--boxes", boxes))
    assert f"--boxes {boxes}: knows other classes (defect) than" in line


def test_only_a_finished_run_of_ours_is_measured_anew(out: Path, tmp_path: Path, unbroken: Path) -> None:
    dataset = open_dataset(out, "widget")
    with pytest.raises(DatasetError, match="name the folder of a finished run"):
        evaluate_again(tmp_path, dataset, "cpu")
    boxes = write_boxes(tmp_path / "boxes", dataset)
    with pytest.raises(DatasetError, match=f"--boxes {boxes}: {unbroken} began with other predictions, or none"):
        evaluate_again(unbroken, dataset, "cpu", boxes=boxes)
    copy = shutil.copytree(unbroken, tmp_path / "copy")
    (copy / "tuned.pt").unlink()
    for use in (lambda: evaluate_again(copy, dataset, "cpu"), lambda: export_run(copy, dataset, "cpu", None)):
        with pytest.raises(DatasetError, match=r"does not hold tuned\.pt any more"):
            use()


# --------------------------------------------------------------------------------------------- first another dataset


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the datasets widget, widget@paste-4, widget@kfold-3-0 and, of other classes, plate."""
    root = tmp_path_factory.mktemp("pasted")
    folder = write_category(root / "data", good=(3, 3))
    converted("to_masks", folder, root / "out")
    converted("to_masks", folder, root / "out", "--protocol", "kfold", "--folds", 3)
    converted("to_masks", write_category(root / "data", "plate", masks={"dent": 5}), root / "out")
    result = CliRunner().invoke(augment, ["--dataset", "widget", "--count", "4", "--out", str(root / "out")])
    assert result.exit_code == 0, result.output
    return root / "out"


def test_first_training_is_on_made_images_and_resumes_too(
    pasted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--weights", "none", "--auto", "--epochs", 2, "--pretrain", "widget@paste-4", "--pretrain-epochs", 3)
    result = sam_decoder(pasted, tmp_path / "unbroken", *arguments)
    assert result.exit_code == 0, result.output
    assert "from random weights, first on widget@paste-4 (4 synthetic images)" in result.stdout
    record = json.loads((folder_of(tmp_path / "unbroken") / "run.json").read_text())
    assert record["pretrained_on"] == "widget@paste-4" and record["synthetic_images"] == 4
    assert record["pretrain_synthetic_images"] == 4
    split = open_dataset(pasted, "widget@paste-4").split["sha256"]
    assert record["settings"]["pretrain_split_sha256"] == split != record["split_sha256"]
    assert len(record["pretrain_history"]) == 3 and len(record["history"]) == 2
    made, learn = [], sam_fitting.learn

    def interrupted(segmenter: Segmenter, source: Source, batch: list[MarkedImage], *given: object) -> float:
        made.append(sum(image.name.startswith(KEYS) for image in batch))
        if len(made) in (4, 11):  # in the second epoch of each training, of two steps
            raise KeyboardInterrupt
        return learn(segmenter, source, batch, *given)

    monkeypatch.setattr(sam_fitting, "learn", interrupted)
    assert sam_decoder(pasted, tmp_path, *arguments).exit_code == 130
    assert sam_decoder(pasted, tmp_path, *arguments, "--resume").exit_code == 130
    assert sam_decoder(pasted, tmp_path, *arguments, "--resume").exit_code == 0
    assert sum(made[:2]) == 4 and not any(made[8:])
    ours, theirs = (folder_of(runs) / "tuned.pt" for runs in (tmp_path, tmp_path / "unbroken"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_made_images_of_either_training_are_told_apart(pasted: Path, tmp_path: Path) -> None:
    """A dataset with synthetic images of its own, three of them by its share, after one with four."""
    train = open_dataset(pasted, "widget").images("train")
    given = ["--dataset", "widget@paste-4", "--out", pasted, "--runs", tmp_path, "--arch", "tiny", "--imgsz", 64]
    given += [
        "--weights",
        "none",
        "--epochs",
        1,
        "--synthetic-share",
        3 / (3 + len(train)),
        "--pretrain",
        "widget@paste-4",
    ]
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "first on widget@paste-4 (4 synthetic images), 3 synthetic images in train, --train decoder" in result.stdout
    record = json.loads((tmp_path / "widget@paste-4" / "sam" / "seed-0" / "run.json").read_text())
    assert (record["synthetic_images"], record["pretrain_synthetic_images"]) == (7, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pretrain", "widget@kfold-3-0"), "keeps for val or test"),
        (("--pretrain", "plate", "--auto"), "which --auto needs: name a dataset made from widget"),
        (("--pretrain", "nowhere"), "no such dataset"),
    ],
)
def test_first_dataset_must_keep_apart(pasted: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refusal(sam_decoder(pasted, tmp_path, "--weights", "none", *arguments))


# --------------------------------------------------------------------------------------------------- two processes


TOGETHER = {
    train: ("--weights", "none", "--auto", "--train", train, "--epochs", 2, "--batch", 5, "--device", "cpu")
    + (("--warm-up", 1) if train == "all" else ())
    for train in ("decoder", "all")
}
BOTH = """
import json, sys
from finetune.sam_decoder import main

for given in json.loads(sys.argv[1]):
    main(given, standalone_mode=False)
"""


@pytest.fixture(scope="module")
def by_two(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds a run of each of ``TOGETHER``, trained by two processes that are started once."""
    runs = tmp_path_factory.mktemp("two")
    (runs / "both.py").write_text(BOTH)
    common = ["--category", "widget", "--out", out, "--arch", "tiny", "--imgsz", 64]
    given = [[*common, "--runs", runs / train, *options] for train, options in TOGETHER.items()]
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", runs / "both.py"]
    command += [json.dumps([[str(argument) for argument in each] for each in given])]
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}, "capture_output": True}
    result = subprocess.run([sys.executable, "-m", *map(str, command)], text=True, check=False, **settings)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("run: ") == len(TOGETHER)  # the first one speaks
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("train", TOGETHER)
def test_two_processes_end_with_the_weights_of_one(out: Path, by_two: Path, tmp_path: Path, train: str) -> None:
    """Batches of five of six images: shares of three and two, and of one and none."""
    assert sam_decoder(out, tmp_path, *TOGETHER[train]).exit_code == 0
    folders = [folder_of(by_two / train), folder_of(tmp_path)]
    two, one = (torch.load(folder / "tuned.pt", weights_only=True) for folder in folders)
    torch.testing.assert_close(two["state"], one["state"], rtol=1e-4, atol=2e-5)
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    for ours, theirs in zip(*(record["history"] for record in records), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
