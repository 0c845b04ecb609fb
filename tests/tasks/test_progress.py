"""A publish reports its progress to Prefect. A failing Prefect server does not stop it."""

import threading
from uuid import uuid4

import pytest

from enginery.pipeline.tasks import progress as module
from enginery.pipeline.tasks.progress import ArtifactProgress
from tests.support.waiting import wait_until


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """The progress that was sent. There is no server."""
    found: list[tuple[float, str]] = []

    def create(progress: float, *, key: str, description: str) -> object:
        assert key == "publish-cpu-tiny-llama"
        found.append((progress, description))
        return uuid4()

    monkeypatch.setattr(module, "create_progress_artifact", create)
    monkeypatch.setattr(module, "update_progress_artifact", lambda _, progress, text: found.append((progress, text)))
    return found


def a_progress(lines: list[str], interval: float = 1000.0) -> ArtifactProgress:
    return ArtifactProgress("publish cpu tiny-llama", lines.append, interval)


def test_the_end_is_reported_even_for_very_short_work(reports: list[tuple[float, str]]) -> None:
    with a_progress([]) as progress:
        progress.begin("publishing", files=2, size=4_000_000)
        wait_until(lambda: len(reports) == 1, seconds=20)
        progress.add(4_000_000)
        progress.end_file()
        progress.end_file()
    assert reports == [
        (0.0, "publishing: 0 B of 4.0 MB, 0 of 2 files"),
        (100.0, "publishing: 4.0 MB of 4.0 MB, 2 of 2 files"),
    ]


def test_a_thousand_pieces_are_not_a_thousand_requests(reports: list[tuple[float, str]]) -> None:
    with a_progress([]) as progress:
        progress.begin("publishing", files=1, size=1000)
        for _ in range(1000):
            progress.add(1)
    assert len(reports) <= 2


def test_progress_is_reported_at_intervals(reports: list[tuple[float, str]]) -> None:
    with a_progress([], interval=0.01) as progress:
        progress.begin("publishing", files=1, size=1000)
        progress.add(500)
        wait_until(lambda: reports[-1:] != [] and reports[-1][0] == 50.0, seconds=20)


def test_nothing_to_send_is_all_sent(reports: list[tuple[float, str]]) -> None:
    with a_progress([]) as progress:
        progress.begin("publishing", files=0, size=0)
    assert reports[-1][0] == 100.0


def test_work_that_begins_no_transfer_makes_no_artifact(reports: list[tuple[float, str]]) -> None:
    with a_progress([]):
        pass
    assert reports == []


def test_a_server_that_refuses_is_reported_once_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(module, "create_progress_artifact", refuse)
    lines: list[str] = []
    with a_progress(lines) as progress:
        progress.begin("publishing", files=1, size=1)
        progress.add(1)
    assert lines == ["Prefect does not show the progress any more: no"]


def test_a_server_that_does_not_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def stall(*_: object, **__: object) -> object:
        answer.wait(60)
        return uuid4()

    monkeypatch.setattr(module, "create_progress_artifact", stall)
    monkeypatch.setattr(module, "update_progress_artifact", lambda *_: None)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.05)
    with a_progress([]) as progress:
        progress.begin("publishing", files=1, size=1)
        progress.add(1)
    assert not answer.is_set()
    answer.set()
    assert progress._thread is not None
    progress._thread.join(20)
    assert not progress._thread.is_alive()


def test_a_failed_publish_is_not_kept_waiting_either(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(module, "create_progress_artifact", lambda *_, **__: answer.wait(60) and uuid4())
    monkeypatch.setattr(module, "update_progress_artifact", lambda *_: None)
    monkeypatch.setattr(module, "LAST_SECONDS", 1000.0)
    progress = a_progress([])

    def fail() -> None:
        with progress:
            progress.begin("publishing", files=1, size=1)
            raise ValueError("disk")

    with pytest.raises(ValueError, match="disk"):
        fail()
    answer.set()
    assert progress._thread is not None
    progress._thread.join(20)
    assert not progress._thread.is_alive()
