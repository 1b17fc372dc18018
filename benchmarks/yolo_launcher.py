"""What `finetune/yolo.py` costs beside `yolo train` with the same settings and threads: CPU seconds, once a run.

    python benchmarks/yolo_launcher.py washer --out datasets_out [--pairs 5]

Both train one epoch on the same view of the dataset from random weights. The pairs alternate, so that a busy machine
burdens both alike. Ours also predicts val and test, measures them and draws figures; `yolo train` measures val once
more at its end, as ours does inside of ultralytics, so that what is left over is all that our launcher adds.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from converters.cli.command import command
from converters.cli.options import FOLDER, out_option
from converters.cli.terminal import table

REPOSITORY = Path(__file__).parents[1]
LIMIT = 5.0  # CPU seconds
SETTINGS = {"epochs": 1, "imgsz": 128, "batch": 8}


def cpu_of(arguments: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of a command and its children."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = now()
    result = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr[-2000:])
    return now() - before


def theirs(run: Path) -> list[str]:
    """`yolo train` with the settings and the data of a run of ours."""
    import yaml

    saved: dict[str, Any] = yaml.safe_load((run / "train" / "args.yaml").read_text("utf-8"))
    own = {key: value for key, value in saved.items() if value is not None and key not in ("save_dir", "project")}
    words = [f"{key}={value}" for key, value in own.items() if key not in ("mode", "task", "cfg", "resume")]
    return [str(Path(sys.executable).with_name("yolo")), "detect", "train", *words, f"project={run.parent / 'theirs'}"]


@command()
@click.argument("name", metavar="DATASET")
@out_option
@click.option("--pairs", type=click.IntRange(1), default=5)
@click.option("--threads", type=click.IntRange(1), default=1)
@click.option("--work", type=FOLDER, help="Where runs are written.", show_default="a temporary folder")
def main(name: str, out: Path, pairs: int, threads: int, work: Path | None) -> None:
    """Compare the CPU time of our launcher with that of `yolo train`."""
    with tempfile.TemporaryDirectory() as temporary:
        runs = work or Path(temporary)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "YOLO_CONFIG_DIR": str(runs / "config"),
            "YOLO_OFFLINE": "1",
            "YOLO_AUTOINSTALL": "False",
        }
        words = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
        ours = [sys.executable, str(REPOSITORY / "finetune" / "yolo.py"), "--category", name, "--out", str(out)]
        ours += ["--runs", str(runs), "--weights", "none", "--device", "cpu", "--overwrite", *words]
        run = runs / name / "yolo" / "seed-0"
        rows = []
        for pair in range(pairs):
            first = cpu_of(ours, environment)
            used = json.loads((run / "run.json").read_text("utf-8"))["train_cpu_seconds"]
            second = cpu_of(theirs(run), environment)
            rows.append((pair, f"{first:.1f}", f"{used:.1f}", f"{second:.1f}", f"{first - second:+.1f}"))
        click.echo(table(rows, ("pair", "ours, all", "of it training", "yolo train", "difference")))
        more = statistics.median(float(row[-1]) for row in rows)
        click.echo(f"median difference {more:+.1f} CPU s, allowed {LIMIT:.0f}; {threads} thread(s)")
        sys.exit(more > LIMIT)


if __name__ == "__main__":
    main(prog_name="python benchmarks/yolo_launcher.py")
