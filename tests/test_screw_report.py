"""Every family of models trained on a few real images by commands without options; their report in a browser.

Few steps, so the figures are poor.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, run_process
from test_report import choose

from finetune.comparison import gallery

pytest.importorskip("ultralytics")
pytestmark = pytest.mark.slow

TINY = ("--weights", "none", "--epochs", 1, "--imgsz", 64)
COMMANDS = {
    "normality.py": ("--weights", "none", "--imgsz", 64),
    "classifier.py": (*TINY, "--attempt", "plain"),
    "yolo.py": (*TINY, "--arch", "yolo11n-light"),
    "yolo_world.py": (*TINY, "--text-weights", "none"),
    "sam_decoder.py": (*TINY, "--arch", "tiny", "--train", "all", "--warm-up", 5, "--views", 1, "--auto"),
    "compare.py": (),
}


@pytest.fixture(scope="module")
def report(few_screws: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a folder of categories to the report, as a user would who names no more than the category."""
    root = tmp_path_factory.mktemp("screw")
    environment = {**os.environ, "MVTEC_ROOT": str(few_screws.parent), "PYTHONPATH": str(REPOSITORY)}
    assert run_process("to_yolo", "--category", "screw", cwd=root, env=environment).returncode == 0
    environment["PYTHONPATH"] = ""  # scripts run from anywhere without installation
    for script, recipe in COMMANDS.items():
        words = [sys.executable, str(REPOSITORY / "finetune" / script), *map(str, recipe)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=root, env=environment)
        assert done.returncode == 0 and done.stderr.startswith("Dataset: screw, the only dataset"), done.stderr
    return root / "runs/screw/report"


def test_every_family_is_compared_on_the_same_screws(report: Path) -> None:
    rows = json.loads((report / "report.json").read_text("utf-8"))["rows"]
    models = {row["name"].split("/")[0] for row in rows}
    assert models == {"normality", "classifier", "yolo", "yolo-world", "sam"}


def test_filters_work_on_screws_without_a_console_error(report: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    browser.get((report / "index.html").as_uri())
    total = len(browser.find_elements(By.CSS_SELECTOR, ".case"))
    options = [option.text for option in browser.find_elements(By.CSS_SELECTOR, "select[name=class] option")]
    assert sum(choose(browser, "class", name) for name in options if name != "all") == total
    choose(browser, "class", "all")
    assert choose(browser, "kind", "any error") > 0  # after an epoch
    for kind in gallery.KINDS:
        choose(browser, "kind", kind)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
