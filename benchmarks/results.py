"""Records of measurements, and a table drawn from them.

    python benchmarks/results.py RUN...      # write docs/measurements/results/*.json of finished runs, no image in them
    python benchmarks/results.py             # draw docs/measurements/README.md from all records (`make results`)

A record holds what must be known of a figure: command, commit, start, dataset and split, seed, scores, CPU seconds.
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, out_option
from converters.cli.terminal import to_json
from finetune.comparison.tables import MEASURES
from finetune.runs.predictions import PredictionSet

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs/measurements/results"
HEAD = "# Results\nDrawn from the records in `results/` by `make results`: means over the runs of a model.\n\n"
KEPT = (
    "command",
    "commit",
    "start",
    "dataset",
    "split_sha256",
    "model",
    "device",
    "train_seconds",
    "train_cpu_seconds",
    "operating_points",
)
SHOWN = {  # measure -> its name in the table; a model shows those that it has
    "map50": "mAP50",
    "map": "mAP50-95",
    "macro_f1": "macro-F1",
    "auroc": "image AUROC",
    "pixel_ap": "pixel AP",
    "aupro_0.3": "AUPRO",
    "iou": "IoU",
    "filled_box_iou": "filled box",
    "pointing": "pointing",
}


def record_of(run: Path, out: Path) -> dict[str, Any]:
    """What run.json and the saved predictions say of test, as `compare` measures it."""
    from finetune.comparison.evidence import gather, plain
    from finetune.runs.dataset import open_dataset
    from finetune.runs.run_folder import read_record, read_run

    dataset = open_dataset(out, read_record(run)["dataset"])
    record = read_run(run, dataset)
    sets = sorted(path for path in (run / "predictions").iterdir() if path.is_dir())
    measured = {path.name: own(PredictionSet(path), plain([gather(PredictionSet(path), dataset)])) for path in sets}
    return {
        "schema": 1,
        **{key: record.get(key) for key in KEPT},
        "run": run.parent.name,
        "seed": record["settings"]["seed"],
        "test": {name: {key: round(value, 4) for key, value in values.items()} for name, values in measured.items()},
        "trainer": record["metrics"].get("test", {}),
        "prompts": {name: prompted(found) for name, found in record["metrics"].items() if "after" in found},
    }


def own(source: PredictionSet, values: dict[str, float]) -> dict[str, float]:
    """The measures that are a model's own: of an oracle those of pixels, since its prompts give all others away."""
    if not source.about.get("oracle"):
        return values
    return {name: value for name, value in values.items() if name in MEASURES and MEASURES[name].level == "pixel"}


def prompted(found: dict[str, Any]) -> dict[str, Any]:
    """What a run of SAM says of a kind of prompt: IoU over instances, of the start, and over the filled box."""
    kept = {"iou": found["after"]["iou"], "filled_box_iou": found["after"]["filled_box_iou"]}
    kept |= {"instances": found["after"]["count"], "iou_before": found.get("before", {}).get("iou")}
    kept |= {"over_filled_box": found["over_filled_box"]} if "over_filled_box" in found else {}
    return kept | {"classes": {entry["class"]: round(entry["iou"], 4) for entry in found["after"]["classes"]}}


def rows(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Data, model with its start, figures, and CPU time: means over the seeds and folds of one model."""
    alike = defaultdict(list)
    for record in records:
        for name, scores in record["test"].items():
            alike[
                record["dataset"].partition("@kfold")[0], record["model"], record["start"], record["run"], name
            ].append((record, {**record["trainer"], **scores, **record.get("prompts", {}).get(name, {})}))
    found = []
    for (dataset, model, start, run, name), members in sorted(alike.items()):
        scores = [scores for _, scores in members]
        known = [key for key in SHOWN if all(isinstance(one.get(key), float) for one in scores)]
        figures = ", ".join(f"{SHOWN[key]} {fmean(one[key] for one in scores):.2f}" for key in known)
        seconds = [record.get("train_cpu_seconds") or record.get("train_seconds") for record, _ in members]
        cost = f"{fmean(seconds) / 60:.0f} min" if all(seconds) else "-"
        what = f"{model} ({run})" if name in ("tuned", "") else f"{model} ({run}), {name}"
        found.append((dataset, f"{what}, from {start}", figures, f"{len(members)} x {cost}"))
    return found


@command()
@click.argument("runs", nargs=-1, type=FOLDER)
@out_option
def main(runs: tuple[Path, ...], out: Path) -> None:
    """Write the records of finished RUNS; without any, draw the table of all records."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for run in runs:
        record = record_of(run, out)
        path = RESULTS / f"{record['dataset']}-{run.parent.name}-{run.name}.json".replace("/", "_")
        path.write_text(to_json(record), "utf-8")
        click.echo(path)
    if runs:
        return
    records = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    table = ["| data | model and its start | on test | runs x training time |", "|---|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in rows([record for record in records if "trainer" in record])]
    (RESULTS.parent / "README.md").write_text(HEAD + "\n".join(table) + "\n", "utf-8")


if __name__ == "__main__":
    main(prog_name="python benchmarks/results.py")
