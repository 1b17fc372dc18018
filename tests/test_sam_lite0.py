"""SAM's decoder behind EfficientNet-Lite0: the starter that is installed, and the start where nothing is named."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import converted, refusal, write_category

from converters.cli.errors import DatasetError
from finetune.runs.checksums import sha256
from finetune.runs.dataset import open_dataset
from finetune.sam_decoder import main
from finetune.segmentation import embedding_sources, models, setup
from finetune.segmentation.drawn_prompts import draw_points
from finetune.segmentation.evaluation import answer, filled, make_prompt, overlap
from finetune.segmentation.images import images_of
from finetune.segmentation.lite0 import BACKBONE, build_lite0
from finetune.segmentation.models import Segmenter, framed, load_sam, load_tuned
from finetune.segmentation.settings import STARTER, STARTER_SHA256, Tiny

SIDE = 256  # of the input, for speed; the weights fit all sizes


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of 40 x 48 px, two classes."""
    root = tmp_path_factory.mktemp("lite0")
    converted("to_masks", write_category(root / "data", good=(3, 3)), root / "out")
    return root / "out"


def sam_decoder(out: Path, runs: Path, *arguments: object) -> Result:
    given = ["--category", "widget", "--out", out, "--runs", runs, "--imgsz", 64, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in given])


def test_starter_is_all_of_the_model_but_the_encoder() -> None:
    assert sha256(STARTER) == STARTER_SHA256 and STARTER.stat().st_size <= 6_000_000
    state = torch.load(STARTER, weights_only=True)
    shapes = {name: value.shape for name, value in build_lite0(SIDE).state_dict().items()}
    assert {name: value.shape for name, value in state.items()} == {
        name: shape for name, shape in shapes.items() if not name.startswith(BACKBONE)
    }


def test_record_of_the_starter_is_of_this_file() -> None:
    record = json.loads((Path(__file__).parents[1] / "docs/measurements/results/starter-lite0.json").read_text())
    assert (record["sha256"], record["bytes"]) == (STARTER_SHA256, STARTER.stat().st_size)
    assert set(record["products"]).isdisjoint({"washer", "weave"})


@pytest.mark.parametrize("grey", [40, 190], ids=["dark", "light"])
def test_starter_sees_more_in_a_box_than_the_box(grey: int) -> None:
    """An arrow on a shaded, noisy ground, as no synthetic product of ours shows it."""
    generator = np.random.default_rng(0)
    image = np.tile(np.linspace(90, 140, SIDE)[:, None, None], (1, SIDE, 3)) + generator.normal(0, 4, (SIDE, SIDE, 3))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.array([[80, 60], [180, 120], [130, 130], [140, 200], [110, 200], [100, 140]])], 1)
    image[mask > 0] = grey
    segmenter = Segmenter(load_sam("lite0", STARTER, Tiny(side=SIDE)), ["any"], auto=False)
    prompt = make_prompt("gt-box", mask, "")
    assert prompt.box is not None
    with torch.no_grad():
        embedding = segmenter.sam.image_encoder(framed(segmenter.sam, image.clip(0, 255).astype(np.uint8))[None])
    ((logits, _),) = answer(segmenter, embedding, [prompt], (SIDE, SIDE))
    found, box = (logits > 0).astype(np.uint8), filled(prompt.box, mask.shape)
    assert overlap(found, mask)["iou"] > overlap(box, mask)["iou"] + 0.2


def test_another_file_in_the_place_of_the_starter_is_one_line(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "starter-lite0.pt"
    other.write_bytes(STARTER.read_bytes()[:-1])
    monkeypatch.setattr(models, "STARTER", other)
    line = refusal(sam_decoder(out, tmp_path, "--arch", "lite0"))
    assert f"{other}: is missing, damaged or another version" in line


def test_without_a_network_and_without_options_a_run_begins_with_the_starter(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str) -> Path:
        raise OSError("no network")

    monkeypatch.setattr(setup, "fetch_published", unreachable)
    result = sam_decoder(out, tmp_path, "--epochs", 1, "--views", 1)
    assert result.exit_code == 0, result.output
    assert "widget: SAM lite0 from installed starter-lite0.pt" in result.stderr
    assert "widget: SAM lite0 from installed starter-lite0.pt, --train decoder" in result.stdout
    folder = tmp_path / "widget" / "sam" / "seed-0"
    record = json.loads((folder / "run.json").read_text())
    assert (record["start"], record["settings"]["arch"]) == ("installed starter-lite0.pt", "lite0")
    assert (record["weights_sha256"], record["random_weights"]) == (STARTER_SHA256, False)
    assert load_tuned(folder / "tuned.pt").sam.image_encoder.img_size == 64
    assert "nobody" not in result.output
    assert "could not be downloaded" in refusal(sam_decoder(out, tmp_path, "--arch", "vit_b", "--imgsz", 1024))


def test_views_that_are_turned_are_recoloured_and_the_image_itself_is_not(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []
    plain = embedding_sources.frames_of

    def frames_of(segmenter: Segmenter, pairs: list, seeds: list[int | None]) -> torch.Tensor:
        seen.extend(seeds)
        return plain(segmenter, pairs, seeds)

    monkeypatch.setattr(embedding_sources, "frames_of", frames_of)
    image = images_of(open_dataset(out, "widget"), "train", False)[0]
    segmenter = Segmenter(build_lite0(64), ["any"], auto=False)
    source = embedding_sources.cached_source(segmenter, [(image, 0), (image, 4), (image, 2)], tmp_path, 1.0, 1)
    assert seen[0] is None and None not in seen[1:] and seen[1] != seen[2]
    whole = embedding_sources.encode(segmenter, [(image, 0)])
    assert torch.allclose(source([(image, 0)]), whole, rtol=1e-3, atol=1e-3)
    assert source([(image, 4)]).shape == (1, 192, 4, 4)


def test_a_drawn_point_is_a_spot_around_its_cell() -> None:
    """A point on pixel 5, 9 of 16 px: the middle is at 2.75, 4.75 of 8 cells, whose own middles are at 0.5, 1.5, ..."""
    points, labels = torch.tensor([[[5.0, 9.0], [15.0, 0.0]]]), torch.tensor([[1, 0]])
    (drawn,) = draw_points(points, labels, 16, 8)[0]
    at = [np.exp(-((2.75 - 2.5) ** 2 + (4.75 - 4.5) ** 2) / 8), -np.exp(-((7.75 - 2.5) ** 2 + (0.25 - 4.5) ** 2) / 8)]
    assert drawn.shape == (8, 8) and float(drawn[4, 2]) == pytest.approx(sum(at))
    assert int(drawn.argmax()) == 4 * 8 + 2 and float(drawn[0, 7]) < -0.9
    assert not draw_points(points, torch.tensor([[-1, -1]]), 16, 8).any()


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"image_encoder.neck.1.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(DatasetError, match="doesn't fit --arch lite0 at 256 px"):
        load_sam("lite0", tmp_path / "other.pt", Tiny(side=SIDE))
