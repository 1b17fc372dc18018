"""Publishing: at every moment the earlier folder is whole, or the new one is."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import tree

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def write(target: Path, text: str) -> None:
    with staging.publish(target, overwrite=True) as folder:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "file").write_text(text)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    target = tmp_path / "out" / "data [set] *"
    write(target, "old")
    return target


def content(target: Path) -> str:
    return (target / "a" / "b" / "file").read_text()


def test_a_folder_appears_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out" / "set"
    with staging.publish(target, overwrite=False) as folder:
        (folder / "file").write_text("x")
        assert folder.name.startswith(".") and folder.parent == target.parent
        assert visible(tmp_path / "out") == []
    assert list(tree(target)) == ["file"] and visible(tmp_path / "out") == ["set"]
    assert hidden(tmp_path / "out") == [".set.lock"]


def test_an_exception_leaves_the_earlier_folder_whole(target: Path) -> None:
    with pytest.raises(RuntimeError), staging.publish(target, overwrite=True) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert content(target) == "old" and visible(target.parent) == [target.name]
    assert not [name for name in hidden(target.parent) if "partial" in name or "earlier" in name]


def test_an_existing_folder_is_replaced_only_if_told_so(target: Path) -> None:
    with pytest.raises(DatasetError, match="--overwrite"), staging.publish(target, overwrite=False):
        pytest.fail("must not begin")
    assert content(target) == "old"
    write(target, "new")
    assert content(target) == "new" and visible(target.parent) == [target.name]
    assert not [name for name in hidden(target.parent) if "partial" in name or "earlier" in name]


def test_nothing_of_the_earlier_folder_shines_through(target: Path) -> None:
    (target / "stale").write_text("x")
    write(target, "new")
    assert list(tree(target)) == ["a/b/file"]


def test_what_a_killed_run_left_is_cleared_and_neighbours_are_not(target: Path) -> None:
    leftover = target.with_name(f".{target.name}.partial-12345")
    neighbour = target.with_name(".data s x.partial-1")  # what the name means as a pattern
    for folder in (leftover, neighbour):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text("x")
    write(target, "new")
    assert not leftover.exists() and neighbour.exists()


def test_what_a_killed_run_left_is_gone_on_with_where_that_is_wanted(target: Path) -> None:
    """It stays if this fails, too, until a run does not want it."""
    leftover = target.with_name(f".{target.name}.partial-12345")
    leftover.mkdir()
    (leftover / "half").write_text("x")
    with pytest.raises(RuntimeError), staging.publish(target, True, lambda left: (left / "half").exists()):
        raise RuntimeError
    assert content(target) == "old"
    with staging.publish(target, True, lambda left: (left / "half").exists()) as folder:
        assert folder == leftover
        (folder / "rest").write_text("x")
    assert list(tree(target)) == ["half", "rest"] and not leftover.exists()
    leftover.mkdir()
    write(target, "new")
    assert not leftover.exists()


def test_a_folder_set_aside_by_a_killed_run_comes_back(target: Path) -> None:
    target.rename(target.with_name(f".{target.name}.earlier"))
    with pytest.raises(RuntimeError), staging.publish(target, overwrite=True):
        assert content(target) == "old"
        raise RuntimeError
    assert content(target) == "old"


def test_a_half_deleted_earlier_folder_never_comes_back(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the earlier folder is deleted, and then the user deletes the new one."""

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        write(target, "new")
    assert content(target) == "new"
    shutil.rmtree(target)
    with staging.publish(target, overwrite=False):
        assert not target.exists()


def test_an_interrupt_between_the_two_renames_restores_the_earlier_folder(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, calls = Path.rename, []

    def interrupted(self: Path, other: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(target, "new")
    assert content(target) == "old"


@pytest.fixture
def held(target: Path) -> Iterator[Path]:
    """The target while another process is writing it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with staging.publish(target, overwrite=True):
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(1)
    os.read(reader, 1)
    yield target
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_a_second_run_at_once_is_refused_and_disturbs_nothing(held: Path) -> None:
    partial = [name for name in hidden(held.parent) if "partial" in name]
    with pytest.raises(DatasetError, match="being written by another run") as refused:
        write(held, "new")
    assert "\n" not in str(refused.value) and str(held) in str(refused.value)
    assert content(held) == "old"
    assert [name for name in hidden(held.parent) if "partial" in name] == partial != []


# ---------------------------------------------------------------- images


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "image.png"
    path.parent.mkdir()
    path.write_bytes(b"pixels")
    return path


def places(tmp_path: Path) -> list[Path]:
    (tmp_path / "x").mkdir()
    return [tmp_path / "x" / name for name in ("one", "two", "three")]


def test_links_share_the_file_of_the_source(image: Path, tmp_path: Path) -> None:
    targets = places(tmp_path)
    staging.place_image(image, targets, "link")
    assert {target.stat().st_ino for target in targets} == {image.stat().st_ino}


def test_copies_share_nothing_with_the_source_and_one_file_among_themselves(image: Path, tmp_path: Path) -> None:
    targets = places(tmp_path)
    staging.place_image(image, targets, "copy")
    (inode,) = {target.stat().st_ino for target in targets}
    assert inode != image.stat().st_ino and targets[2].read_bytes() == b"pixels"


def test_symbolic_links_lead_to_the_source(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    targets = places(tmp_path)
    staging.place_image(Path("source/image.png"), targets, "symlink")
    assert {target.resolve() for target in targets} == {image}


def test_a_linked_source_is_linked_through(image: Path, tmp_path: Path) -> None:
    (tmp_path / "alias.png").symlink_to(image)
    (target, *_) = places(tmp_path)
    staging.place_image(tmp_path / "alias.png", [target], "link")
    assert not target.is_symlink() and target.stat().st_ino == image.stat().st_ino


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_across_file_systems_there_is_one_copy(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        source = Path(elsewhere) / "image.png"
        source.write_bytes(b"pixels")
        if source.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        targets = places(tmp_path)
        staging.place_image(source, targets, "link")
        assert len({target.stat().st_ino for target in targets}) == 1
        assert targets[1].read_bytes() == b"pixels"


def test_a_linked_tree_has_the_same_files(target: Path, tmp_path: Path) -> None:
    (target / "link").symlink_to("a")
    staging.link_tree(target, tmp_path / "twin")
    assert tree(tmp_path / "twin") == tree(target)
    assert (tmp_path / "twin/a/b/file").stat().st_ino == (target / "a/b/file").stat().st_ino


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    staging.check_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(DatasetError, match=r"MB are needed and .* MB are free"):
        staging.check_space(tmp_path / "not" / "yet", 10**18)
    assert not (tmp_path / "not").exists()
