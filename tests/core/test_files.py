"""Tests of the home directory, atomic writes, links, copies and listings."""

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from enginery.core import files, home
from enginery.core.errors import StoreError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path))
    assert home.home() == tmp_path
    parts = [home.store_dir(), home.toolchains_dir(), home.logs_dir(), home.services_dir()]
    assert {part.parent for part in parts} == {tmp_path}
    assert len(set(parts)) == len(parts)
    assert names(tmp_path) == []


def test_home_is_in_the_users_directory_when_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ENGINERY_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.home() == tmp_path / ".enginery"


def test_a_relative_home_does_not_move_with_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENGINERY_HOME", "here")
    assert home.home() == tmp_path / "here"


@pytest.mark.parametrize(("data", "content"), [("grüß", "grüß".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_what_is_written_is_there(tmp_path: Path, data: bytes | str, content: bytes) -> None:
    files.write_atomic(tmp_path / "new" / "file", data)
    assert (tmp_path / "new" / "file").read_bytes() == content
    assert names(tmp_path / "new") == ["file"]


def test_a_written_file_has_the_permissions_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomic(tmp_path / "shared", "x")
        files.write_atomic(tmp_path / "private", "x", mode=0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_a_reader_sees_the_old_file_or_the_new_file_but_never_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {b"a" * 200_000, b"b" * 100_000}
    files.write_atomic(path, b"a" * 200_000)
    done = threading.Event()

    def write() -> None:
        for turn in range(20):
            files.write_atomic(path, sorted(contents)[turn % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= contents
    assert names(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full") as caught:
        files.write_atomic(path, "new")
    assert caught.value.subject == str(path)
    assert "free some space" in caught.value.remedy
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_really_full_disk_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        file.write(b"x")
    assert "disk is full" in str(files.cannot_write(Path("/data/file"), caught.value))


def test_a_directory_in_the_way_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StoreError, match="cannot be written") as caught:
        files.write_atomic(tmp_path / "file", "x")
    assert caught.value.subject == str(tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "file", "x")
    assert names(tmp_path) == []


def test_linking_shares_the_bytes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("weights")
    files.link_or_copy(source, tmp_path / "deep" / "destination")
    assert (tmp_path / "deep" / "destination").samefile(source)


def test_linking_a_symbolic_link_links_the_file_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("weights")
    (tmp_path / "source").symlink_to("blob")
    files.link_or_copy(tmp_path / "source", tmp_path / "destination")
    assert not (tmp_path / "destination").is_symlink()
    assert (tmp_path / "destination").samefile(tmp_path / "blob")


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)


def test_a_file_is_copied_where_links_are_not_possible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("weights")
    source.chmod(0o755)
    refuse_links(monkeypatch)
    files.link_or_copy(source, tmp_path / "destination")
    assert not (tmp_path / "destination").samefile(source)
    assert (tmp_path / "destination").read_text() == "weights"
    assert stat.S_IMODE((tmp_path / "destination").stat().st_mode) == 0o755


@pytest.mark.parametrize("links", [True, False])
def test_an_existing_destination_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, links: bool) -> None:
    (tmp_path / "source").write_text("new")
    (tmp_path / "destination").write_text("old")
    if not links:
        refuse_links(monkeypatch)
    with pytest.raises(FileExistsError):
        files.link_or_copy(tmp_path / "source", tmp_path / "destination")
    assert (tmp_path / "destination").read_text() == "old"


def test_a_missing_source_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.link_or_copy(tmp_path / "missing", tmp_path / "destination")
    assert names(tmp_path) == []


def test_a_failed_copy_leaves_no_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "source").write_text("weights")
    refuse_links(monkeypatch)

    def full(_source: Path, destination: Path) -> None:
        destination.write_text("wei")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StoreError, match="disk is full"):
        files.link_or_copy(tmp_path / "source", tmp_path / "destination")
    assert names(tmp_path) == ["source"]


def test_files_are_listed_relative_and_sorted(tmp_path: Path) -> None:
    for name in ("b", "a/z", "a/b/c", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert files.list_files(tmp_path) == [Path("a/b/c"), Path("a/z"), Path("a.txt"), Path("b")]


def test_a_symbolic_link_is_refused_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(StoreError, match="symbolic link to elsewhere") as caught:
        files.list_files(tmp_path)
    assert caught.value.subject == str(tmp_path / "link")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="neither a file nor a directory"):
        files.list_files(tmp_path)


def test_a_tree_is_removed_and_what_it_links_to_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    files.remove_tree(tmp_path / "tree")
    files.remove_tree(tmp_path / "link")
    files.remove_tree(tmp_path / "missing")
    assert names(tmp_path) == ["kept"]
