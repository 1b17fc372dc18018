"""The environment variables that ultralytics reads when it is imported. Imports neither it nor torch."""

import os
from pathlib import Path


def prepare_ultralytics(runs: Path) -> None:
    """Keep ultralytics from telling, installing and writing anywhere but below ``runs``. Before its first import."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(runs.absolute() / ".ultralytics"))  # unless the user has set it
    os.environ["YOLO_OFFLINE"] = "1"  # no telemetry, no look-ups; weights are fetched by `fetch_weights`
    os.environ["YOLO_AUTOINSTALL"] = "False"
    os.environ["YOLO_VERBOSE"] = "False"
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # ultralytics would set 1
