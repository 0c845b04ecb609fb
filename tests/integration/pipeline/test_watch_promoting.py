"""Tests of whether a finished build of a new release is promoted."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from enginery.builds.gates import GateReport
from enginery.builds.manifest import Manifest
from enginery.builds.verdicts.evaluation import EvaluationResult
from enginery.pipeline.promotion import Decision, Promotion, WatchReport, promotion_markdown, promotions
from enginery.pipeline.verdict import Kind, Verdict
from enginery.registry import Registry, publish
from enginery.spec.spec import Spec
from tests.support.plans.watched import CPU, watched_spec
from tests.support.registry import builds
from tests.support.registry.builds import Build
from tests.support.registry.gates import a_measure, a_result
from tests.support.s3.fixtures import bucket, server

__all__ = ["bucket", "server"]

OLD, NEW = Build(build_id="cpu-111111111111", target="cpu"), Build(build_id="cpu-222222222222", target="cpu")


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/engines"


def spec_for(
    address: str, *, channel: dict[str, Any] | None = None, gates: dict[str, Any] | None = None, **releases: Any
) -> Spec:
    target = {**CPU, "release": "0.17.1", "validation": {"gates": {"channel": channel or {}, **(gates or {})}}}
    return watched_spec(target, to=address, name="tiny-llama", **releases)


def published(build: Build, address: str, release: str, *, channel: str) -> Manifest:
    """Publish a build of a release and point a channel at it."""
    target = build.parameters(address)["target"]
    assert isinstance(target, dict)
    with TemporaryDirectory() as directory:
        publish(build.context(Path(directory), address, target=target | {"release": release}, channel=channel))
    return Registry(address).manifest(build.model, build.build_id)


def decided(address: str, *, build: Build = NEW, report_only: bool = False, **releases: Any) -> Promotion:
    spec = spec_for(address, **releases)
    verdict = Verdict(
        spec=spec.name, target="cpu", release="0.18.0", kind=Kind.BUILT, build_id=build.build_id, present="0.17.1"
    )
    (found,) = promotions([spec], [verdict], report_only=report_only)
    return found


def pointed_at(address: str, channel: str = "candidate") -> str | None:
    pointer = Registry(address).channel("tiny-llama", channel, "cpu")
    return pointer.build_id if pointer else None


def both(address: str, new: Build = NEW) -> None:
    published(OLD, address, "0.17.1", channel="candidate")
    published(new, address, "0.18.0", channel="rebuild")


def test_a_build_that_is_not_worse_is_promoted_with_its_comparison(address: str) -> None:
    both(address)
    found = decided(address)
    assert found.decision is Decision.PROMOTED
    assert pointed_at(address) == NEW.build_id
    assert found.comparison is not None
    assert (found.comparison.before, found.comparison.after) == (OLD.build_id, NEW.build_id)
    assert all(gate.verdict == "pass" for gate in found.gates)


def test_a_second_watch_changes_nothing(address: str) -> None:
    both(address)
    decided(address)
    moved = Registry(address).channel("tiny-llama", "candidate", "cpu")
    assert decided(address).decision is Decision.ON_CHANNEL
    assert Registry(address).channel("tiny-llama", "candidate", "cpu") == moved


def with_kl(build: Build, value: float, half: float = 0.0, mode: str = "block") -> Build:
    """The build, with a gate that has measured this divergence."""
    measure = a_measure("mean_kl", value, low=value - half, high=value + half)
    return replace(build, gates=GateReport(results=(a_result("distribution", measure, mode=mode),)))


def compared(address: str, before: Build, after: Build, **channel: Any) -> Promotion:
    published(before, address, "0.17.1", channel="candidate")
    published(after, address, "0.18.0", channel="rebuild")
    return decided(address, channel=channel)


def test_a_worse_build_stays_off_the_channel(address: str) -> None:
    found = compared(address, with_kl(OLD, 0.1), with_kl(NEW, 0.2))
    assert found.decision is Decision.WORSE
    assert "channel: fail: compared with cpu-111111111111: distribution.mean_kl: 0.1 -> 0.2 nats" in found.reason
    assert pointed_at(address) == OLD.build_id
    assert [gate.gate for gate in found.gates] == ["distribution", "channel"]


def test_a_build_of_which_nobody_can_tell_stays_off_the_channel(address: str) -> None:
    found = compared(address, with_kl(OLD, 0.1, 0.05), with_kl(NEW, 0.15, 0.05))
    assert found.decision is Decision.INCONCLUSIVE
    assert "its interval is too wide to tell" in found.reason
    assert pointed_at(address) == OLD.build_id
    assert "not promoted: inconclusive" in promotion_markdown(found)


def test_the_tolerance_is_the_specs(address: str) -> None:
    found = compared(address, with_kl(OLD, 0.1), with_kl(NEW, 0.2), farther_percent=200)
    assert found.decision is Decision.PROMOTED


@pytest.mark.parametrize(
    ("channel", "reason"),
    [
        ({"accept": {"by": "ada", "why": "it is much smaller"}}, "accepted by ada: it is much smaller"),
        ({"mode": "warn"}, "channel: fail"),
        ({"mode": "off"}, "not worse than"),
    ],
)
def test_what_the_gate_does_not_stop_is_promoted_and_the_history_says_why(
    address: str, channel: dict[str, Any], reason: str
) -> None:
    found = compared(address, with_kl(OLD, 0.1), with_kl(NEW, 0.2), **channel)
    assert found.decision is Decision.PROMOTED
    assert reason in found.reason
    pointer = Registry(address).channel("tiny-llama", "candidate", "cpu")
    assert pointer is not None
    assert reason[:30] in pointer.last.reason


def evaluated(build: Build, wrong: int, items: int = 1000) -> Build:
    """The build, with an evaluation in which so many of the items are wrong."""
    right = {str(number): float(number >= wrong) for number in range(items)}
    share = 1 - wrong / items
    result = EvaluationResult(
        name="quiz", digest="same", score=share, samples=items, items=right, source="results.json", seconds=1.0
    )
    measure = a_measure("quiz", share, unit="", limit=0.5, at_least=True, low=share - 0.03, high=share + 0.03)
    report = GateReport(results=(a_result("evaluation", measure),))
    return replace(build, gates=report, evaluations=(result,))


QUIZ = {"evaluation": {"run": [{"name": "quiz", "command": ["quiz", "{output}"], "score": "score", "items": "items"}]}}


@pytest.mark.parametrize(
    ("wrong", "decision", "told"),
    [
        (330, Decision.WORSE, "30 became worse and 0 better"),
        (305, Decision.PROMOTED, ""),
        (300, Decision.PROMOTED, ""),
    ],
)
def test_evaluations_are_compared_item_by_item(address: str, wrong: int, decision: Decision, told: str) -> None:
    """The scores alone, 0.70 and 0.67 with intervals of 0.03, would not tell."""
    published(evaluated(OLD, 300), address, "0.17.1", channel="candidate")
    published(evaluated(NEW, wrong), address, "0.18.0", channel="rebuild")
    found = decided(address, gates=QUIZ)
    assert found.decision is decision
    assert told in found.reason


def test_an_evaluation_that_was_altered_is_reported(address: str) -> None:
    published(evaluated(OLD, 300), address, "0.17.1", channel="candidate")
    published(evaluated(NEW, 300), address, "0.18.0", channel="rebuild")
    prefix = Registry(address).build_prefix("tiny-llama", NEW.build_id)
    prefix.put_bytes("evaluations/quiz.json", b"{}")
    found = decided(address, gates=QUIZ)
    assert found.decision is Decision.FAILED
    assert "holds other bytes than the manifest says" in found.reason


def test_a_report_only_tells_what_would_be_done(address: str) -> None:
    both(address)
    assert decided(address, report_only=True).decision is Decision.WOULD_PROMOTE
    assert pointed_at(address) == OLD.build_id


def test_a_channel_without_a_build_takes_the_first(address: str) -> None:
    published(NEW, address, "0.18.0", channel="rebuild")
    found = decided(address)
    assert (found.decision, found.comparison) == (Decision.PROMOTED, None)
    assert pointed_at(address) == NEW.build_id


def test_a_build_that_somebody_took_off_the_channel_is_not_put_back(address: str) -> None:
    both(address)
    decided(address)
    Registry(address).promote(f"tiny-llama/{OLD.build_id}", "candidate")
    found = decided(address)
    assert found.decision is Decision.LEFT_ALONE
    assert "somebody moved candidate from it" in found.reason
    assert pointed_at(address) == OLD.build_id


def test_a_newer_release_on_the_channel_is_left_there(address: str) -> None:
    newer = replace(OLD, build_id="cpu-333333333333")
    published(newer, address, "0.19.0", channel="candidate")
    published(NEW, address, "0.18.0", channel="rebuild")
    found = decided(address)
    assert found.decision is Decision.LEFT_ALONE
    assert "0.19.0, which is newer" in found.reason
    assert pointed_at(address) == newer.build_id


def test_releases_are_compared_as_numbers(address: str) -> None:
    published(OLD, address, "0.9.0", channel="candidate")
    published(NEW, address, "0.18.0", channel="rebuild")
    assert decided(address).decision is Decision.PROMOTED


def test_another_channel_can_be_promoted_to(address: str) -> None:
    both(address)
    assert decided(address, promote_to="stable").decision is Decision.PROMOTED
    assert pointed_at(address, "stable") == NEW.build_id
    assert pointed_at(address) == OLD.build_id


def test_without_a_channel_to_promote_to_nothing_is_looked_at(address: str) -> None:
    both(address)
    spec = spec_for(address, promote_to=None)
    verdict = Verdict(spec=spec.name, target="cpu", release="0.18.0", kind=Kind.BUILT, build_id=NEW.build_id)
    assert not promotions([spec], [verdict])


def test_only_finished_builds_are_looked_at(address: str) -> None:
    spec = spec_for(address)
    verdict = Verdict(spec=spec.name, target="cpu", release="0.18.0", kind=Kind.REBUILD, build_id=NEW.build_id)
    assert not promotions([spec], [verdict])


def test_a_registry_that_holds_garbage_is_reported_and_stops_no_other(address: str) -> None:
    both(address)
    Registry(address).prefix.put_bytes("models/tiny-llama/channels/candidate/cpu.json", b"garbage")
    found = decided(address)
    assert found.decision is Decision.FAILED
    assert "is not a channel pointer" in found.reason
    assert WatchReport(verdicts=(), promotions=(found,)).troubles


def test_the_page_of_a_promotion_has_gates_figures_answers_and_changes(address: str) -> None:
    published(OLD, address, "0.17.1", channel="candidate")
    published(replace(NEW, answers={builds.QUESTION: "neuf | dix"}), address, "0.18.0", channel="rebuild")
    page = promotion_markdown(decided(address))
    assert page.startswith("# tiny-llama/cpu-222222222222: promoted")
    assert "| channel | pass | block | no right answer became wrong; size: " in page
    assert "| release | 0.17.1 | 0.18.0 |" in page
    assert "0 of 1 answers are the same" in page
    assert "neuf \\| dix" in page
