"""Tests of the process that a claim, a lease or a rollout names: whose it is, and whether it still runs."""

import os

import psutil
import pytest

from enginery.core import locks as module
from enginery.core.locks import Worker


def test_this_process_runs_on_this_machine_and_is_not_another_worker() -> None:
    assert Worker.this().is_local()
    assert not Worker.this().is_at_work()


def test_another_process_of_this_machine_is_at_work_while_it_runs() -> None:
    parent = psutil.Process(os.getppid())
    other = Worker.this().model_copy(update={"pid": parent.pid, "started": parent.create_time()})
    assert other.is_at_work()
    assert not other.model_copy(update={"started": 1.0}).is_at_work(), "a later process with its number"


def test_a_process_of_a_machine_with_another_name_is_not_on_this_machine() -> None:
    other = Worker.this().model_copy(update={"host": "another-machine"})
    assert not other.is_local()
    assert not other.is_at_work()


def test_a_process_of_a_container_with_this_host_name_is_not_on_this_machine() -> None:
    """Containers on the host's network have the host's name."""
    other = Worker.this().model_copy(update={"where": "pid:[1]"})
    assert not other.is_local()


def test_an_old_record_without_a_machine_is_not_a_process_of_this_machine() -> None:
    written = Worker.this().model_dump_json(exclude={"where"})
    assert not Worker.model_validate_json(written).is_local()


def test_without_other_facts_the_name_of_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pid_namespace", lambda: "")
    assert Worker.this().where == ""
    assert Worker.this().is_local()
