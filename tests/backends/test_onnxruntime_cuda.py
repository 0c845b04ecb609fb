"""Tests of the backend `onnxruntime` for GPUs that need no GPU. docs/where-it-ran.md describes the others."""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from enginery import toolchains
from enginery.backends.onnxruntime import BUILDER_NAMES, SUPPORTED
from enginery.core import process
from enginery.core.errors import PlanError, ToolchainError
from enginery.pipeline.plan import PlannedStep
from enginery.spec import gpus
from enginery.spec.types import Precision
from enginery.store.steps import Command
from enginery.toolchains import pins
from tests.support.engines.genai import FakeGenai
from tests.support.paths import TINY_LLAMA
from tests.support.plans.plan import planned, spec_data
from tests.support.toolchains import nvidia_smi

H200 = gpus.find("H200-SXM5-141GB")
ON_CPU = pins.describe("onnxruntime-0.18")
ON_CUDA = pins.describe("onnxruntime-cuda-0.18")


def steps_for(**target: Any) -> dict[str, PlannedStep]:
    """The plan's steps for one target, by stage."""
    data = {"name": "one", "gpu": H200.name, "backend": "onnxruntime", "precision": "bfloat16"} | target
    plan = planned(spec_data(targets=[data], publish=None, rollout=None))
    return {str(step.step.stage): step for step in plan.steps}


def toolchain_for(**target: Any) -> str:
    """The name of the toolchain that a target is built in."""
    toolchain = steps_for(**target)["build"].toolchain
    assert toolchain is not None
    return toolchain.name


def versions(pin_file: pins.PinFile) -> dict[str, str]:
    return dict(pin.split("==", 1) for pin in pin_file.pins)


# The pin file


def test_only_the_runtime_and_cuda_tell_the_two_toolchains_apart() -> None:
    cpu, cuda = versions(ON_CPU), versions(ON_CUDA)
    runtime = {"onnxruntime-gpu", "onnxruntime-genai-cuda"}
    assert set(cpu) - set(cuda) == {"onnxruntime", "onnxruntime-genai"}
    assert {name for name in set(cuda) - set(cpu) if not name.startswith("nvidia-")} == runtime
    assert {name: cuda[name] for name in set(cpu) & set(cuda)} == {name: cpu[name] for name in set(cpu) & set(cuda)}


def test_both_are_of_one_release_and_can_serve_in_triton() -> None:
    assert ON_CUDA.release == ON_CPU.release == versions(ON_CUDA)["onnxruntime-genai-cuda"]
    assert Version(versions(ON_CUDA)["numpy"]) < Version("2")


def test_the_cuda_libraries_are_all_pinned_for_one_cuda() -> None:
    needed = {"cublas", "cuda-nvrtc", "cuda-runtime", "cudnn-cu13", "cufft", "curand", "nvjitlink"}
    cuda = {name.removeprefix("nvidia-") for name in versions(ON_CUDA) if name.startswith("nvidia-")}
    assert cuda == needed
    assert {Version(versions(ON_CUDA)[f"nvidia-{name}"]).major for name in ("cublas", "cuda-runtime")} == {13}


def test_each_kind_of_hardware_gets_its_own_toolchain() -> None:
    assert toolchain_for(gpu="cpu", precision="int4") == ON_CPU.name
    assert toolchain_for() == ON_CUDA.name


# The plan


def test_a_gpu_build_is_planned_on_a_machine_without_a_gpu() -> None:
    steps = steps_for()
    for stage in ("build", "validate"):
        assert steps[stage].step.runs_on == H200.name
        assert steps[stage].toolchain == toolchains.identify(ON_CUDA.name)
        assert steps[stage].step.toolchain == toolchains.identify(ON_CUDA.name).digest()


def test_a_cpu_build_keeps_its_toolchain() -> None:
    assert steps_for(gpu="cpu", precision="int4")["build"].toolchain == toolchains.identify(ON_CPU.name)


def test_auto_is_the_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA H200, 9.0, 143771")
    assert steps_for(gpu="auto")["build"].key == steps_for()["build"].key


@pytest.mark.parametrize("precision", SUPPORTED["cuda"])
def test_the_builder_gets_the_argument_for_cuda(precision: Precision) -> None:
    recipe = steps_for(precision=precision.value)["build"].step.recipe
    assert isinstance(recipe, Command)
    assert recipe.argv[recipe.argv.index("-e") + 1] == "cuda"
    assert recipe.argv[recipe.argv.index("-p") + 1] == BUILDER_NAMES[precision]


def test_float32_is_refused_because_such_an_engine_cannot_be_loaded() -> None:
    with pytest.raises(PlanError) as caught:
        steps_for(precision="float32")
    (mistake,) = caught.value.mistakes
    assert "without a key-value cache" in mistake
    assert mistake.endswith("; use one of float16, bfloat16, int8, int4 [E303]")


# The host's environment instead of a pinned one


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The name of a toolchain. This machine's python3, which runs the tests, has one of its packages."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (binaries / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    pinned = tmp_path / "pins"
    pinned.mkdir()
    text = "# backend: onnxruntime\n# release: 0.18.0\nonnxruntime-genai-cuda==0.18.0\npydantic==2.0\n"
    (pinned / "on-this-host.txt").write_text(text)
    monkeypatch.setattr(pins, "directories", lambda: [pinned])
    return "on-this-host"


def test_the_hosts_environment_is_used_where_the_target_asks_for_it(host: str) -> None:
    steps = steps_for(toolchain="host")
    for stage in ("build", "validate"):
        found = steps[stage].toolchain
        assert found is not None
        assert (found.name, found.kind) == (host, "host")
        assert steps[stage].step.toolchain == found.digest()


def test_a_step_on_the_host_is_not_the_same_step_as_in_a_pinned_environment(host: str) -> None:
    on_host, pinned = steps_for(toolchain="host"), steps_for(toolchain="venv")
    assert on_host["build"].key != pinned["build"].key
    assert on_host["validate"].key != pinned["validate"].key


def test_a_host_without_the_release_is_refused_when_planning(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (pins.directories()[0] / f"{host}.txt").write_text(
        "# backend: onnxruntime\n# release: 0.18.0\nonnxruntime-genai-cuda==0.18.0\n"
    )
    with pytest.raises(ToolchainError, match="this machine does not have it"):
        steps_for(toolchain="host")


def count_runs(command: Path) -> Callable[[], int]:
    """Make a script count its runs. Returns the number."""
    counter = command.with_name("runs")
    shebang, _, rest = command.read_text().partition("\n")
    command.write_text(f"{shebang}\necho run >> '{counter}'\n{rest}")
    return lambda: len(counter.read_text().splitlines())


@pytest.mark.usefixtures("host")
def test_a_plan_looks_at_the_host_once_for_all_targets_and_the_next_plan_looks_again(tmp_path: Path) -> None:
    runs = count_runs(tmp_path / "bin" / "python3")
    on_host = {"backend": "onnxruntime", "toolchain": "host"}
    targets = [
        {"name": f"target-{number}", "gpu": H200.name, "precision": "bfloat16", **on_host} for number in range(3)
    ]
    data = spec_data(targets=targets, publish=None, rollout=None)
    planned(data)
    assert runs() == 1
    planned(data)
    assert runs() == 2


def test_a_plan_asks_for_the_gpu_once_for_all_targets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia_smi.install(monkeypatch, tmp_path, "NVIDIA H200, 9.0, 143771")
    runs = count_runs(tmp_path / "nvidia-smi")
    target = {"backend": "onnxruntime", "precision": "bfloat16"}
    targets = [{"name": f"target-{number}", **target} for number in range(3)]
    plan = planned(spec_data(targets=targets, publish=None, rollout=None))
    assert {target.gpu for target in plan.targets} == {H200.name}
    assert runs() == 1


@pytest.mark.usefixtures("host")
def test_a_pin_file_that_is_added_is_seen_by_the_next_plan() -> None:
    steps_for(toolchain="host")
    text = "# backend: onnxruntime\n# release: 0.19.0\nonnxruntime-genai-cuda==0.19.0\npydantic==2.0\n"
    (pins.directories()[0] / "newer.txt").write_text(text)
    found = steps_for(toolchain="host")["build"].toolchain
    assert found is not None
    assert found.name == "newer"


# The driver that sends prompts to the engine


def engine_for(provider: str, directory: Path) -> Path:
    """The configuration that the builder writes for a provider."""
    options = {"provider_options": [{"cuda": {"enable_cuda_graph": "0"}}] if provider == "cuda" else []}
    model = {"eos_token_id": 1, "context_length": 256, "decoder": {"session_options": options}}
    (directory / "genai_config.json").write_text(json.dumps({"model": model}))
    return directory


def test_an_engine_for_cuda_finds_the_cuda_libraries_of_its_toolchain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    libraries = FakeGenai(device="CUDA")
    libraries.load_driver(monkeypatch).load(engine_for("cuda", tmp_path), tmp_path, 2)
    assert libraries.calls == ["preload_dlls", "Model"]
    assert capsys.readouterr().out == "engine loaded on CUDA\n"


def test_the_library_that_the_runtime_leaves_out_is_loaded_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "nvidia" / "cu13" / "lib"
    wheel.mkdir(parents=True)
    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0"):
        (wheel / name).touch()
    libraries = FakeGenai(device="CUDA", site=tmp_path)
    driver = libraries.load_driver(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", libraries.calls.append)
    driver.load(engine_for("cuda", tmp_path), tmp_path, 2)
    assert libraries.calls == ["preload_dlls", str(wheel / "libnvrtc-builtins.so.13.0"), "Model"]


def test_an_engine_for_a_cpu_loads_no_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    libraries = FakeGenai(device="CPU")
    libraries.load_driver(monkeypatch).load(engine_for("cpu", tmp_path), tmp_path, 2)
    assert libraries.calls == ["Model"]


@pytest.mark.parametrize(("provider", "device"), [("cuda", "CPU"), ("cpu", "CUDA")])
def test_an_engine_on_another_device_than_it_was_built_for_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str, device: str
) -> None:
    driver = FakeGenai(device=device).load_driver(monkeypatch)
    with pytest.raises(RuntimeError, match=f"built for {provider.upper()} but runs on {device}"):
        driver.load(engine_for(provider, tmp_path), tmp_path, 2)


def test_the_command_line_plans_for_a_gpu_it_does_not_have(tmp_path: Path) -> None:
    model = str(TINY_LLAMA)
    target = {"name": "h200", "gpu": H200.name, "backend": "onnxruntime", "precision": "int4"}
    spec = {"name": "tiny", "source": {"path": model}, "targets": [target]}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    lines: list[str] = []
    command = [sys.executable, "-c", "from enginery.cli.app import main; main()", "plan", str(tmp_path / "spec.yaml")]
    process.run([*command, "--json"], log=lines.append)
    steps = {step["id"]: step for step in json.loads("\n".join(lines[1:]))["steps"]}
    assert steps["build/h200"]["toolchain"]["name"] == ON_CUDA.name
