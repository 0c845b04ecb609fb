"""Tests of the real local services. Prefect's server starts slowly, so one test covers their whole life."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from enginery.core.home import services_dir
from enginery.dev import servers, services
from enginery.dev.ready import LOOPBACK, answers
from enginery.dev.s3_server import ObjectFiles, client
from enginery.dev.services import Services, read_state, write_state

pytestmark = pytest.mark.usefixtures("shared_toolchains")


@pytest.fixture
def _nothing_is_left() -> Iterator[None]:
    yield
    services.down(print)


@pytest.fixture
def _usual_ports_are_taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ExitStack() as others:
        for name in services.USUAL_PORTS:
            other = others.enter_context(socket.create_server((LOOPBACK, 0)))
            monkeypatch.setitem(services.USUAL_PORTS, name, other.getsockname()[1])
        yield


@pytest.mark.usefixtures("_nothing_is_left", "_usual_ports_are_taken")
def test_services_are_shared_keep_their_addresses_and_objects_and_end_with_whoever_started_them() -> None:
    running = services.up(print)
    assert answers(running.prefect_ui, "/")
    assert services.status() == running
    found = services.environment(running)
    assert found["PREFECT_API_URL"] == running.prefect_api
    assert found["AWS_ENDPOINT_URL"] == running.s3_url
    assert not set(found) & set(os.environ)
    those_whose_state_was_lost_are_ended_before_others_start(running)
    a_session_shares_what_runs_and_ends_what_it_starts(running)
    started_again_they_hold_what_they_held(running)
    put(running, "note.txt")
    before = read_state()
    services.down(print)
    assert services.status() is None
    assert not any(entry.alive() for entry in before.services.values())
    saved = ObjectFiles(services_dir() / "s3").index.objects
    assert {"kept/of-a-session.txt", "kept/note.txt"} <= {entry.key for entry in saved}


def those_whose_state_was_lost_are_ended_before_others_start(running: Services) -> None:
    lost, ports = read_state().services, read_state().ports
    write_state({}, ports)
    assert services.up(print) == running
    assert set(lost) == set(servers.TITLES)
    assert not any(entry.alive() for entry in lost.values())
    assert services.status() == running


def a_session_shares_what_runs_and_ends_what_it_starts(running: Services) -> None:
    """S3 was killed, so Triton is started again too."""
    psutil.Process(read_state().services["s3"].pid).kill()
    assert services.status() is None
    before = read_state().services
    with services.session(print) as inside:
        assert inside == running
        assert services.status() == inside
        assert answers(inside.s3_url, "/")
        entries = read_state().services
        assert entries["prefect"] == before["prefect"]
        assert entries["triton"] != before["triton"]
        with services.session(print) as another:
            assert another == inside
        assert services.up(print) == inside
        assert services.status() == inside  # the end of a session does not stop what ran before it
        put(inside, "of-a-session.txt")
    assert services.status() is None
    assert [name for name, entry in entries.items() if entry.alive()] == ["prefect"]
    assert set(read_state().services) == {"prefect"}


def started_again_they_hold_what_they_held(running: Services) -> None:
    assert services.up(print) == running
    s3 = client(running.s3_url)
    found = s3.get_object(Bucket="enginery", Key="kept/of-a-session.txt")
    assert found["Body"].read() == b"still here"
    assert found["Metadata"] == {"sha256": "abc"}
    s3.close()


def put(running: Services, name: str) -> None:
    s3 = client(running.s3_url)
    s3.put_object(Bucket="enginery", Key=f"kept/{name}", Body=b"still here", Metadata={"sha256": "abc"})
    s3.close()
