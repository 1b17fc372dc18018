"""Learn what good images look like, and score how far an image is from that: no defect is seen in training.

    python finetune/normality.py --category screw --weights DEFAULT --imgsz 320
    python finetune/normality.py --category washer --weights none      # random features: runs anywhere, but weak

A nearest-neighbour memory of patch features as in PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly
Detection, CVPR 2022), smaller: features of two middle stages of a torchvision ResNet, averaged over 3 x 3 cells; a
greedy coreset (Sener and Savarese 2018) of them; a cell's score is its distance to the nearest remembered one, an
image's the largest of its cells. It names no classes. Val only sets the scale of the scores and the box threshold.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.errors import DatasetError
from converters.cli.options import (
    FOLDER,
    Number,
    command,
    json_option,
    out_option,
    overwrite_option,
    progress,
    seed_option,
    table,
    to_json,
)
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset
from finetune.runs.predictions import Run, run_folder, start_run
from finetune.runs.replay import config_option
from finetune.training.weights import RANDOM, find_weights, sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

    from finetune.training.images import Images

SET = "tuned"
ARCHS = ("resnet18", "resnet34", "resnet50", "wide_resnet50_2")  # the paper's is the last
STAGES = ("layer2", "layer3")  # strides 8 and 16: local, and not yet about ImageNet's classes
PROJECTED = 128  # dimensions in which the coreset is chosen (Johnson and Lindenstrauss; section 3.2 of PatchCore)
CANDIDATES = 20_000  # cells that the coreset is chosen from, drawn at random where there are more
BATCH = 16


def build_backbone(arch: str, checkpoint: Path | None, imgsz: int, seed: int) -> "nn.Module":
    """A ResNet that returns the maps of STAGES as a dictionary, in evaluation mode."""
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    from finetune.classification.networks import build_network, start_from

    torch.manual_seed(seed)
    network = build_network(arch, 2, imgsz, "linear", 0.0, None)
    if checkpoint:
        start_from(network, checkpoint, arch)
    return create_feature_extractor(network.eval(), list(STAGES))


def patch_features(backbone: Any, images: "Images", device: str, label: str) -> Iterator["Tensor"]:
    """B x h x w x F features of the cells of each batch of images; the coarser stage is brought to the finer's size."""
    import torch
    from torch.nn import functional as F

    from finetune.training.images import normalise

    with torch.no_grad(), progress(None, len(images), label) as bar:
        for pixels in images.pixels.split(BATCH):
            stages = [F.avg_pool2d(stage, 3, 1, 1) for stage in backbone(normalise(pixels.to(device))).values()]
            size = stages[0].shape[-2:]
            same = [stages[0], *(F.interpolate(stage, size, mode="bilinear") for stage in stages[1:])]
            yield torch.cat(same, 1).permute(0, 2, 3, 1)
            bar.update(len(pixels))


def coreset(features: "Tensor", count: int, seed: int) -> "Tensor":
    """Indices of ``count`` of N features (N x F), each the one farthest from those before: greedy k-centre."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    if features.shape[1] > PROJECTED:
        matrix = torch.randn(features.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5
        features = features @ matrix.to(features.device)
    chosen = [int(torch.randint(len(features), (1,), generator=generator))]
    nearest = torch.full((len(features),), torch.inf, device=features.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def remember(backbone: Any, good: "Images", share: float, device: str, seed: int) -> "Tensor":
    """M x F: the coreset of the features of good images."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    most = -(-CANDIDATES // len(good))
    kept = []
    for features in patch_features(backbone, good, device, "good images"):
        cells = features.flatten(1, 2)
        kept.append(cells[:, torch.randperm(cells.shape[1], generator=generator)[:most].to(device)].flatten(0, 1))
    candidates = torch.cat(kept)
    return candidates[coreset(candidates, max(1, round(share * len(candidates))), seed)]


def distance_maps(backbone: Any, memory: "Tensor", images: "Images", device: str, label: str) -> list[Any]:
    """S x S float32 of each image: distance of each cell to the nearest memory, smoothed as in the paper (sigma 4)."""
    import cv2
    import torch

    size, maps = images.pixels.shape[-1], []
    for features in patch_features(backbone, images, device, label):
        nearest = torch.cdist(features.flatten(0, 2), memory).amin(1).reshape(features.shape[:3])
        for heat in nearest.cpu().numpy():
            full = cv2.resize(heat, (size, size), interpolation=cv2.INTER_LINEAR)
            maps.append(cv2.GaussianBlur(full, (0, 0), 4))
    return maps


def evaluate(run: Run, backbone: Any, memory: "Tensor", parts: dict[str, "Images"], device: str) -> dict[str, Any]:
    """Score val and test, save both, and measure them. Scores are d / (d + median of val's good images): 0..1.

    ``seconds_per_image`` is the wall time of the answers to images in memory, in batches.
    """
    import time

    import numpy as np
    from sklearn.metrics import average_precision_score, roc_auc_score

    from finetune.classification.grad_cam import detections, fit_box_threshold, pointing_game, to_full_size

    began = time.perf_counter()
    maps = {part: distance_maps(backbone, memory, images, device, part) for part, images in parts.items()}
    seconds = (time.perf_counter() - began) / sum(len(images) for images in parts.values())
    scale = max(float(heat.max()) for heat in maps["val"])
    good = [heat.max() for heat, label in zip(maps["val"], parts["val"].labels, strict=True) if label == 0]
    middle = float(np.median(good or [scale]))
    first = {part: [1] * len(images) for part, images in parts.items()}  # boxes need some class; it knows none
    threshold = fit_box_threshold(run.dataset, "val", parts["val"], maps["val"], first["val"], scale, use_classes=False)
    measured: dict[str, Any] = {"seconds_per_image": round(seconds, 5)}
    for part, images in parts.items():
        peaks = np.array([heat.max() for heat in maps[part]])
        unnamed = [float("nan")] * len(run.dataset.classes)
        scores = {name: [peak / (peak + middle), *unnamed] for name, peak in zip(images.names, peaks, strict=True)}
        boxes = detections(run.dataset, images, maps[part], first[part], threshold, scale)
        run.write_predictions(SET, part, boxes, scores)
        run.write_heatmaps(SET, part, to_full_size(images, maps[part]), scale)
        defect = images.labels.numpy() > 0
        both = defect.any() and not defect.all()
        measured[part] = {
            "auroc": float(roc_auc_score(defect, peaks)) if both else float("nan"),
            "average_precision": float(average_precision_score(defect, peaks)) if both else float("nan"),
            **pointing_game(run.dataset, part, images, maps[part]),
        }
    about = {"heatmap": "distance to good patches", "heatmap_scale": scale, "box_threshold": threshold}
    run.describe_set(SET, model="nearest good patches", prompt=None, oracle=False, label="good", classes=False, **about)
    return measured


@command()
@click.option("--category", "--dataset", "dataset_name", metavar="NAME", help="Dataset in --out.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "name", default="normality", help="Name of the run.")
@click.option("--arch", type=click.Choice(ARCHS), default="resnet18", help="torchvision network for features.")
@click.option("--weights", default="DEFAULT", help="torchvision's name, state_dict FILE, or none (random, weak).")
@click.option("--imgsz", type=click.IntRange(64), default=256, help="Side of the square network input, px.")
@click.option("--coreset", "share", type=Number(0, 1, min_open=True), default=0.1, help="Share to remember.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@seed_option
@config_option
@overwrite_option
@json_option
def main(
    dataset_name: str | None,
    out: Path,
    runs: Path,
    name: str,
    arch: str,
    weights: str,
    imgsz: int,
    share: float,
    device: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Learn from train's good images alone; print how well test's defects stand out; leave a run folder."""
    dataset = open_dataset(out, choose_dataset(out, dataset_name))
    from finetune.classifier import fetch_weights, published
    from finetune.training.images import load_images
    from finetune.training.processes import prepare_device

    dataset.ground_truth("val")  # boxes are chosen by it: refused now rather than at the end
    device = prepare_device(device)
    known = published(arch)
    checkpoint = find_weights(
        weights, {name: known[name].url for name in known}, lambda wanted: fetch_weights(known[wanted])
    )
    settings = {"arch": arch, "weights": weights, "imgsz": imgsz, "coreset": share, "device": device, "seed": seed}
    settings["weights_sha256"] = checkpoint and sha256(checkpoint)
    backbone = build_backbone(arch, checkpoint, imgsz, seed).to(device)
    run = start_run(run_folder(runs, dataset, name, seed), dataset, settings, overwrite)
    train = load_images(dataset, "train", imgsz)
    if not (train.labels == 0).any():
        raise DatasetError(f"{dataset.folder}: train holds no good image, and this model learns from nothing else")
    good = train.subset((train.labels == 0).nonzero()[:, 0])
    memory = remember(backbone, good, share, device, seed)
    seconds = run.seconds
    save_memory(run.folder / "memory.pt", memory)
    parts = {part: load_images(dataset, part, imgsz) for part in ("val", "test")}
    measured = evaluate(run, backbone, memory, parts, device)
    run.finish(
        model="nearest good patches",
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        random_weights=checkpoint is None,
        weights_sha256=settings["weights_sha256"],
        train_seconds=round(seconds, 1),
        seconds_per_image=measured.pop("seconds_per_image"),
        weights_bytes=size_of(backbone) + (run.folder / "memory.pt").stat().st_size,
        device=device,
        good_images=len(good),
        remembered=len(memory),
        metrics=measured,
    )
    report(dataset, run.folder, weights, seed, measured["test"], as_json)


def size_of(network: Any) -> int:
    """Bytes of a network's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def save_memory(path: Path, memory: "Tensor") -> None:
    import torch

    torch.save({"memory": memory.cpu()}, path)


def report(dataset: Dataset, folder: Path, weights: str, seed: int, measured: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(to_json(measured), nl=False)
        return
    start = "random weights, which make weak features" if weights == RANDOM else weights
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    click.echo(f"{dataset.name}: nearest good patches, features from {start}, seed {seed}{synthetic}; on test:")
    row = [f"{measured[key]:.3f}" for key in ("auroc", "average_precision", "pointing", "pointing_chance")]
    click.echo(table([row], ("AUROC", "AP", "pointing", "chance")))
    click.echo(f"run: {folder}")


if __name__ == "__main__":
    main(prog_name="python finetune/normality.py")
