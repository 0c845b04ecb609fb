"""Tests of the ports of the local services, with real sockets and a small web server instead of Prefect's."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.dev import services
from enginery.dev.ready import LOOPBACK, free_port
from enginery.dev.services import port_for, read_state, write_state


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Prefect's usual port, which another process uses."""
    with socket.create_server((LOOPBACK, 0)) as other:
        port = int(other.getsockname()[1])
        monkeypatch.setitem(services.USUAL_PORTS, "prefect", port)
        yield port


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that answers requests for its health as Prefect's does."""
    (tmp_path / "web" / "api").mkdir(parents=True)
    (tmp_path / "web" / "api" / "health").write_text("true")
    argv = [sys.executable, "-m", "http.server", "--bind", LOOPBACK, "--directory", str(tmp_path / "web")]
    monkeypatch.setattr("enginery.dev.services.prefect_command", lambda port: [*argv, str(port)])


def started_and_stopped() -> str:
    """Start the service as `up` does, and stop it as `down` does. Returns its address."""
    services.Group(print, detach=True).start_prefect()
    url = read_state().services["prefect"].url
    services.down(print)
    return url


@pytest.mark.usefixtures("web")
def test_a_service_whose_usual_port_is_taken_listens_where_it_did_last_time(taken: int) -> None:
    first = started_and_stopped()
    assert not first.endswith(f":{taken}")
    assert [started_and_stopped() for _ in range(2)] == [first, first]


@pytest.mark.usefixtures("web")
def test_what_an_earlier_start_left_running_does_not_keep_the_port(taken: int) -> None:
    group = services.Group(print, detach=True)
    group.start_prefect()
    left = read_state().services["prefect"]
    write_state({}, read_state().ports)
    assert taken
    assert started_and_stopped() == left.url
    assert not left.alive()
    group.stop()


def test_the_usual_port_is_taken_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = free_port()
    monkeypatch.setitem(services.USUAL_PORTS, "s3", wanted)
    assert port_for("s3") == wanted


def test_the_last_port_goes_before_the_usual_one_and_is_each_services_own(monkeypatch: pytest.MonkeyPatch) -> None:
    last, usual = free_port(), free_port()
    monkeypatch.setitem(services.USUAL_PORTS, "triton", usual)
    monkeypatch.setitem(services.USUAL_PORTS, "s3", usual)
    write_state({}, {"triton": last})
    assert port_for("triton") == last
    assert port_for("s3") == usual


def test_when_the_last_port_is_taken_the_usual_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        write_state({}, {"s3": other.getsockname()[1]})
        usual = free_port()
        monkeypatch.setitem(services.USUAL_PORTS, "s3", usual)
        assert port_for("s3") == usual


def test_when_both_are_taken_any_other_is_used(taken: int) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        write_state({}, {"prefect": other.getsockname()[1]})
        assert port_for("prefect") not in {taken, other.getsockname()[1]}


@pytest.mark.parametrize("ports", ["{", "[1]", '{"s3": "x"}', '{"s3": 0}', '{"s3": 70000}'])
def test_a_damaged_note_counts_as_none(own_home: Path, monkeypatch: pytest.MonkeyPatch, ports: str) -> None:
    usual = free_port()
    monkeypatch.setitem(services.USUAL_PORTS, "s3", usual)
    (own_home / "services").mkdir(parents=True)
    (own_home / "services" / "services.json").write_text(f'{{"ports": {ports}}}')
    assert port_for("s3") == usual
    write_state({}, read_state().ports | {"s3": usual})
    assert read_state().ports == {"s3": usual}
