"""Convert all datasets that a command names, on several processes, and report each."""

import dataclasses
import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress, table, to_json
from converters.cli.workers import in_processes
from converters.datasets.card import HEADER, Summary
from converters.datasets.pipeline import Conversion, convert_dataset
from converters.formats.writer import Writer
from converters.sources.reading import find_categories, find_root, read_category

FILES_PER_WORKER = 500  # starting a process costs about as much as converting this many files


@dataclass(frozen=True)
class Group:
    """The source of one dataset: its name without the protocol, its category folders, how many files they hold."""

    name: str
    folders: tuple[Path, ...]
    files: int


@dataclass(frozen=True)
class Failure:
    """A dataset that was not written, and why."""

    dataset: str
    error: Exception


@dataclass(frozen=True)
class DatasetJob:
    """Everything a worker needs to convert one group; calling it does so."""

    conversion: Conversion
    writers: tuple[type[Writer], ...]

    def __call__(self, group: Group) -> Summary | Failure:
        started = time.perf_counter()
        conversion, name = self.conversion, group.name + self.conversion.suffix
        try:
            categories = [
                read_category(folder, conversion.max_pixels, conversion.layout, threads=conversion.workers)
                for folder in group.folders
            ]
            summary = convert_dataset(name, categories, conversion, self.writers)
        except (DatasetError, OSError) as error:
            return Failure(name, error)
        summary.seconds = time.perf_counter() - started
        return summary


def run(writers: Sequence[type[Writer]], as_json: bool = False, log_json: Path | None = None, **options: Any) -> None:
    """Convert, print a table per dataset, exit with 1 if anything was skipped."""
    conversion = Conversion.from_options(**options)
    if conversion.resume and conversion.overwrite:
        raise DatasetError("--resume and --overwrite exclude each other: leave one of them out")
    if conversion.simplify and not any(writer.simplifies for writer in writers):
        raise DatasetError(
            "--simplify is for polygons: add `to_yolo --task segment` or `to_coco --segmentation polygon`"
        )
    summaries = []
    for summary in convert(conversion, writers, log_json):
        summaries.append(summary)
        if not as_json:
            click.echo(_report(summary, conversion, writers))
    if as_json:
        shown = [{"dataset": s.dataset, **s.card(), "seconds": round(s.seconds, 2)} for s in summaries]
        click.echo(to_json(shown if len(shown) > 1 else shown[0]), nl=False)
    if any(summary.left_out for summary in summaries):
        raise SystemExit(1)


def convert(conversion: Conversion, writers: Sequence[type[Writer]], log_json: Path | None = None) -> Iterator[Summary]:
    """Convert each dataset that the conversion names.

    Raises DatasetError at the first bad file, unless ``on_error`` is ``skip``. Its dataset is not published then;
    those before it are.
    """
    with closing(_results(DatasetJob(conversion, tuple(writers)), find_groups(conversion))) as results:
        for result in results:
            if log_json:
                _log(log_json, result, conversion)
            if isinstance(result, Failure):
                raise result.error
            yield result


def find_groups(conversion: Conversion) -> list[Group]:
    """Groups of categories that become a dataset each, the largest first: no worker is left with it at the end."""
    folders = find_categories(find_root(conversion.root), conversion.category, conversion.layout)
    if conversion.classes == "category-defect" and len(folders) > 1:
        return [Group("all", tuple(folders), 0)]
    groups = [Group(folder.name, (folder,), sum(1 for _ in folder.rglob("*"))) for folder in folders]
    return sorted(groups, key=lambda group: -group.files)


def _results(job: DatasetJob, groups: list[Group]) -> Generator[Summary | Failure, None, None]:
    """One result per group, in order: with many groups a process for each at a time, else processes share images."""
    files = sum(group.files for group in groups)
    workers = job.conversion.workers or min(os.cpu_count() or 1, 1 + files // FILES_PER_WORKER)
    if workers == 1 or len(groups) < workers:
        for group in groups:
            yield job(group)
        return
    alone = dataclasses.replace(job, conversion=dataclasses.replace(job.conversion, workers=1))
    with (
        closing(in_processes(alone, groups, workers)) as results,
        progress(None, files, f"converting {len(groups)} datasets") as bar,
    ):
        for group, result in zip(groups, results, strict=True):
            bar.update(group.files)
            yield result


def _report(summary: Summary, conversion: Conversion, writers: Sequence[type[Writer]]) -> str:
    lines = [table(summary.rows, HEADER), *summary.notes()]
    where = conversion.out / summary.dataset
    if summary.resumed:
        return "\n".join([*lines, f"kept {where}, which an earlier run wrote"])
    formats = ", ".join(writer.folder for writer in writers)
    done = "would write" if conversion.dry_run else "wrote"
    return "\n".join([*lines, f"{done} {formats} to {where} in {summary.seconds:.1f} s"])


def _log(path: Path, result: Summary | Failure, conversion: Conversion) -> None:
    """Append one JSON line about a dataset, complete before the next one begins."""
    line: dict[str, Any] = {"schema": 1, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    line["dataset"] = result.dataset
    if isinstance(result, Failure):
        line |= {"status": "failed", "error": getattr(result.error, "message", None) or str(result.error)}
    else:
        status = "kept" if result.resumed else "dry-run" if conversion.dry_run else "written"
        line |= {
            "status": status,
            "images": result.images.total(),
            "instances": result.instances.total(),
            "left_out": len(result.left_out),
            "seconds": round(result.seconds, 2),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
