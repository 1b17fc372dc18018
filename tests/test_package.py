"""The wheel holds every module and data file that git knows; an editable install would hide one that is missing."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


def build_wheel(folder: Path) -> Path:
    """A wheel in ``folder``, of the files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    source = folder / "source"
    for name in listed.stdout.split("\0"):
        if (REPOSITORY / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-c", BUILD, str(folder)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / built.stdout.split()[-1]


def test_the_wheel_holds_what_git_knows_of_the_packages(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = tmp_path / "source"
    known = {
        path.relative_to(source).as_posix()
        for room in ("converters", "finetune")
        for path in (source / room).rglob("*")
    }
    assert held == {name for name in known if (REPOSITORY / name).is_file()}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("mvtec-convert", "from_coco"),
        ("mvtec-train", "normality"),
        ("mvtec-predict", "--pre-label"),
        ("mvtec-compare", "--family"),
    ],
)
def test_installed_commands_start(command: str, told: str) -> None:
    script = Path(sys.executable).with_name(command)
    if not script.is_file():
        pytest.skip(f"{command} is not installed: pip install -e .")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}  # this code, whatever the installation points to
    done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith(f"Usage: {command} ") and told in done.stdout
