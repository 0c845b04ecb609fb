# ruff: noqa: F811  fixtures are imported
"""Tests of `enginery plan --store s3://…`: it sees the work of other machines, with few requests and no write."""

from pathlib import Path

import pytest

from enginery.cli.app import main
from enginery.core.s3 import Address
from enginery.pipeline.plan import make_plan
from enginery.spec.read import read_spec
from enginery.store.bucket import BucketStore
from enginery.store.local import LocalStore
from enginery.store.steps import StepRecord
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.s3.fixtures import bucket, proxy, server  # noqa: F401
from tests.support.store.outputs import some_record, write_output

TINY = Path(__file__).parents[3] / "infra" / "models" / "tiny-llama.yaml"


def plan_with(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["enginery", "plan", str(TINY), "--store", store])
    main()


def done_elsewhere(bucket: str, directory: Path) -> StepRecord:
    """Act as another machine that has done the plan's download."""
    step = make_plan(read_spec(TINY)).find("download").step
    root = write_output(directory / "output")
    record = some_record(root).model_copy(update={"step": step, "key": step.key})
    BucketStore(Address(bucket, "steps-of-ours"), LocalStore(directory / "other")).add(record, root)
    return record


def test_a_plan_sees_what_is_done_in_s3_and_writes_nothing(
    bucket: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    record = done_elsewhere(bucket, tmp_path)
    before = len(proxy.requests)
    with pytest.raises(SystemExit) as ended:
        plan_with(f"s3://{bucket}/steps-of-ours", monkeypatch)
    assert ended.value.code == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "done (" in lines["download"]
    assert "to run" in lines["build/cpu-int4"]
    requests = proxy.requests[before:]
    steps = len(make_plan(read_spec(TINY)).steps)
    assert len(requests) == steps + len(record.files)  # records, and files of finished steps
    assert {method for method, _ in requests} <= {"GET", "HEAD"}


def test_a_store_that_is_away_is_named(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.3")
    proxy.fail(Fault("answer", times=100_000))
    with pytest.raises(SystemExit) as ended:
        plan_with(f"s3://{bucket}/steps-of-ours", monkeypatch)
    assert ended.value.code == 4
    assert "cannot answer just now" in capsys.readouterr().err
