"""The local services, real ones."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from enginery.dev import services
from enginery.dev.ready import LOOPBACK, answers
from enginery.dev.s3_server import client
from enginery.dev.services import Services, read_state, write_state

pytestmark = pytest.mark.usefixtures("shared_toolchains")


@pytest.fixture
def running() -> Iterator[Services]:
    yield services.up(print)
    services.down(print)


def test_services_start_keep_what_they_hold_and_stop(running: Services) -> None:
    assert answers(running.prefect_ui, "/")
    assert services.up(print) == running
    assert services.status() == running
    s3 = client(running.s3_url)
    s3.put_object(Bucket="enginery", Key="kept/note.txt", Body=b"still here", Metadata={"sha256": "abc"})
    s3.close()
    before = read_state()
    services.down(print)
    assert services.status() is None
    assert not any(entry.alive() for entry in before.services.values())
    again = services.up(print)
    s3 = client(again.s3_url)
    found = s3.get_object(Bucket="enginery", Key="kept/note.txt")
    assert found["Body"].read() == b"still here"
    assert found["Metadata"] == {"sha256": "abc"}
    s3.close()


def test_services_whose_usual_ports_are_taken_keep_their_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as others:
        for name in services.USUAL_PORTS:
            other = others.enter_context(socket.create_server((LOOPBACK, 0)))
            monkeypatch.setitem(services.USUAL_PORTS, name, other.getsockname()[1])
        with services.session(print) as first:
            pass
        with services.session(print) as second:
            assert second == first


def test_what_runs_is_shared_and_a_service_that_was_killed_is_started_again(running: Services) -> None:
    with services.session(print) as inside:
        assert inside == running
    assert services.status() == running  # a session leaves running what ran before
    found = services.environment(running)
    assert found["PREFECT_API_URL"] == running.prefect_api
    assert found["AWS_ENDPOINT_URL"] == running.s3_url
    assert not set(found) & set(os.environ)
    killed = read_state().services["s3"]
    psutil.Process(killed.pid).kill()
    assert services.status() is None
    again = services.up(print)
    assert answers(again.s3_url, "/")
    assert services.status() == again


def test_services_whose_state_was_lost_are_ended_before_others_start(running: Services) -> None:
    lost = read_state().services
    write_state({}, {})
    again = services.up(print)
    assert not any(entry.alive() for entry in lost.values())
    assert services.status() == again


def test_a_session_stops_what_it_started() -> None:
    with services.session(print) as inside:
        assert services.status() == inside
        entries = read_state().services
    assert services.status() is None
    assert not any(entry.alive() for entry in entries.values())
