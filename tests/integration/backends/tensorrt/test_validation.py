"""Tests of the validation of TensorRT-LLM's engines and checkpoints, with the stand-in."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from enginery.backends import validate
from enginery.backends.runtimes import RUNTIMES, Kind, mpirun, runtime_for
from enginery.builds import validation
from enginery.builds.validation import ValidationReport
from enginery.core.errors import CommandError, PlanError, UsageError
from enginery.core.process.failures import FailureCause
from enginery.spec.validation import Prompt, ValidationOptions
from enginery.store.context import StepContext
from tests.support.engines.tensorrt import Site, make_site, toolchain_of
from tests.support.paths import TINY_LLAMA

QUESTION = "How do I count to nine in French?"
ANSWER = "Un, deux, trois, quatre, cinq, six, sept, huit, neuf"


def options(*, run_script: bool = False, max_tokens: int = 32) -> ValidationOptions:
    prompt = Prompt(prompt=QUESTION, contains="neuf")
    return ValidationOptions(prompts=(prompt,), max_tokens=max_tokens, run_script=run_script)


def engine(site: Site, tensor_parallel: int = 1) -> Path:
    context = site.context(tensor_parallel=tensor_parallel)
    site.build("--max_batch_size", "4", "--max_input_len", "128", context=context)
    return context.output


def validated(
    site: Site,
    inputs: Mapping[str, Path],
    chosen: ValidationOptions | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    kind: Kind = "tensorrt",
    **parameters: Any,
) -> ValidationReport:
    """Run the validation and read its report."""
    output = site.directory / "report"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    toolchain = toolchain_of(site.stand_in, site.tensorrt)
    toolchain.environment.update(environment or {})
    context = StepContext(
        key="0" * 64,
        parameters=validate.validate_call(chosen or options(), kind, site.stand_in.release, **parameters).parameters,
        inputs={"weights": TINY_LLAMA, **inputs},
        output=output,
        chain=(),
        toolchain=toolchain,
        log=site.lines.append,
        timeout=60,
        places={"examples": str(site.stand_in.examples)},
    )
    site.lines.clear()
    validate.validate(context)
    assert [path.name for path in output.iterdir()] == ["report.json"]
    assert not list(site.directory.glob("prompts-*"))
    return validation.read_report(output)


def site_of(tmp_path: Path, release: str, tensor_parallel: int = 1) -> Site:
    site = make_site(tmp_path, release, tensor_parallel=tensor_parallel)
    site.stand_in.answer(QUESTION, ANSWER)
    return site


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.16.0", "1.2.1"])
def test_an_engine_is_asked_with_its_releases_own_runtime(tmp_path: Path, release: str) -> None:
    site = site_of(tmp_path, release)
    report = validated(site, {"engine": engine(site)})
    (result,) = report.results
    assert report.passed
    assert result.got.strip() == ANSWER
    assert result.tokens == len(result.token_ids) > 0
    assert result.finish == "eos"
    assert result.max_tokens == 32
    assert result.seconds_to_first_token is None
    assert report.driver_sha256
    assert not site.stand_in.calls("mpirun")


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0"])
def test_ranks_are_started_by_mpirun_and_the_first_writes_the_answers(tmp_path: Path, release: str) -> None:
    site = site_of(tmp_path, release, 2)
    built = engine(site, 2)
    report = validated(site, {"engine": built}, world_size=2)
    assert report.passed
    (call,) = site.stand_in.calls("mpirun")
    assert call.argv[:4] == mpirun(2)[1:]
    ranks = [call.rank for call in site.stand_in.calls("tensorrt_llm") if call.world_size == 2]
    assert sorted(ranks) == [0, 1]
    assert sum("prompt 1 of 1" in line for line in site.lines) == 1


@pytest.mark.parametrize("release", ["0.16.0", "1.2.1"])
def test_an_llm_starts_its_ranks_itself(tmp_path: Path, release: str) -> None:
    site = site_of(tmp_path, release, 2)
    built = engine(site, 2)
    assert validated(site, {"engine": built}, world_size=2).passed
    assert not site.stand_in.calls("mpirun")


def test_on_a_node_of_slurm_it_gets_one_rank_of_mpirun(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.16.0", 2)
    built = engine(site, 2)
    assert validated(site, {"engine": built}, world_size=2, environment={"SLURM_JOB_ID": "7"}).passed
    (call,) = site.stand_in.calls("mpirun")
    assert call.argv[:4] == ("-n", "1", "--allow-run-as-root", "--oversubscribe")


def test_a_checkpoint_is_asked_with_the_arguments_it_will_be_served_with(tmp_path: Path) -> None:
    site = site_of(tmp_path, "1.2.1")
    report = validated(site, {}, kind="pytorch", arguments={"max_seq_len": 128})
    assert report.passed
    assert report.results[0].got.strip() == ANSWER
    assert report.results[0].finish == "eos"


def test_a_quantized_checkpoint_is_asked_rather_than_the_weights(tmp_path: Path) -> None:
    site = site_of(tmp_path, "1.2.1")
    broken = tmp_path / "quantized"
    broken.mkdir()
    with pytest.raises(CommandError) as caught:
        validated(site, {"checkpoint": broken}, kind="pytorch")
    assert str(broken) in caught.value.subject


def test_arguments_that_the_release_does_not_have_end_the_step(tmp_path: Path) -> None:
    site = site_of(tmp_path, "1.2.1")
    with pytest.raises(CommandError) as caught:
        validated(site, {}, kind="pytorch", arguments={"max_sequence": 128})
    assert any("max_sequence" in line for line in caught.value.last_lines)


def test_a_cut_off_answer_is_reported_as_cut_off(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.8.0")
    report = validated(site, {"engine": engine(site)}, options(max_tokens=3))
    assert not report.passed
    assert report.results[0].finish == "length"
    assert report.results[0].tokens == 3


def test_a_wrong_answer_is_in_the_report_and_is_no_error_of_the_step(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.8.0")
    site.stand_in.answer(QUESTION, "Un, deux, trois")
    report = validated(site, {"engine": engine(site)})
    assert not report.passed
    assert "neuf" in report.results[0].reason
    assert any("got:" in line for line in site.lines)


@pytest.mark.parametrize("release", ["0.8.0", "1.2.1"])
def test_an_engine_is_loaded_also_without_prompts(tmp_path: Path, release: str) -> None:
    site = site_of(tmp_path, release)
    built = engine(site)
    assert validated(site, {"engine": built}, ValidationOptions()).passed
    (built / "rank0.engine").write_bytes(b"no engine")
    with pytest.raises(CommandError):
        validated(site, {"engine": built}, ValidationOptions())


@pytest.mark.parametrize("release", ["0.8.0", "0.16.0"])
def test_a_prompt_that_leaves_no_room_is_reported_in_figures(tmp_path: Path, release: str) -> None:
    site = site_of(tmp_path, release)
    built = engine(site)
    with pytest.raises(CommandError) as caught:
        validated(site, {"engine": built}, options(max_tokens=100_000))
    assert any("its answer may have 100000; the engine was built for" in line for line in caught.value.last_lines)


def test_short_prompts_may_have_longer_answers_than_long_ones(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.8.0")
    context = site.context()
    site.build("--max_input_len", "100", "--max_output_len", "20", context=context)
    long = " ".join([QUESTION] * 6)
    prompts = (Prompt(prompt=QUESTION, contains="neuf", max_tokens=64), Prompt(prompt=long, max_tokens=2))
    assert validated(site, {"engine": context.output}, ValidationOptions(prompts=prompts)).passed


def test_an_engine_of_another_tensorrt_is_named(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.16.0")
    built = engine(site)
    other = make_site(tmp_path / "other", "0.16.0", tensorrt="10.8.0")
    with pytest.raises(CommandError) as caught:
        validated(other, {"engine": built})
    assert caught.value.cause == FailureCause.ENGINE_MISMATCH
    assert "build it again" in caught.value.remedy


def test_too_few_gpus_end_the_step_with_what_the_runtime_says(tmp_path: Path) -> None:
    site = site_of(tmp_path, "1.2.1", 2)
    built = engine(site, 2)
    with pytest.raises(CommandError) as caught:
        validated(site, {"engine": built}, world_size=2, environment={"CUDA_VISIBLE_DEVICES": "0"})
    assert any("Only 1 GPUs are available" in line for line in caught.value.last_lines)


@pytest.mark.parametrize("how", ["gpu_out_of_memory", "killed"])
def test_a_runtime_that_dies_takes_its_ranks_along_and_is_named(tmp_path: Path, how: str) -> None:
    site = site_of(tmp_path, "0.8.0", 2)
    built = engine(site, 2)
    site.stand_in.misbehave("tensorrt_llm", how, rank=1)
    with pytest.raises(CommandError) as caught:
        validated(site, {"engine": built}, world_size=2)
    named = {"gpu_out_of_memory": FailureCause.GPU_MEMORY, "killed": FailureCause.HOST_MEMORY}
    assert caught.value.cause == named[how]
    assert not (site.directory / "report" / "report.json").exists()


# The release's own script


@pytest.mark.parametrize("release", ["0.8.0", "0.16.0"])
def test_the_releases_own_script_is_asked_with_the_tutorials_arguments(tmp_path: Path, release: str) -> None:
    site = site_of(tmp_path, release)
    built = engine(site)
    report = validated(site, {"engine": built}, options(run_script=True))
    (result,) = report.results
    assert report.passed
    assert result.got.strip() == ANSWER
    assert (result.tokens, result.token_ids, result.finish) == (None, (), "unknown")
    (call,) = site.stand_in.calls("run.py")
    flags = ("--engine_dir", str(built), "--max_output_len", "32", "--tokenizer_dir", str(TINY_LLAMA))
    assert call.argv == (*flags, "--input_text", QUESTION)


def test_the_script_too_is_started_once_for_each_rank(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.16.0", 2)
    built = engine(site, 2)
    assert validated(site, {"engine": built}, options(run_script=True), world_size=2).passed
    assert [call.rank for call in site.stand_in.calls("run.py")] in ([0, 1], [1, 0])


def test_a_script_that_prints_no_answer_is_no_success(tmp_path: Path) -> None:
    site = site_of(tmp_path, "0.16.0")
    built = engine(site)
    (site.stand_in.examples / "run.py").write_text("print('nothing to say')\n")
    with pytest.raises(CommandError, match=r"run\.py ended with exit status 0 but printed no answer"):
        validated(site, {"engine": built}, options(run_script=True))


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (['Input [Text 0]: "Hi"', 'Output [Text 0 Beam 0]: "Un, deux"'], "Un, deux"),
        (['Output [Text 0 Beam 0]: "He said "no""'], 'He said "no"'),
        (['Output [Text 0 Beam 0]: "one', "", 'two "quoted"', 'three"', "[TensorRT-LLM][INFO] bye"], None),
        (['Output [Text 0 Beam 0]: ""'], ""),
        (['Output [Text 0]: "without beams"'], "without beams"),
        (['Output [Text 0 Beam 0]: "cut', "[01/02/2026-03:04:05] [TRT-LLM] [I] noise"], "cut"),
        (["nothing"], "absent"),
    ],
)
def test_what_the_script_prints_is_read_whatever_the_answer_holds(lines: list[str], answer: str | None) -> None:
    expected = {None: 'one\n\ntwo "quoted"\nthree', "absent": None}.get(answer, answer)
    assert validate.printed_answer(lines) == expected


def test_special_tokens_at_the_ends_are_left_out(tmp_path: Path) -> None:
    added = [{"content": "<|end|>", "special": True}, {"content": "<tool>", "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert validate.without_special_tokens("<|end|>a <|end|> b<tool><|end|><|end|>", tmp_path) == "a <|end|> b<tool>"
    assert validate.without_special_tokens("as it is<|end|>", tmp_path / "nothing") == "as it is<|end|>"


# The recipe


def call(release: str, kind: Kind = "tensorrt", **more: Any) -> dict[str, JsonValue]:
    return dict(validate.validate_call(options(), kind, release, **more).parameters)


@pytest.mark.parametrize(
    ("release", "name", "by_rank"),
    [
        ("0.8.0", "tensorrt_llm.runtime:ModelRunnerCpp", True),
        ("0.15.0", "tensorrt_llm.runtime:ModelRunnerCpp", True),
        ("0.16.0", "tensorrt_llm:LLM", False),
        ("0.21.0", "tensorrt_llm:LLM", False),
        ("1.0.0rc3", "tensorrt_llm._tensorrt_engine:LLM", False),
        ("1.2.1", "tensorrt_llm._tensorrt_engine:LLM", False),
    ],
)
def test_the_recipe_names_the_runtime_of_the_release(release: str, name: str, *, by_rank: bool) -> None:
    parameters = call(release, world_size=2)
    assert parameters["runtime"] == name
    assert parameters["by_rank"] is by_rank
    assert parameters["world_size"] == 2


def test_before_1_0_the_pytorch_backend_is_named() -> None:
    named = call("0.20.0", "pytorch", arguments={"max_seq_len": 8})
    assert named["arguments"] == {"backend": "pytorch", "max_seq_len": 8}
    later = call("1.2.1", "pytorch", arguments={"max_seq_len": 8})
    assert later["arguments"] == {"max_seq_len": 8}


def test_a_release_without_the_pytorch_backend_is_refused() -> None:
    with pytest.raises(UsageError, match=r"TensorRT-LLM 0\.16\.0 cannot run a model this way") as caught:
        runtime_for("pytorch", "0.16.0")
    assert caught.value.remedy == "take a release from 0.17.0 on"


def test_every_runtime_says_where_it_was_read() -> None:
    assert all(one.source for kind in RUNTIMES.values() for one in kind)


@pytest.mark.parametrize(
    ("kind", "release"),
    [(None, ""), ("pytorch", "1.2.1")],
)
def test_the_releases_script_asks_engines_only(kind: Kind | None, release: str) -> None:
    with pytest.raises(PlanError, match=r"validation\.run_script: only engines of the backend tensorrt"):
        validate.validate_call(options(run_script=True), kind, release)


def test_a_release_without_the_script_is_refused_by_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginery.backends.validate.FLAGS", ("--engine_directory", "{engine}"))
    with pytest.raises(PlanError, match=r"not possible with release 0\.16\.0: its run\.py has no --engine_directory"):
        validate.validate_call(options(run_script=True), "tensorrt", "0.16.0")


def test_a_plan_of_another_version_is_refused_before_anything_runs(tmp_path: Path) -> None:
    parameters = call("0.16.0") | {"driver_sha256": "0" * 64}
    with pytest.raises(UsageError, match="another version"):
        validate.answers_to(empty_context(tmp_path, parameters), options())


def test_a_driver_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no driver 'telepathy'"):
        validate.answers_to(empty_context(tmp_path, {"driver": "telepathy"}), options())


def empty_context(tmp_path: Path, parameters: Mapping[str, JsonValue]) -> StepContext:
    return StepContext(
        key="0" * 64,
        parameters=parameters,
        inputs={},
        output=tmp_path,
        chain=(),
        toolchain=None,
        log=lambda _: None,
    )
