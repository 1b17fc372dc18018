"""`finetune/weakrest.py`: residuals and block labels by hand, what a teacher may change, and real runs."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import converted, refusal
from predicted import check_heat, check_same_as_saved
from sklearn.metrics import average_precision_score
from test_classifier import write_images

from converters.augment import main as augment
from converters.cli.errors import DatasetError
from finetune import weakrest
from finetune.anomaly.features import build_backbone
from finetune.anomaly.weak import loop, network
from finetune.anomaly.weak.block_labels import BlockLabels, from_boxes, from_mask, from_tag
from finetune.anomaly.weak.loop import Lesson, fit
from finetune.anomaly.weak.recipe import Recipe
from finetune.anomaly.weak.residuals import Memory, Table, look_up, remember
from finetune.anomaly.weak.training import block_labels, learned_from, owners_of
from finetune.prediction.again import export
from finetune.prediction.new_images import open_predictor
from finetune.runs.dataset import open_dataset
from finetune.runs.held_out import rejects_threshold
from finetune.training.checkpoints import load_state
from finetune.training.images import load_images

torch.set_num_threads(1)
NOISE = ("--method", "perlin", "--count", "4")


@pytest.fixture(autouse=True)
def few_windows(monkeypatch):
    monkeypatch.setattr(loop, "CROPS", 32)


@pytest.fixture
def slim(monkeypatch):
    """A small network, for what needs no large one."""
    monkeypatch.setattr(network, "WIDTH", 36)
    monkeypatch.setattr(network, "DEPTH", 2)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tiles")
    folder = write_images(root / "data")
    for command in ("to_masks", "to_coco"):
        converted(command, folder, root / "out")
    return root / "out"


def run(out: Path, runs: Path, *arguments: object) -> Result:
    command = ["--category", "tile", "--out", out, "--runs", runs, "--device", "cpu", "--imgsz", 64, *arguments]
    return CliRunner().invoke(weakrest.main, [str(argument) for argument in [*command, "--weights", "none"]])


# -------------------------------------------------------------------------------------------------- residuals


def corners(first: float, second: float) -> Memory:
    """Two patches of one feature: one in the upper left corner, of object 0, one in the lower right, of object 1."""
    return Memory(torch.tensor([[first], [second]]), torch.tensor([[0.25, 0.25], [0.75, 0.75]]), torch.tensor([0, 1]))


def test_the_nearest_patch_is_that_of_the_nearest_place_where_features_differ_little():
    """Spread 1, so that places weigh 0.5: of 2 x 2 cells with feature 0, the one in the lower right is at

    1^2 + 0.5^2 (0.5^2 + 0.5^2) = 1.125 from the patch -1 in the upper left, and at 1 from the patch 1 at its own place.
    """
    memory, features = corners(-1.0, 1.0), torch.zeros(2, 2, 1)
    assert memory.spread() == 1
    found = memory.nearest(features)[..., 0]
    assert found[0, 0] == 0 and found[1, 1] == 1
    assert memory.residuals(features[None])[0, :, :, 0][[0, 1], [0, 1]].tolist() == [1.0, -1.0]
    nearer = torch.full((2, 2, 1), 0.1)  # 0.9^2 + 0.125 against 1.1^2 and less: the feature decides
    assert memory.nearest(nearer)[0, 0, 0] == 1


def test_own_patches_do_not_count_in_training():
    memory, features = corners(-1.0, 1.0), torch.full((1, 1, 1), -1.0)
    assert memory.nearest(features)[0, 0, 0] == 0 and memory.nearest(features, owner=0)[0, 0, 0] == 1


def test_images_of_one_object_have_residuals_in_training(out):
    images = load_images(open_dataset(out, "tile"), "train", 64)
    good = images.subset((images.labels == 0).nonzero()[:, 0])
    owners, backbone = torch.arange(len(good)) // 2, build_backbone(Recipe(imgsz=64), None)
    memory = remember(backbone, "resnet18", good, owners, 1.0, "cpu", seed=0)
    assert memory.residuals(look_up(backbone, "resnet18", memory, good, owners, "cpu").features.float()).norm() < 1
    table = look_up(backbone, "resnet18", memory, good, owners, "cpu")
    for index, owner in enumerate(owners.tolist()):
        assert not (memory.owners[table.nearest[index].long()] == owner).any()
        assert table.residuals(index, loop.WHOLE).norm(dim=-1).min() > 0.01


# ------------------------------------------------------------------------------------------------ block labels


def test_blocks_of_a_mask_are_defects_from_a_quarter_on_and_unknown_below():
    mask = np.zeros((8, 8), np.uint8)
    mask[0:2, 2:6] = 1  # blocks of 4 x 4: 4 of 16 pixels in each of the upper two
    mask[3, 0] = 1  # 1 of 16, beside: its fullest block is one in any case, and was one already
    mask[7, 3] = 1  # alone in the lower left
    assert from_mask(mask, 2).known.tolist() == [[1, 1], [1, 0]]
    mask[0, 2] = mask[7, 3] = 0
    mask[3, 0] = 0  # 3 of 16 in the upper left
    assert from_mask(mask, 2).known.tolist() == [[-1, 1], [0, 0]]


def test_a_box_leaves_its_inside_unknown_and_holds_a_defect():
    labels = from_boxes([[3, 1, 4, 3], [20, 20, 12, 12]], (32, 32), 8)
    assert labels.known[0:2].tolist() == [[-1, -1, 0, 0, 0, 0, 0, 0], [0] * 8]
    assert (labels.known[5:, 5:] == -1).all() and (labels.known == -1).sum() == 2 + 9
    scores = torch.zeros(8, 8)
    scores[0, 0], scores[6, 6], scores[7, 5], scores[3, 3] = 0.3, 0.5, 0.4, 0.99
    taught = labels.taught(scores, sure=0.9)
    assert (taught == 1).nonzero().tolist() == [[0, 0], [6, 6], [7, 5]]  # 0.2 of 2 blocks is one, of 9 two
    assert (taught == 0).sum() == 61 and taught[3, 3] == 0  # outside nobody asks the teacher


def test_only_what_is_sure_gets_a_label():
    labels = BlockLabels(torch.tensor([[-1, -1, -1, 1, 0]]), torch.zeros(1, 5, dtype=torch.int16))
    scores = torch.tensor([[0.95, 0.5, 0.05, 0.01, 0.99]])
    assert labels.taught(scores, sure=0.9).tolist() == [[1, -1, 0, 1, 0]]
    assert labels.taught(scores, sure=None).tolist() == [[-1, -1, -1, 1, 0]]


def test_a_tag_says_that_the_image_shows_a_defect_somewhere():
    labels, scores = from_tag(20), torch.arange(400).view(20, 20) / 1000
    assert (labels.taught(scores, None) == 1).nonzero().tolist() == [[19, 18], [19, 19]]  # 0.005 of 400 blocks


def test_tags_and_boxes_open_nothing_dearer(out, tmp_path):
    """With boxes there are no masks on the disk; with tags there are neither masks nor boxes."""
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    shutil.rmtree(copy / "tile" / "masks")
    truth = copy / "tile" / "coco" / "annotations"
    for path in truth.iterdir():
        content = json.loads(path.read_text())
        content["annotations"] = [entry | {"segmentation": None} for entry in content["annotations"]]
        path.unlink()
        path.write_text(json.dumps(content))
    dataset = open_dataset(copy, "tile")
    train = load_images(dataset, "train", 64)
    labels = block_labels(dataset, train, "boxes", 8)
    unknown = torch.tensor([bool((each.known < 0).any()) for each in labels])
    assert (unknown == (train.labels > 0)).all() and unknown.any()
    shutil.rmtree(truth)
    result = run(copy, tmp_path / "runs", "--labels", "tags", "--epochs", 1, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "runs" / "tile" / "weakrest-tags" / "seed-0"
    assert json.loads((folder / "predictions" / "tuned" / "set.json").read_text())["label"] == "class"
    assert math.isnan(json.loads(result.stdout)["pointing"])


# ---------------------------------------------------------------------------------------------------- training


def lesson_of_four(side: int = 16) -> Lesson:
    """Four images of random features, two of them with other ones in a rectangle, against two good patches."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, side, side, 8, generator=generator)
    masks = np.zeros((4, side, side), np.uint8)
    masks[2, 3:7, 3:7] = masks[3, 9:12, 4:10] = 1
    for index, channels in ((2, slice(0, 2)), (3, slice(2, 4))):
        features[index, ..., channels] += 2.5 * torch.from_numpy(masks[index])[..., None]
    memory = Memory(torch.zeros(2, 8), torch.zeros(2, 2), torch.tensor([0, 1]))
    table = Table(features.half(), torch.zeros(4, side, side, 2, dtype=torch.int32), memory)
    return Lesson(table, [from_mask(mask, side) for mask in masks], torch.tensor([0, 0, 1, 2]))


def test_four_images_are_learned_by_heart(slim, tmp_path):
    lesson = lesson_of_four()
    trained, _ = fit(lesson, 2, Recipe(epochs=10, batch=2, lr=5e-3), "cpu", tmp_path, resume=False)
    with torch.no_grad():
        logits = trained(lesson.table.features.float())
    truth = torch.stack([labels.known for labels in lesson.labels]).flatten()
    before = lesson.table.features.float().norm(dim=-1).flatten()
    assert average_precision_score(truth, before) < 0.6  # distance alone
    assert average_precision_score(truth, logits[..., 0].flatten()) > 0.9
    named = logits[2:, :, :, 1:].argmax(-1)
    assert named[0][lesson.labels[2].known == 1].float().mean() < 0.1
    assert named[1][lesson.labels[3].known == 1].float().mean() > 0.9


def test_two_processes_add_up_to_one(slim, monkeypatch):
    """Of a batch with few known blocks in some images, each of two processes takes a half."""
    monkeypatch.setattr(loop, "autocast_on", lambda device: torch.autocast("cpu", enabled=False))
    lesson = lesson_of_four()
    lesson.labels[3] = from_tag(16)
    torch.manual_seed(0)
    trained = network.ResidualTransformer(torch.ones(8), 2)

    def gradients(rank: int, world: int) -> torch.Tensor:
        monkeypatch.setattr(loop, "place", lambda: (rank, world))
        crops = loop.drawn(lesson, None, np.random.default_rng(0), "cpu")[:6]
        loop.learn(trained, lesson, crops, "cpu")
        return torch.cat([parameter.grad.flatten() for parameter in trained.parameters()])

    whole = gradients(0, 1)
    assert torch.allclose(gradients(0, 2) + gradients(1, 2), whole, atol=1e-6) and whole.abs().max() > 1e-3


def test_a_resumed_training_ends_like_an_unbroken_one(slim, tmp_path, monkeypatch):
    lesson, recipe = lesson_of_four(), Recipe(epochs=3, batch=8)
    lesson.labels[3] = from_tag(16)  # so that the teacher has a say
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    fit(lesson, 2, recipe, "cpu", tmp_path / "whole", resume=False)
    stand = loop.keep_standing

    def stop_after_two(at, states, file):
        stand(at, states, file)
        if at.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(loop, "keep_standing", stop_after_two)
        fit(lesson, 2, recipe, "cpu", tmp_path / "broken", resume=False)
    _, at = fit(lesson, 2, recipe, "cpu", tmp_path / "broken", resume=True)
    assert [entry["epoch"] for entry in at.history] == [1, 2, 3]
    ours, theirs = (load_state(tmp_path / name / "model.pt") for name in ("broken", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_scores_defects_higher_names_them_and_is_used_again(out, tmp_path):
    result = run(out, tmp_path, "--epochs", 3, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    folder = tmp_path / "tile" / "weakrest-masks" / "seed-0"
    measured, record = json.loads(result.stdout), json.loads((folder / "run.json").read_text())
    assert measured["auroc"] > 0.8 and measured["pointing"] > 0.8  # these made defects are easy
    assert 1e6 < record["trained_parameters"] < 5e6
    assert json.loads((folder / "predictions" / "tuned" / "set.json").read_text())["classes"]
    dataset = open_dataset(out, "tile")
    check_same_as_saved(folder, out, tmp_path / "to")
    judge = open_predictor(folder, out, "cpu", None, None)
    check_heat(judge.look, folder, dataset, dataset.images("test")[-1])
    assert 0 < rejects_threshold(judge.source, dataset, 0.5) < 1
    with pytest.raises(DatasetError, match="has no export yet"):
        export(folder, out, None, "cpu", None, False)


def test_without_labels_painted_noise_is_learned_from(out, tmp_path):
    assert "augment --dataset tile --method perlin" in refusal(run(out, tmp_path, "--labels", "none"))
    converted("to_masks", out.parent / "data" / "tile", tmp_path / "out")
    result = CliRunner().invoke(augment, ["--dataset", "tile", "--out", str(tmp_path / "out"), *NOISE])
    assert result.exit_code == 0, (result.output, result.exception)
    dataset = open_dataset(tmp_path / "out", "tile@perlin-4")
    train = load_images(dataset, "train", 64)
    kept = [train.names[index] for index in learned_from(dataset, train, "none").tolist()]
    assert kept == [name for name in train.names if "good" in name or "perlin" in name] and len(kept) < len(train)
    made = json.loads((dataset.folder / "augment.json").read_text())["images"][0]
    owners = dict(zip(train.names, owners_of(dataset).tolist(), strict=True))
    assert owners[f"zz-synthetic__{made['image']}"] == owners[made["background"].replace("/", "__")]


def test_byte_identical_images_are_one_object(tmp_path):
    folder = write_images(tmp_path / "data")
    shutil.copy(folder / "train" / "good" / "000.png", folder / "train" / "good" / "001.png")
    dataset = open_dataset(tmp_path / "out", converted("to_coco", folder, tmp_path / "out").name)
    owners = dict(zip(dataset.images("train"), owners_of(dataset).tolist(), strict=True))
    assert owners["train__good__000.png"] == owners["train__good__001.png"] != owners["train__good__002.png"]
