"""The bench step with real engines of ONNX Runtime, and with the stand-in of TensorRT-LLM."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from enginery.backends.bench import step
from enginery.backends.bench.by_hand import bench_directory
from enginery.backends.runtimes import Kind
from enginery.builds.speed import SpeedReport, read_speed
from enginery.core.errors import CommandError, UsageError
from enginery.spec import SpeedGate
from enginery.store.context import StepContext
from enginery.store.local import LocalStore
from enginery.toolchains.identity import Toolchain
from tests.support.engines.tensorrt import Site, make_site, toolchain_of
from tests.support.paths import TINY_LLAMA

QUICK: Mapping[str, JsonValue] = {**step.MEASURING, "repeats": 3, "most_repeats": 6, "seconds": 0.3}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two starts with few repeats: these tests look at what is measured, not at how exact it is."""
    monkeypatch.setattr(step, "MEASURING", QUICK)
    monkeypatch.setattr(step, "MOST_STARTS", 2)


def context_of(
    tmp_path: Path, toolchain: Toolchain, engine: Path, parameters: Mapping[str, JsonValue], lines: list[str]
) -> StepContext:
    output = tmp_path / "bench" / "output"
    output.mkdir(parents=True)
    inputs = {"engine": engine, "weights": TINY_LLAMA}
    context = StepContext(
        key="0" * 64,
        parameters=parameters,
        inputs=inputs,
        output=output,
        chain=(),
        toolchain=toolchain,
        log=lines.append,
    )
    context.timeout = 60
    return context


def measured(tmp_path: Path, toolchain: Toolchain, engine: Path, **options: Any) -> SpeedReport:
    lines: list[str] = []
    parameters = step.bench_call(SpeedGate.model_validate(options)).parameters
    context = context_of(tmp_path, toolchain, engine, parameters, lines)
    facts = step.bench_step(context)
    report = read_speed(context.output)
    assert facts["tokens_per_second"] == report.loads[0].tokens_per_second.median
    assert [path.name for path in context.output.parent.iterdir()] == ["output"]
    return report


def test_an_engine_is_measured_with_each_number_of_sequences(
    tmp_path: Path, toolchain: Toolchain, tiny_engine: Path
) -> None:
    report = measured(tmp_path, toolchain, tiny_engine, concurrency=[1, 4], prompt_tokens=32, output_tokens=16)
    one, four = report.loads
    assert (one.concurrency, four.concurrency) == (1, 4)
    for load in report.loads:
        assert load.warm_ups >= 3
        assert load.repeats > 0
        assert load.gap_ms.median > 0
        assert load.first_ms.median > 0
        assert len(load.gap_ms.starts) == len(load.machine_ms.starts) == 2
        assert load.gap_p99_ms is not None
    assert four.tokens_per_second.median > 0
    assert report.settings.runtime == "onnxruntime-genai"
    assert report.settings.release == "0.18.0"
    assert (report.settings.prompt_tokens, report.settings.output_tokens) == (32, 16)
    assert report.settings.threads == step.default_threads()
    assert report.machine.cpu
    assert report.machine.memory_bytes > 1 << 30
    assert report.machine.gpus == ()
    assert report.peak_host_bytes > 10 << 20
    assert report.peak_gpu_bytes is None
    assert report.notes == ()


def test_an_engine_with_a_short_context_is_measured_with_fewer_tokens_and_a_note(
    tmp_path: Path, toolchain: Toolchain, tiny_engine: Path
) -> None:
    report = measured(tmp_path, toolchain, tiny_engine, prompt_tokens=4000, output_tokens=64)
    assert (report.settings.prompt_tokens, report.settings.output_tokens) == (192, 64)
    assert report.notes == ("the engine does not take 4000 and 64 tokens: measured with 192 and 64",)


def test_an_engine_that_cannot_be_loaded_fails(tmp_path: Path, toolchain: Toolchain) -> None:
    with pytest.raises(CommandError):
        measured(tmp_path, toolchain, TINY_LLAMA)


def test_a_plan_of_another_version_is_refused(tmp_path: Path, toolchain: Toolchain, tiny_engine: Path) -> None:
    parameters = {**step.bench_call(SpeedGate()).parameters, "drivers_sha256": "0"}
    with pytest.raises(UsageError, match="another version"):
        step.bench_step(context_of(tmp_path, toolchain, tiny_engine, parameters, []))


def test_a_limit_is_no_part_of_the_recipe() -> None:
    assert step.bench_call(SpeedGate(slower_percent=3.0)) == step.bench_call(SpeedGate())
    assert step.bench_call(SpeedGate(concurrency=(2,))) != step.bench_call(SpeedGate())


def test_a_directory_is_measured_by_hand(tmp_path: Path, shared_toolchains: Path, tiny_engine: Path) -> None:
    assert shared_toolchains
    lines: list[str] = []
    options = SpeedGate(prompt_tokens=16, output_tokens=8)
    report = bench_directory(tiny_engine, options, LocalStore(tmp_path / "store"), lines.append)
    assert report.loads[0].gap_ms.median > 0
    assert any("engine loaded on CPU" in line for line in lines)


def test_a_directory_without_an_engine_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no engine in it"):
        bench_directory(tmp_path, SpeedGate(), LocalStore(tmp_path / "store"), print)


def stand_in_speed(tmp_path: Path, site: Site, kind: Kind, **options: Any) -> SpeedReport:
    """The speed of an engine of the stand-in, which says nothing of TensorRT-LLM's."""
    context = site.context()
    site.build("--max_batch_size", "4", "--max_input_len", "64", context=context)
    parameters = step.bench_call(SpeedGate.model_validate(options), kind, site.stand_in.release).parameters
    toolchain = toolchain_of(site.stand_in, site.tensorrt)
    step.bench_step(bench := context_of(tmp_path, toolchain, context.output, parameters, site.lines))
    return read_speed(bench.output)


@pytest.mark.parametrize(
    ("release", "runtime", "single"),
    [
        ("0.8.0", "tensorrt_llm.runtime:ModelRunnerCpp", False),
        ("0.12.0", "tensorrt_llm.runtime:ModelRunnerCpp", False),
        ("0.16.0", "tensorrt_llm:LLM", True),
        ("1.2.1", "tensorrt_llm._tensorrt_engine:LLM", True),
    ],
)
def test_an_engine_of_tensorrt_llm_is_run_with_its_releases_own_runtime(
    tmp_path: Path, release: str, runtime: str, *, single: bool
) -> None:
    site = make_site(tmp_path, release)
    report = stand_in_speed(tmp_path, site, "tensorrt", concurrency=[2], output_tokens=8)
    (load,) = report.loads
    assert (report.settings.runtime, report.settings.release) == (runtime, release)
    assert report.settings.prompt_tokens == 64
    assert "measured with 64 and 8" in report.notes[0]
    assert load.first_ms.median > 0
    assert load.gap_p99_ms is not None
    assert (load.gap_p99_ms > 0) or not single


def test_more_sequences_than_the_engine_takes_are_refused_with_both_figures(tmp_path: Path) -> None:
    site = make_site(tmp_path, "0.16.0")
    with pytest.raises(CommandError) as caught:
        stand_in_speed(tmp_path, site, "tensorrt", concurrency=[8])
    assert any("concurrency 8 is to be measured and the engine takes 4" in line for line in caught.value.last_lines)
