# ruff: noqa: F811  fixtures are imported
"""Tests of what is looked for before any work begins: buckets, rights and conditional writes."""

from pathlib import Path

import pytest
import yaml

from enginery.cli.app import main
from enginery.core import s3
from enginery.core.errors import EngineryError, PlanError, RegistryError, StoreError
from enginery.pipeline.plan import Plan
from enginery.pipeline.prepared import require_prepared, with_inputs
from enginery.registry.iam import policy
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.plans.plan import planned, spec_data
from tests.support.s3.fixtures import bucket, proxy, server  # noqa: F401
from tests.support.s3.iam import a_user, enforced
from tests.support.s3.server import S3Server

TINY = Path(__file__).parents[3] / "infra" / "models" / "tiny-llama.yaml"


def a_plan(bucket: str, *, serving: str = "", **publish: object) -> Plan:
    """A plan that publishes to the bucket, and rolls out to `serving`."""
    place = serving or f"s3://{bucket}/serving"
    rollout = {"endpoints": ["http://127.0.0.1:9"], "target": "cpu-int4", "model_repository": place}
    return planned(spec_data(publish={"to": f"s3://{bucket}/prod", **publish}, rollout=rollout))


def test_all_places_are_tried_and_nothing_stays_there(bucket: str, server: S3Server) -> None:
    require_prepared(a_plan(bucket).steps, f"s3://{bucket}/steps")
    assert server.keys(bucket) == []


def test_without_steps_nothing_is_tried(proxy: Proxy, bucket: str) -> None:
    require_prepared([], f"s3://{bucket}/steps")
    assert proxy.requests == []


def test_everything_that_is_missing_is_said_at_once(bucket: str) -> None:
    with pytest.raises(PlanError) as caught:
        require_prepared(a_plan("no-registry", serving="s3://no-serving/x").steps, "s3://no-store/x")
    text = str(caught.value)
    for name in ("no-store", "no-registry", "no-serving"):
        assert f"bucket {name} does not exist" in text


@pytest.mark.usefixtures("bucket")
def test_a_server_that_cannot_be_reached_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    with pytest.raises(StoreError, match="cannot be reached"):
        require_prepared(a_plan("any-bucket").steps, "s3://any-bucket/steps")


@pytest.mark.parametrize("missing", ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"])
def test_a_missing_right_is_found(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    everything = {"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"}
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Action": sorted(everything - {missing}), "Resource": resources}
    keys = a_user(server, {"Version": "2012-10-17", "Statement": [statement]})
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    with enforced(server), pytest.raises(EngineryError, match="not allowed"):
        require_prepared(a_plan(bucket).steps)


def test_the_publishers_policy_is_enough(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in a_user(server, policy("publisher", f"s3://{bucket}/prod")).items():
        monkeypatch.setenv(name, value)
    published = [step for step in a_plan(bucket).steps if step.step.stage == "publish"]
    with enforced(server):
        require_prepared(published)


def test_ignored_conditions_are_found_unless_the_spec_accepts_them(bucket: str, proxy: Proxy) -> None:
    proxy.drops |= {"if-match", "if-none-match"}
    with pytest.raises(RegistryError, match="ignores If-None-Match"):
        require_prepared(a_plan(bucket).steps)
    require_prepared(a_plan(bucket, allow_unconditional_writes=True).steps)


def test_conditions_that_the_server_does_not_know_are_found_even_if_the_spec_accepts_ignored_ones(
    bucket: str, proxy: Proxy
) -> None:
    body = b"<Error><Code>NotImplemented</Code><Message>If-None-Match is not implemented</Message></Error>"
    proxy.fail(Fault("answer", status=501, body=body, times=9, matches=lambda method, _: method == "PUT"))
    with pytest.raises(EngineryError, match="If-None-Match is not implemented"):
        require_prepared(a_plan(bucket, allow_unconditional_writes=True).steps)


def test_rights_are_tried_at_each_address(bucket: str, proxy: Proxy) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", status=403, body=body, times=9, matches=lambda _, path: "/prod/.probe" in path))
    assert s3.honours_conditional_writes(s3.Prefix(s3.Address(bucket, "other")))
    with pytest.raises(RegistryError, match="not allowed"):
        require_prepared(a_plan(bucket).steps)


def test_bytes_that_come_back_otherwise_are_found(bucket: str, proxy: Proxy) -> None:
    proxy.fail(
        Fault(
            "answer",
            status=200,
            body=b"old",
            times=9,
            matches=lambda method, path: ".probe" in path and method == "GET",
        )
    )
    with pytest.raises(EngineryError):
        require_prepared(a_plan(bucket).steps)


def test_a_step_is_listed_with_all_that_it_needs() -> None:
    plan = a_plan("engines")
    rollout = next(step for step in plan.steps if step.step.stage == "rollout")
    ids = [step.id for step in with_inputs(rollout, plan)]
    assert ids[0] == "download"
    assert ids[-1] == rollout.id
    assert not [name for name in ids if name.endswith("cpu-fp32")]


def test_plan_check_says_what_is_wrong_and_plan_alone_asks_nobody(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = yaml.safe_load(TINY.read_text())
    spec["source"]["path"] = str((TINY.parent / spec["source"]["path"]).resolve())
    spec["publish"] = {"to": f"s3://{bucket}/prod"}
    file = tmp_path / "spec.yaml"

    def run(*options: str) -> int:
        file.write_text(yaml.safe_dump(spec))
        monkeypatch.setattr("sys.argv", ["enginery", "plan", str(file), *options])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run() == 0
    assert proxy.requests == []
    assert run("--check") == 0
    assert "can be used" in capsys.readouterr().err
    spec["publish"] = {"to": "s3://no-such-bucket/prod"}
    assert run("--check") != 0
    assert "bucket no-such-bucket does not exist" in capsys.readouterr().err
