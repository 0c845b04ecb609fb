"""Tests of the conversion, with a stand-in for the releases' scripts: only complete, correct checkpoints are kept."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from enginery import toolchains
from enginery.backends import Request
from enginery.backends.checkpoints.configuration import CheckpointError
from enginery.backends.tensorrt.backend import TensorRT
from enginery.backends.tensorrt.convert import with_real_script
from enginery.core.errors import CommandError, SourceError, UsageError
from enginery.pipeline.plan import PlannedStep
from enginery.pipeline.run import run_step
from enginery.store.local import LocalStore
from enginery.store.steps import Call, Command, Stage, Step, StepRecord
from enginery.toolchains.identity import Toolchain
from enginery.toolchains.venv import Venv
from tests.support.paths import TINY_LLAMA
from tests.support.plans.tensorrt import findings, request_of
from tests.support.store.outputs import some_record
from tests.support.trtllm import StandIn, make_release

TOLD_BASE = {"extra_args": ["--rotary_base", "500000.0"]}


@dataclass
class Site:
    """A release's scripts, a store with the example model's weights, and the log of the last step."""

    stand_in: StandIn
    store: LocalStore
    weights: str
    lines: list[str] = field(default_factory=list)

    def request(self, **target: Any) -> Request:
        config = json.loads((TINY_LLAMA / "config.json").read_text())
        convert = {"examples": str(self.stand_in.examples), **target.pop("convert", {})}
        build = {"gpt_attention_plugin": "auto"}
        options = {"release": self.stand_in.release, "toolchain": "venv", "convert": convert, **target}
        return request_of(config, spec={"build": build}, **options)

    def planned(self, **target: Any) -> PlannedStep:
        request = self.request(**target)
        found = findings(request)
        assert not found, found
        made = TensorRT().chain(request, self.weights).making[0]
        return PlannedStep(
            id="convert/one",
            key=made.step.key,
            step=made.step,
            targets=("one",),
            toolchain=made.toolchain,
            places=dict(made.places),
        )

    def convert(self, **target: Any) -> StepRecord:
        self.lines.clear()
        outcome = run_step(self.planned(**target), self.store, self.lines.append)
        record = self.store.find(outcome.key)
        assert record is not None
        return record

    def refuses(self, error: type[Exception], says: str, **target: Any) -> Any:
        """Check that the conversion ends with this error and leaves nothing in the store."""
        with pytest.raises(error, match=says) as caught:
            self.convert(**target)
        assert self.store.find(self.planned(**target).key) is None
        return caught.value


NewSite = Callable[..., Site]


@pytest.fixture
def new_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NewSite:
    def make(release: str = "0.16.0", *, model: Path = TINY_LLAMA) -> Site:
        stand_in = make_release(tmp_path / "release", release)
        store = LocalStore(tmp_path / "store")
        download = Step(stage=Stage.DOWNLOAD, recipe=Call(function="download", version=1))
        shutil.copytree(model, tmp_path / "weights")
        record = some_record(tmp_path / "weights").model_copy(update={"step": download, "key": download.key})
        store.add(record, tmp_path / "weights")

        def ensure(wanted: toolchains.ToolchainIdentity, _log: object = None) -> Toolchain:
            return Venv(wanted, stand_in.directory, stand_in.python, stand_in.environment())

        monkeypatch.setattr(toolchains, "ensure", ensure)
        found = {"python": "3.12.3", "tensorrt-llm": release}
        (stand_in.directory / "ready.json").write_text(json.dumps({"probe": found}))
        monkeypatch.setenv("PATH", stand_in.environment()["PATH"])
        return Site(stand_in, store, download.key)

    return make


@pytest.mark.parametrize(("release", "convert"), [("0.8.0", TOLD_BASE), ("0.16.0", {}), ("1.2.1", {})])
def test_a_faithful_checkpoint_is_kept_with_what_was_found(
    new_site: NewSite, release: str, convert: dict[str, Any]
) -> None:
    site = new_site(release)
    record = site.convert(tensor_parallel=2, convert=convert)
    assert {file.path for file in record.files} == {"config.json", "rank0.safetensors", "rank1.safetensors"}
    facts = record.facts
    assert (facts["ranks"], facts["dtype"], facts["quant_algo"]) == (2, "bfloat16", None)
    assert facts["verified"] == "configuration, files and tensors"
    assert len(str(facts["script_sha256"])) == 64
    (call,) = site.stand_in.calls("convert_checkpoint.py llama")
    assert call.argv[4:] == ("--dtype", "bfloat16", "--tp_size", "2", *convert.get("extra_args", ()))


def test_a_converter_sees_the_weights_by_a_name_that_says_nothing_of_the_folders_above(new_site: NewSite) -> None:
    site = new_site()
    site.convert()
    (call,) = site.stand_in.calls("convert_checkpoint.py llama")
    name = call.argv[call.argv.index("--model_dir") + 1]
    assert name == f"weights-{site.planned().key[:12]}"


def test_a_converter_that_guesses_from_the_path_sees_the_name_that_it_looks_for(new_site: NewSite) -> None:
    site = new_site()
    planned = site.planned()
    recipe = planned.step.recipe
    assert isinstance(recipe, Command)
    named = recipe.model_copy(update={"parameters": {**recipe.parameters, "weights_name": "starcoder2"}})
    step = planned.step.model_copy(update={"recipe": named})
    run_step(planned.model_copy(update={"step": step, "key": step.key}), site.store, site.lines.append)
    (call,) = site.stand_in.calls("convert_checkpoint.py llama")
    assert call.argv[call.argv.index("--model_dir") + 1].startswith("starcoder2-")


@pytest.mark.parametrize(
    ("precision", "convert", "quant_algo", "kv_cache"),
    [
        ("int8_wo", {}, "W8A16", None),
        ("int4_wo", {}, "W4A16", None),
        ("int8_sq", {}, "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", None),
        ("float16", {"kv_cache": "int8"}, None, "INT8"),
        ("fp8", {}, "FP8", "FP8"),
        ("float16", {"kv_cache": "fp8"}, None, "FP8"),
    ],
)
def test_each_precision_comes_out_as_it_was_asked_for(
    new_site: NewSite, precision: str, convert: dict[str, Any], quant_algo: str | None, kv_cache: str | None
) -> None:
    facts = new_site().convert(precision=precision, convert=convert).facts
    assert (facts["quant_algo"], facts["kv_cache_quant_algo"]) == (quant_algo, kv_cache)


def test_a_rank_too_few_is_refused(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "rank_missing")
    error = site.refuses(CheckpointError, "cannot be used", tensor_parallel=2)
    assert any("rank1.safetensors" in difference for difference in error.differences)


def test_a_lost_rotary_base_is_refused(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "loses_rope")
    error = site.refuses(CheckpointError, "rotary_base is 10000.0, the model's rope_theta is 500000")
    assert "--rotary_base" not in error.remedy


def test_the_rotary_base_that_the_first_release_loses_can_be_accepted_and_nothing_else(new_site: NewSite) -> None:
    site = new_site("0.8.0")
    facts = site.convert().facts
    assert (facts["accepted_rope_theta"], facts["verified"]) == (10000.0, "configuration, files and tensors")
    site.stand_in.misbehave("convert_checkpoint.py", "rank_missing")
    site.refuses(CheckpointError, "rank1.safetensors", tensor_parallel=2)


def test_no_other_rotary_base_is_accepted_than_was_said(new_site: NewSite) -> None:
    site = new_site("0.8.0")
    site.stand_in.misbehave("convert_checkpoint.py", "loses_rope", rotary_base=1.0)
    site.refuses(CheckpointError, "rotary_base is 1.0")


def test_a_converter_for_another_world_size_is_refused(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "world_size_mismatch")
    site.refuses(CheckpointError, "mapping.world_size is 4, expected 2", tensor_parallel=2)


def test_a_converter_that_ends_well_and_writes_nothing_is_refused(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "exit_0_without_engine")
    error = site.refuses(CommandError, "ended without an error, but it wrote nothing")
    assert error.cause == "incomplete"
    assert error.last_lines


def test_a_converter_that_writes_only_its_configuration_is_refused(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "exit_0_without_engine", config=True)
    site.refuses(CheckpointError, "rank0.safetensors")


@pytest.mark.parametrize(
    ("how", "cause"), [("killed", "killed"), ("gpu_out_of_memory", "gpu-memory"), ("disk_full", "disk-full")]
)
def test_a_converter_that_dies_is_reported_with_its_cause(new_site: NewSite, how: str, cause: str) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", how)
    error = site.refuses(CommandError, "convert_checkpoint.py|python3")
    assert error.cause in {cause, "host-memory"}


def test_noise_is_no_failure(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "noise_on_stderr", lines=200)
    assert site.convert().facts["ranks"] == 1


def test_a_flag_that_the_script_does_not_know_after_all_is_named(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.misbehave("convert_checkpoint.py", "unknown_flag", flags=["--tp_size"])
    error = site.refuses(CommandError, "--tp_size", tensor_parallel=2)
    assert error.cause == "unknown-flag"


def test_a_script_that_moved_is_found_and_that_is_said(new_site: NewSite) -> None:
    site = new_site("1.2.1")
    old = site.stand_in.script("convert_checkpoint.py llama")
    new = site.stand_in.examples / "llama" / old.name
    new.parent.mkdir(parents=True)
    shutil.move(old, new)
    assert site.convert().facts["ranks"] == 1
    assert any(str(new) in line for line in site.lines)


def test_a_script_that_is_nowhere_is_missed(new_site: NewSite) -> None:
    site = new_site()
    site.stand_in.script("convert_checkpoint.py llama").unlink()
    error = site.refuses(UsageError, "not at this path, and there is none in")
    assert "convert.examples" in error.remedy


def test_a_script_of_which_there_are_several_is_not_guessed(tmp_path: Path) -> None:
    for place in ("models/core/llama", "models/contrib/llama"):
        (tmp_path / "examples" / place).mkdir(parents=True)
        (tmp_path / "examples" / place / "convert_checkpoint.py").touch()
    script = tmp_path / "examples" / "llama" / "convert_checkpoint.py"
    with pytest.raises(UsageError, match="there are .*contrib.*core"):
        with_real_script(("python", str(script), "--dtype"), "convert_checkpoint.py llama")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    directory = tmp_path / "texts"
    directory.mkdir()
    (directory / "texts.jsonl").write_text('{"text": "one"}\n')
    return directory


def test_the_users_own_texts_are_given_to_the_converter(new_site: NewSite, texts: Path) -> None:
    site = new_site()
    site.convert(precision="fp8", convert={"calibration": {"dataset": str(texts)}})
    (call,) = site.stand_in.calls("quantize.py")
    assert call.argv[-2:] == ("--calib_dataset", str(texts))


@pytest.mark.parametrize("change", ["other", "gone"])
def test_texts_that_are_not_those_of_the_plan_are_refused(new_site: NewSite, texts: Path, change: str) -> None:
    site = new_site()
    planned = site.planned(precision="fp8", convert={"calibration": {"dataset": str(texts)}})
    if change == "other":
        (texts / "texts.jsonl").write_text('{"text": "other"}\n')
    else:
        shutil.rmtree(texts)
    with pytest.raises(SourceError, match="not the texts that the plan was made for|cannot be read"):
        run_step(planned, site.store, site.lines.append)
    assert site.store.find(planned.key) is None
    assert not site.stand_in.calls("quantize.py")
