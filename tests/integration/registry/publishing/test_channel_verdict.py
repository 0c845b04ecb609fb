"""A build is compared with the one on its channel when it is published, before anything is sent."""

# ruff: noqa: F811  fixtures that are imported

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from enginery.builds.gates import GateReport, GateResult, Verdict
from enginery.core.errors import ValidationError
from enginery.registry import Registry, publish
from tests.support.registry.builds import Build
from tests.support.registry.gates import a_measure, a_result
from tests.support.s3.fixtures import bucket, server  # noqa: F401

OLD = Build(build_id="cpu-int4-111111111111")
NEW = Build(build_id="cpu-int4-222222222222")


@pytest.fixture
def registry(bucket: str) -> Registry:
    return Registry(f"s3://{bucket}/engines")


def with_kl(build: Build, value: float) -> Build:
    return replace(build, gates=GateReport(results=(a_result("distribution", a_measure("mean_kl", value)),)))


def published(
    registry: Registry, build: Build, directory: Path, channel_gate: Mapping[str, JsonValue] | None = None
) -> GateResult | None:
    """Publish a build; returns the result of its gate `channel`."""
    more: dict[str, JsonValue] = {"channel_gate": dict(channel_gate)} if channel_gate else {}
    directory.mkdir()
    publish(build.context(directory, registry.address, **more))
    report = registry.manifest(build.model, build.build_id).gates
    assert report is not None
    return report.find("channel")


def pointed_at(registry: Registry) -> str:
    pointer = registry.channel("tiny-llama", "candidate", "cpu-int4")
    assert pointer is not None
    return pointer.build_id


def test_the_first_build_has_nothing_to_be_compared_with(registry: Registry, tmp_path: Path) -> None:
    found = published(registry, with_kl(OLD, 0.1), tmp_path / "old", {"mode": "block"})
    assert found is not None
    assert (found.verdict, found.mode) == (Verdict.PASS, "block")
    assert "the channel has no build" in found.reason


def test_a_worse_build_is_published_with_a_warning(registry: Registry, tmp_path: Path) -> None:
    published(registry, with_kl(OLD, 0.1), tmp_path / "old")
    found = published(registry, with_kl(NEW, 0.2), tmp_path / "new")
    assert found is not None
    assert (found.verdict, found.mode) == (Verdict.FAIL, "warn")
    assert "compared with cpu-int4-111111111111: distribution.mean_kl: 0.1 -> 0.2 nats" in found.reason
    assert pointed_at(registry) == NEW.build_id


def test_a_worse_build_is_stopped_before_anything_is_sent_if_the_spec_says_so(
    registry: Registry, tmp_path: Path
) -> None:
    published(registry, with_kl(OLD, 0.1), tmp_path / "old")
    with pytest.raises(ValidationError, match="channel: fail") as caught:
        published(registry, with_kl(NEW, 0.2), tmp_path / "new", {"mode": "block"})
    assert "mean_kl: 0.1 -> 0.2 nats" in str(caught.value)
    assert not list(registry.build_prefix(NEW.model, NEW.build_id).list())
    assert pointed_at(registry) == OLD.build_id


def test_an_accepted_build_says_who_accepted_it(registry: Registry, tmp_path: Path) -> None:
    published(registry, with_kl(OLD, 0.1), tmp_path / "old")
    accept: dict[str, JsonValue] = {"by": "ada", "why": "it is much smaller"}
    found = published(registry, with_kl(NEW, 0.2), tmp_path / "new", {"mode": "block", "accept": accept})
    assert found is not None
    assert found.forced is not None
    assert (found.forced.by, found.forced.why) == ("ada", "it is much smaller")


def test_nothing_is_compared_if_the_gate_is_off(registry: Registry, tmp_path: Path) -> None:
    published(registry, with_kl(OLD, 0.1), tmp_path / "old")
    assert published(registry, with_kl(NEW, 0.2), tmp_path / "new", {"mode": "off"}) is None


def test_a_build_that_is_published_again_and_does_not_move_the_channel_is_not_stopped(
    registry: Registry, tmp_path: Path
) -> None:
    """The channel was moved on to a better build; the unchanged spec runs once more."""
    published(registry, with_kl(OLD, 0.2), tmp_path / "old", {"mode": "block"})
    published(registry, with_kl(NEW, 0.1), tmp_path / "new", {"mode": "block"})
    published(registry, with_kl(OLD, 0.2), tmp_path / "again", {"mode": "block"})
    assert pointed_at(registry) == NEW.build_id


def test_a_channel_whose_build_was_removed_has_nothing_to_compare_with(registry: Registry, tmp_path: Path) -> None:
    published(registry, with_kl(OLD, 0.1), tmp_path / "old")
    registry.build_prefix(OLD.model, OLD.build_id).delete("manifest.json")
    found = published(registry, with_kl(NEW, 0.2), tmp_path / "new", {"mode": "block"})
    assert found is not None
    assert found.verdict is Verdict.PASS
