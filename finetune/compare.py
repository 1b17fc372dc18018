"""Compare models on the same test images, with the uncertainty shown: one report that says which is worth its labels.

    python finetune/compare.py --dataset screw
    python finetune/compare.py --family screw@kfold-5                        # all folds of one split
    python finetune/compare.py --category all --no-html                      # categories x models, for a paper
    python finetune/compare.py --dataset screw --results theirs=results.json   # anyone's COCO results

It reads the ground truth and the runs' predictions for val and test, never a model. Thresholds are chosen on val.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters import staging
from converters.errors import DatasetError
from converters.options import FOLDER, command, json_option, out_option, progress, seed_option, to_json
from finetune.category import Dataset, open_dataset
from finetune.predictions import PredictionSet, find_runs, read_run
from finetune.tables import MEASURES, Measure, as_markdown, cell, paper_tables, reach, summary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from finetune.evidence import Evidence

BASELINE = "classifier"
FEW = 5  # test images of a class under which its number carries a warning
COSTS = ("parameters", "train_seconds", "seconds_per_image", "device", "peak_memory_mb", "weights_bytes")


SENTENCES = {
    "auroc": "Telling defective images from good ones",
    "map50": "Finding and naming each defect with a box",
    "dice": "Marking the defect's pixels",
}


@dataclass
class Row:
    """One model asked in one way; ``answers[seed][dataset name]`` is what a run said, ``records`` its run.json."""

    run: str
    set: str
    answers: dict[str, dict[str, PredictionSet]] = field(default_factory=dict)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    evidence: dict[str, list["Evidence"]] = field(default_factory=dict)  # seed -> one a dataset

    @property
    def name(self) -> str:
        return self.run if self.set in ("tuned", "") else f"{self.run}/{self.set}"

    @property
    def about(self) -> dict[str, Any]:
        return next(iter(next(iter(self.answers.values())).values())).about

    @property
    def record(self) -> dict[str, Any]:
        """run.json of the first seed and dataset; empty for someone else's predictions."""
        return next(iter(next(iter(self.records.values())).values()))

    @property
    def oracle(self) -> bool:
        return bool(self.about.get("oracle"))


# ------------------------------------------------------------------------------------------------------- reading


def collect(datasets: Sequence[Dataset], runs: Sequence[Path], results: Sequence[tuple[str, Path]]) -> list[Row]:
    """All models that answered on every dataset given, automatic ones first; what is left out is told on stderr."""
    rows: dict[tuple[str, str], Row] = {}
    for dataset in datasets:
        for folder in (folder for root in runs for folder in find_runs(root, dataset)):
            record = read_run(folder, dataset)
            for path in sorted(path for path in (folder / "predictions").glob("*") if path.is_dir()):
                row = rows.setdefault((folder.parent.name, path.name), Row(folder.parent.name, path.name))
                seed = folder.name.removeprefix("seed-")
                row.answers.setdefault(seed, {})[dataset.name] = PredictionSet(path)
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
        raise DatasetError(f"{where}: no finished run; train one, e.g. with `python finetune/yolo.py`")
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
    if not folds:
        raise DatasetError(
            f"{out / name}-0: no such dataset; make the folds with `python -m converters all --protocol kfold "
            "--folds 5 --fold 0`, then --fold 1 and so on"
        )
    folds.sort(key=lambda fold: fold.split["fold"])
    strangers = [fold for fold in folds if fold.split["family"] != folds[0].split["family"]]
    if strangers:
        raise DatasetError(f"{strangers[0].folder}: is of another split family than {folds[0].folder}: convert again")
    return folds


# ----------------------------------------------------------------------------------------------------- measuring


def measure_rows(rows: Sequence[Row], datasets: Sequence[Dataset], count: int, seed: int) -> list[dict[str, Any]]:
    """Each row's measures: name -> (value, its B resampled values). All rows see the same resamples."""
    import numpy as np

    from finetune.bootstrap import over_seeds, resample
    from finetune.evidence import gather, measure, plain, truth_of

    generator = np.random.default_rng(seed)
    truths = [(truth_of(dataset, "test"), truth_of(dataset, "val")) for dataset in datasets]
    weights = [resample(test.labels.tolist(), test.groups, count, generator) for test, _ in truths]
    measured = []
    with progress(rows, len(rows), "comparing") as bar:
        for row in bar:
            values, resampled = [], []
            for one_seed, answers in sorted(row.answers.items()):
                evidence = [gather(answers[test.dataset.name], test, val) for test, val in truths]
                row.evidence[one_seed] = evidence
                values.append(plain(evidence))
                resampled.append(measure(evidence, weights))
            names = [name for name in values[0] if all(name in seed_values for seed_values in values)]
            measured.append(
                {
                    name: (
                        float(np.mean([seed_values[name] for seed_values in values])),
                        over_seeds(np.stack([draws[name] for draws in resampled]), generator),
                    )
                    for name in names
                }
            )
    return measured


def with_interval(
    value: float, draws: "NDArray[Any]", size: int | None = None, scale: float = 1.0
) -> dict[str, float | None]:
    """A value and its interval. ``size`` says that it is a share (times ``scale``) of that many images."""
    import math

    from finetune.bootstrap import interval, share_interval

    low, high = interval(draws) or (None, None)
    if size and low == high and not math.isnan(value):
        low, high = (scale * bound for bound in share_interval(value / scale, size))
    return {"value": None if math.isnan(value) else value, "low": low, "high": high}


def difference(ours: Any, theirs: Any, seeds: int, measure: Measure) -> dict[str, Any]:
    """Paired difference of two (value, draws), with a verdict that needs three seeds of both to be "beyond noise"."""
    from finetune.bootstrap import SEEDS_FOR_A_CLAIM

    found: dict[str, Any] = with_interval(ours[0] - theirs[0], ours[1] - theirs[1])
    if found["low"] is None or found["low"] <= 0 <= found["high"]:
        verdict = "within noise"
    elif seeds < SEEDS_FOR_A_CLAIM:
        verdict = f"open: fewer than {SEEDS_FOR_A_CLAIM} seeds"
    else:
        verdict = "beyond noise"
    return found | {"verdict": verdict, "better": (found["value"] or 0) * (-1 if measure.lower_is_better else 1) > 0}


def choose_baseline(rows: Sequence[Row], wanted: str | None) -> Row:
    """The row that all others are held against: the classifier, else the one with the cheapest labels."""
    names = [row.name for row in rows]
    if wanted is not None and wanted not in names:
        raise DatasetError(f"--baseline {wanted}: no such model here; there are {', '.join(names)}")
    by_name = dict(zip(names, rows, strict=True))
    if wanted or BASELINE in by_name:
        return by_name[wanted or BASELINE]
    cheapness = {"none": 0, "good": 0, "class": 1, "box": 2, "mask": 3}
    return min(rows, key=lambda row: (row.oracle, cheapness.get(str(row.about.get("label")), 4)))


# --------------------------------------------------------------------------------------------------------- report


def make_report(
    datasets: Sequence[Dataset], rows: Sequence[Row], wanted: str | None, count: int, seed: int
) -> dict[str, Any]:
    """Everything that report.json holds, and from which report.md and the page are written."""
    baseline = choose_baseline(rows, wanted)
    measured = measure_rows(rows, datasets, count, seed)
    base = measured[list(rows).index(baseline)]
    test = describe_test(datasets)
    entries = []
    for row, values in zip(rows, measured, strict=True):
        seeds = min(len(row.answers), len(baseline.answers))
        entry = describe_row(row) | {
            "measures": {
                name: with_interval(*values[name], test["good"] if name == "false_alarms" else None, scale=100)
                for name in MEASURES
                if name in values
            },
            "differences": {
                name: difference(values[name], base[name], seeds, measure)
                for name, measure in MEASURES.items()
                if row is not baseline and name in values and name in base
            },
            "classes": [describe_class(known, values) for known in test["classes"]],
        }
        entries.append(entry)
    name = datasets[0].name if len(datasets) == 1 else datasets[0].name.rsplit("-", 1)[0]
    return {
        "schema": 1,
        "name": name,
        "datasets": [dataset.name for dataset in datasets],
        "baseline": baseline.name,
        "resamples": count,
        "seed": seed,
        "banners": banners(datasets, rows),
        "sentences": sentences(rows, measured),
        "test": test,
        "rows": entries,
        "split": describe_split(datasets),
    }


def describe_class(known: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """AP50 of one type's boxes, and the share of its images that were called defective."""
    name = known["class"]
    sizes = {"ap50": None, "found": known["images"]}
    return {"class": name} | {
        kind: with_interval(*values[f"{name}/{kind}"], size)
        for kind, size in sizes.items()
        if f"{name}/{kind}" in values
    }


def describe_row(row: Row) -> dict[str, Any]:
    from finetune.evidence import confusion

    first = next(iter(row.evidence.values()))
    record, about = row.record, row.about
    return {
        "name": row.name,
        "run": row.run,
        "set": row.set,
        "model": about.get("model") or record.get("model"),
        "prompt": about.get("prompt"),
        "oracle": row.oracle,
        "label": about.get("label"),
        "clicks": about.get("clicks"),
        "seeds": sorted(row.answers),
        "random_weights": bool(record.get("random_weights")),
        "cost": {name: record.get(name) for name in COSTS},
        "pixels_from": first[0].answer.kind,
        "thresholds": {
            "image": [item.threshold for item in first],
            "box": [item.box_threshold for item in first],
            "pixel": [None if item.pixels is None else item.pixels.level for item in first],
        },
        "confusion": confusion(first).astype(int).tolist() if first[0].tells_classes else None,
        "settings": record.get("settings"),
        "versions": record.get("versions"),
        "commit": record.get("commit"),
        "weights_sha256": record.get("weights_sha256"),
        "command": record.get("command"),
    }


def describe_test(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Images and instances in test; what a class is made of decides how far its number can be trusted."""
    import numpy as np

    from finetune.evidence import prevalence, truth_of

    truths = [truth_of(dataset, "test") for dataset in datasets]
    labels = np.concatenate([truth.labels for truth in truths])
    instances = np.zeros(1 + len(datasets[0].classes), int)
    for truth in truths:
        np.add.at(instances, [entry["category_id"] for entry in truth.coco["annotations"]], 1)
    return {
        "images": len(labels),
        "good": int((labels == 0).sum()),
        "prevalence": prevalence(truths),
        "classes": [
            {
                "class": name,
                "images": int((labels == index).sum()),
                "instances": int(instances[index]),
                "few": bool((labels == index).sum() < FEW),
            }
            for index, name in enumerate(datasets[0].classes, start=1)
        ],
    }


def describe_split(datasets: Sequence[Dataset]) -> dict[str, Any]:
    kept = ("protocol", "ratios", "folds", "shots", "per", "seed", "combined", "family")
    split = datasets[0].split
    return {key: split[key] for key in kept if key in split} | {
        "sha256": {dataset.name: dataset.split["sha256"] for dataset in datasets}
    }


def banners(datasets: Sequence[Dataset], rows: Sequence[Row]) -> list[str]:
    """What a reader must know before any number."""
    found = []
    if any(dataset.synthetic for dataset in datasets):
        found.append("Synthetic images: these numbers say nothing about real products.")
    random = [row.name for row in rows if row.record.get("random_weights")]
    if random:
        found.append(f"Started from random weights: {', '.join(random)}.")
    oracles = [row.name for row in rows if row.oracle]
    if oracles:
        found.append(f"Oracle, told where the defects are: {', '.join(oracles)}. Kept apart from automatic models.")
    found += [
        f"Part of a category: {line}."
        for line in sorted({note for dataset in datasets for note in dataset.card["incomplete"]})
    ]
    left_out = sum(len(dataset.card["left_out"]) for dataset in datasets)
    if left_out:
        found.append(f"{left_out} images were left out in conversion; see card.md.")
    folds = datasets[0].split.get("folds")
    if folds and len(datasets) < folds:
        found.append(f"{len(datasets)} of {folds} folds: not every defect is tested.")
    silent = [row.name for row in rows if any(item.threshold is None for item in next(iter(row.evidence.values())))]
    if silent:
        found.append(f"No predictions for val, so no thresholds and fewer measures: {', '.join(silent)}.")
    return found


def sentences(rows: Sequence[Row], measured: Sequence[dict[str, Any]]) -> list[str]:
    """In plain words: who leads in each discipline, by how much over the next, and whether that is beyond noise."""
    found = []
    for key, task in SENTENCES.items():
        able = [
            (row, values[key]) for row, values in zip(rows, measured, strict=True) if key in values and not row.oracle
        ]
        able = sorted((pair for pair in able if pair[1][0] == pair[1][0]), key=lambda pair: -pair[1][0])
        if able:
            found.append(_sentence(task, key, able))
    return found


def _sentence(task: str, key: str, able: Sequence[tuple[Row, Any]]) -> str:
    measure, (leader, best) = MEASURES[key], able[0]
    shown = cell(with_interval(*best), measure)
    if len(able) == 1:
        return f"{task}: only {leader.name} does it, with {measure.label} {shown}."
    second, next_best = able[1]
    gap = difference(best, next_best, min(len(leader.answers), len(second.answers)), measure)
    if not gap["value"]:
        return f"{task}: {leader.name} and {second.name} are level at {measure.label} {shown}."
    ahead = f"{abs(gap['value']):.{measure.digits}f}"
    span = "" if gap["low"] is None else f" (95 % interval of the difference {reach(gap, measure)})"
    verdict = {
        "beyond noise": "That is beyond noise.",
        "within noise": "That is within noise: another set of test images could turn it round.",
    }.get(
        gap["verdict"],
        "The test images bear that out, but with fewer than three seeds nobody knows what another training gives.",
    )
    return f"{task}: {leader.name} leads with {measure.label} {shown}, {ahead} ahead of {second.name}{span}. {verdict}"


# ---------------------------------------------------------------------------------------------------------- output


def write(report: dict[str, Any], folder: Path, page: str | None) -> None:
    """Publish report.json, report.md and, where there is a page, index.html in one step."""
    with staging.publish(folder, overwrite=True) as partial:
        (partial / "report.json").write_text(to_json(report), "utf-8")
        (partial / "report.md").write_text(as_markdown(report), "utf-8")
        if page is not None:
            (partial / "index.html").write_text(page, "utf-8")


def _results(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, Path]]:
    pairs = [value.partition("=")[::2] for value in values]
    if not all(name and path for name, path in pairs):
        raise click.BadParameter("NAME=PATH is needed, e.g. theirs=results.json")
    missing = [path for _, path in pairs if not Path(path).exists()]
    if missing:
        raise click.BadParameter(f"{missing[0]}: no such file or folder")
    return [(name, Path(path)) for name, path in pairs]


@command()
@click.option(
    "--category", "--dataset", "name", metavar="NAME", help="Dataset in --out; `all` for every one with runs."
)
@click.option("--family", metavar="NAME@kfold-K", help="All folds of one split, instead of --dataset.")
@out_option
@click.option(
    "--runs", type=FOLDER, multiple=True, default=["runs"], help="Where runs lie, or one run's folder; repeat."
)
@click.option(
    "--results",
    multiple=True,
    callback=_results,
    metavar="NAME=PATH",
    help="Anyone's predictions: a COCO results file for test, or a folder like predictions/SET; repeat.",
)
@click.option(
    "--baseline",
    metavar="MODEL",
    show_default=f"{BASELINE}, else the cheapest labels",
    help="Model that all others are held against.",
)
@click.option("--bootstrap", "count", type=click.IntRange(100), default=1000, help="Number of resamples.")
@click.option("--html/--no-html", default=True, help="Write the page index.html.")
@click.option(
    "--report", "target", type=FOLDER, show_default="RUNS/DATASET/report", help="Where the report is written."
)
@seed_option
@json_option
def main(
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
) -> None:
    """Compare all runs of a dataset on its test images; write a report with 95 % intervals.

    The report folder holds index.html (one file, works offline), report.json and report.md.
    """
    if (name is None) == (family is None):
        raise click.UsageError("one of --dataset and --family is needed")
    groups = [family_of(out, family)] if family else [[dataset] for dataset in _datasets(out, str(name), runs)]
    reports = []
    for datasets in groups:
        rows = collect(datasets, runs, results)
        report = make_report(datasets, rows, baseline, count, seed)
        where = target or runs[0] / report["name"] / "report"
        write(
            report,
            where / report["name"] if target and len(groups) > 1 else where,
            _page(report, rows) if html else None,
        )
        reports.append(report)
        if not as_json:
            _print(report, where, html)
    if name == "all":
        where = target or runs[0] / "report"
        with staging.publish(where, overwrite=True) as folder:
            (folder / "report.md").write_text(paper_tables(reports), "utf-8")
            (folder / "report.json").write_text(to_json(reports), "utf-8")
        if not as_json:
            click.echo(paper_tables(reports) + f"report: {where / 'report.md'}")
    if as_json:
        click.echo(to_json(reports if name == "all" else reports[0]), nl=False)


def _datasets(out: Path, name: str, runs: Sequence[Path]) -> list[Dataset]:
    if name != "all":
        return [open_dataset(out, name)]
    known = sorted(path.parent.name for path in out.glob("*/split.json") if "@" not in path.parent.name)
    found = [
        dataset
        for dataset in (open_dataset(out, one) for one in known)
        if any(find_runs(root, dataset) for root in runs)
    ]
    if not found:
        raise DatasetError(
            f"{out}: none of its {len(known)} datasets has a finished run in {', '.join(map(str, runs))}"
        )
    return found


def _page(report: dict[str, Any], rows: Sequence[Row]) -> str:
    from finetune.report import render

    return render(report, {row.name: row.evidence for row in rows})


def _print(report: dict[str, Any], where: Path, html: bool) -> None:
    for banner in report["banners"]:
        click.echo(f"note: {banner}", err=True)
    click.echo(summary(report, "simple", oracle=False))
    if any(row["oracle"] for row in report["rows"]):
        click.echo("\noracles, told where the defects are:")
        click.echo(summary(report, "simple", oracle=True))
    click.echo("\n" + "\n".join(report["sentences"]))
    click.echo(f"report: {where / ('index.html' if html else 'report.md')}")


if __name__ == "__main__":
    main(prog_name="python finetune/compare.py")
