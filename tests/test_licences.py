"""Licences stand apart: what imports ultralytics is AGPL-3.0, all else Apache-2.0 and works without it."""

import ast
import configparser
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import REPOSITORY, converted
from test_package import build_wheel

from finetune.runs.dataset import open_dataset
from finetune.runs.licences import licences, start_licence

SHIPPED = sorted(path for room in ("converters", "finetune") for path in (REPOSITORY / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """All modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def licence_of(name: str) -> str:
    """The licence that REUSE.toml states for a file: that of the last table that matches."""
    tables = tomllib.loads((REPOSITORY / "REUSE.toml").read_text("utf-8"))["annotations"]
    patterns = ((one["path"], one["SPDX-License-Identifier"]) for one in tables)
    flat = [(glob, licence) for paths, licence in patterns for glob in ([paths] if isinstance(paths, str) else paths)]
    return [licence for glob, licence in flat if fnmatch(name, glob)][-1]


def test_what_imports_ultralytics_and_nothing_else_that_is_shipped_is_agpl() -> None:
    for path in SHIPPED:
        name = path.relative_to(REPOSITORY).as_posix()
        agpl = licence_of(name) == "AGPL-3.0-or-later"
        needs = any(module.partition(".")[0] == "ultralytics" for module in imported(path))
        detection = name.startswith("finetune/detection/") or name in ("finetune/yolo.py", "finetune/yolo_world.py")
        assert agpl == (needs or detection), name


def test_every_library_that_is_imported_is_declared() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", "utf-8")
    extras = [text for name, text in setup["options.extras_require"].items() if name != "dev"]
    lists = [setup["options"]["install_requires"], *extras]
    declared = {re.split(r"[<>=~!\[ ]", line)[0].lower().replace("_", "-") for text in lists for line in text.split()}
    modules = packages_distributions()
    for path in SHIPPED:
        for module in imported(path):
            top = module.partition(".")[0]
            if top in sys.stdlib_module_names or top in ("converters", "finetune") or top not in modules:
                continue
            assert any(name.lower().replace("_", "-") in declared for name in modules[top]), f"{path}: {module}"


def test_a_run_names_the_licences_that_it_rests_on(make_category, tmp_path) -> None:
    dataset = open_dataset(tmp_path / "out", converted("all", make_category(), tmp_path / "out").name)
    ours = licences("CNN classifier", "embedded ImageNet", dataset)
    assert ours["code"] == "Apache-2.0" and ours["start"].startswith("Apache-2.0")
    assert ours["images"].startswith("not known here")
    assert licences("YOLO", "random", dataset)["code"] == "AGPL-3.0-or-later"
    assert start_licence("YOLO", "published yolo11n.pt").startswith("AGPL-3.0")
    assert start_licence("SAM decoder", "file 0123456789ab").startswith("not known here")


def test_images_of_mvtec_ad_are_said_to_be_for_non_commercial_use(make_category, tmp_path) -> None:
    converted("all", make_category(name="screw"), tmp_path / "out")
    found = licences("YOLO", "random", open_dataset(tmp_path / "out", "screw"))["images"]
    assert found == "MVTec AD, CC BY-NC-SA 4.0: non-commercial use"


@pytest.mark.slow
def test_the_wheel_converts_trains_and_predicts_in_a_bare_environment_without_ultralytics(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", wheel], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", bare], check=True)
    tools = bare / ("Scripts" if os.name == "nt" else "bin")
    limits = REPOSITORY / "constraints.txt"
    subprocess.run([tools / "pip", "install", "-q", "-c", limits, f"{wheel}[train]"], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command: str, *arguments: str) -> str:
        """All that a command of the bare environment prints, in a folder that holds nothing of this repository."""
        call = [tools / command, *arguments]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run("mvtec-convert", "sample", "--to", "sample")
    run("mvtec-convert", "all", "--root", "sample", "--category", "washer")
    assert "ultralytics is not installed: YOLO was read by our own code" in run(
        "mvtec-convert", "verify", "datasets_out/washer"
    )
    run("mvtec-train", "normality", "--category", "washer", "--imgsz", "128")
    run("mvtec-predict", "runs/washer/normality/seed-0", "sample/washer/test/scratch", "--to", "looked")
    assert (tmp_path / "looked/index.html").is_file()
    run("mvtec-compare", "--category", "washer")
    assert "Apache-2.0" in (tmp_path / "runs/washer/report/index.html").read_text("utf-8")
    missing = subprocess.run(
        [tools / "mvtec-train", "yolo"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert missing.returncode == 2 and "ultralytics is not installed" in missing.stderr
