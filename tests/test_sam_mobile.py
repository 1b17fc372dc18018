"""MobileSAM through timm, beside the one that ultralytics ships."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import converted, refusal, write_category

from converters.cli.errors import DatasetError
from finetune.runs.dataset import open_dataset
from finetune.runs.run_folder import Run
from finetune.sam_decoder import main
from finetune.segmentation.finished import export_run
from finetune.segmentation.models import add_lora, build_sam, fetch_published, framed, hash_of, load_sam, merge_lora

build_mobile_sam = pytest.importorskip("ultralytics.models.sam.build").build_mobile_sam


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """ultralytics' MobileSAM with random weights and, unlike a new one, statistics and biases that matter."""
    torch.manual_seed(0)
    sam = build_mobile_sam()
    with torch.no_grad():
        for value in sam.parameters():
            value.add_(torch.randn_like(value) * 0.02)
        for name, value in sam.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    return sam.eval()


@pytest.fixture(scope="module")
def checkpoint(theirs: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobile") / "mobile_sam.pt"
    torch.save(theirs.state_dict(), path)
    return path


def test_every_weight_of_a_checkpoint_has_its_place(checkpoint: Path, theirs: torch.nn.Module) -> None:
    ours = load_sam("mobile_sam", checkpoint)
    unused = sum(p.numel() for n, p in theirs.image_encoder.named_parameters() if n.startswith(("head", "norm_head")))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - unused
    with pytest.raises(DatasetError, match="doesn't fit --arch mobile_sam"):
        torch.save({**theirs.state_dict(), "more": torch.zeros(1)}, checkpoint.with_name("more.pt"))
        load_sam("mobile_sam", checkpoint.with_name("more.pt"))


@pytest.mark.slow
def test_embedding_is_that_of_ultralytics(checkpoint: Path, theirs: torch.nn.Module) -> None:
    ours = load_sam("mobile_sam", checkpoint)
    frame = framed(ours, torch.randint(0, 256, (700, 1024, 3), dtype=torch.uint8).numpy())[None]
    with torch.no_grad():
        found, expected = ours.image_encoder(frame), theirs.image_encoder(frame)
    assert found.shape == (1, 256, 64, 64) and float(expected.std()) > 0.5
    assert float((found - expected).abs().max()) < 1e-4


def test_lora_finds_the_attention_and_leaves_nothing_behind() -> None:
    pytest.importorskip("peft")
    encoder = build_sam("mobile_sam").image_encoder.requires_grad_(False)
    before = hash_of(encoder)
    add_lora(encoder, 2)
    trained = [name for name, value in encoder.named_parameters() if value.requires_grad]
    assert len(trained) == 2 * 2 * (2 + 6 + 2)  # two matrices for two layers of each block with attention
    merge_lora(encoder)
    assert hash_of(encoder) == before


@pytest.mark.slow
def test_run_from_a_checkpoint_on_four_images(checkpoint: Path, tmp_path: Path) -> None:
    category = write_category(tmp_path / "data", masks={"crack": 3}, good=(1, 0))
    converted("to_masks", category, tmp_path / "out")
    given = ["--category", "widget", "--out", tmp_path / "out", "--runs", tmp_path, "--arch", "mobile_sam"]
    given += ["--weights", checkpoint, "--views", 1, "--epochs", 1]
    result = CliRunner().invoke(main, [str(argument) for argument in given])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "widget" / "sam" / "seed-0" / "tuned.pt").stat().st_size < 20e6  # the decoder alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train", "all"), "trains no image encoder of mobile_sam"),
        (("--weights", "sam_vit_b"), "known are mobile_sam"),
        (("--imgsz", "512"), "mobile_sam takes 1024 px"),
    ],
)
def test_what_does_not_go_is_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    converted("to_masks", write_category(tmp_path / "data"), tmp_path / "out")
    given = ["--category", "widget", "--out", str(tmp_path / "out"), "--runs", str(tmp_path), "--arch", "mobile_sam"]
    assert message in refusal(CliRunner().invoke(main, [*given, *arguments]))


def test_a_mobile_sam_is_not_exported_for_sam_predictor(tmp_path: Path) -> None:
    converted("to_masks", write_category(tmp_path / "data"), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", "widget")
    (tmp_path / "run").mkdir()
    Run(tmp_path / "run", dataset, {"arch": "mobile_sam"}).finish(model="SAM decoder")
    (tmp_path / "run" / "tuned.pt").touch()
    with pytest.raises(DatasetError, match=r"SamPredictor knows no mobile_sam; name FILE\.onnx"):
        export_run(tmp_path / "run", dataset, "cpu", tmp_path / "e.pth")


def test_published_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mobile_sam.pt").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="damaged"):
        fetch_published("mobile_sam")
