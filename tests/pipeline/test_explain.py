"""Tests of the reason why a step must run: its differences from the nearest step in the store."""

from datetime import UTC, datetime
from typing import Any

from enginery.pipeline.explain import differences, explain_steps
from enginery.pipeline.plan import Plan
from enginery.store.steps import StepRecord
from tests.support.plans.plan import planned, spec_data


def records(plan: Plan) -> dict[str, StepRecord]:
    now = datetime.now(UTC)
    return {
        found.key: StepRecord(
            key=found.key,
            step=found.step,
            label=found.label,
            files=(),
            started=now,
            seconds=1,
            host="here",
            enginery="0",
        )
        for found in plan.steps
    }


def reasons(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    have, plan = records(planned(before)), planned(now)
    done = {found.key: have[found.key] for found in plan.steps if found.key in have}
    return explain_steps(plan, done, have.values())


def test_a_step_that_is_done_needs_no_reason() -> None:
    assert reasons(spec_data(), spec_data()) == {}


def test_an_empty_store_is_a_reason() -> None:
    found = explain_steps(planned(), {}, ())
    assert found["download"] == ("the store has no download step yet",)


def test_a_changed_argument_is_named_with_both_values() -> None:
    data = spec_data()
    data["targets"][1]["build"] = {"int4_block_size": 64}
    found = reasons(spec_data(), data)
    assert any("block_size=64" in reason for reason in found["build/cpu-int4"])


def test_a_step_that_only_follows_names_the_input_that_is_new() -> None:
    data = spec_data()
    data["targets"][1]["build"] = {"int4_block_size": 64}
    found = reasons(spec_data(), data)
    assert any(reason.startswith("inputs.engine: build/cpu-int4 is new") for reason in found["package/cpu-int4"])


def test_the_nearest_step_is_the_one_with_the_fewest_differences() -> None:
    data = spec_data()
    data["targets"][1]["build"] = {"int4_accuracy_level": 1}
    found = reasons(spec_data(), data)
    assert all("build cpu-int4" in reason for reason in found["build/cpu-int4"])


def test_equal_steps_have_no_differences() -> None:
    step = planned().steps[0].step
    assert differences(step, step) == {}
