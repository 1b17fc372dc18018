"""`--synthetic-share`: how many synthetic images training sees: dataset, ultralytics' view, run.json."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import converted, refusal
from test_augment import augment, write_wedges

from converters.cli.errors import DatasetError
from finetune.detection.dataset_view import view_of
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.run_folder import Run

NAME, COUNT = "wedge@paste-12", 12


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wedge` and, with 12 synthetic images, NAME, in all formats."""
    root = tmp_path_factory.mktemp("mixed")
    converted("all", write_wedges(root / "data"), root / "out")
    result = augment(root / "out")
    assert result.exit_code == 0, result.output
    return root / "out"


def types_of(dataset: Dataset, names: list[str]) -> Counter[str]:
    labels = dataset.labels("train")
    return Counter(dataset.classes[labels[name]] for name in names)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4])
def test_share_is_that_of_the_train_part_and_all_real_images_stay(out: Path, share: float) -> None:
    base, mixed = open_dataset(out, "wedge"), open_dataset(out, NAME, share)
    real, train = base.images("train"), mixed.images("train")
    assert train[: len(real)] == real
    assert len(mixed.synthetic_images) == len(train) - len(real) == round(share / (1 - share) * len(real))
    assert abs(len(mixed.synthetic_images) / len(train) - share) < 1 / len(real)
    for part in ("val", "test"):
        assert mixed.images(part) == base.images(part) and mixed.ground_truth(part) == open_dataset(
            out, NAME
        ).ground_truth(part)


def test_without_a_share_all_made_images_are_in_train(out: Path) -> None:
    dataset = open_dataset(out, NAME)
    assert len(dataset.synthetic_images) == COUNT
    assert dataset.images("train") == open_dataset(out, "wedge").images("train") + dataset.synthetic_images


def test_no_defect_type_is_favoured(out: Path) -> None:
    """The synthetic images lie by type in the order of their names: the first ones would all be of one."""
    whole = open_dataset(out, NAME)
    everything = types_of(whole, whole.synthetic_images)
    assert types_of(whole, whole.synthetic_images[:4]).keys() != everything.keys()
    for share in (0.1, 0.2, 0.3, 0.4):
        mixed = open_dataset(out, NAME, share)
        chosen = types_of(mixed, mixed.synthetic_images)
        for name, count in everything.items():
            assert abs(chosen[name] - len(mixed.synthetic_images) * count / COUNT) <= 1


def test_labels_and_ground_truth_follow_in_every_format(out: Path) -> None:
    mixed = open_dataset(out, NAME, 0.2)
    truth = mixed.ground_truth("train")
    names = set(mixed.images("train"))
    assert {entry["file_name"] for entry in truth["images"]} == names == mixed.labels("train").keys()
    ids = {mixed.image_ids[name] for name in names}
    assert {entry["image_id"] for entry in truth["annotations"]} <= ids
    whole = open_dataset(out, NAME).labels("train")
    assert mixed.labels("train") == {name: whole[name] for name in mixed.images("train")}


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_the_view_for_ultralytics_holds_the_same_images(out: Path, tmp_path: Path, task: str) -> None:
    mixed = open_dataset(out, NAME, 0.2)
    view_of(mixed, task, 0.9, tmp_path / "view")
    assert {path.name for path in (tmp_path / "view" / "images" / "train").iterdir()} == set(mixed.images("train"))


def test_squares_are_cut_of_the_same_images(out: Path, tmp_path: Path) -> None:
    mixed = open_dataset(out, NAME, 0.2)
    view_of(mixed, "detect", 0.9, tmp_path / "view", crop=64)
    stems = {path.name.rpartition("@")[0] for path in (tmp_path / "view" / "images" / "train").iterdir()}
    made = {Path(name).stem for name in mixed.synthetic_images}
    assert made and {stem for stem in stems if stem.startswith("zz-synthetic")} <= made


def test_a_run_says_how_many_made_images_it_saw(out: Path, tmp_path: Path) -> None:
    for share, count in ((0.2, round(0.25 * len(open_dataset(out, "wedge").images("train")))), (None, COUNT)):
        Run(tmp_path, open_dataset(out, NAME, share), {}).finish()
        record = json.loads((tmp_path / "run.json").read_text("utf-8"))
        assert record["synthetic_images"] == count


def test_too_few_made_images_or_none_are_one_line_with_the_number_there_is(out: Path) -> None:
    with pytest.raises(DatasetError) as refused:
        open_dataset(out, NAME, 0.9)
    message, real = refused.value.message, len(open_dataset(out, "wedge").images("train"))
    assert "\n" not in message and f"takes {9 * real} synthetic images beside {real} real ones" in message
    assert f"holds {COUNT}: take " in message
    most = float(message.partition("take ")[2].partition(" or less")[0].rpartition("take ")[2])
    assert len(open_dataset(out, NAME, most).synthetic_images) <= COUNT
    with pytest.raises(DatasetError, match=r"wedge holds no synthetic images.*augment --dataset wedge"):
        open_dataset(out, "wedge", 0.5)


@pytest.mark.parametrize("script", ["yolo", "sam_decoder", "classifier"])
def test_every_trainer_has_the_option(out: Path, tmp_path: Path, script: str) -> None:
    module = pytest.importorskip(f"finetune.{script}")
    for name, share, words in (
        ("wedge", 0.5, "holds no synthetic images"),
        (NAME, 0.9, f"holds {COUNT}: take"),
        (NAME, 1, "--synthetic-share"),
        (NAME, math.nan, "nan is no number"),
    ):
        arguments = ["--dataset", name, "--out", out, "--runs", tmp_path / "runs", "--synthetic-share", share]
        assert words in refusal(CliRunner().invoke(module.main, [str(argument) for argument in arguments]))
    assert not (tmp_path / "runs").exists()


FINISHED = {  # model -> its room's module for finished runs, and a file that such a run holds
    "CNN classifier": ("classification.finished", "model.pt"),
    "nearest good patches": ("anomaly.finished", "memory.pt"),
    "SAM decoder": ("segmentation.finished", "tuned.pt"),
    "YOLO": ("detection.finished", "train/weights/best.pt"),
}


@pytest.mark.parametrize("model", FINISHED)
def test_a_finished_run_is_evaluated_again_with_all_of_its_classes(out: Path, tmp_path: Path, model: str) -> None:
    """`wedge@both-12` has `synthetic` besides the classes of `wedge`, on whose test part its runs are compared."""
    room, file = FINISHED[model]
    finished = pytest.importorskip(f"finetune.{room}")
    if not (out / "wedge@both-12").exists():
        assert augment(out, "--method", "both").exit_code == 0
    mixed, base = open_dataset(out, "wedge@both-12"), open_dataset(out, "wedge")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    Run(tmp_path, mixed, {}).finish(model=model)
    with pytest.raises(DatasetError, match="knows a class that only synthetic images have: open wedge@both-12"):
        finished.evaluate_again(tmp_path, base, "cpu")
