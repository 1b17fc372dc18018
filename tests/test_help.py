"""What every command has in common: --help comes at once, says something of every option, and imports nothing heavy."""

import resource
import subprocess
import sys
from importlib import import_module

import click
import pytest
from conftest import REPOSITORY

COMMANDS = sorted(
    f"{package}.{path.stem}"
    for package in ("converters", "finetune")
    for path in (REPOSITORY / package).glob("*.py")
    if path.stem not in ("__init__", "__main__")
)
HEAVY = {"cv2", "torch", "torchvision", "ultralytics", "scipy", "sklearn", "pycocotools", "pydantic", "ray"}


def help_of(command: str) -> tuple[str, float]:
    """The text of a command's --help with the heavy modules that it imported, and its CPU seconds."""
    code = (
        f"import sys, runpy; sys.argv = ['command', '--help']\n"
        f"try: runpy.run_module('{command}', run_name='__main__')\n"
        f"except SystemExit as end: print(end.code, *sorted({HEAVY} & set(sys.modules)))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", [*COMMANDS, "converters"])
def test_help_comes_at_once(command: str) -> None:
    text, seconds = help_of(command)
    assert text.startswith("Usage: ") and text.endswith("\n0\n"), text
    assert seconds < 0.4 or min(help_of(command)[1] for _ in range(3)) < 0.4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    main = import_module(command).main
    unexplained = [option.opts[0] for option in main.params if isinstance(option, click.Option) and not option.help]
    assert not unexplained
