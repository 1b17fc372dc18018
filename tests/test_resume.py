"""A conversion that was killed at half is gone on with, and ends with the bytes of an unbroken one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, refusal, run_cli, save_mask, tree

from converters.datasets.journal import NAME
from converters.datasets.pipeline import Job

DYING = """
import os, signal, sys
from converters.__main__ import main
from converters.datasets.pipeline import Job

write = Job._write

def write_and_die(self, folder, image, rendered):
    write(self, folder, image, rendered)
    if image.sample.key == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

Job._write = write_and_die
main(sys.argv[2:])
"""
LAST = "test/good/001.png"  # of its files the first are written when the run is killed, or all; they are not noted
REST = [LAST, "test/good/002.png", *(f"test/hole/{i:03d}.png" for i in range(5))]
REST += [f"train/good/{i:03d}.png" for i in range(3)]


def killed(*arguments: object) -> Path:
    """Convert in a process of its own that is killed at ``LAST``, and return the folder that it left."""
    words = [sys.executable, "-c", DYING, LAST, *map(str, arguments)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    (left,) = Path(arguments[arguments.index("--out") + 1]).glob(".widget*.partial-*")
    return left


@pytest.fixture
def converted_keys(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The samples that are converted in this process from now on."""
    keys: list[str] = []
    call = Job.__call__

    def noting(self, plans):
        keys.append(plans[0].sample.key)
        return call(self, plans)

    monkeypatch.setattr(Job, "__call__", noting)
    return keys


@pytest.mark.parametrize(
    "words",
    [
        ("all",),
        ("all", "--tile", 32, "--simplify", 1),
        ("to_coco", "--images", "copy", "--on-error", "skip"),
    ],
)
def test_a_killed_conversion_is_resumed(make_category: Callable[..., Path], tmp_path, converted_keys, words) -> None:
    """Nothing that was noted is done again; the last line, which is cut short, is."""
    folder = make_category()
    if "skip" in words:
        save_mask(folder / "ground_truth/crack/002_mask.png", np.zeros((40, 48)))
    options = [*words, "--root", folder, "--workers", 1]
    left = killed(*options, "--out", tmp_path / "out")
    with (left / NAME).open("a") as file:
        file.write('[{"number": 7, "na')
    resumed = run_cli(*options, "--out", tmp_path / "out", "--resume")
    assert converted_keys == REST, resumed.output
    unbroken = run_cli(*options, "--out", tmp_path / "whole")
    assert resumed.exit_code == unbroken.exit_code == ("skip" in words)
    (one,), (other,) = (list((tmp_path / name).glob("widget*")) for name in ("out", "whole"))
    assert tree(one) == tree(other) and not left.exists()
    assert resumed.stdout.splitlines()[:-1] == unbroken.stdout.splitlines()[:-1]  # the last tells folder and time


def test_another_conversion_is_not_resumed(make_category: Callable[..., Path], tmp_path) -> None:
    options = ["--root", make_category(), "--workers", 1, "--out", tmp_path]
    left = killed("to_yolo", *options)
    for words, differ in (
        (["to_yolo", "--seed", 1], "split"),
        (["to_yolo", "--min-area", 2], "settings"),
        (["to_coco"], "formats"),
    ):
        line = refusal(run_cli(*words, *options, "--resume"))
        assert f"{left}: a run that was killed began it with other {differ}: leave --resume out to begin anew" in line
    assert run_cli("to_coco", *options).exit_code == 0 and not left.exists()


def test_what_a_resumed_run_replaces_and_keeps_is_as_it_was_begun(make_category: Callable[..., Path], tmp_path) -> None:
    """A format of the same split stays, and --overwrite need not be said again."""
    folder = make_category()
    for out, run in (("whole", run_cli), ("out", killed)):
        options = ["--root", folder, "--workers", 1, "--out", tmp_path / out]
        run_cli("to_voc", *options)
        run_cli("to_yolo", *options)
        run("to_yolo", *options, "--overwrite", "--task", "detect")
    assert run_cli("to_yolo", *options, "--resume").exit_code == 0
    assert tree(tmp_path / "out/widget") == tree(tmp_path / "whole/widget")
