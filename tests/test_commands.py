"""What every command owes its user, whatever it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import REPOSITORY

from converters.cli import command as cli_command

MODULES = sorted(path.stem for path in (REPOSITORY / "converters").glob("*.py"))
COMMANDS = [name for name in MODULES if "@command()" in (REPOSITORY / "converters" / f"{name}.py").read_text("utf-8")]


def run(*arguments: str, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``python ARGUMENTS`` with the folder ``before`` in front of all installed packages."""
    environment = {**os.environ, "PYTHONPATH": f"{before or ''}{os.pathsep}{REPOSITORY}"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def fake(folder: Path, package: str, error: str) -> Path:
    """A package that fails to import in this way."""
    (folder / f"{package}.py").write_text(f"raise ImportError({error!r})\n", "utf-8")
    return folder


def test_the_commands_were_found():
    assert {"to_yolo", "to_coco", "to_masks", "to_voc", "verify", "describe", "preview", "__main__"} <= set(COMMANDS)


def test_missing_system_library_is_one_line_that_says_what_to_install(make_category, tmp_path):
    error = "libGL.so.1: cannot open shared object file: No such file or directory"
    options = ("--root", str(make_category()), "--out", str(tmp_path / "out"))
    result = run("-m", "converters", "all", *options, before=fake(tmp_path, "cv2", error))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "libGL.so.1" in result.stderr
    assert "apt-get install libgl1 libglib2.0-0" in result.stderr


def test_converters_need_neither_torch_nor_ultralytics(make_category, tmp_path):
    for package in ("torch", "torchvision", "ultralytics"):
        fake(tmp_path, package, f"{package} is not installed")
    folder = make_category()
    for command in (("all", "--root", folder, "--out", tmp_path / "out"), ("describe", "--root", folder)):
        result = run("-m", "converters", *map(str, command), before=tmp_path)
        assert result.returncode == 0, result.stderr


def test_training_without_its_libraries_says_what_to_install(make_category, tmp_path):
    folder = make_category()
    assert run("-m", "converters", "all", "--root", str(folder), "--out", str(tmp_path / "out")).returncode == 0
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n", "utf-8")
    options = ("--category", "widget", "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    result = run("-m", "finetune.classifier", *options, "--weights", "none", before=tmp_path)
    assert result.returncode == 2
    assert "torch is not installed: pip install -e '.[train]'" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_comes_without_heavy_imports(name):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['command', '--help']\n"
        f"try: runpy.run_module('converters.{name}', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, sorted({'cv2', 'torch', 'scipy'} & set(sys.modules)))\n"
    )
    result = run("-c", code)
    assert result.stdout.endswith("0 []\n"), result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("converters.to_coco", "--categroy", "x"), "'--category'"),
        (("converters", "to_coco", "--workers", "none"), "--workers"),
        (("converters.to_yolo", "--ratios", "50/20/20"), "add up to 100"),
        (("converters.verify",), "DATASETS"),
        (("converters", "to_yollo"), "to_yolo"),
        (("finetune.yolo", "--category", "x", "--epochs", "0"), "--epochs"),
    ],
)
def test_bad_usage_is_one_line(arguments, hint):
    result = run("-m", *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
    assert hint in result.stderr


def test_an_interrupted_command_says_one_thing() -> None:
    usual = "nothing unfinished was published."
    for given, said in ((KeyboardInterrupt(), usual), (KeyboardInterrupt("continue"), "continue")):

        @cli_command.command()
        def interrupted(error: KeyboardInterrupt = given) -> None:
            raise error

        result = CliRunner().invoke(interrupted, [])
        assert (result.exit_code, result.stderr) == (130, f"Interrupted: {said}\n")
