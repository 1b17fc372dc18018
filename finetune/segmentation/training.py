"""A run of SAM's decoder: warmed up, trained, measured before and after."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from finetune.runs.checksums import sha256
from finetune.runs.dataset import choose_dataset, open_dataset, open_pretrain
from finetune.runs.run_folder import Run, finished_run, synthetic_images_of, told_to_resume, write_record
from finetune.segmentation.setup import (
    LAST,
    LAST_FIRST,
    TUNED,
    WARMED,
    Job,
    Request,
    as_begun,
    check_boxes,
    make_job,
    open_run,
)

if TYPE_CHECKING:
    from finetune.segmentation.evaluation import Row
    from finetune.segmentation.steps import Source


VIEW_ORDER = (0, 4, 2, 6, 1, 3, 5, 7)  # as it is, mirrored, half a turn, ...: the first N of them for --views N


def train_sam(name: str | None, out: Path, eval_only: Path | None, as_json: bool, **options: Any) -> None:
    """Train, or measure again, and print the measures on test."""
    request, name = Request(**options), choose_dataset(out, name)
    folder = measure_again(request, out, name, eval_only) if eval_only else train_one(request, out, name)
    if folder is None:
        return
    record = json.loads((folder / "run.json").read_text("utf-8"))
    if as_json:
        click.echo(to_json(record["metrics"]), nl=False)
    else:
        report(record)
        click.echo(f"run: {folder}")


def report(record: dict[str, Any]) -> None:
    """Print what a run's record says of test."""
    from finetune.segmentation.report import HEADER, cells

    settings = record["settings"]
    origin = "random weights" if record["random_weights"] else settings["weights"] or "the published weights"
    how = f"--train {settings['train']}, seed {settings['seed']}"
    synthetic = ", SYNTHETIC images" if record["synthetic"] else ""
    trained = f"from {origin}{synthetic_images_of(record)}, {how}{synthetic}"
    click.echo(f"{record['dataset']}: SAM {settings['arch']} {trained}; on test:")
    click.echo(table([cells(kind, found) for kind, found in record["metrics"].items()], HEADER))


def train_one(request: Request, out: Path, name: str) -> Path | None:
    """Train on a dataset, and on that of --pretrain before; the folder of the finished run.

    None in all processes of torchrun but the first.
    """
    from finetune.training.processes import leads

    dataset = open_dataset(out, name, request.synthetic_share)
    if not dataset.classes:
        raise DatasetError(f"{dataset.folder}: holds no defects to learn")
    first = (
        open_pretrain(out, request.pretrain, dataset, "--auto" if request.auto else None) if request.pretrain else None
    )
    job = make_job(request, dataset, first)
    run = open_run(request, job, dataset, first)
    with told_to_resume(run.folder):
        train_and_measure(request, job, run, len(dataset.synthetic_images), len(first.synthetic_images) if first else 0)
    return run.folder if leads() else None


def source_of(request: Request, job: Job, learns: bool = True) -> "Source":
    """The source of embeddings: the cache, filled now (for training too, if it ``learns``), or the encoder itself."""
    from finetune.segmentation.embedding_sources import cached_source, encoding_source

    if not job.frozen:
        return encoding_source(job.segmenter)
    training = [image for image in (*job.first, *job.parts["train"]) if image.marked or request.auto] if learns else []
    wanted = [(image, view) for image in training for view in VIEW_ORDER[: request.views]]
    wanted += [(image, 0) for part in ("val", "test") for image in job.parts[part]]
    together = 1 if job.device == "cpu" else request.batch  # several at once cost a CPU memory and no less time
    return cached_source(job.segmenter, wanted, request.runs / ".cache" / "embeddings", request.cache_gb, together)


def train(request: Request, job: Job, source: "Source", folder: Path) -> dict[str, list[dict[str, float]]]:
    """Train the job's segmenter in place, continuing where a run in ``folder`` stopped; the history of each stage.

    Val is the dataset's own in both stages.
    """
    from finetune.segmentation.loop import fit
    from finetune.segmentation.report import judge_of
    from finetune.segmentation.steps import choose_trained
    from finetune.training.processes import wait_for_all

    segmenter, views, histories = job.segmenter, VIEW_ORDER[: request.views], {}
    if job.warm_up:
        warm(job, folder / WARMED)
    choose_trained(segmenter, job.recipe)
    judge = judge_of(segmenter, source, job.parts["val"])
    if job.first:
        recipe = replace(job.recipe, epochs=request.pretrain_epochs or request.epochs)
        last = folder / LAST_FIRST
        histories["pretrain_history"] = fit(segmenter, source, job.first, views, recipe, judge, last, request.resume)
    images, last = job.parts["train"], folder / LAST
    histories["history"] = fit(segmenter, source, images, views, job.recipe, judge, last, request.resume)
    wait_for_all()  # until all have read what the first one then removes
    return histories


def warm(job: Job, saved: Path) -> None:
    """Warm the job's segmenter up, in the first process of torchrun; or load what an interrupted run has saved."""
    from finetune.segmentation.embedding_sources import recolour
    from finetune.segmentation.warm_up import warm_up
    from finetune.training.checkpoints import load_state, save_state
    from finetune.training.processes import leads, wait_for_all

    if leads() and not saved.is_file():
        warm_up(job.segmenter, job.origin.tiny, job.parts["train"], job.warm_up, recolour, job.recipe.seed)
        save_state(job.segmenter.state_dict(), saved)
    wait_for_all()
    job.segmenter.load_state_dict(load_state(saved, "--resume"))


def train_and_measure(request: Request, job: Job, run: Run, made: int, synthetic_before: int) -> None:
    """Measure, train, save, load what was saved, and measure that; leaves a finished run.

    ``made`` images are in the train part, ``synthetic_before`` in that of --pretrain.
    """
    from finetune.segmentation.models import save_tuned
    from finetune.segmentation.report import MODEL, evaluate
    from finetune.training.processes import leads

    segmenter, source = job.segmenter, source_of(request, job)
    embed_seconds = run.seconds
    before = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, None) if leads() else {}
    began, cpu = run.seconds, time.process_time()
    histories = train(request, job, source, run.folder)
    seconds, cpu = run.seconds - began, time.process_time() - cpu
    if not leads():
        return
    save_tuned(segmenter, job.origin, run.folder / TUNED)
    run.finish(
        model=MODEL,
        trained_parameters=sum(value.numel() for value in segmenter.parameters() if value.requires_grad),
        random_weights=job.origin.weights is None,
        weights_sha256=job.origin.weights and sha256(job.origin.weights),
        weights_bytes=(run.folder / TUNED).stat().st_size,
        pretrained_on=request.pretrain,
        synthetic_images=made + synthetic_before,
        pretrain_synthetic_images=synthetic_before,
        resumed=request.resume,
        embed_seconds=round(embed_seconds, 1),
        train_seconds=None if request.resume else round(seconds, 1),  # of a resumed run, only the rest was timed
        train_cpu_seconds=None if request.resume else round(cpu, 1),
        **histories,
        **measure_tuned(request, job, run, source, before),
    )
    for name in (WARMED, LAST_FIRST, LAST):  # several times as large as tuned.pt
        (run.folder / name).unlink(missing_ok=True)


def measure_tuned(
    request: Request, job: Job, run: Run, source: "Source", before: "dict[str, list[Row]]"
) -> dict[str, Any]:
    """Load what the run has saved, write its predictions, and export it if that is asked for; what run.json says of it.

    ``source`` is that of the start, ``before`` the start's rows.
    """
    from finetune.segmentation.embedding_sources import encoding_source
    from finetune.segmentation.evaluation import draw_worst
    from finetune.segmentation.models import export, load_tuned
    from finetune.segmentation.report import compare_rows, evaluate, seconds_per_image

    segmenter = load_tuned(run.folder / TUNED, job.origin.weights).to(job.device)
    source = source if job.frozen else encoding_source(segmenter)
    after = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, run)
    draw_worst(after["gt-box"], run.dataset.classes, run.folder / "worst.png")
    if request.export_to:
        export(segmenter.sam, request.export_to)
    return {
        "parameters": sum(value.numel() for value in segmenter.parameters()),
        "seconds_per_image": seconds_per_image(segmenter, job.parts["test"]),
        "device": job.device,
        "metrics": compare_rows(run.dataset, before, after),
    }


def measure_again(request: Request, out: Path, name: str, folder: Path) -> Path:
    """Write the predictions of a finished run again from what it has saved, and measure them, and the start's too."""
    from finetune.segmentation.report import evaluate
    from finetune.training.processes import place

    if place()[1] > 1:
        raise DatasetError("--eval-only: takes one process; start it without torchrun")
    dataset = open_dataset(out, name)
    record = finished_run(folder, dataset, [TUNED])
    begun = as_begun(request, record["settings"])
    check_boxes(begun, record["settings"], dataset, folder)
    job = make_job(begun, dataset, None)
    if (job.origin.weights and sha256(job.origin.weights)) != record["weights_sha256"]:
        raise DatasetError(f"--weights {begun.weights}: {folder} began with others: name those")
    source = source_of(begun, job, learns=False)
    before = evaluate(job.segmenter, source, job.parts, dataset, job.boxes, None)
    record |= measure_tuned(begun, job, Run(folder, dataset, record["settings"]), source, before)
    write_record(folder, record)
    return folder
