"""Tests of staged downloads: resume, checks, retries and cancellation."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.core.errors import SourceError, StoreError
from enginery.core.progress import SteadyProgress
from enginery.core.retry import Waits
from enginery.core.threads import raise_if_stopped
from enginery.sources import staging
from enginery.sources.model_files import SourceFile
from enginery.sources.staging import downloads_dir, mismatch, patiently, remove_finished, stage
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "WAITS", Waits(first=0.001, longest=0.002, random=0.001))


def described(name: str, content: bytes) -> SourceFile:
    return SourceFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def writer(contents: dict[str, bytes]) -> Callable[[SourceFile, Path, SteadyProgress], None]:
    def fetch(file: SourceFile, part: Path, progress: SteadyProgress) -> None:
        progress.add(part.write_bytes(contents[file.name]))

    return fetch


def passing(problem: str = "away") -> SourceError:
    return SourceError(problem, transient=True)


def test_staged_files_reach_the_output(tmp_path: Path) -> None:
    contents = {f"file-{number}": bytes([number]) * number for number in range(20)}
    files = [described(name, content) for name, content in contents.items()]
    lines: list[str] = []
    stage("c" * 40, files, writer(contents), tmp_path, lines.append)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == contents
    assert lines[0] == "downloading: 20 files, 190 bytes"
    assert "190 B of 190 B (100%)" in lines[-1]


def test_wrong_bytes_are_fetched_once_more_from_the_start(tmp_path: Path) -> None:
    found: list[bool] = []

    def fetch(_file: SourceFile, part: Path, _progress: SteadyProgress) -> None:
        found.append(part.exists())
        part.write_bytes(b"good" if len(found) > 1 else b"evil")

    lines: list[str] = []
    stage("c", [described("file", b"good")], fetch, tmp_path / "out", lines.append)
    assert found == [False, False]
    assert any("file has the wrong SHA-256" in line and "anew" in line for line in lines)
    assert (tmp_path / "out" / "file").read_bytes() == b"good"


def test_bytes_that_stay_wrong_are_refused_and_not_kept(tmp_path: Path) -> None:
    wanted = described("file", b"good")
    with pytest.raises(SourceError, match="wrong SHA-256") as caught:
        stage("c", [wanted], writer({"file": b"evil"}), tmp_path / "out", print)
    assert caught.value.subject == "file"
    assert str(wanted.sha256) in caught.value.problem
    assert hashlib.sha256(b"evil").hexdigest() in caught.value.problem
    assert not caught.value.transient
    assert list((downloads_dir() / "c").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_files_that_arrived_before_are_not_fetched_again(tmp_path: Path) -> None:
    files = [described("first", b"1"), described("second", b"2")]
    calls: list[str] = []

    def fetch(file: SourceFile, part: Path, _progress: SteadyProgress) -> None:
        calls.append(file.name)
        if file.name == "second" and calls.count("second") == 1:
            raise SourceError("refused")
        part.write_bytes(b"1" if file.name == "first" else b"2")

    with pytest.raises(SourceError, match="refused"):
        stage("c", files, fetch, tmp_path / "out", print)
    stage("c", files, fetch, tmp_path / "out", print)
    assert sorted(calls) == ["first", "second", "second"]


def test_a_spoilt_file_in_the_staging_directory_is_fetched_again(tmp_path: Path) -> None:
    (downloads_dir() / "c").mkdir(parents=True)
    (downloads_dir() / "c" / "file").write_bytes(b"evil")
    stage("c", [described("file", b"good")], writer({"file": b"good"}), tmp_path / "out", print)
    assert (tmp_path / "out" / "file").read_bytes() == b"good"


def test_one_failure_cancels_the_other_downloads(tmp_path: Path) -> None:
    calls: list[str] = []
    running = threading.Event()

    def fetch(file: SourceFile, _part: Path, _progress: SteadyProgress) -> None:
        calls.append(file.name)
        if file.name == "bad":
            running.wait()
            raise SourceError("refused")
        running.set()
        wait_until(raise_if_stopped)  # forever, if it is not cancelled

    files = [SourceFile(name=name, size=1) for name in ("good", "bad", *map(str, range(100)))]
    with pytest.raises(SourceError, match="refused"):
        stage("c", files, fetch, tmp_path / "out", print)
    assert len(calls) <= staging.WORKERS + 1


def test_a_handed_over_download_stays_until_the_next_one(tmp_path: Path) -> None:
    file = described("file", b"good")
    stage("first", [file], writer({"file": b"good"}), tmp_path / "1", print)
    assert (downloads_dir() / "first" / "file").exists()
    stage("second", [file], writer({"file": b"good"}), tmp_path / "2", print)
    assert not (downloads_dir() / "first").exists()
    assert remove_finished() == len(b"good")
    assert not (downloads_dir() / "second").exists()
    assert (tmp_path / "2" / "file").read_bytes() == b"good"


def test_an_unfinished_download_is_never_removed(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        stage("unfinished", [described("file", b"good")], _fail_with_a_part, tmp_path / "1", print)
    remove_finished()
    assert (downloads_dir() / "unfinished" / "file.part").read_bytes() == b"go"


def _fail_with_a_part(_file: SourceFile, part: Path, _progress: SteadyProgress) -> None:
    part.write_bytes(b"go")
    raise SourceError("broke off")


def test_two_downloads_of_one_commit_take_turns(tmp_path: Path) -> None:
    inside, overlaps = threading.Lock(), []
    first_is_in, go_on = threading.Event(), threading.Event()

    def fetch(_file: SourceFile, part: Path, _progress: SteadyProgress) -> None:
        overlaps.append(not inside.acquire(blocking=False))
        first_is_in.set()
        go_on.wait()
        part.write_bytes(b"good")
        inside.release()

    lines: list[str] = []
    file = described("file", b"good")
    threads = [
        threading.Thread(target=stage, args=("c", [file], fetch, tmp_path / str(turn), lines.append))
        for turn in range(2)
    ]
    threads[0].start()
    first_is_in.wait()
    threads[1].start()
    wait_until(lambda: any("another process is downloading" in line for line in lines))
    go_on.set()
    for thread in threads:
        thread.join()
    assert overlaps == [False]  # the second download found every file
    assert all((tmp_path / str(turn) / "file").read_bytes() == b"good" for turn in range(2))


def test_a_disk_error_is_reported_as_a_disk_error(tmp_path: Path) -> None:
    def fetch(_file: SourceFile, _part: Path, _progress: SteadyProgress) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="disk is full"):
        stage("c", [described("file", b"good")], fetch, tmp_path, print)


def test_a_place_for_downloads_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="cannot be written"):
        stage("c", [], lambda *_: None, tmp_path, print)


def test_every_kind_of_mismatch_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    blob = "ce013625030ba8dba906f756967f9e9ca394464a"
    assert mismatch(path, SourceFile(name="file", size=6, git_blob=blob)) is None
    assert "expected 7 bytes, got 6" in str(mismatch(path, SourceFile(name="file", size=7, git_blob=blob)))
    assert "expected Git blob 000" in str(mismatch(path, SourceFile(name="file", size=6, git_blob="0" * 40)))
    assert "wrong SHA-256" in str(mismatch(path, SourceFile(name="file", size=6, sha256="0" * 64)))


def test_errors_that_can_pass_are_reported_and_tried_again() -> None:
    failures = [passing("first"), passing("second")]
    lines: list[str] = []

    def call() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert patiently(call, log=lines.append) == "done"
    assert lines == ["first; trying again", "second; trying again"]


def test_what_cannot_pass_is_not_tried_again() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise SourceError("no")

    with pytest.raises(SourceError, match="no"):
        patiently(call)
    assert len(calls) == 1


def test_patience_ends_when_nothing_comes() -> None:
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise passing()

    with pytest.raises(SourceError, match="away"):
        patiently(call)
    assert len(calls) == staging.ATTEMPTS


def test_patience_lasts_as_long_as_something_comes() -> None:
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= 4 * staging.ATTEMPTS:
            raise passing()
        return "done"

    assert patiently(call, reached=lambda: len(calls)) == "done"


def test_a_download_that_goes_on_counts_what_was_there(tmp_path: Path) -> None:
    (downloads_dir() / "c").mkdir(parents=True)
    (downloads_dir() / "c" / "file.part").write_bytes(b"go")

    def fetch(_file: SourceFile, part: Path, progress: SteadyProgress) -> None:
        assert "2 B of 4 B (50%), 0 B/s; under way: file" in progress.summary()
        part.write_bytes(b"good")
        progress.add(2)

    lines: list[str] = []
    stage("c", [described("file", b"good")], fetch, tmp_path / "out", lines.append)
    assert "4 B of 4 B (100%)" in lines[-1]


def test_bytes_that_come_again_are_counted_once(tmp_path: Path) -> None:
    contents = [b"evil", b"good"]

    def fetch(_file: SourceFile, part: Path, progress: SteadyProgress) -> None:
        part.write_bytes(contents.pop(0))
        progress.add(4)

    lines: list[str] = []
    stage("c", [described("file", b"good")], fetch, tmp_path / "out", lines.append)
    assert "4 B of 4 B (100%)" in lines[-1]
