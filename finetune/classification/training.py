"""A classifier's run: trained, evaluated, written; each member of an ensemble on its own bootstrap."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.cli.errors import DatasetError
from finetune.classification.recipes import Attempt
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import Run, check_begun, finished_run, run_folder, start_run
from finetune.training.published import fetch_weights, published
from finetune.training.weights import RANDOM, find_weights

if TYPE_CHECKING:
    from finetune.classification.loop import Job, Standing
    from finetune.training.images import Images


SET = "tuned"


@dataclass(frozen=True)
class Request:
    """The request of the command line, for all trainings of one call."""

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


def make_job(request: Request, dataset: Dataset, attempt: Attempt, imbalance: str, seed: int) -> "Job":
    """A training with its weights at hand; raises DatasetError if they, or the architecture, are not to be had."""
    from finetune.classification.grad_cam import check_heat_maps
    from finetune.classification.loop import Job
    from finetune.training.backbones import build_network, known_networks, start_from

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
    from finetune.training.checkpoints import save_state
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
    """The folders of a run's members."""
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
    """Rule that makes classes of probabilities (N x C): likeliest, by thresholds from val, or cheapest by --cost."""
    from finetune.classification.costs import read_costs
    from finetune.measures.decisions import cheapest, decide, fit_thresholds

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
    from finetune.classification.grad_cam import grad_cam
    from finetune.measures.boxes import box_metrics
    from finetune.training.heat_maps import detections, fit_box_threshold, pointing_game, to_full_size

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
    """The settings of a training; a resumed one must have all of it in common with the one that was interrupted."""
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
