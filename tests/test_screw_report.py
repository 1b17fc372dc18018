"""Every family of models trained on real images, and their report in a browser; few steps, so the figures are poor."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, converted
from test_report import choose

from finetune.comparison import gallery

pytest.importorskip("ultralytics")
pytestmark = pytest.mark.slow

TINY = ("--epochs", 1, "--imgsz", 64)
TRAININGS = {
    "normality.py": ("--imgsz", 64),
    "classifier.py": (*TINY, "--attempt", "plain"),
    "yolo.py": (*TINY, "--arch", "yolo11n-light"),
    "yolo_world.py": (*TINY, "--text-weights", "none"),
    "sam_decoder.py": (*TINY, "--arch", "tiny", "--train", "all", "--warm-up", 5, "--views", 1, "--auto"),
}


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, REPOSITORY / "finetune" / script, "--category", "screw", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def report(screw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("screw")
    places = ("--out", root / "out", "--runs", root / "runs")
    converted("all", screw, root / "out")
    for script, settings in TRAININGS.items():
        run(script, *places, "--weights", "none", *settings)
    run("compare.py", *places)
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
