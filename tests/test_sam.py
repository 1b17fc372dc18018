"""SAM's decoder: held against Meta's own SamPredictor, hand-computed losses, and runs from conversion to comparison."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import converted, refusal, write_category
from predicted import check_heat, check_odd_images, check_same_as_saved
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from converters.cli.errors import DatasetError
from finetune.comparison.evidence import gather
from finetune.export import main as export_command
from finetune.runs.answers import Answer, Predictor
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.predictions import PredictionSet
from finetune.sam_decoder import main
from finetune.segmentation import steps as training
from finetune.segmentation.drawn_prompts import draw_boxes
from finetune.segmentation.evaluation import Row, answer, components, filled, gain, overlap, summarise
from finetune.segmentation.finished import export_run, predictor
from finetune.segmentation.images import binary, covered, images_of, seen_as
from finetune.segmentation.models import (
    Origin,
    Segmenter,
    add_lora,
    build_tiny,
    decode,
    embed_prompts,
    export,
    fetch_published,
    framed,
    hash_of,
    load_sam,
    load_tuned,
    merge_lora,
    save_tuned,
)
from finetune.segmentation.prompts import Prompt
from finetune.segmentation.settings import Recipe, Tiny, parse_train

SMALL = Tiny(side=64, patch=8, width=32, depth=1, heads=2, window=4, dim=32)
CLASSES = ["crack", "hole"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sam() -> Sam:
    return build_tiny(SMALL)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of 40 x 48 px, two classes."""
    root = tmp_path_factory.mktemp("sam")
    for command in ("to_masks", "to_coco", "to_yolo"):
        converted(command, write_category(root / "data", good=(3, 3)), root / "out")
    return root / "out"


@pytest.fixture
def dataset(out: Path) -> Dataset:
    return open_dataset(out, "widget")


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# ------------------------------------------------------------------------------------------- beside Meta's predictor


@pytest.mark.parametrize("size", [(64, 64), (90, 120), (40, 30)], ids=str)
@pytest.mark.parametrize("kind", ["box", "point", "points"])
def test_masks_are_those_of_metas_predictor_bit_for_bit(sam: Sam, size: tuple[int, int], kind: str) -> None:
    image = noise(size[1], size[0])
    given = {
        "box": {"box": np.array([3, 4, 25, 20]), "multimask_output": False},
        "point": {"point_coords": np.array([[7, 9]]), "point_labels": np.array([1]), "multimask_output": True},
        "points": {
            "point_coords": np.array([[7, 9], [20, 11], [2, 3]]),
            "point_labels": np.array([1, 0, 1]),
            "multimask_output": False,
        },
    }[kind]
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    theirs, expected, _ = predictor.predict(**given, return_logits=True)
    prompt = Prompt(box=np.array([3, 4, 25, 20], np.float32)) if kind == "box" else Prompt()
    for point, label in zip(given.get("point_coords", []), given.get("point_labels", []), strict=True):
        prompt = prompt.with_point(point.astype(np.float32), int(label))
    with torch.no_grad():
        embedding = sam.image_encoder(framed(sam, image)[None])
    ((ours, score),) = answer(Segmenter(sam, CLASSES, False), embedding, [prompt], size)
    best = int(expected.argmax())
    assert np.array_equal(ours > 0, theirs[best] > 0)
    assert np.abs(ours - theirs[best]).max() <= (1e-6 if kind == "point" else 0)  # it enlarges three masks at once
    assert score == pytest.approx(float(np.clip(expected[best], 0, 1)), abs=1e-7)


def test_several_prompts_of_an_image_share_a_call_and_keep_their_order(sam: Sam) -> None:
    image = noise(64, 64)
    prompts = [
        Prompt(box=np.array([3, 4, 25, 20], np.float32)),
        Prompt().with_point(np.array([40, 30], np.float32), 1),
        Prompt(box=np.array([30, 30, 60, 62], np.float32)),
    ]
    with torch.no_grad():
        embedding = sam.image_encoder(framed(sam, image)[None])
        together, _ = decode(sam, embedding, *embed_prompts(sam, prompts, (64, 64)))
        for prompt, low in zip(prompts, together, strict=True):
            alone, _ = decode(sam, embedding, *embed_prompts(sam, [prompt], (64, 64)))
            assert torch.allclose(alone[0], low, atol=1e-5)


def test_a_drawn_box_covers_its_cells_in_proportion() -> None:
    """A box from (4, 8) to (9, 12) of 16 px, on 8 cells of 2 px each: x is the last axis."""
    (mask,) = draw_boxes(torch.tensor([[4.0, 8.0, 9.0, 12.0]]), 16, 8)[0]
    assert mask.shape == (8, 8)
    assert mask[5].tolist() == [-1, -1, 1, 1, 0, -1, -1, -1]
    assert mask[:, 2].tolist() == [-1, -1, -1, -1, 1, 1, -1, -1]


def test_tiny_sees_a_box_as_a_mask_unless_it_is_given_one(sam: Sam) -> None:
    boxes, mask = torch.tensor([[3.0, 4.0, 25.0, 20.0]]), torch.zeros(1, 1, 32, 32)
    plain, given = (sam.prompt_encoder(None, None, masks)[1] for masks in (draw_boxes(boxes, 64, 32), mask))
    assert torch.equal(sam.prompt_encoder(None, boxes, None)[1], plain)
    assert torch.equal(sam.prompt_encoder(None, boxes, mask)[1], given) and not torch.equal(plain, given)


def test_exported_tiny_gives_the_same_mask_in_metas_predictor(tmp_path: Path, sam: Sam) -> None:
    export(sam, tmp_path / "e.pth")
    again = build_tiny(SMALL)
    again.load_state_dict(torch.load(tmp_path / "e.pth", weights_only=True))
    masks = []
    for model in (sam, again):
        predictor = SamPredictor(model)
        predictor.set_image(noise(50, 64))
        masks.append(predictor.predict(box=np.array([3, 4, 25, 20]), multimask_output=False, return_logits=True)[0])
    assert np.array_equal(*masks)


@pytest.mark.slow
def test_exported_vit_b_loads_in_metas_registry_and_gives_the_same_mask(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    start = tmp_path / "start.pth"
    export(sam_model_registry["vit_b"](checkpoint=None), start)
    segmenter = Segmenter(load_sam("vit_b", start), CLASSES, auto=False)
    with torch.no_grad():  # as training changes them
        for value in segmenter.sam.mask_decoder.parameters():
            value.mul_(1.01)
    segmenter.requires_grad_(False).sam.mask_decoder.requires_grad_(True)
    save_tuned(segmenter, Origin("vit_b", Tiny(), start), tmp_path / "tuned.pt")
    assert (tmp_path / "tuned.pt").stat().st_size < 20e6  # the decoder alone
    tuned = load_tuned(tmp_path / "tuned.pt")
    export(tuned.sam, tmp_path / "full.pth")
    predictor = SamPredictor(sam_model_registry["vit_b"](checkpoint=str(tmp_path / "full.pth")))
    image = noise(60, 40)
    predictor.set_image(image)
    theirs = predictor.predict(box=np.array([3, 4, 25, 20]), multimask_output=False, return_logits=True)[0]
    with torch.no_grad():
        embedding = tuned.sam.image_encoder(framed(tuned.sam, image)[None])
    ((ours, _),) = answer(tuned, embedding, [Prompt(box=np.array([3, 4, 25, 20], np.float32))], (40, 60))
    assert np.array_equal(ours, theirs[0])


# ------------------------------------------------------------------------------------------------- targets and loss


def test_hole_and_single_pixel_keep_their_area_when_a_target_shrinks() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:24, 8:24] = 1
    mask[15, 15] = 0  # a hole of one pixel
    mask[41, 41] = 1  # a part of one pixel
    cover = covered(mask, (16, 16))
    assert cover.sum() * 16 == mask.sum()
    assert cover[3, 3] == pytest.approx(15 / 16) and cover[10, 10] == pytest.approx(1 / 16)
    assert binary(cover)[2:6, 2:6].all() and binary(cover)[10, 10] == 0
    alone = np.zeros((64, 64), np.uint8)
    alone[41, 41] = 1
    assert binary(covered(alone, (16, 16))).sum() == 1  # too small for half a cell, yet never nothing


def test_masks_are_never_enlarged_for_the_loss(sam: Sam) -> None:
    assert training.loss_size(sam, (40, 30)) == (40, 30)
    assert training.loss_size(sam, (200, 100)) == (64, 32)


def test_loss_is_twenty_focal_and_one_dice() -> None:
    generator = np.random.default_rng(0)
    logits, target = generator.normal(size=(5, 7)), generator.random((5, 7))
    chance = 1 / (1 + np.exp(-logits))
    entropy = -(target * np.log(chance) + (1 - target) * np.log(1 - chance))
    agreement = chance * target + (1 - chance) * (1 - target)
    focal = ((0.25 * target + 0.75 * (1 - target)) * (1 - agreement) ** 2 * entropy).mean()
    dice = 1 - (2 * (chance * target).sum() + 1) / (chance.sum() + target.sum() + 1)
    found = training.mask_losses(torch.tensor(logits)[None, None], torch.tensor(target)[None])
    assert found.shape == (1, 1) and float(found) == pytest.approx(20 * focal + dice)


def test_warm_up_weighs_what_is_near_an_instance() -> None:
    """A cell near the instance (its box and 4 cells around) counts 1 / 56, of the far ones 0.5 / 200."""
    generator = np.random.default_rng(0)
    logits, target = generator.normal(size=(16, 16)), np.zeros((16, 16))
    target[[2, 3], [0, 2]], target[2, 1] = 1, 0.3  # box: rows 2 and 3, columns 0 to 2
    near = np.zeros((16, 16), bool)
    near[0:8, 0:7] = True
    chance = 1 / (1 + np.exp(-logits))
    entropy = -(target * np.log(chance) + (1 - target) * np.log(1 - chance))
    dice = 1 - (2 * (chance * target).sum() + 1) / (chance.sum() + target.sum() + 1)
    expected = entropy[near].mean() + 0.5 * entropy[~near].mean() + dice
    found = training.near_losses(torch.tensor(logits)[None, None].expand(1, 3, -1, -1), torch.tensor(target)[None])
    assert found.shape == (1, 3) and found[0].tolist() == pytest.approx([expected] * 3)


def test_focal_term_is_torchvisions() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, target = torch.randn(2, 1, 6, 6), (torch.rand(2, 6, 6) > 0.5).float()
    overlap_, sizes = (logits.sigmoid()[:, 0] * target).sum((1, 2)), (logits.sigmoid()[:, 0] + target).sum((1, 2))
    dice = 1 - (2 * overlap_ + 1) / (sizes + 1)
    theirs = sigmoid_focal_loss(logits[:, 0], target, 0.25, 2.0, "none").mean((1, 2))
    assert torch.allclose(training.mask_losses(logits, target)[:, 0], 20 * theirs + dice)


@pytest.mark.parametrize("ambiguous", [True, False])
def test_a_lone_point_is_judged_by_the_best_of_three_masks_and_a_box_by_the_first(
    sam: Sam, monkeypatch: pytest.MonkeyPatch, ambiguous: bool
) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:24, 8:40] = 1
    right = cv2.resize(mask, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) * 40 - 20
    low = torch.full((1, 4, 32, 32), -20.0)
    low[0, 2] = torch.from_numpy(right)
    ious = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    monkeypatch.setattr(training, "decode", lambda *given, **options: (low, ious))
    prompt = Prompt(box=np.array([8, 8, 40, 24], np.float32))
    if ambiguous:
        prompt = Prompt().with_point(np.array([10, 10], np.float32), 1)
    monkeypatch.setattr(training, "first_prompt", lambda *given: prompt)
    segmenter = Segmenter(sam, CLASSES, auto=False)
    scene = training.scene_of(segmenter, mask.astype(np.int64), [0], 4, np.random.default_rng(0))
    loss = training.scene_loss(segmenter, torch.zeros(1, 32, 8, 8), scene, 1)
    assert float(loss) < 0.3 if ambiguous else float(loss) > 0.9


def test_cached_embeddings_give_the_gradients_of_an_uncached_step(sam: Sam) -> None:
    segmenter = Segmenter(sam, CLASSES, auto=True)
    training.choose_trained(segmenter, Recipe())
    ids = np.zeros((64, 64), np.int64)
    ids[5:20, 5:30], ids[40:50, 40:60] = 1, 2
    gradients = []
    for half in (False, True):
        with torch.no_grad():
            embedding = sam.image_encoder(framed(sam, noise(64, 64))[None])
        embedding = embedding.half().float() if half else embedding
        segmenter.zero_grad()
        generator = np.random.default_rng(3)
        scene = training.scene_of(segmenter, ids, [0, 1], 4, generator)
        training.take_step(segmenter, embedding, [scene], 2)
        gradients.append({k: v.grad.clone() for k, v in segmenter.named_parameters() if v.grad is not None})
    exact, cached = gradients
    assert exact.keys() == cached.keys()
    assert all(name == "tokens" or name.startswith("sam.mask_decoder") for name in exact)
    for name, value in exact.items():
        assert torch.allclose(value, cached[name], rtol=0.02, atol=1e-4 + 0.02 * float(value.abs().max())), name


def test_gradient_of_the_encoder_is_that_of_one_graph(sam: Sam) -> None:
    """Image by image and then through the encoder, as ``take_step`` goes, or all at once."""
    segmenter, found = Segmenter(sam, CLASSES, auto=False), []
    ids = np.zeros((64, 64), np.int64)
    ids[5:20, 5:30] = 1
    for whole in (True, False):
        segmenter.zero_grad()
        frames = torch.stack([framed(sam, noise(64, 64)), framed(sam, noise(60, 64))])
        embeddings, generator = sam.image_encoder(frames), np.random.default_rng(3)
        scenes = [training.scene_of(segmenter, ids, [0], 4, generator) for _ in range(2)]
        if whole:
            losses = [training.scene_loss(segmenter, embeddings[i : i + 1], scenes[i], 1) for i in range(2)]
            torch.stack(losses).mean().backward()
        else:
            training.take_step(segmenter, embeddings, scenes, 1)
        found.append(sam.image_encoder.patch_embed[0].weight.grad.clone())
    assert torch.allclose(*found, atol=1e-6)


def test_average_of_weights_soon_forgets_the_first_ones_and_is_swapped_in_and_out() -> None:
    parameters = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([0.0]))])
    averaged = training.averaged_of(parameters, 0.2)
    for expected in (9.0, 10.6):  # the first weights count 2 / 11, after that the past counts 0.2
        with torch.no_grad():
            parameters[0].fill_(11.0)
        averaged.update_parameters(parameters)
        training.swap(parameters, averaged)
        assert parameters[0].item() == pytest.approx(expected)
        training.swap(parameters, averaged)
        assert parameters[0].item() == 11.0


def test_eight_views_are_all_symmetries_of_a_square() -> None:
    pixels = np.arange(6).reshape(2, 3)
    views = [seen_as(pixels, view) for view in range(8)]
    assert len({(view.shape, view.tobytes()) for view in views}) == 8
    assert np.array_equal(views[0], pixels) and views[1].tolist() == [[2, 5], [1, 4], [0, 3]]


# ------------------------------------------------------------------------------------------------ saved and loaded


def test_tuned_decoder_is_saved_alone_and_loaded_onto_its_checkpoint(tmp_path: Path, sam: Sam) -> None:
    export(sam, tmp_path / "base.pth")
    segmenter = Segmenter(load_sam("tiny", tmp_path / "base.pth", SMALL), CLASSES, auto=True)
    training.choose_trained(segmenter, Recipe())
    with torch.no_grad():
        for value in segmenter.sam.mask_decoder.parameters():
            value.add_(0.1)
    save_tuned(segmenter, Origin("tiny", SMALL, tmp_path / "base.pth"), tmp_path / "tuned.pt")
    state = torch.load(tmp_path / "tuned.pt", weights_only=True)["state"]
    assert "tokens" in state and not any("image_encoder" in name or "prompt_encoder" in name for name in state)
    loaded = load_tuned(tmp_path / "tuned.pt")
    assert hash_of(loaded) == hash_of(segmenter) and loaded.classes == CLASSES
    moved = (tmp_path / "base.pth").rename(tmp_path / "moved.pth")
    assert hash_of(load_tuned(tmp_path / "tuned.pt", moved)) == hash_of(segmenter)
    with pytest.raises(DatasetError, match="began with this checkpoint"):
        load_tuned(tmp_path / "tuned.pt")
    export(build_tiny(SMALL), moved)
    with pytest.raises(DatasetError, match="another checkpoint"):
        load_tuned(tmp_path / "tuned.pt", moved)
    (tmp_path / "tuned.pt").write_bytes(b"no zip")
    with pytest.raises(DatasetError, match=r"is no tuned\.pt"):
        load_tuned(tmp_path / "tuned.pt")


def test_lora_is_merged_so_that_nothing_of_it_is_left_but_its_effect(tmp_path: Path, sam: Sam) -> None:
    pytest.importorskip("peft")
    export(sam, tmp_path / "base.pth")
    segmenter = Segmenter(load_sam("tiny", tmp_path / "base.pth", SMALL), CLASSES, auto=False)
    training.choose_trained(segmenter, Recipe(lora=2))
    trained = [name for name, value in segmenter.named_parameters() if value.requires_grad]
    assert any("lora_A" in name for name in trained)
    assert all("lora_" in name or "mask_decoder" in name for name in trained)
    with torch.no_grad():
        for name, value in segmenter.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
        frame = framed(segmenter.sam, noise(64, 64))[None]
        before = segmenter.sam.image_encoder(frame)
    save_tuned(segmenter, Origin("tiny", SMALL, tmp_path / "base.pth", lora=2), tmp_path / "tuned.pt")
    loaded = load_tuned(tmp_path / "tuned.pt")
    assert loaded.sam.state_dict().keys() == sam.state_dict().keys()
    with torch.no_grad():
        assert torch.allclose(loaded.sam.image_encoder(frame), before, atol=1e-4)
        assert not torch.allclose(sam.image_encoder(frame), before, atol=1e-2)


def test_lora_without_peft_is_one_line(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(DatasetError, match="peft is not installed: pip install"):
        add_lora(sam.image_encoder, 2)


def test_merging_without_adapters_changes_nothing(sam: Sam) -> None:
    pytest.importorskip("peft")
    before = hash_of(sam)
    merge_lora(sam.image_encoder)
    assert hash_of(sam) == before


def test_published_file_is_checked_by_the_digits_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, path, hash_prefix, progress: asked.append((url, hash_prefix))
    )
    assert fetch_published("sam_vit_b") == tmp_path / "checkpoints" / "sam_vit_b_01ec64.pth"
    assert asked == [("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth", "01ec64")]
    (tmp_path / "checkpoints" / "sam_vit_b_01ec64.pth").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="damaged"):
        fetch_published("sam_vit_b")


# --------------------------------------------------------------------------------------------------------- measures


def test_overlap_of_two_masks() -> None:
    mask, found = (filled(box, (20, 20)) for box in ((2, 2, 10, 10), (2, 2, 10, 6)))
    measures = overlap(found, mask, boundaries=True)
    assert measures["iou"] == 0.5 and measures["dice"] == pytest.approx(2 / 3)
    assert overlap(mask, mask, boundaries=True) == dict.fromkeys(measures, 1.0)
    assert overlap(np.zeros_like(mask), mask, boundaries=True)["boundary_iou_0.02"] == 0
    assert filled((1.5, 0, 3.4, 1), (2, 5)).tolist() == [[0, 1, 1, 0, 0], [0] * 5]  # pixels whose centres are inside


def test_components_are_named_by_their_pixels_and_scored_by_their_peak() -> None:
    heat, kinds = np.zeros((6, 8), np.uint16), np.zeros((6, 8), np.uint16)
    heat[1:3, 1:3], heat[4, 5:8] = 65535, 32768
    kinds[4, 6:8] = 1
    first, second = components(heat, kinds, 1000, 7)
    assert (first["bbox"], first["score"], first["category_id"]) == ([1, 1, 2, 2], 1.0, 1)
    assert (second["bbox"], second["category_id"], second["image_id"]) == ([5, 4, 3, 1], 2, 7)


def test_gain_and_its_interval(dataset: Dataset) -> None:
    images = [image for image in images_of(dataset, "test", False) if image.marked]
    rows = [
        Row(image, number, image.main_kind(), {"iou": 0.5 + 0.1 * number}, 0.4, None)
        for image in images
        for number in (1, 2)
    ]
    found = gain(dataset, rows, [row.baseline for row in rows])
    assert found["gain"] == pytest.approx(0.25) and found["interval"] == pytest.approx((0.25, 0.25))
    summary = summarise(rows, dataset.classes)
    assert summary["iou"] == pytest.approx(0.65) and summary["worst_iou"] == pytest.approx(0.6)
    assert summary["filled_box_iou"] == pytest.approx(0.4)


# -------------------------------------------------------------------------------------------------- the command


def sam_decoder(out: Path, runs: Path, *arguments: object) -> Result:
    given = ["--category", "widget", "--out", out, "--runs", runs, "--arch", "tiny", "--imgsz", 64, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in given])


def test_run_from_dataset_to_comparison(out: Path, dataset: Dataset, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for part in ("val", "test"):
        truth = dataset.ground_truth(part)["annotations"]
        found = [{key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for entry in truth]
        (boxes / f"{part}.json").write_text(json.dumps(found))
    arguments = ("--weights", "none", "--epochs", 2, "--auto", "--boxes", boxes)
    result = sam_decoder(out, tmp_path / "runs", *arguments)
    assert result.exit_code == 0, result.output
    run = tmp_path / "runs" / "widget" / "sam" / "seed-0"
    record = json.loads((run / "run.json").read_text())
    assert record["random_weights"] and record["weights_sha256"] is None
    assert record["weights_bytes"] == (run / "tuned.pt").stat().st_size and record["train_cpu_seconds"] > 0
    kinds = ["auto", "gt-box", "jittered-box", "one-point", "three-points", "yolo-box"]
    assert sorted(path.name for path in (run / "predictions").iterdir()) == kinds == sorted(record["metrics"])
    assert (run / "worst.png").is_file()
    for kind in kinds:
        found = gather(PredictionSet(run / "predictions" / kind), dataset)  # as compare reads it
        about = found.answer.source.about
        assert about["oracle"] == (kind not in ("auto", "yolo-box"))
        assert about["clicks"] == {"gt-box": 2, "jittered-box": 2, "one-point": 1, "three-points": 3}.get(kind, 0)
        assert (found.answer.kind == "heat maps") == (not about["oracle"])
    assert "of random weights" not in result.output and "random weights" in result.output
    check_same_as_saved(run, out, tmp_path / "to", "auto")
    check_odd_images(run, out, tmp_path / "odd", refused=["column", "line"])
    given = json.loads((boxes / "test.json").read_text())
    name = next(name for name in dataset.images("test") if dataset.image_ids[name] == given[0]["image_id"])
    own = [entry for entry in given if entry["image_id"] == given[0]["image_id"]]
    asked = predictor(run, dataset, "cpu", None, Predictor(lambda _: Answer([], own), dataset.classes, 0.5))
    check_heat(asked.look, run, dataset, name, "yolo-box")
    load_sam("tiny", *export_run(run, dataset, "cpu", tmp_path / "e.pth"), Tiny(side=64))
    checked = CliRunner().invoke(export_command, [str(run), "--out", str(out), "--to", str(tmp_path), "--check"])
    assert checked.exit_code == 0, (checked.output, checked.exception)
    assert [(tmp_path / name).is_file() for name in ("sam.pth", "sam_encoder.onnx", "sam_decoder.onnx")] == [True] * 3
    lines = checked.output.splitlines()
    for kind, measures in (("gt-box", ["IoU"]), ("auto", ["AUROC", "AP", "mAP50", "IoU"])):
        rows = [line.split() for line in lines if line.split()[:2] == [kind, "test"]]
        assert [row[2] for row in rows] == measures
        assert all(float(then) == pytest.approx(float(now), abs=0.002) for *_, then, now in rows)
    assert sum(line.startswith("auto, ") and line.endswith(", no verdict flips") for line in lines) == 2
    (iou,) = [line.split()[3] for line in lines if line.split()[:3] == ["auto", "test", "IoU"]]
    assert float(iou) == pytest.approx(record["metrics"]["auto"]["after"]["iou"], abs=1e-4)
    again = sam_decoder(out, tmp_path / "runs", *arguments, "--overwrite")
    assert "0 are to be made" in again.output  # the embeddings were kept
    same = json.loads((run / "run.json").read_text())["metrics"]
    assert same == record["metrics"]


@pytest.mark.slow
def test_vit_b_from_a_checkpoint_of_our_own_on_four_images(tmp_path: Path) -> None:
    category = write_category(tmp_path / "data", masks={"crack": 3}, good=(1, 0))
    converted("to_masks", category, tmp_path / "out")
    export(sam_model_registry["vit_b"](checkpoint=None), tmp_path / "start.pth")
    arguments = ["--weights", tmp_path / "start.pth", "--arch", "vit_b", "--auto", "--views", 1, "--epochs", 1]
    given = ["--category", "widget", "--out", tmp_path / "out", "--runs", tmp_path / "runs", *arguments]
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    assert result.exit_code == 0, result.output
    assert "embeddings: 4 of 2.1 MB" in result.stderr and "4 are to be made" in result.stderr
    run = tmp_path / "runs" / "widget" / "sam" / "seed-0"
    record = json.loads((run / "run.json").read_text())
    assert not record["random_weights"] and record["weights_bytes"] < 20e6
    print({key: record[key] for key in record if "seconds" in key or "memory" in key or "bytes" in key})


def test_whole_model_learns_with_a_warm_up(out: Path, tmp_path: Path) -> None:
    result = sam_decoder(out, tmp_path, "--weights", "none", "--train", "all", "--epochs", 1, "--warm-up", 3)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / ".cache").exists()


def test_lora_run_exports_an_ordinary_checkpoint(out: Path, dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    arguments = ("--weights", "none", "--train", "prompt-encoder,lora:2", "--epochs", 1)
    result = sam_decoder(out, tmp_path, *arguments, "--instances", "image", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["gt-box"]["after"]["count"] == 2  # one for each defect image of test
    exported = export_run(tmp_path / "widget" / "sam" / "seed-0", dataset, "cpu", None)
    assert [file.name for file in exported] == ["sam.pth", "sam_encoder.onnx", "sam_decoder.onnx"]
    load_sam("tiny", exported[0], Tiny(side=64))


def test_too_small_a_cache_ends_the_run_in_one_line(out: Path, tmp_path: Path) -> None:
    result = sam_decoder(out, tmp_path, "--weights", "none", "--cache-gb", "0.00001")
    first, last = result.stderr.splitlines()
    assert result.exit_code == 2 and first == "widget: SAM tiny from random weights"
    assert last.startswith("Error: --cache-gb") and last.endswith("raise it, or take fewer --views")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nobody has published its weights"),
        (("--weights", "nowhere.pth"), "no such file"),
        (("--weights", "none", "--train", "encoder"), "known are decoder"),
        (("--weights", "none", "--train", "all,lora:4"), "joined by commas; or all"),
        (("--weights", "none", "--imgsz", "60"), "a multiple of 8"),
        (("--weights", "none", "--warm-up", "3"), "--train all"),
        (("--arch", "vit_b", "--weights", "none"), "takes 1024 px"),
        (("--weights", "none", "--device", "nonsense"), "--device nonsense"),
        (("--weights", "none", "--boxes", "nowhere"), "holds no predictions"),
    ],
)
def test_what_users_get_wrong_is_told_in_one_line(
    out: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refusal(sam_decoder(out, tmp_path, *arguments))


def test_checkpoint_that_does_not_fit_is_refused(out: Path, tmp_path: Path, sam: Sam) -> None:
    export(sam, tmp_path / "other.pth")
    told = refusal(sam_decoder(out, tmp_path, "--weights", tmp_path / "other.pth"))
    assert "doesn't fit --arch tiny at 64 px" in told
    (tmp_path / "text.pth").write_text("no weights")
    assert "weights_only=True" in refusal(sam_decoder(out, tmp_path, "--weights", tmp_path / "text.pth"))


def test_no_network_is_one_line_that_names_the_flag(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fails)
    given = ["--category", "widget", "--out", str(out), "--runs", str(tmp_path), "--arch", "vit_b"]
    result = CliRunner().invoke(main, given)
    assert "--weights sam_vit_b: could not be downloaded" in refusal(result)


def test_train_words_can_be_joined() -> None:
    assert parse_train("decoder") == {"prompt_encoder": False, "image_encoder": False, "lora": 0}
    assert parse_train("prompt-encoder, lora:4") == {"prompt_encoder": True, "image_encoder": False, "lora": 4}
    assert parse_train("all") == {"prompt_encoder": True, "image_encoder": True, "lora": 0}
