"""Runs and anyone's predictions collected, held against each other, and written as a report."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from finetune.comparison.csv_tables import csv_tables, write_csv
from finetune.comparison.decisions import Asked
from finetune.comparison.page import render, render_sheets
from finetune.comparison.report import make_report
from finetune.comparison.rows import Row
from finetune.comparison.tables import as_markdown, paper_tables, summary
from finetune.runs.dataset import Dataset, choose_dataset, how_to_make, last_of, open_dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import find_runs, read_run


def collect(datasets: Sequence[Dataset], runs: Sequence[Path], results: Sequence[tuple[str, Path]]) -> list[Row]:
    """All models, oracles last. A seed that lacks one of the datasets is left out, which stderr says."""
    rows: dict[tuple[str, str], Row] = {}
    for dataset in datasets:
        for folder in (folder for root in runs for folder in find_runs(root, dataset)):
            record = read_run(folder, dataset)
            name = folder.parent.name + (record["dataset"].removeprefix(dataset.name) if "base" in record else "")
            more = len(record["classes"]) - len(dataset.classes) if "base" in record else 0
            for path in sorted(path for path in (folder / "predictions").glob("*") if path.is_dir()):
                row = rows.setdefault((name, path.name), Row(name, path.name))
                seed = folder.name.removeprefix("seed-")
                if dataset.name in row.answers.get(seed, {}):
                    other = row.answers[seed][dataset.name].source.parents[1]
                    raise DatasetError(f"{folder} and {other} are both called {row.name}, seed {seed}: rename one")
                row.answers.setdefault(seed, {})[dataset.name] = PredictionSet(path, more)
                row.records.setdefault(seed, {})[dataset.name] = record
        for name, path in results:
            row = rows.setdefault((name, ""), Row(name, ""))
            row.answers.setdefault("", {})[dataset.name] = PredictionSet(path)
            row.records.setdefault("", {})[dataset.name] = {}
    for row in rows.values():
        _keep_whole_seeds(row, datasets)
    kept = [row for row in rows.values() if row.answers]
    if not kept:
        where = ", ".join(str(root / dataset.name) for root in runs for dataset in datasets[:1])
        hint = "train one, e.g. with `python finetune/yolo.py`"
        if datasets[0].tiles:
            base = datasets[0].base
            wanted = f"--category {base}" if len(datasets) == 1 else f"--family {base.rpartition('-')[0]}"
            hint = f"those of yolo.py on tiles are measured on whole images: use {wanted}"
        raise DatasetError(f"{where}: no finished run; {hint}")
    names = [row.name for row in kept]
    for name, _ in results:
        if names.count(name) > 1:
            raise DatasetError(f"--results {name}=: a run is called {name}, too; give these another name")
    return sorted(kept, key=lambda row: (row.oracle, row.name))


def _keep_whole_seeds(row: Row, datasets: Sequence[Dataset]) -> None:
    for seed, answers in list(row.answers.items()):
        absent = [dataset.name for dataset in datasets if dataset.name not in answers]
        if absent:
            click.echo(f"left out: {row.name}, seed {seed}: no run on {', '.join(absent)}", err=True)
            del row.answers[seed], row.records[seed]


def family_of(out: Path, name: str) -> list[Dataset]:
    """The folds ``NAME-0``, ``NAME-1``, ... of one k-fold split; raises DatasetError for folds of another split."""
    paths = [path for path in out.glob(f"{name}-*") if path.name.removeprefix(f"{name}-").isdigit()]
    folds = [open_dataset(out, path.name) for path in paths]
    if not folds and not re.search(r"@kfold-\d+$", name):
        raise DatasetError(f"--family {name}: is no split; name one like NAME@kfold-5")
    if not folds:
        commands = how_to_make(out, f"{name}-0")
        raise DatasetError(f"{out / name}-0: no such dataset; make the folds with {commands}, then --fold 1 and so on")
    folds.sort(key=lambda fold: fold.split["fold"])
    strangers = [fold for fold in folds if fold.split["family"] != folds[0].split["family"]]
    if strangers:
        raise DatasetError(f"{strangers[0].folder}: is of another split family than {folds[0].folder}: convert again")
    return folds


def write(report: dict[str, Any], folder: Path, page: str | None, sheets: Mapping[str, str]) -> None:
    """Publish report.json, report.md, tables as CSV and, where there are any, the page and sheets, in one step."""
    with staging.publish(folder, overwrite=True) as partial:
        (partial / "tables").mkdir()
        for name, rows in csv_tables(report).items():
            write_csv(partial / "tables" / f"{name}.csv", rows)
        if sheets:
            (partial / "acceptance").mkdir()
        for name, sheet in sheets.items():
            (partial / "acceptance" / f"{name.replace('/', '__')}.html").write_text(sheet, "utf-8")
        (partial / "report.json").write_text(to_json(report), "utf-8")
        (partial / "report.md").write_text(as_markdown(report), "utf-8")
        if page is not None:
            (partial / "index.html").write_text(page, "utf-8")


def compare_runs(
    name: str | None,
    family: str | None,
    out: Path,
    runs: tuple[Path, ...],
    results: list[tuple[str, Path]],
    baseline: str | None,
    count: int,
    html: bool,
    target: Path | None,
    seed: int,
    as_json: bool,
    asked: Asked,
) -> None:
    """Write the report of each dataset that is asked for, and print it."""
    if name and family:
        raise DatasetError("--category and --family: leave one of them out")
    if not name and not family:
        name = _with_newest_run(out, runs)
    if results and (family or name == "all"):
        raise DatasetError("--results: is of one test part; name its dataset with --category")
    groups = [family_of(out, family)] if family else [[dataset] for dataset in _datasets(out, str(name), runs)]
    several = name == "all" and groups[0][0].name != "all"
    reports = []
    for datasets in groups:
        rows = collect(datasets, runs, results)
        report = make_report(datasets, rows, baseline, count, seed, html, asked)
        where = _where(target, runs[0], report["name"], several)
        page = render(report, {row.name: row.evidence for row in rows}) if html else None
        write(report, where, page, render_sheets(report))
        reports.append(report)
        if not as_json:
            _print(report, where, html)
    if several:
        where = target / "all" if target else runs[0] / "report"
        with staging.publish(where, overwrite=True) as folder:
            (folder / "report.md").write_text(paper_tables(reports), "utf-8")
            lines = [{"category": one["name"], **line} for one in reports for line in csv_tables(one)["measures"]]
            write_csv(folder / "measures.csv", lines)
            (folder / "report.json").write_text(to_json(reports), "utf-8")
        if not as_json:
            click.echo(paper_tables(reports) + f"report: {where / 'report.md'}")
    if as_json:
        click.echo(to_json(reports if several else reports[0]), nl=False)


def _where(target: Path | None, runs: Path, name: str, several: bool) -> Path:
    if target is not None:
        return target / name if several else target
    if (runs / "run.json").is_file():  # --runs names one run
        runs = runs.parent.parent.parent
    elif any(runs.glob("*/seed-*/run.json")):  # or those of one dataset
        runs = runs.parent
    return runs / name / "report"


def _with_newest_run(out: Path, runs: Sequence[Path]) -> str:
    """The name of the dataset in ``out`` whose run was finished last; it is said on stderr."""
    pattern = "seed-*/run.json"
    records = [path for root in runs for path in (*root.glob(f"*/*/{pattern}"), *root.glob(f"*/{pattern}"))]
    records += [root / "run.json" for root in runs if (root / "run.json").is_file()]
    known = [(name, path) for path in records if (out / (name := path.parents[2].name)).is_dir()]
    return last_of(out, known, "with the newest run") if known else choose_dataset(out, None)


def _datasets(out: Path, name: str, runs: Sequence[Path]) -> list[Dataset]:
    """The dataset of that name or, for `all`, each with a run; of --classes category-defect's, called so, if alone."""
    if name != "all":
        return [open_dataset(out, name)]
    known = sorted(path.parent.name for path in out.glob("*/split.json") if "@" not in path.parent.name)
    found = [
        dataset
        for dataset in (open_dataset(out, one) for one in known)
        if any(find_runs(root, dataset) for root in runs)
    ]
    found = [dataset for dataset in found if dataset.name != "all"] or found
    if not found:
        raise DatasetError(
            f"{out}: none of its {len(known)} datasets has a finished run in {', '.join(map(str, runs))}"
        )
    return found


def _print(report: dict[str, Any], where: Path, html: bool) -> None:
    for banner in report["banners"]:
        click.echo(f"note: {banner}", err=True)
    click.echo(summary(report, "simple", oracle=False))
    if any(row["oracle"] for row in report["rows"]):
        click.echo("\noracles, prompted with ground truth:")
        click.echo(summary(report, "simple", oracle=True))
    click.echo("\n" + "\n".join(report["sentences"]))
    click.echo(f"report: {where / ('index.html' if html else 'report.md')}")
