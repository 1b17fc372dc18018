"""Publishing a folder in one step, and placing images in it without copying where the file system allows.

A folder is built beside its target, under a name that no reader takes for a dataset. When it is whole, the
earlier target (if any) is renamed aside, the new one takes its name, and the earlier one is deleted. A crash
at any point leaves either the earlier target or the new one; what lies around is cleared by the next start, or gone
on with.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from converters.cli.errors import DatasetError

MARKER = ".published"  # only folders that hold it are ever replaced


@contextmanager
def publish(target: Path, overwrite: bool, resumes: Callable[[Path], bool] = lambda left: False) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` if the block ends without an exception.

    ``resumes`` says of a folder that a killed run left whether to go on with it: then this one is yielded, and stays
    for a next attempt if the block raises.

    Raises DatasetError if the target exists and ``overwrite`` is false, if it holds anything that was not
    published from here (whatever ``overwrite`` says), or if another run is writing it.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(_beside(target, "lock"), timeout=0):
            begun = next(filter(resumes, _leftovers(target)), None)
            repair(target, begun)
            _check_target(target, overwrite)
            partial = begun or _beside(target, f"partial-{os.getpid()}")
            partial.mkdir(exist_ok=partial == begun)
            (partial / MARKER).write_text("Published by mvtec-finetune; --overwrite replaces this folder.\n", "utf-8")
            try:
                yield partial
                _swap(partial, target)
            finally:
                repair(target, begun)
    except Timeout:
        raise DatasetError(f"{target} is being written by another run: wait for it, or write elsewhere") from None


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / MARKER).is_file():
        raise DatasetError(
            f"{target} holds what was not written by this program, which leaves it alone: write elsewhere"
        )
    if not overwrite:
        raise DatasetError(f"{target} exists: add --overwrite to replace it, or write elsewhere")


def recover(target: Path) -> None:
    """For readers: bring ``target`` back if a run was killed just between moving it aside and replacing it."""
    target = target.absolute()
    if not target.exists() and _beside(target, "earlier").exists():
        with FileLock(_beside(target, "lock")):
            repair(target)


def repair(target: Path, keep: Path | None = None) -> None:
    """Undo what a killed run left behind, but for ``keep``. The caller holds the lock of ``target``."""
    for leftover in _leftovers(target):
        if leftover != keep:
            _remove(leftover)
    earlier = _beside(target, "earlier")
    if earlier.exists() and target.exists():
        # It is renamed before it is deleted: a half-deleted folder must never be taken back.
        _remove(earlier.rename(_beside(target, "partial-earlier")))
    elif earlier.exists():
        earlier.rename(target)


def _leftovers(target: Path) -> list[Path]:
    return sorted(target.parent.glob(f".{_escape(target.name)}.partial-*"))


def _swap(partial: Path, target: Path) -> None:
    if target.exists():
        target.rename(_beside(target, "earlier"))
    partial.rename(target)


def _beside(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.{role}")


def _escape(name: str) -> str:
    """Make a file name literal inside a glob pattern."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def place_image(source: Path, targets: Sequence[Path], mode: str) -> None:
    """Put one image under every target path without decoding it.

    ``mode`` is ``link`` (hard links; across file systems one copy, and hard links to that), ``copy``
    (the same with a copy to begin with, so that the source shares nothing) or ``symlink``.
    """
    if mode == "symlink":
        for target in targets:
            target.symlink_to(source.absolute())
        return
    first, *others = targets
    if mode == "copy":
        shutil.copyfile(source, first)
    else:
        _link_or_copy(source, first)
    for target in others:
        _link_or_copy(first, target)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if isinstance(error, FileExistsError | FileNotFoundError):
            raise
        shutil.copyfile(source, target)  # another file system, or one without hard links


def link_tree(source: Path, target: Path) -> None:
    """Make ``target`` a copy of the folder ``source`` whose files are hard links where possible."""
    shutil.copytree(source, target, symlinks=True, copy_function=lambda a, b: _link_or_copy(Path(a), Path(b)))


def check_space(folder: Path, needed: int) -> None:
    """Raise DatasetError if the file system of ``folder`` has fewer than ``needed`` bytes free."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DatasetError(
            f"{folder}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free: "
            "free some space or choose another --out"
        )
