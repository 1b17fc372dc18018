"""Train a CNN classifier (good, and the classes of a dataset), measure it, and show where it looked.

    python finetune/classifier.py --category screw                                            # ImageNet start
    python finetune/classifier.py --category washer --weights none --attempt pretext          # random start
    python finetune/classifier.py --category washer --weights none --attempt all --repeat 3   # ablation table
    python finetune/classifier.py --category screw --pretrain screw@paste-500                 # synthetic images first
    torchrun --nproc_per_node 2 -- finetune/classifier.py --category screw --imgsz 512        # two GPUs; mind the --

It learns from the class of an image alone, never from a mask; synthetic images, though, were cut out along masks. Val
chooses the epoch (also of --pretrain), the temperature and all thresholds; test is looked at once. Good counts as a
class in accuracy, balanced accuracy and macro-F1.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.errors import DatasetError
from converters.cli.options import (
    FOLDER,
    Acting,
    Number,
    command,
    given_options,
    json_option,
    out_option,
    overwrite_option,
    seed_option,
    synthetic_share_option,
    table,
    to_json,
)
from finetune.classification.recipes import ATTEMPTS, IMBALANCE, OWN, USUAL, Attempt, seen_test
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset, open_pretrain
from finetune.runs.predictions import Run, check_begun, finished_run, run_folder, start_run, told_to_resume
from finetune.runs.replay import config_option
from finetune.training.weights import RANDOM, find_weights, sha256

if TYPE_CHECKING:
    from finetune.classification.loop import Job, Standing
    from finetune.training.images import Images

SET = "tuned"
OVERRIDES = ("arch", "optimizer", "lr", "epochs", "batch", "pretext")  # what the command line may change of an attempt
ACTING = Acting(beside_eval_only=("--cost", "--heatmaps", "--precision"))


@dataclass(frozen=True)
class Request:
    """What the command line asks for, for all trainings of one call."""

    name: str  # of the run, without what tells trainings of one call apart
    runs: Path
    weights: str
    imgsz: int
    stride: int | None
    synthetic_share: float | None
    pretrain: Dataset | None
    pretrain_epochs: int | None
    device: str
    precision: str | None  # None: that of the run (--eval-only)
    ensemble: int
    cost: Path | None
    heatmaps: bool
    resume: bool
    overwrite: bool


@dataclass
class Result:
    """One training, measured on test."""

    attempt: Attempt
    labels: Any  # N class indices
    decisions: Any  # N class indices
    measures: dict[str, Any]
    epochs: int
    cpu_seconds: float
    seconds: float | None  # None: resumed
    folder: Path


def published(arch: str) -> dict[str, Any]:
    """torchvision's weights of an architecture by name, DEFAULT among them; none for our own networks."""
    from torchvision import models

    if arch in OWN:
        return {}
    found = models.get_model_weights(arch)
    return dict(found.__members__) | ({"DEFAULT": found.DEFAULT} if len(found) else {})


def fetch_weights(weights: Any) -> Path:
    """The file of published weights, by torchvision's own download into torch's cache."""
    import torch

    weights.get_state_dict(progress=False, check_hash=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]


def make_job(request: Request, dataset: Dataset, attempt: Attempt, imbalance: str, seed: int) -> "Job":
    """A training with its weights at hand; raises DatasetError if they, or the architecture, are not to be had."""
    from finetune.classification.grad_cam import check_heat_maps
    from finetune.classification.loop import Job
    from finetune.classification.networks import build_network, known_networks, start_from

    assert request.precision is not None
    if attempt.arch not in known_networks():
        raise DatasetError(f"--arch {attempt.arch}: known are {', '.join(known_networks())}")
    if attempt.arch != "fine":
        attempt = replace(attempt, pretext=0, rehearse=0.0)
    if request.weights == RANDOM:
        attempt = replace(attempt, freeze=0)  # random features are nothing to keep
    known = published(attempt.arch)
    if request.weights != RANDOM and not known and not Path(request.weights).exists():
        raise DatasetError(f"--weights {request.weights}: --arch {attempt.arch} is our own: name a file, or none")
    checkpoint = find_weights(
        request.weights, {name: known[name].url for name in known}, lambda name: fetch_weights(known[name])
    )
    network = build_network(
        attempt.arch, 1 + len(dataset.classes), request.imgsz, attempt.head, attempt.dropout, request.stride
    )
    if checkpoint:
        start_from(network, checkpoint, attempt.arch)  # what does not fit is refused before a run is begun
    if request.heatmaps:
        check_heat_maps(network, request.imgsz)
    return Job(
        attempt=attempt,
        imbalance=imbalance,
        classes=1 + len(dataset.classes),
        imgsz=request.imgsz,
        stride=request.stride,
        weights=checkpoint,
        device=request.device,
        precision=request.precision,
        seed=seed,
    )


@dataclass(frozen=True)
class Member:
    """A trained network of a run, and how its training went: on synthetic images first, where there are such."""

    network: Any
    standing: "Standing"
    pretraining: "Standing | None"

    @property
    def stages(self) -> list["Standing"]:
        return [stage for stage in (self.pretraining, self.standing) if stage]

    @property
    def epochs(self) -> int:
        return sum(stage.epoch for stage in self.stages)

    @property
    def cpu_seconds(self) -> float:
        return sum(stage.cpu_seconds for stage in self.stages)


def train_members(
    job: "Job", first: "Images | None", train: "Images", val: "Images", folder: Path, request: Request
) -> list[Member]:
    """One member trained on all images or, for an ensemble, K on bootstraps of them; on those of ``first`` before."""
    from finetune.classification.imbalance import bootstrap

    if request.ensemble == 1:
        return [train_member(job, first, train, val, folder, request)]
    members = []
    for number, place in enumerate(places_of(folder, request.ensemble)):
        own = replace(job, seed=job.seed * request.ensemble + number)
        before = first and first.subset(bootstrap(first.labels, own.seed))
        drawn = train.subset(bootstrap(train.labels, own.seed))
        members.append(train_member(own, before, drawn, val, place, request))
    return members


def train_member(
    job: "Job", first: "Images | None", train: "Images", val: "Images", folder: Path, request: Request
) -> Member:
    """Train on ``first``, then from there on ``train``; leave the weights in the folder and its `pretrain`."""
    from finetune.classification.imbalance import HEADS
    from finetune.classification.loop import fit, retrain_head
    from finetune.classification.networks import save_state
    from finetune.training.processes import leads

    folder.mkdir(parents=True, exist_ok=True)
    start, pretraining = None, None
    if first and request.pretrain:
        before = folder / "pretrain"
        before.mkdir(exist_ok=True)
        attempt = replace(job.attempt, epochs=request.pretrain_epochs or job.attempt.epochs)
        stage = replace(job, attempt=attempt, classes=1 + len(request.pretrain.classes))
        _, pretraining = fit(stage, first, val, before, request.resume)
        start = before / "model.pt"
    network, standing = fit(job, train, val, folder, request.resume, start)
    if job.imbalance in HEADS and leads():
        retrain_head(network, train, job.imbalance, job)
        save_state(network.state_dict(), folder / "model.pt")
    return Member(network, standing, pretraining)


def places_of(folder: Path, ensemble: int) -> list[Path]:
    """Where the members of a run lie."""
    return [folder] if ensemble == 1 else [folder / f"member-{number}" for number in range(ensemble)]


def load_members(job: "Job", folder: Path, ensemble: int) -> list[Any]:
    """The networks that a finished run has left."""
    from finetune.classification.loop import load_network

    return [load_network(job, place / "model.pt") for place in places_of(folder, ensemble)]


def evaluate(
    run: Run, job: "Job", networks: Sequence[Any], parts: dict[str, "Images"], request: Request
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Predict val and test, save both, and measure them; returns measures, probabilities and decisions by part."""
    from finetune.classification.loop import logits_of, mean_logits
    from finetune.measures.decisions import fit_temperature, softmax

    logits = {name: mean_logits([logits_of(net, images, job) for net in networks]) for name, images in parts.items()}
    labels = {name: images.labels.numpy() for name, images in parts.items()}
    has_defects = bool((labels["val"] > 0).any())
    temperature = fit_temperature(logits["val"], labels["val"]) if has_defects else 1.0
    probabilities = {name: softmax(values, temperature) for name, values in logits.items()}
    decide, rule = decision_rule(job, request, run.dataset, probabilities["val"], labels["val"])
    maps = heat_maps(run, job, networks, parts, probabilities) if request.heatmaps else None
    measured: dict[str, Any] = {"temperature": temperature, **rule}
    decisions = {name: decide(values) for name, values in probabilities.items()}
    for name, images in parts.items():
        measured[name] = measure_part(labels[name], probabilities[name], logits[name], decisions[name])
        scores = {image: [1 - row[0], *row[1:]] for image, row in zip(images.names, probabilities[name], strict=True)}
        boxes = maps["boxes"][name] if maps else []
        run.write_predictions(SET, name, boxes, scores)
        measured[name] |= maps["measures"][name] if maps else {}
    about = maps["about"] if maps else {}
    run.describe_set(SET, model="CNN classifier", prompt=None, oracle=False, label="class", **about)
    return measured, probabilities, decisions


def decision_rule(
    job: "Job", request: Request, dataset: Dataset, probabilities: Any, labels: Any
) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """How probabilities (N x C) become classes: the likeliest, by thresholds from val, or the cheapest by --cost."""
    from finetune.measures.decisions import cheapest, decide, fit_thresholds, read_costs

    if request.cost:
        costs = read_costs(request.cost, ["good", *dataset.classes])
        return lambda values: cheapest(values, costs), {"costs": costs.tolist()}
    if job.imbalance == "thresholds":
        thresholds = fit_thresholds(probabilities, labels)
        return lambda values: decide(values, thresholds), {"thresholds": thresholds}
    return lambda values: values.argmax(1), {}


def measure_part(labels: Any, probabilities: Any, logits: Any, decisions: Any) -> dict[str, Any]:
    from finetune.measures.decisions import calibration_error, defect_auroc, f1_interval, measure, softmax

    return {
        **measure(labels, decisions),
        "macro_f1_interval": f1_interval(labels, [decisions]),
        "auroc": defect_auroc(labels, probabilities),
        "calibration_error": calibration_error(probabilities, labels),
        "calibration_error_uncalibrated": calibration_error(softmax(logits), labels),
    }


def heat_maps(
    run: Run, job: "Job", networks: Sequence[Any], parts: dict[str, "Images"], probabilities: dict[str, Any]
) -> dict[str, Any]:
    """Write the heat maps of both parts; return boxes from them, what they measure, and what set.json says of them."""
    from finetune.classification.grad_cam import detections, fit_box_threshold, grad_cam, pointing_game, to_full_size
    from finetune.measures.metrics import box_metrics

    maps = {}
    for name, images in parts.items():
        by_member = [grad_cam(network, images, job.attempt.batch, job.device) for network in networks]
        maps[name] = [sum(same) / len(same) for same in zip(*by_member, strict=True)]
    scale = max(1e-6, max(float(heat.max()) for heat in maps["val"]))
    classes = {name: values[:, 1:].argmax(1) + 1 for name, values in probabilities.items()}
    threshold = fit_box_threshold(run.dataset, "val", parts["val"], maps["val"], classes["val"], scale)
    boxes, measures = {}, {}
    for name, images in parts.items():
        run.write_heatmaps(SET, name, to_full_size(images, maps[name]), scale)
        boxes[name] = detections(run.dataset, images, maps[name], classes[name], threshold, scale)
        measures[name] = pointing_game(run.dataset, name, images, maps[name])
        measures[name]["mAP50"] = box_metrics(run.dataset.ground_truth(name), boxes[name]).map50
    about = {"heatmap": "P(defect) x Grad-CAM++", "heatmap_scale": scale, "box_threshold": threshold}
    return {"boxes": boxes, "measures": measures, "about": about}


def settings_of(request: Request, job: "Job", dataset: Dataset) -> dict[str, Any]:
    """What a training is made of; a resumed one must have all of it in common with the one that was interrupted."""
    kept = ("weights", "imgsz", "stride", "synthetic_share", "pretrain_epochs", "precision", "ensemble")
    return {
        "imbalance": job.imbalance,
        "seed": job.seed,
        **asdict(job.attempt),
        **{key: getattr(request, key) for key in kept},
        "weights_sha256": job.weights and sha256(job.weights),
        "cost": str(request.cost) if request.cost else None,
        "pretrain": request.pretrain and request.pretrain.name,
        "synthetic_images": sum(len(part.synthetic_images) for part in (request.pretrain, dataset) if part),
        "pretrain_split_sha256": request.pretrain and request.pretrain.split["sha256"],
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
    }


def open_run(folder: Path, dataset: Dataset, settings: dict[str, Any], request: Request) -> Run:
    """A new run or, with --resume, the one that lies there; raises DatasetError if that was begun otherwise.

    Of torchrun's processes, the first one looks and makes it.
    """
    from finetune.training.processes import leads, wait_for_all

    if leads() and request.resume and folder.is_dir():
        check_begun(folder, settings)
    elif leads():
        start_run(folder, dataset, settings, request.overwrite, settings)
    wait_for_all()
    return Run(folder, dataset, settings)


def train_and_evaluate(
    request: Request, dataset: Dataset, attempt: Attempt, imbalance: str, seed: int, name: str
) -> Result | None:
    """One training from its data to its run folder; None in all processes of torchrun but the first."""
    from finetune.classification.figures import plot
    from finetune.training.images import load_images
    from finetune.training.processes import leads

    job = make_job(request, dataset, attempt, imbalance, seed)
    check_parts(dataset, imbalance, request.heatmaps)
    folder = run_folder(request.runs, dataset, name, seed)
    if job.weights and folder.resolve() in job.weights.resolve().parents:
        raise DatasetError(f"--weights {job.weights}: lies in the run that would be replaced; name another with --run")
    resumed = request.resume and folder.is_dir()
    run = open_run(folder, dataset, settings_of(request, job, dataset), request)
    first = load_images(request.pretrain, "train", job.imgsz) if request.pretrain else None
    train, val = (load_images(dataset, part, job.imgsz) for part in ("train", "val"))
    members = train_members(job, first, train, val, folder, request)
    if not leads():
        return None
    trained = None if resumed else run.seconds  # of a resumed run, only the rest was timed
    parts = {"val": val, "test": load_images(dataset, "test", job.imgsz)}
    measured, probabilities, decisions = evaluate(run, job, [member.network for member in members], parts, request)
    labels, found = parts["test"].labels.numpy(), decisions["test"]
    title = f"{dataset.name}, {name}, seed {seed}, test"
    plot(folder, members[0].standing.history, labels, probabilities["test"], found, ["good", *dataset.classes], title)
    finish(
        run,
        job,
        members,
        request,
        trained,
        seconds_per_image=seconds_per_image(members, parts["test"], job),
        metrics=measured,
    )
    epochs, cpu = max(member.epochs for member in members), sum(member.cpu_seconds for member in members)
    return Result(job.attempt, labels, found, measured["test"], epochs, cpu, trained, folder)


def check_parts(dataset: Dataset, imbalance: str, heatmaps: bool) -> None:
    """Raise DatasetError for a dataset that a training would be in vain on."""
    kinds = set(dataset.labels("train").values())
    if len(kinds) == 1:
        only = "good images" if kinds == {None} else "defects of one class"
        raise DatasetError(
            f"{dataset.folder}: its train part shows nothing but {only}, so there is nothing to tell apart: add images "
            "and convert again, or use another --protocol"
        )
    if imbalance == "thresholds" and not any(label is not None for label in dataset.labels("val").values()):
        raise DatasetError(
            f"--imbalance thresholds: the val part of {dataset.folder} shows no defect to choose them by: convert with "
            "another --protocol, or name another method"
        )
    if heatmaps:
        dataset.ground_truth("val")  # boxes are chosen by it: refused now rather than after the training


def finish(
    run: Run, job: "Job", members: Sequence[Member], request: Request, seconds: float | None, **measured: Any
) -> None:
    """Write run.json; ``seconds`` are those of the training, if they are known."""
    run.finish(
        model="CNN classifier",
        parameters=sum(parameter.numel() for member in members for parameter in member.network.parameters()),
        random_weights=job.weights is None,
        weights_sha256=run.settings["weights_sha256"],
        train_seconds=seconds and round(seconds, 1),
        train_cpu_seconds=round(sum(member.cpu_seconds for member in members), 1),
        weights_bytes=sum((at / "model.pt").stat().st_size for at in places_of(run.folder, request.ensemble)),
        device=job.device,
        seen_test=seen_test(job.attempt, run.dataset.synthetic),
        pretrained_on=request.pretrain and request.pretrain.name,
        synthetic_images=run.settings["synthetic_images"],
        pretrain_synthetic_images=len(request.pretrain.synthetic_images) if request.pretrain else 0,
        chosen_epochs=[member.standing.best_epoch for member in members],
        history=[member.standing.history for member in members],
        pretrain_history=[member.pretraining.history for member in members if member.pretraining],
        **measured,
    )


def seconds_per_image(members: Sequence[Member], images: "Images", job: "Job") -> float:
    """Wall time of the networks' answer to an image in memory, in batches, without heat maps."""
    import time

    from finetune.classification.loop import logits_of

    began = time.perf_counter()
    for member in members:
        logits_of(member.network, images, job)
    return round((time.perf_counter() - began) / len(images), 5)


def evaluate_only(request: Request, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Write the predictions of a finished run again from its saved weights, and measure them, by its costs if any."""
    from finetune.training.images import load_images

    settings = finished_run(folder, dataset, "CNN classifier")["settings"]
    begun_cost = settings.get("cost") and Path(settings["cost"])
    attempt = Attempt(**{item.name: settings[item.name] for item in fields(Attempt)})
    kept = {key: settings[key] for key in ("imgsz", "stride", "ensemble")}
    precision = request.precision or settings.get("precision", "auto")
    request = replace(request, weights=RANDOM, cost=request.cost or begun_cost, precision=precision, **kept)
    job = make_job(request, dataset, attempt, settings["imbalance"], settings["seed"])
    run = Run(folder, dataset, settings)
    networks = load_members(job, folder, request.ensemble)
    parts = {part: load_images(dataset, part, job.imgsz) for part in ("val", "test")}
    return evaluate(run, job, networks, parts, request)[0]["test"]


def summarise(label: str, results: Sequence[Result]) -> dict[str, Any]:
    """One row of a table: the mean over the trainings that differ in the seed alone, and macro-F1's interval."""
    import numpy as np

    from finetune.measures.decisions import f1_interval

    keys = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "pointing", "pointing_chance", "mAP50")
    means = {
        key: float(np.mean([result.measures[key] for result in results])) for key in keys if key in results[0].measures
    }
    attempt = results[0].attempt
    timed = [result.seconds for result in results if result.seconds is not None]
    return {
        "what": label,
        "seeds": len(results),
        **means,
        "macro_f1_interval": f1_interval(results[0].labels, [result.decisions for result in results]),
        "macro_f1_by_seed": [result.measures["macro_f1"] for result in results],
        "epochs": [result.epochs for result in results],
        "lr": attempt.lr,
        "optimizer": attempt.optimizer,
        "cpu_seconds": float(np.mean([result.cpu_seconds for result in results])),
        "seconds": float(np.mean(timed)) if timed else None,
    }


HEADER = (
    "", "macro-F1", "95 % interval", "accuracy", "balanced", "AUROC", "pointing (chance)", "mAP50", "epochs", "lr",
    "optimizer", "CPU s", "s",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[Any, ...]:
    low, high = row["macro_f1_interval"]
    looked = f"{row['pointing']:.2f} ({row['pointing_chance']:.2f})" if "pointing" in row else "-"
    return (
        row["what"],
        f"{row['macro_f1']:.3f}",
        f"{low:.2f} to {high:.2f}",
        *(f"{row[key]:.3f}" for key in ("accuracy", "balanced_accuracy", "auroc")),
        looked,
        f"{row['mAP50']:.3f}" if "mAP50" in row else "-",
        "/".join(map(str, row["epochs"])),
        f"{row['lr']:g}",
        row["optimizer"],
        f"{row['cpu_seconds']:.0f}",
        "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
    )


def plan(attempt: str, imbalance: str) -> list[tuple[str, str, str]]:
    """(attempt, imbalance method, label) of each row of the table that is asked for."""
    if attempt == "all" and imbalance == "all":
        raise DatasetError("--attempt all --imbalance all: choose one ladder at a time")
    if attempt == "all":
        return [(name, imbalance, name) for name in ATTEMPTS]
    if imbalance == "all":
        return [(attempt, method, method) for method in IMBALANCE]
    return [(attempt, imbalance, attempt if imbalance == "none" else f"{attempt}, {imbalance}")]


def attempts_of(names: Sequence[str], overrides: dict[str, Any]) -> list[Attempt]:
    """The attempts of these names, with what the command line changes of them."""
    rest = {key: value for key, value in overrides.items() if key != "pretext"}
    ladder = len(set(names)) > 1  # in one, --pretext is for those that have a pretext
    return [replace(ATTEMPTS[name], **(rest if ladder and not ATTEMPTS[name].pretext else overrides)) for name in names]


def check_acting(attempts: Sequence[Attempt], imbalance: str, given: set[str]) -> None:
    """Raise DatasetError for an option ``given`` on the command line that does nothing in any of these attempts."""
    if "pretext" in given and all(attempt.arch != "fine" for attempt in attempts):
        raise DatasetError("--pretext: only our own network `fine` learns from synthetic defects: add --arch fine")
    if "stride" in given and all(attempt.arch in OWN for attempt in attempts):
        raise DatasetError(
            f"--stride: is for torchvision's networks, and `{attempts[0].arch}` is our own; leave it out, or name "
            "another --arch"
        )
    if "cost" in given and imbalance == "thresholds":
        raise DatasetError(
            "--cost: decides in place of the thresholds of --imbalance thresholds; leave one of them out"
        )


def run_name(base: str, attempt: str, imbalance: str, several: bool) -> str:
    """The run's own name, and what tells it apart from the others of a ladder."""
    return "-".join([base, attempt, *([imbalance] if imbalance != "none" else [])]) if several else base


@command(acting=ACTING)
@click.option("--category", "--dataset", "dataset_name", metavar="NAME", help="Dataset in --out.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "name", default="classifier", help="Name of the run; ladders add the attempt's.")
@click.option("--attempt", type=click.Choice([*ATTEMPTS, "all"]), default=USUAL, help="Preset; all: the ladder.")
@click.option("--imbalance", type=click.Choice([*IMBALANCE, "all"]), default="none", help="Against the long tail.")
@click.option("--arch", default=None, show_default="the attempt's", help="Any torchvision classifier; fine, deep.")
@click.option("--weights", default="DEFAULT", help="torchvision's name, state_dict FILE, or none (random).")
@click.option("--epochs", type=click.IntRange(1), default=None, show_default="the attempt's")
@click.option("--imgsz", type=click.IntRange(32), default=256, help="Side of the square network input, px.")
@click.option("--stride", type=click.Choice(["4", "8", "16"]), default=None, help="Largest px per feature cell.")
@click.option("--batch", type=click.IntRange(1), default=None, show_default="the attempt's", help="Per process.")
@click.option("--lr", type=Number(0, min_open=True), default=None, show_default="the attempt's")
@click.option("--optimizer", type=click.Choice(["Adam", "AdamW", "SGD"]), default=None, show_default="the attempt's")
@click.option("--pretext", type=click.IntRange(0), default=None, help="Steps on synthetic defects before the labels.")
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@synthetic_share_option
@click.option("--ensemble", type=click.IntRange(1), default=1, help="Networks trained on bootstraps, averaged.")
@click.option("--cost", type=FOLDER, default=None, help="CSV of what each decision costs for each truth.")
@click.option("--repeat", type=click.IntRange(1), default=1, help="Trainings with seeds SEED, SEED+1, ...")
@click.option("--heatmaps/--no-heatmaps", default=True, help="Write Grad-CAM++ maps and boxes from them.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), show_default="auto")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--eval-only", type=FOLDER, default=None, metavar="RUN", help="Predict again with a finished run's weights."
)
@seed_option
@config_option
@overwrite_option
@json_option
def main(
    dataset_name: str | None,
    out: Path,
    attempt: str,
    imbalance: str,
    repeat: int,
    eval_only: Path | None,
    seed: int,
    as_json: bool,
    stride: str | None,
    synthetic_share: float | None,
    pretrain: str | None,
    **options: Any,
) -> None:
    """Train a CNN classifier on a converted dataset; print its measures on test; leave a run folder.

    RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/tuned/ (scores, heat maps and boxes from them for val
    and test), model.pt, and the learning curve, confusion matrix and reliability as PNG. `--attempt all`,
    `--imbalance all` and `--repeat` write a table to RUNS/DATASET/RUN-table.md and .json.
    """
    steps = plan(attempt, imbalance)
    overrides = {key: options[key] for key in OVERRIDES if options[key] is not None}
    attempts = attempts_of([step for step, _, _ in steps], overrides)
    ctx = click.get_current_context()
    check_acting(attempts, imbalance, {key for key in given_options(ctx, replayed=False) if ctx.params.get(key)})
    dataset = open_dataset(out, choose_dataset(out, dataset_name), synthetic_share)
    first = open_pretrain(out, pretrain, dataset, "a classifier") if pretrain else None
    from finetune.measures.decisions import read_costs
    from finetune.training.processes import place, prepare_device

    if eval_only and place()[1] > 1:
        raise DatasetError("--eval-only: takes one process; start it without torchrun")
    options |= {"stride": int(stride) if stride else None, "synthetic_share": synthetic_share, "pretrain": first}
    options["precision"] = options["precision"] or (None if eval_only else "auto")
    request = Request(**{key: value for key, value in options.items() if key not in OVERRIDES})
    if options["cost"]:
        read_costs(options["cost"], ["good", *dataset.classes])  # refused before the training, not after it
    request = replace(request, device=prepare_device(request.device))
    if eval_only:
        click.echo(to_json(evaluate_only(request, dataset, eval_only)), nl=False)
        return
    rows = []
    for (step, method, label), chosen in zip(steps, attempts, strict=True):
        own = run_name(request.name, step, method, len(steps) > 1)
        found = []
        for each in range(seed, seed + repeat):
            with told_to_resume(run_folder(request.runs, dataset, own, each)):
                if result := train_and_evaluate(request, dataset, chosen, method, each, own):
                    found.append(result)
        if found:
            rows.append(summarise(label, found))
    if rows:
        report(request, dataset, rows, seed, as_json)


def report(request: Request, dataset: Dataset, rows: list[dict[str, Any]], seed: int, as_json: bool) -> None:
    """Print the table; where it has several trainings in it, leave it beside the runs as well."""
    if len(rows) > 1 or rows[0]["seeds"] > 1:
        place, name = request.runs / dataset.name, f"{request.name}-table"  # which may have a dot in it
        (place / f"{name}.json").write_text(to_json({"schema": 1, "rows": rows}), "utf-8")
        (place / f"{name}.md").write_text(table([cells(row) for row in rows], HEADER, "github") + "\n", "utf-8")
    if as_json:
        click.echo(to_json(rows), nl=False)
        return
    start = "random weights" if request.weights == RANDOM else request.weights
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    seeds = f"seed {seed}" if rows[0]["seeds"] == 1 else f"mean of {rows[0]['seeds']} seeds from {seed}"
    click.echo(f"{dataset.name}: CNN classifier from {start}, {seeds}, {request.imgsz} px{synthetic}; on test:")
    click.echo(table([cells(row) for row in rows], HEADER))
    click.echo(f"runs: {request.runs / dataset.name}")


if __name__ == "__main__":
    main(prog_name="python finetune/classifier.py")
