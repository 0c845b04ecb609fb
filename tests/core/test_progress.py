"""Tests of the progress of a transfer: in a log, in a terminal, and for other receivers."""

from io import StringIO

import pytest
from rich.console import Console

from enginery.cli.output import shown_progress
from enginery.core import progress as core_progress
from enginery.core.progress import LogProgress, NoProgress, Progress, ProgressGroup, SteadyProgress
from tests.support.waiting import wait_until


def terminal() -> tuple[Console, StringIO]:
    output = StringIO()
    return Console(file=output, force_terminal=True, width=160, color_system=None), output


def transfer(progress: Progress) -> None:
    progress.begin("publishing tiny-llama", files=2, size=3_000_000)
    for size in (1_000_000, 2_000_000):
        progress.add(size)
        progress.end_file()


def test_a_terminal_shows_what_bytes_files_and_speed() -> None:
    console, output = terminal()
    with shown_progress(lambda _: None, console) as progress:
        transfer(progress)
    shown = output.getvalue()
    for part in ("publishing tiny-llama", "3.0/3.0 MB", "2/2 files", "B/s", "0:00:00"):
        assert part in shown


def test_bytes_that_come_again_are_not_counted_twice() -> None:
    console, output = terminal()
    with shown_progress(lambda _: None, console) as progress:
        progress.begin("x", files=1, size=2_000_000)
        progress.add(1_000_000)
        progress.add(-1_000_000)
        progress.add(1_000_000)
    assert "1.0/2.0 MB" in output.getvalue()


def test_without_a_terminal_lines_are_logged() -> None:
    lines: list[str] = []
    with shown_progress(lines.append, Console(file=StringIO())) as progress:
        transfer(progress)
    assert lines[0] == "publishing tiny-llama: 2 files, 3,000,000 bytes"
    assert lines[-1].endswith("(100%)")


def test_several_receivers_get_the_same_progress() -> None:
    one: list[str] = []
    other: list[str] = []
    transfer(ProgressGroup(LogProgress(one.append), NoProgress(), LogProgress(other.append)))
    assert one == other
    assert len(one) == 3


def test_an_empty_transfer_is_no_division_by_nothing() -> None:
    console, _ = terminal()
    with shown_progress(lambda _: None, console) as progress:
        progress.begin("x", files=0, size=0)
        progress.add(0)


def test_lines_come_every_few_seconds_also_while_nothing_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_progress, "INTERVAL_SECONDS", 0.01)
    lines: list[str] = []
    progress = SteadyProgress(lines.append)
    progress.begin("downloading", files=1, size=1000)
    progress.add(350)
    progress.active.add("weights")
    with progress:
        wait_until(lambda: lines.count("350 B of 1.0 kB (35%), 0 B/s; under way: weights") > 1)


def test_the_speed_counts_only_what_came_now() -> None:
    progress = SteadyProgress(print)
    progress.begin("downloading", files=1, size=1000)
    progress.add(600)
    with progress:
        assert progress.summary() == "600 B of 1.0 kB (60%), 0 B/s"
        progress.add(400)
        assert "1.0 kB of 1.0 kB (100%), 0 B/s" not in progress.summary()
