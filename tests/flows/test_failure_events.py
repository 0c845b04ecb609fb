"""Tests of the event that describes a failed run. They need no server."""

from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from enginery.core.errors import CommandError, EngineryError, RolloutError, SpecError
from enginery.pipeline.flows.failures import (
    BUILD_FAILED,
    ROLLOUT_FAILED,
    RUN_FAILED,
    event_name,
    failure,
    failure_payload,
    step_failures,
)
from tests.support.plans.small_pipeline import small_spec


def described_failure(error: EngineryError, label: str) -> tuple[str, str, str, str]:
    (found,) = step_failures(failure({label: error}, []))
    return found.step, found.target, found.problem, found.remedy


def test_a_failed_step_is_named_with_its_target_problem_and_remedy() -> None:
    error = CommandError("failed with exit status 3", subject="trtllm-build --flag", remedy="remove the flag")
    parts = described_failure(error, "build h100")
    assert parts == ("build", "h100", "trtllm-build --flag: failed with exit status 3", "remove the flag")


@pytest.mark.parametrize(
    ("label", "step", "target"),
    [
        ("download", "download", ""),
        ("rollout cpu-int4", "rollout", "cpu-int4"),
        ("toolchain onnxruntime-0.18 (venv)", "toolchain", "onnxruntime-0.18"),
    ],
)
def test_steps_are_known_by_their_labels(label: str, step: str, target: str) -> None:
    assert described_failure(EngineryError("it broke"), label)[:2] == (step, target)


def test_each_of_several_failures_is_described() -> None:
    errors = {"build a": EngineryError("one", subject="trtllm-build"), "validate b": EngineryError("two")}
    found = step_failures(failure(errors, ["publish a"]))
    assert [(one.step, one.target, one.problem) for one in found] == [
        ("build", "a", "trtllm-build: one"),
        ("validate", "b", "two"),
    ]


def test_a_mistake_in_a_spec_was_before_any_step() -> None:
    (found,) = step_failures(SpecError(["targets.0: no"], subject="llama"))
    assert (found.step, found.target) == ("", "")
    assert found.problem.startswith("llama: 1 mistake to correct")


def test_a_name_that_only_begins_like_a_step_is_none() -> None:
    (found,) = step_failures(EngineryError("it broke", subject="build-farm: somewhere"))
    assert found.step == ""


def test_what_nobody_foresaw_says_its_kind() -> None:
    (found,) = step_failures(KeyError("x"))
    assert found.problem == "KeyError: 'x'"


def test_the_event_says_whether_a_build_or_a_rollout_failed() -> None:
    rollout = step_failures(failure({"rollout cpu": RolloutError("no")}, []))
    build = step_failures(failure({"build cpu": EngineryError("no")}, []))
    assert event_name("build-model", build) == event_name("build-target", build) == BUILD_FAILED
    assert event_name("build-model", rollout) == event_name("roll-out", build) == ROLLOUT_FAILED
    assert event_name("roll-back", build) == ROLLOUT_FAILED
    assert event_name("watch-releases", build) == RUN_FAILED


@pytest.mark.parametrize("spec", [small_spec("a", name="llama"), {"name": "llama"}])
def test_the_payload_names_the_model_and_says_all_in_one_text(spec: object) -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="llama: a", parameters={"spec": spec})
    error = failure({"build a": EngineryError("it broke", remedy="mend it")}, [])
    payload = failure_payload("build-model", run, error)
    assert payload["model"] == "llama"
    assert payload["text"] == "build-model failed for llama (llama: a)\nbuild a: it broke -> mend it"
