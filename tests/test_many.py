"""Many categories: processes over datasets, resuming, the log, and what an interruption leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, refusal, run_cli, run_process, save_mask, tree

from converters.cli.workers import in_processes
from converters.datasets.conversion import convert
from converters.datasets.pipeline import Conversion
from converters.formats.png_masks import MasksWriter

MakeCategory = Callable[..., Path]


@pytest.fixture
def several(make_category: MakeCategory, tmp_path: Path) -> Path:
    """A root of four categories, the second of them the largest."""
    for name, count in (("bolt", 3), ("nut", 7), ("pin", 4), ("ring", 3)):
        make_category(name=name, masks={"crack": count, "hole": count})
    return tmp_path / "data"


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def broken(root: Path, name: str) -> Path:
    """Make one mask of a category empty, and return its path."""
    mask = root / name / "ground_truth" / "hole" / "001_mask.png"
    save_mask(mask, np.zeros((40, 48)))
    return mask


def test_one_and_two_workers_write_the_same_datasets_and_say_the_same(several: Path, tmp_path: Path) -> None:
    said, log = [], tmp_path / "log.jsonl"
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        done = run_process(
            "all", "--root", several, "--category", "all", "--out", out, "--workers", workers, "--log-json", log
        )
        assert done.returncode == 0, done.stderr
        said.append([line for line in done.stdout.replace(out.name, "out").splitlines() if "wrote" not in line])
    assert said[0] == said[1]
    one, two = tree(tmp_path / "out1"), tree(tmp_path / "out2")
    assert one == two and len(one) > 100
    assert [line["dataset"] for line in lines(log)] == ["nut", "pin", "bolt", "ring"] * 2


def test_resume_keeps_what_is_written_and_writes_the_rest(several: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "logs" / "log.jsonl"
    arguments = ["all", "--root", several, "--category", "all", "--out", out, "--workers", 2, "--log-json", log]
    mask = broken(several, "pin")
    whole = mask.with_name("000_mask.png").read_bytes()
    assert str(mask) in refusal(run_process(*arguments))
    assert (out / "nut").is_dir() and not (out / "pin").exists()
    mask.write_bytes(whole)
    stamp = (out / "nut" / "card.json").stat().st_mtime_ns
    assert "--overwrite" in refusal(run_process(*arguments))
    done = run_process(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout and (out / "nut" / "card.json").stat().st_mtime_ns == stamp
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {"bolt", "nut", "pin", "ring"}
    logged = lines(log)
    assert [line["status"] for line in logged if line["dataset"] == "nut"] == ["written", "failed", "kept"]
    assert [line["status"] for line in logged if line["dataset"] == "pin"] == ["failed", "written"]
    assert "mask is empty" in str(next(line for line in logged if line["status"] == "failed")["error"])
    again = run_process(*arguments, "--resume", "--json")
    assert [len(shown["counts"]) for shown in json.loads(again.stdout)] == [9] * 4


def test_resume_notices_what_has_changed(several: Path, tmp_path: Path) -> None:
    arguments = ["to_yolo", "--root", several, "--category", "nut", "--out", tmp_path / "out", "--resume"]
    assert run_cli(*arguments).exit_code == 0
    assert "kept" in run_cli(*arguments).stdout
    assert "--overwrite" in refusal(run_cli(*arguments, "--classes", "single"))
    save_mask(several / "nut" / "ground_truth" / "hole" / "001_mask.png", np.ones((40, 48)))
    assert "--overwrite" in refusal(run_cli(*arguments))
    assert run_cli(*arguments, "--overwrite").exit_code == 2


def test_resume_of_a_run_that_skipped_files_says_so_again(several: Path, tmp_path: Path) -> None:
    broken(several, "nut")
    arguments = ["to_yolo", "--root", several, "--category", "nut", "--out", tmp_path / "out", "--on-error", "skip"]
    first = run_cli(*arguments)
    second = run_cli(*arguments, "--resume")
    assert first.exit_code == second.exit_code == 1
    assert [line for line in first.stdout.splitlines() if "left out" in line] == [
        line for line in second.stdout.splitlines() if "left out" in line
    ]


def test_the_log_counts_images_instances_and_what_was_left_out(several: Path, tmp_path: Path) -> None:
    broken(several, "nut")
    log = tmp_path / "log.jsonl"
    arguments = ["to_yolo", "--root", several, "--category", "nut", "--log-json", log, "--on-error", "skip"]
    run_cli(*arguments, "--out", tmp_path / "out")
    run_cli(*arguments, "--out", tmp_path / "dry", "--dry-run")
    first, second = lines(log)
    assert (first["status"], second["status"]) == ("written", "dry-run")
    assert (first["images"], first["instances"], first["left_out"]) == (19, 26, 1) and first["schema"] == 1


def test_a_failure_ends_the_other_workers_and_leaves_no_half_dataset(several: Path, tmp_path: Path) -> None:
    broken(several, "nut")  # the largest, which comes first
    out = tmp_path / "out"
    refusal(run_process("all", "--root", several, "--category", "all", "--out", out, "--workers", 2))
    assert not [path.name for path in out.iterdir() if "partial" in path.name or "earlier" in path.name]
    for path in out.iterdir():
        assert path.name.endswith(".lock") or (path / "split.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_over_all_is_resumed(several: Path, tmp_path: Path, number: signal.Signals) -> None:
    """At four moments of a run: whole datasets only, no worker left, and --resume finishes the rest."""
    everything = tmp_path / "whole"
    base = ["all", "--root", several, "--category", "all", "--workers", 2]
    started = time.monotonic()
    assert run_process(*base, "--out", everything).returncode == 0
    length = time.monotonic() - started
    for moment in range(4):
        out = tmp_path / f"out{moment}"
        process = subprocess.Popen(
            [sys.executable, "-m", "converters", *map(str, base), "--out", out],
            cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        wait = length * (moment + 1) / 5
        time.sleep(max(wait, 0.3) if number == signal.SIGINT else wait)  # before that Python has not reached our code
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
        ending = process.returncode == -signal.SIGINT and not error  # Python itself was, and took no signals any more
        if number == signal.SIGINT and process.returncode and not ending:
            assert process.returncode in (130, -signal.SIGINT), error  # see test_faults
            assert error == "Interrupted: nothing unfinished was published.\n"
        wait_for_group(process.pid)
        if number == signal.SIGINT and out.exists():
            assert not list(out.glob(".*partial*"))
        done = run_process(*base, "--out", out, "--resume")
        assert done.returncode == 0, done.stderr
        assert {k: v for k, v in tree(out).items() if "lock" not in k} == {
            k: v for k, v in tree(everything).items() if "lock" not in k
        }


def wait_for_group(group: int) -> None:
    """Workers end with their main process, within a moment."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a worker outlived its main process")


def test_results_come_in_order_and_closing_early_ends_the_workers(tmp_path: Path) -> None:
    results = in_processes(abs, list(range(-100, 0)), 2)
    assert [next(results) for _ in range(5)] == [100, 99, 98, 97, 96]
    results.close()
    assert list(in_processes(abs, [-1, -2], 2)) == [1, 2]


def test_a_library_call_yields_one_summary_a_dataset(several: Path, tmp_path: Path) -> None:
    conversion = Conversion(root=several, category="all", out=tmp_path / "out", workers=2)
    assert [summary.dataset for summary in convert(conversion, [MasksWriter])] == ["nut", "pin", "bolt", "ring"]
