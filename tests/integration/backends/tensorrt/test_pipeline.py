# ruff: noqa: F811  fixtures are imported
"""Tests of the pipeline from weights to a published TensorRT-LLM engine, with stand-ins for three releases.

The commands are stand-ins, so these tests say nothing about TensorRT-LLM itself.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import CommandError, EngineryError, PlanError, ValidationError
from enginery.core.process.failures import FailureCause
from enginery.core.s3 import Address, Prefix
from enginery.pipeline import run
from enginery.pipeline.plan import Plan, make_plan
from enginery.pipeline.run import Outcome
from enginery.registry import Registry
from enginery.spec.spec import parse_spec
from enginery.store.local import LocalStore
from enginery.store.steps import FileRecord, Stage
from tests.support.plans.light import LIGHT
from tests.support.processes.families import alive_among
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.trtllm import StandIn, make_release

pytestmark = pytest.mark.usefixtures("bucket")

MODEL = Path(__file__).parents[4] / "examples" / "tiny-llama" / "model"
GPU = "H100-SXM5-80GB"
QUESTION = "How do I count to nine in French?"
ANSWER = "Un, deux, trois, quatre, cinq, six, sept, huit, neuf"
BUILD = "trtllm-build"


@dataclass
class Flow:
    """A machine with a release on PATH, a store, and a registry.

    Attributes:
        stand_in: stands in for the release's commands.
        store: has the outputs of the steps.
        converted: a store with checkpoints that all tests share; None if this flow makes its own.
        bucket: the registry's bucket.
        lines: the log of all steps.
    """

    stand_in: StandIn
    store: LocalStore
    converted: LocalStore | None
    bucket: str
    lines: list[str] = field(default_factory=list)

    def plan(self, tensor_parallel: int = 1, **changes: Any) -> Plan:
        """The plan of the example model for this release.

        The converter of 0.8.0 does not read the model's RoPE base, so the plan gives it.
        """
        convert = {"extra_args": ["--rotary_base", "500000.0"]} if self.stand_in.release == "0.8.0" else {}
        target = {
            "name": "h100",
            "gpu": GPU,
            "backend": "tensorrt",
            "release": self.stand_in.release,
            "precision": "bfloat16",
            "toolchain": "host",
            "tensor_parallel": tensor_parallel,
        }
        limits = {"max_batch_size": 4, "max_input_len": 128, "max_seq_len": 192, "gpt_attention_plugin": "bfloat16"}
        build = limits | changes.pop("build", {}) if "targets" not in changes else {}
        validation = {"max_tokens": 32, "prompts": [{"prompt": QUESTION, "contains": "neuf"}], **LIGHT}
        return make_plan(
            parse_spec(
                {
                    "name": "tiny-llama",
                    "source": {"path": str(MODEL)},
                    "targets": [target],
                    "convert": convert,
                    "build": build,
                    "validation": validation | changes.pop("validation", {}),
                    "publish": {"to": f"s3://{self.bucket}/prod", "channel": "candidate"},
                    **changes,
                }
            )
        )

    def run(self, plan: Plan) -> dict[Stage, Outcome]:
        """Run every step, as a flow does."""
        if self.converted is not None:
            self.begin_converted(plan, self.converted)
        return {step.step.stage: run.run_step(step, self.store, self.lines.append) for step in plan.steps}

    def begin_converted(self, plan: Plan, shared: LocalStore) -> None:
        """Take the steps up to the checkpoint from the shared store. They run there if they are missing."""

        def bring(file: FileRecord, part: Path) -> None:
            shutil.copyfile(shared.blobs.path(file), part)

        for step in plan.steps:
            if step.step.stage in {Stage.DOWNLOAD, Stage.CONVERT}:
                run.run_step(step, shared, self.lines.append)
                record = shared.find(step.key)
                assert record is not None
                self.store.receive(record, bring)

    def published(self) -> list[str]:
        """The keys of all objects in the bucket."""
        return [entry.path for entry in Prefix(Address(self.bucket, "")).list()]

    def fails(self, plan: Plan, stage: Stage) -> EngineryError:
        """Run until a step fails. It must be this stage, and nothing of it may be kept or published."""
        with pytest.raises(EngineryError) as caught:
            self.run(plan)
        kept = {step.step.stage for step in plan.steps if self.store.find(step.key)}
        planned = [step.step.stage for step in plan.steps]
        assert kept == set(planned[: planned.index(stage)])
        assert self.published() == []
        assert not list((self.store.root / "work").glob("*"))
        assert caught.value.remedy
        assert not caught.value.transient
        assert any("whole log: " in note for note in caught.value.__notes__)
        return caught.value


@pytest.fixture
def release() -> str:
    return "0.16.0"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    return LocalStore(tmp_path_factory.mktemp("converted") / "store")


@pytest.fixture
def whole_flow(tmp_path: Path, bucket: str, release: str, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A flow that also converts."""
    tokenizer = MODEL / "tokenizer.json"
    stand_in = make_release(tmp_path / "release", release, answers={QUESTION: ANSWER}, tokenizer=tokenizer)
    monkeypatch.setenv("PATH", stand_in.environment()["PATH"])
    monkeypatch.setenv("ENGINERY_TRTLLM_EXAMPLES", str(stand_in.examples))
    return Flow(stand_in, LocalStore(tmp_path / "store"), None, bucket)


@pytest.fixture
def flow(whole_flow: Flow, converted: LocalStore) -> Flow:
    """A flow that starts with a checkpoint from the shared store."""
    return replace(whole_flow, converted=converted)


# Success


@pytest.mark.parametrize(("release", "tensor_parallel"), [("0.8.0", 2), ("1.2.1", 1)])
def test_the_whole_way_ends_in_a_published_build_whatever_the_builder_prints(
    whole_flow: Flow, release: str, tensor_parallel: int
) -> None:
    whole_flow.stand_in.misbehave(BUILD, "noise_on_stderr", lines=2000)
    outcomes = whole_flow.run(whole_flow.plan(tensor_parallel))
    built, validated = outcomes[Stage.BUILD].facts, outcomes[Stage.VALIDATE].facts
    assert built["release"] == release
    engines = built["engines"]
    assert isinstance(engines, Mapping)
    assert list(engines) == [f"rank{rank}.engine" for rank in range(tensor_parallel)]
    assert validated["passed"] is True
    manifest = Registry(f"s3://{whole_flow.bucket}/prod").manifest(
        "tiny-llama", str(outcomes[Stage.PUBLISH].facts["build_id"])
    )
    assert manifest.validation.results[0].got.strip() == ANSWER
    assert manifest.target.release == release
    assert sum("this is noise" in line for line in whole_flow.lines) == 2000
    started = [call.argv[:4] for call in whole_flow.stand_in.calls("mpirun")]
    assert started == ([("-n", "2", "--allow-run-as-root", "--oversubscribe")] if release == "0.8.0" else [])


def test_the_next_build_begins_with_the_timings_of_the_last(flow: Flow) -> None:
    flow.run(flow.plan())
    again = flow.run(flow.plan(build={"max_batch_size": 8}))[Stage.BUILD].facts
    cache = again["timing_cache"]
    assert isinstance(cache, Mapping)
    assert cache["used"] is True
    assert "0 new layers timed" in "\n".join(flow.lines)


def test_the_tutorials_own_script_can_be_asked(flow: Flow) -> None:
    outcomes = flow.run(flow.plan(validation={"run_script": True}))
    assert outcomes[Stage.VALIDATE].facts["passed"] is True
    assert flow.published()
    (call,) = flow.stand_in.calls("run.py")
    assert call.argv[-2:] == ("--input_text", QUESTION)


# The PyTorch backend


def checkpoint_plan(flow: Flow, tensor_parallel: int = 1) -> Plan:
    target = {
        "name": "h100",
        "gpu": GPU,
        "backend": "pytorch",
        "release": flow.stand_in.release,
        "precision": "bfloat16",
        "toolchain": "host",
        "tensor_parallel": tensor_parallel,
    }
    limits = {"max_seq_len": 192} if flow.stand_in.release == "1.2.1" else {}
    return flow.plan(targets=[target], llm=limits)


@pytest.mark.parametrize(("release", "tensor_parallel"), [("0.20.0", 2), ("1.2.1", 1)])
def test_a_checkpoint_is_asked_as_it_will_be_served_and_published(flow: Flow, tensor_parallel: int) -> None:
    outcomes = flow.run(checkpoint_plan(flow, tensor_parallel))
    assert Stage.BUILD not in outcomes
    assert outcomes[Stage.VALIDATE].facts["passed"] is True
    assert flow.published()
    assert not flow.stand_in.calls("mpirun")


@pytest.mark.parametrize("release", ["1.2.1"])
def test_a_checkpoint_with_wrong_answers_is_not_published(flow: Flow) -> None:
    flow.stand_in.answer(QUESTION, "lorem ipsum")
    with pytest.raises(ValidationError):
        flow.run(checkpoint_plan(flow))
    assert flow.published() == []


# Failures


# test_building.py has the details of each failure. These tests check what all failures have in common.
GOES_WRONG: list[tuple[str, str, dict[str, Any], FailureCause, str, str]] = [
    ("0.8.0", "killed", {}, FailureCause.HOST_MEMORY, "killed (SIGKILL)", "or build on one with more"),
    ("0.16.0", "truncated_engine", {}, FailureCause.INCOMPLETE, "rank0.engine empty", "how full the disk is"),
    (
        "1.2.1",
        "unknown_flag",
        {"flags": ["--gpt_attention_plugin"]},
        FailureCause.UNKNOWN_FLAG,
        "has no --gpt_attention_plugin, which release",
        "enginery toolchain check",
    ),
]


@pytest.mark.parametrize(("release", "how", "details", "cause", "problem", "remedy"), GOES_WRONG)
def test_a_build_that_goes_wrong_publishes_nothing_and_says_what_to_do(  # noqa: PLR0913, PLR0917  one row of the table
    flow: Flow, how: str, details: dict[str, Any], cause: FailureCause, problem: str, remedy: str
) -> None:
    flow.stand_in.misbehave(BUILD, how, **details)
    error = flow.fails(flow.plan(), Stage.BUILD)
    assert isinstance(error, CommandError)
    assert error.cause == cause
    assert problem in error.problem
    assert remedy in error.remedy


def test_a_hang_is_ended_at_the_time_limit_with_all_that_was_started(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.TIMEOUT_SECONDS, Stage.BUILD, 5.0)
    flow.stand_in.misbehave(BUILD, "hang")
    error = flow.fails(flow.plan(), Stage.BUILD)
    assert "time limit of 5 s" in error.problem
    assert "where it hangs" in error.remedy
    assert len(flow.stand_in.hanging()) == 2
    assert not alive_among(flow.stand_in.hanging())


def test_after_a_failure_the_same_plan_goes_on_where_it_failed(whole_flow: Flow) -> None:
    plan = whole_flow.plan()
    whole_flow.stand_in.misbehave(BUILD, "gpu_out_of_memory")
    whole_flow.fails(plan, Stage.BUILD)
    whole_flow.stand_in.behave()
    outcomes = whole_flow.run(plan)
    assert not outcomes[Stage.CONVERT].ran
    assert outcomes[Stage.BUILD].ran
    assert whole_flow.published()


def test_an_engine_with_wrong_answers_is_not_published(flow: Flow) -> None:
    flow.stand_in.answer(QUESTION, "lorem ipsum")
    with pytest.raises(ValidationError, match="0 of 1 answers are as expected") as caught:
        flow.run(flow.plan())
    assert "nothing was published" in caught.value.remedy
    assert flow.published() == []


@pytest.mark.parametrize(("release", "tensor_parallel"), [("0.8.0", 2)])
def test_an_engine_that_cannot_be_loaded_publishes_nothing(flow: Flow, tensor_parallel: int) -> None:
    flow.stand_in.misbehave("tensorrt_llm", "gpu_out_of_memory")
    error = flow.fails(flow.plan(tensor_parallel), Stage.VALIDATE)
    assert isinstance(error, CommandError)
    assert error.cause == FailureCause.GPU_MEMORY


def test_ranks_that_do_not_fit_the_engine_publish_nothing(flow: Flow) -> None:
    flow.stand_in.misbehave("tensorrt_llm", "world_size_mismatch")
    flow.fails(flow.plan(), Stage.VALIDATE)


def test_a_release_that_is_only_a_placeholder_is_not_planned_for(flow: Flow) -> None:
    flow.stand_in.misbehave(BUILD, "not_there")
    with pytest.raises(PlanError, match=r"placeholder package.*run this where it is installed"):
        flow.plan()
    assert flow.published() == []
