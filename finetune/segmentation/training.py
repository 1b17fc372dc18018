"""A run of SAM's decoder: warmed up, trained, measured before and after."""

import json
import time
from dataclasses import replace
from pathlib import Path

import click

from converters.cli.terminal import to_json
from finetune.runs.checksums import sha256
from finetune.runs.dataset import choose_dataset, open_dataset, open_pretrain
from finetune.runs.run_folder import Run, told_to_resume
from finetune.segmentation.embedding_sources import recolour
from finetune.segmentation.finished import TUNED, measure_tuned
from finetune.segmentation.loop import fit
from finetune.segmentation.models import save_tuned
from finetune.segmentation.report import MODEL, evaluate, judge_of, print_measures
from finetune.segmentation.settings import Request
from finetune.segmentation.setup import VIEW_ORDER, Job, make_job, open_run, settled, source_of
from finetune.segmentation.steps import Source
from finetune.segmentation.warm_up import warm_up
from finetune.training.checkpoints import load_state, save_state
from finetune.training.processes import leads, wait_for_all

WARMED, LAST_FIRST, LAST = "warm-up.pt", "last-pretrain.pt", "last.pt"  # where an unfinished run stands


def train_sam(request: Request, out: Path, name: str | None, as_json: bool) -> None:
    """Train on a dataset, and on that of --pretrain before; print the measures on test.

    Of torchrun's processes, the first one prints.
    """
    dataset = open_dataset(out, choose_dataset(out, name), request.synthetic_share)
    needs = "--auto" if request.auto else None
    first = open_pretrain(out, request.pretrain, dataset, needs) if request.pretrain else None
    request = settled(request)
    job = make_job(request, dataset, first)
    run = open_run(request, job, dataset, first)
    if leads():
        shown = job.origin.start if job.origin.weights else "random weights"
        click.echo(f"{dataset.name}: SAM {job.origin.arch} from {shown}", err=True)
    with told_to_resume(run.folder):
        train_and_measure(request, job, run, len(dataset.synthetic_images), len(first.synthetic_images) if first else 0)
    if not leads():
        return
    record = json.loads((run.folder / "run.json").read_text("utf-8"))
    if as_json:
        click.echo(to_json(record["metrics"]), nl=False)
    else:
        print_measures(record)
        click.echo(f"run: {run.folder}")


def train_and_measure(request: Request, job: Job, run: Run, made: int, synthetic_before: int) -> None:
    """Measure, train, save, load what was saved, and measure that; leaves a finished run.

    ``made`` images are in the train part, ``synthetic_before`` in that of --pretrain.
    """
    cpu = time.process_time()
    segmenter, source = job.segmenter, source_of(request, job)
    embed_seconds, embed_cpu = run.seconds, time.process_time() - cpu
    before = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, None) if leads() else {}
    began, cpu = run.seconds, time.process_time()
    histories = train(request, job, source, run.folder)
    seconds, cpu = embed_seconds + run.seconds - began, embed_cpu + time.process_time() - cpu
    if not leads():
        return
    save_tuned(segmenter, job.origin, run.folder / TUNED)
    run.finish(
        model=MODEL,
        start=job.origin.start,
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
        **measure_tuned(job, run, source, before),
    )
    for name in (WARMED, LAST_FIRST, LAST):  # several times as large as tuned.pt
        (run.folder / name).unlink(missing_ok=True)


def train(request: Request, job: Job, source: Source, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Train the job's segmenter in place, continuing where a run in ``folder`` stopped; the history of each stage.

    Val is the dataset's own in both stages.
    """
    segmenter, views, histories = job.segmenter, VIEW_ORDER[: request.views], {}
    if job.recipe.warm_up:
        warm(job, folder / WARMED)
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
    if leads() and not saved.is_file():
        warm_up(job.segmenter, job.origin.tiny, job.parts["train"], job.recipe.warm_up, recolour, job.recipe.seed)
        save_state(job.segmenter.state_dict(), saved)
    wait_for_all()
    job.segmenter.load_state_dict(load_state(saved, "--resume"))
