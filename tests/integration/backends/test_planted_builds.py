"""Planted faults stop a build before it is published: the real steps of a plan, with everything as it is by default.

A faulty engine takes the place of what the builder made. The reference is made once.
"""

import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from enginery import toolchains
from enginery.core.errors import EngineryError, SourceError
from enginery.core.progress import no_log
from enginery.pipeline.plan import Plan, make_plan
from enginery.pipeline.run import run_with_inputs
from enginery.spec.spec import parse_spec
from enginery.store.blobs import digest_output
from enginery.store.local import LocalStore
from enginery.store.steps import Stage, StepRecord
from enginery.toolchains.identity import Toolchain
from tests.integration.backends.test_planted_faults import DAMAGED, NAMED, compared
from tests.support.faulty.models import Model, write_faulty
from tests.support.paths import EXAMPLES, shared_by_workers

__all__ = ["compared"]

RUNTIME = Path(__file__).parents[2] / "support" / "faulty" / "runtime"
PROMPTS: dict[str, Any] = yaml.safe_load((EXAMPLES / "tiny-llama" / "prompts.yaml").read_text(encoding="utf-8"))
ONLY_WARNS = {"gates": {"speed": "off"}}
"""The measurement of speed takes seconds, and stops no build by default."""
WRONG_WEIGHTS = "this engine does not have the weights of its model"


def a_plan(weights: Path, **validation: Any) -> Plan:
    """A plan with the example's prompts that publishes; nothing of it is ever published here."""
    return make_plan(
        parse_spec(
            {
                "name": "tiny",
                "source": {"path": str(weights)},
                "targets": [{"name": name, "gpu": "cpu", "precision": name} for name in ("float32", "int8", "int4")],
                "validation": PROMPTS | validation,
                "publish": {"to": "s3://never-reached/models"},
            }
        )
    )


@dataclass
class Builds:
    """Builds in a store of this test, which has the reference of the example model.

    Attributes:
        store: has the outputs of the steps.
        lines: the log of all steps.
    """

    store: LocalStore
    lines: list[str] = field(default_factory=list)

    def judge(self, plan: Plan, engine: Path, target: str = "float32") -> None:
        """Take this engine as what the builder has made, and run everything up to the gates."""
        build = plan.find(f"build/{target}")
        with self.store.workspace(build.key) as work:
            output = shutil.copytree(engine, work / "output")
            record = StepRecord(
                key=build.key,
                step=build.step,
                label=build.label,
                files=digest_output(output),
                started=datetime.now(UTC),
                seconds=1.0,
                host=socket.gethostname(),
                enginery="0",
            )
            self.store.add(record, output)
        run_with_inputs(plan.find(f"gates/{target}"), plan, self.store, self.lines.append)

    def stopped(self, plan: Plan, engine: Path, target: str = "float32") -> str:
        """The error that stops the build, as a user sees it."""
        with pytest.raises(EngineryError) as caught:
            self.judge(plan, engine, target)
        assert caught.value.remedy
        assert self.store.find(plan.find(f"publish/{target}").key) is None
        return str(caught.value)


@pytest.fixture
def builds(
    shared_toolchains: Path, tiny_weights: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Builds:
    """Builds that begin with the download and the reference, made once for all workers."""
    assert shared_toolchains.is_dir()
    shared = shared_by_workers(tmp_path_factory) / "planted-builds"
    with FileLock(f"{shared}.lock"):
        plan = a_plan(tiny_weights)
        key = next(step for step in plan.steps if step.step.stage is Stage.REFERENCE)
        run_with_inputs(key, plan, LocalStore(shared), no_log)
    return Builds(LocalStore(shutil.copytree(shared, tmp_path / "store")))


@pytest.fixture
def runtime(toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plants a fault in the runtime that the steps start."""

    def plant(fault: str) -> None:
        planted: Mapping[str, str] = {"PYTHONPATH": str(RUNTIME), "PLANTED_FAULT": fault}
        spoiled = replace(toolchain, environment={**toolchain.environment, **planted})
        monkeypatch.setattr(toolchains, "ensure", lambda *_: spoiled)

    return plant


def test_a_good_engine_is_stopped_by_nothing(builds: Builds, float32_engine: Path, tiny_weights: Path) -> None:
    builds.judge(a_plan(tiny_weights, **ONLY_WARNS), float32_engine)
    assert any(line.startswith("distribution: pass") for line in builds.lines), builds.lines


def test_a_missing_tensor_is_refused_before_any_work(tiny_weights: Path, tmp_path: Path) -> None:
    weights = write_faulty(tiny_weights, tmp_path / "model", "tensor missing")
    with pytest.raises(SourceError, match=r"model\.layers\.0\.mlp\.down_proj\.weight"):
        a_plan(weights)


@pytest.mark.parametrize("fault", NAMED)
def test_an_engine_with_a_fault_in_its_weights_is_stopped_and_the_fault_named(
    builds: Builds, compared: Path, tiny_weights: Path, fault: str
) -> None:
    told = builds.stopped(a_plan(tiny_weights), compared / fault)
    assert WRONG_WEIGHTS in told
    assert all(start in told for start in NAMED[fault]), told


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_int4_engine_is_stopped_and_the_damage_named(
    builds: Builds, compared: Path, tiny_weights: Path, damage: str
) -> None:
    told = builds.stopped(a_plan(tiny_weights), compared / damage, "int4")
    assert WRONG_WEIGHTS in told
    assert all(start in told for start in DAMAGED[damage]), told


@pytest.mark.parametrize(
    ("fault", "named"), [("repeats", "only repeats itself"), ("nothing", "is empty"), ("nan", "NaN or infinite")]
)
def test_a_runtime_that_answers_wrongly_is_stopped_although_the_spec_expects_nothing(  # noqa: PLR0913, PLR0917
    builds: Builds, runtime: Any, float32_engine: Path, tiny_weights: Path, fault: str, named: str
) -> None:
    asked = [{"prompt": prompt["prompt"]} for prompt in PROMPTS["prompts"]]
    plan = a_plan(tiny_weights, prompts=asked, **ONLY_WARNS)
    runtime(fault)
    told = builds.stopped(plan, float32_engine)
    assert "gates stop this build" in told
    assert named in told, told


def test_the_tokenizer_of_another_model_is_stopped(
    builds: Builds, float32_engine: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = write_faulty(tiny_weights, tmp_path / "model", "another tokenizer")
    told = builds.stopped(a_plan(weights, **ONLY_WARNS), float32_engine)
    assert "a tokenizer of another model" in told
    assert "0 of 12 answers are as expected" in told


def chatml(model: Model) -> None:
    """The chat template of a model with other special tokens."""
    model.tokenizer_config["chat_template"] = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant\n"
    )


def test_the_chat_template_of_another_model_is_stopped(
    builds: Builds, float32_engine: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    weights = write_faulty(tiny_weights, tmp_path / "model", chatml)
    told = builds.stopped(a_plan(weights, chat=True, reference={"use": "off"}, **ONLY_WARNS), float32_engine)
    assert "<|im_start|>" in told or "<|im_end|>" in told
    assert "template" in told
