"""Runs that are stopped at any moment, and file systems that fail: a dataset is whole, or it is not there."""

import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, refusal, run_cli, run_process, tree, write_category

Arguments = list[object]


def published(out: Path) -> dict[str, dict[str, str]]:
    """What a user sees: {dataset: its tree} of every folder without a leading dot."""
    return {path.name: tree(path) for path in out.iterdir() if not path.name.startswith(".")}


def debris(out: Path) -> list[str]:
    return [path.name for path in out.iterdir() if path.name.startswith(".") and not path.name.endswith(".lock")]


class Conversions:
    """Two conversions that write one dataset: ``old`` is there, ``new`` is to replace it."""

    def __init__(self, folder: Path, base: Path, workers: int) -> None:
        self.out = base / "live" / "out"
        self.name = folder.name
        common = ["all", "--root", folder, "--workers", workers, "--overwrite"]
        self.replace = [*common, "--out", self.out, "--seed", 1]
        self.put_back = [*common, "--out", self.out]
        assert run_cli(*common, "--out", base / "reference" / "out", "--seed", 1).exit_code == 0
        self.new = tree(base / "reference" / "out" / self.name)
        self.restore()
        self.old = tree(self.out / self.name)
        assert self.old != self.new

    def restore(self) -> None:
        assert run_cli(*self.put_back, "--workers", 1).exit_code == 0

    def next_run_succeeds(self) -> None:
        result = run_cli(*self.replace, "--workers", 1)
        assert result.exit_code == 0, result.output
        assert published(self.out) == {self.name: self.new}
        assert debris(self.out) == []


@pytest.fixture
def small(tmp_path: Path) -> Conversions:
    return Conversions(write_category(tmp_path / "data", masks={"crack": 3}, good=(1, 3)), tmp_path, workers=1)


# ---------------------------------------------------------------- stopped at single file operations

EVERY = 7  # an odd number, as operations of one kind come in pairs


def stopped_at(step: int, arguments: Arguments, out: Path, stop: Callable[[], None]) -> int | None:
    """Run a conversion in a child that does ``stop`` at its n-th operation on files below ``out``.

    Counted are all renames, which publish, and every seventh of the other operations. Returns the child's exit code
    (None where it needed fewer operations).
    """
    child = os.fork()
    if child == 0:
        seen, others = itertools.count(), itertools.count()

        def watch(event: str, details: tuple) -> None:
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "open")
            here = changes and any(str(out) in os.fsdecode(d) for d in details if isinstance(d, str | bytes))
            if here and (event == "os.rename" or not next(others) % EVERY) and next(seen) == step:
                stop()

        sys.addaudithook(watch)
        result = run_cli(*arguments)
        os._exit(100 if next(seen) <= step and result.exit_code == 0 else result.exit_code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == 100 else code


def interrupt() -> None:
    raise KeyboardInterrupt


def no_space() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_killed_at_file_operations_a_dataset_is_old_or_new_or_restored(small: Conversions) -> None:
    outcomes = set()
    for step in itertools.count():
        code = stopped_at(step, small.replace, small.out, lambda: os._exit(9))
        if code is None:
            break
        assert code == 9
        found = published(small.out)
        if found == {}:  # between the two renames: the next run, even one that fails, takes it back
            refusal(run_cli(*(a for a in small.replace if a != "--overwrite")))
            assert published(small.out) == {small.name: small.old}
            outcomes.add("aside")
        else:
            assert found in ({small.name: small.old}, {small.name: small.new}), step
            outcomes.add("old" if found[small.name] == small.old else "new")
        small.next_run_succeeds()
        small.restore()
    assert outcomes == {"old", "aside", "new"}
    assert step > 20


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "expected"), [(interrupt, 130), (no_space, 2)])
def test_stopped_at_file_operations_the_dataset_is_whole_at_once(
    small: Conversions, stop: Callable[[], None], expected: int
) -> None:
    for step in itertools.count():
        code = stopped_at(step, small.replace, small.out, stop)
        if code is None:
            break
        found = published(small.out)
        assert found in ({small.name: small.old}, {small.name: small.new}), step
        harmless = expected == 2 and found[small.name] == small.new  # a link that fails becomes a copy
        assert code == expected or (code == 0 and harmless), step
        if found[small.name] == small.new:
            small.restore()
    assert step > 20
    small.next_run_succeeds()


# ---------------------------------------------------------------- stopped at random moments, with workers


@pytest.fixture
def real(few_screws: Path, tmp_path: Path) -> Conversions:
    return Conversions(few_screws, tmp_path, workers=2)


def start(arguments: Arguments, **settings: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "converters", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def moments(arguments: Arguments, count: int, first: float = 0.0) -> Iterator[float]:
    """Seconds after the start, seeded, over the time that one whole run takes, from its share ``first`` on."""
    started = time.perf_counter()
    with start(arguments) as process:
        process.communicate()
        assert process.returncode == 0
    whole = time.perf_counter() - started
    rng = random.Random(0)
    return iter([whole * (first + (1 - first) * (k + rng.random()) / count) for k in range(count)])


@pytest.mark.slow
def test_killed_at_random_moments_a_dataset_is_old_or_new(real: Conversions) -> None:
    killed = 0
    for moment in moments(real.put_back, 6):
        process = start(real.replace)
        time.sleep(moment)
        killed += process.poll() is None
        process.kill()  # the main process only: its workers must end by themselves
        process.communicate()
        found = published(real.out)
        assert found in ({real.name: real.old}, {real.name: real.new}, {})
        if not found:
            assert tree(real.out / f".{real.name}.earlier") == real.old
        real.next_run_succeeds()
        real.restore()
    assert killed >= 3


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["main process", "process group"])
def test_interrupted_at_random_moments_a_dataset_is_old_or_new(real: Conversions, whom: str) -> None:
    interrupted = 0
    for moment in moments(real.put_back, 4, first=0.15):  # before that Python may not have reached our code
        process = start(real.replace, start_new_session=True)
        time.sleep(moment)
        (os.killpg if whom == "process group" else os.kill)(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        found = published(real.out)
        assert found in ({real.name: real.old}, {real.name: real.new})
        if found == {real.name: real.new}:  # it came after the last rename
            real.restore()
        elif process.returncode != -signal.SIGINT or errors:  # else Python was starting or ending, and took no signals
            interrupted += 1
            # a shell says 130 of both; Python dies of the signal if it came in an exec (a dataclass being imported)
            assert process.returncode in (130, -signal.SIGINT), errors
            assert errors == "Interrupted: nothing unfinished was published.\n", moment
            assert debris(real.out) == []
    assert interrupted >= 2


# ---------------------------------------------------------------- file systems that fail


def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data")
    (tmp_path / "out").write_text("a file where a folder should be")
    assert f"{tmp_path}/out" in refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_read_only_target_is_one_line(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data")
    (tmp_path / "out").mkdir(mode=0o500)
    assert f"{tmp_path}/out" in refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_the_earlier_dataset_stays(tmp_path: Path, workers: int) -> None:
    """A limit on the size of files stands in for a full disk: writing fails in the middle of a file."""
    folder = write_category(tmp_path / "data")
    out = tmp_path / "out"
    assert run_cli("to_coco", "--root", folder, "--out", out).exit_code == 0
    before = published(out)
    arguments = ["all", "--root", folder, "--out", out, "--seed", 1, "--overwrite", "--workers", workers]
    done = run_process(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)))
    assert "File too large" in done.stderr.splitlines()[-1]
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert published(out) == before and debris(out) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path: Path, tiny_disk: Path) -> None:
    folder = write_category(tmp_path / "data", size=(300, 300))
    line = refusal(run_cli("all", "--root", folder, "--out", tiny_disk / "out"))
    assert "MB are needed" in line and published(tiny_disk / "out") == {} and debris(tiny_disk / "out") == []


def test_a_disk_that_fills_up_is_one_line(tmp_path: Path, tiny_disk: Path) -> None:
    folder = write_category(tmp_path / "data", masks={"crack": 30})
    line = refusal(run_process("all", "--root", folder, "--out", tiny_disk / "out", "--images", "symlink"))
    assert "No space left on device" in line
    assert published(tiny_disk / "out") == {} and debris(tiny_disk / "out") == []
