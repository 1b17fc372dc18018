"""All trainings of one call: attempts, methods against class imbalance, seeds."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click

from converters.cli.command import given_options
from converters.cli.errors import DatasetError
from finetune.classification.recipes import ATTEMPTS, IMBALANCE, Attempt
from finetune.runs.dataset import choose_dataset, open_dataset, open_pretrain
from finetune.runs.run_folder import run_folder, told_to_resume
from finetune.training.weights import EMBEDDED, OWN


def train_classifiers(
    dataset_name: str | None,
    out: Path,
    runs: Path,
    name: str,
    attempt: str,
    imbalance: str,
    pretrain: str | None,
    synthetic_share: float | None,
    repeat: int,
    device: str,
    resume: bool,
    seed: int,
    overwrite: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Train all that is asked for, and print their table. ``changes`` are settings of the attempts that are given."""
    if attempt == imbalance == "all":
        raise DatasetError("--attempt all --imbalance all: choose one ladder at a time")
    if resume and overwrite:
        raise DatasetError("--overwrite: is not used with --resume; leave one of them out")
    if changes["pretrain_epochs"] and not pretrain:
        raise DatasetError("--pretrain-epochs: is used with --pretrain only; add that, or leave --pretrain-epochs out")
    steps = plan(name, attempt, imbalance, {key: value for key, value in changes.items() if value is not None})
    check_acting([step for _, _, step in steps], given_options(click.get_current_context(), replayed=False))
    dataset = open_dataset(out, choose_dataset(out, dataset_name), synthetic_share)
    first = open_pretrain(out, pretrain, dataset, "a classifier") if pretrain else None
    from finetune.classification.table import report, summarise  # torch only after what is refused above
    from finetune.classification.training import train_and_evaluate

    rows = []
    looked: dict[Any, Any] = {}  # maps of frozen networks, by train_and_evaluate
    for label, own, settings in steps:
        found = []
        for each in range(seed, seed + repeat):
            folder = run_folder(runs, dataset, own, each)
            with told_to_resume(folder):
                found.append(
                    train_and_evaluate(dataset, first, settings, each, device, folder, resume, overwrite, looked)
                )
        if results := [result for result in found if result]:
            rows.append(summarise(label, results))
    if rows:
        report(rows, dataset, steps[0][2], seed, runs / dataset.name / name, as_json)


def plan(name: str, attempt: str, imbalance: str, changes: dict[str, Any]) -> list[tuple[str, str, Attempt]]:
    """Label in the table, name of the run, and settings of each training; several are a ladder of one or the other."""
    presets = list(ATTEMPTS) if attempt == "all" else [attempt]
    methods = IMBALANCE if imbalance == "all" else [imbalance]
    ladder = len(presets) + len(methods) > 2
    steps = []
    for preset, method in product(presets, methods):
        settings = replace(ATTEMPTS[preset], **changes, imbalance=method)
        if attempt == "all" and not ATTEMPTS[preset].pretext:  # there, --pretext is for those that have a pretext
            settings = replace(settings, pretext=0)
        words = [preset, *([method] if method != "none" else [])]
        label = method if imbalance == "all" else preset if attempt == "all" else ", ".join(words)
        steps.append((label, "-".join([name, *words]) if ladder else name, settings))
    return steps


def check_acting(attempts: Sequence[Attempt], given: set[str]) -> None:
    """Raise DatasetError for an option ``given`` on the command line that does nothing in any of these attempts."""
    if "pretext" in given and not any(attempt.arch == "fine" for attempt in attempts):
        raise DatasetError("--pretext: only our own network `fine` learns from synthetic defects: add --arch fine")
    fixed = [attempt.arch in OWN or (attempt.arch, attempt.head) == (EMBEDDED, "cells") for attempt in attempts]
    if "stride" in given and all(fixed):
        raise DatasetError(
            f"--stride: is for torchvision's networks, and that of `{attempts[0].arch}` is fixed; leave it out, or "
            "name another --arch"
        )
