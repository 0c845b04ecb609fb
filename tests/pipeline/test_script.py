"""Tests of a plan as a shell script to paste."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enginery.pipeline.plan import Plan, make_plan
from enginery.pipeline.script import shell_script
from enginery.sources import ResolvedSource
from enginery.spec.spec import Source, parse_spec
from enginery.toolchains.identity import location
from tests.support.models.examples import LLAMA_3_8B
from tests.support.plans.plan import planned, resolved, spec_data
from tests.support.toolchains.docker import FakeDocker


def engine_plan(release: str, toolchain: str, config: Mapping[str, Any] = LLAMA_3_8B) -> Plan:
    """A plan for a TensorRT engine with only what tests of scripts need."""
    target = {
        "name": "h100",
        "gpu": "H100-SXM5-80GB",
        "backend": "tensorrt",
        "release": release,
        "precision": "bfloat16",
        "toolchain": toolchain,
    }
    data = {
        "name": "llama",
        "source": {"huggingface": "owner/llama"},
        "targets": [target],
        "build": {"gpt_attention_plugin": "bfloat16"},
        "force": ["W133"],
        "validation": {"prompts": [{"prompt": "Hi", "contains": "there"}]},
    }

    def resolver(source: Source) -> ResolvedSource:
        return resolved(source).model_copy(update={"config": config})

    return make_plan(parse_spec(data), resolver=resolver)


def line_of(script: str, stage: str) -> str:
    """The script's line for a step."""
    lines = script.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith(f"# {stage} ")) + 2]


def test_the_script_is_valid_shell() -> None:
    subprocess.run(["bash", "-n"], input=shell_script(planned(), "spec.yaml"), text=True, check=True)


@pytest.mark.parametrize("toolchain", ["venv", "container"])
def test_a_converter_that_guesses_from_a_path_gets_one_with_the_right_name(toolchain: str) -> None:
    config = LLAMA_3_8B | {"architectures": ["GPTBigCodeForCausalLM"], "model_type": "gpt_bigcode"}
    lines = shell_script(engine_plan("0.14.0", toolchain, config), "spec.yaml").splitlines()
    (line,) = [line for line in lines if "gpt/convert_checkpoint.py" in line]
    assert lines[lines.index(line) - 1] == "ln -sfn download llama-steps/starcoder"
    words = shlex.split(line)
    assert words[words.index("--model_dir") + 1].endswith("llama-steps/starcoder")


def test_an_external_step_is_its_command_with_real_places() -> None:
    lines = shell_script(planned(), "spec.yaml").splitlines()
    (line,) = [line for line in lines if "onnxruntime_genai.models.builder" in line and "int4" in line]
    words = shlex.split(line)
    assert words[words.index("-i") + 1] == "tiny-steps/download"
    assert words[words.index("-o") + 1] == "tiny-steps/build/cpu-int4"
    assert not any("{" in word for word in words)


def test_an_internal_step_goes_through_run_step() -> None:
    script = shell_script(planned(), "spec.yaml")
    assert "enginery run-step tiny-steps/plan.json publish/cpu-int4 --with-inputs" in script


def test_a_spec_file_with_a_blank_is_quoted() -> None:
    assert "enginery plan 'my spec.yaml' --json" in shell_script(planned(), "my spec.yaml")


def test_each_step_is_headed_by_its_whole_key() -> None:
    plan = planned(spec_data())
    script = shell_script(plan, "spec.yaml")
    assert all(found.key in script for found in plan.steps)


def test_the_plan_is_made_again_with_the_same_values() -> None:
    script = shell_script(planned(), "spec.yaml", ("targets.0.precision=int8", "name=a b"))
    assert "enginery plan spec.yaml --set targets.0.precision=int8 --set 'name=a b' --json > " in script


def test_the_steps_use_the_store_that_was_named() -> None:
    lines = shell_script(planned(), "spec.yaml", store="s3://shared/store").splitlines()
    steps = [line for line in lines if line.startswith("enginery run-step")]
    assert steps
    assert all(line.endswith("--store s3://shared/store") for line in steps)


def test_a_failure_ends_the_script_and_not_the_shell_it_was_pasted_into() -> None:
    script = shell_script(planned(), "spec.yaml").replace("enginery ", "false ")
    done = subprocess.run(["bash"], input=f"{script}echo still here\n", text=True, capture_output=True, check=True)
    assert done.stdout == "still here\n"


def test_a_toolchain_of_the_host_is_not_made_and_its_python_is_the_one_on_path() -> None:
    plan = planned()
    steps = [
        step.model_copy(update={"toolchain": step.toolchain.model_copy(update={"kind": "host"})})
        if step.toolchain
        else step
        for step in plan.steps
    ]
    script = shell_script(plan.model_copy(update={"steps": tuple(steps)}), "spec.yaml")
    assert "toolchain create" not in script
    assert "python3 -m onnxruntime_genai.models.builder" in script


# TensorRT-LLM


def test_a_release_in_an_environment_of_its_own_is_shown_as_its_plain_commands() -> None:
    plan = engine_plan("0.8.0", "venv")
    script = shell_script(plan, "spec.yaml")
    identity = plan.find("build/h100").toolchain
    assert identity is not None
    binaries = location(identity) / "bin"
    assert "enginery toolchain create tensorrt-llm-0.8.0" in script
    convert = line_of(script, "convert")
    assert f" {binaries}/python examples/llama/convert_checkpoint.py --model_dir llama-steps/download" in convert
    assert f" {binaries}/trtllm-build --checkpoint_dir llama-steps/convert/h100" in line_of(script, "build")
    assert "# ./examples must be the examples of a checkout of TensorRT-LLM v0.8.0" in script


def test_a_checkout_that_is_named_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_TRTLLM_EXAMPLES", "/src/TensorRT-LLM/examples")
    script = shell_script(engine_plan("0.8.0", "venv"), "spec.yaml")
    assert " /src/TensorRT-LLM/examples/llama/convert_checkpoint.py " in line_of(script, "convert")
    assert "is taken for" not in script


def test_an_image_without_a_registry_is_said_to_lack_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINERY_CONTAINER_REGISTRY", raising=False)
    before = line_before(shell_script(engine_plan("1.2.1", "container"), "spec.yaml"), "docker pull")
    assert (
        before
        == "# docker uses its own registry: set ENGINERY_CONTAINER_REGISTRY to NVIDIA's or a mirror, and plan again"
    )
    assert "own registry" not in shell_script(engine_plan("1.2.1", "venv"), "spec.yaml")


def line_before(script: str, beginning: str) -> str:
    lines = script.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith(beginning)) - 1]


def test_a_release_in_a_container_is_shown_as_the_whole_docker_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_CONTAINER_REGISTRY", "mirror.example.com")
    script = shell_script(engine_plan("1.2.1", "container"), "spec.yaml")
    image = "mirror.example.com/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert f"docker pull {image}" in script
    assert "its own registry" not in script
    convert, build = line_of(script, "convert"), line_of(script, "build")
    assert convert.startswith("docker run --rm --init ")
    assert f" {image} python3 /app/examples/models/core/llama/convert_checkpoint.py --model_dir " in convert
    assert '"$PWD/llama-steps/download:$PWD/llama-steps/download:ro"' in convert
    assert '--user "$(id -u):$(id -g)"' in build
    assert f' {image} trtllm-build --checkpoint_dir "$PWD/llama-steps/convert/h100"' in build


def test_a_container_is_given_what_its_command_names_and_no_more() -> None:
    build = line_of(shell_script(engine_plan("0.8.0", "container"), "spec.yaml"), "build")
    words = shlex.split(build)
    volumes = [words[place + 1] for place, word in enumerate(words) if word == "--volume"]
    assert [volume for volume in volumes if volume.endswith(":ro")] == [
        "$PWD/llama-steps/convert/h100:$PWD/llama-steps/convert/h100:ro"
    ]


def test_an_image_without_examples_is_given_a_checkout() -> None:
    script = shell_script(engine_plan("0.8.0", "container"), "spec.yaml")
    assert '"$PWD/examples:$PWD/examples:ro"' in line_of(script, "convert")
    assert '"$PWD/examples/llama/convert_checkpoint.py"' in line_of(script, "convert")


@pytest.mark.parametrize("kind", ["venv", "container"])
def test_a_script_with_tensorrt_llm_is_valid_shell(kind: str) -> None:
    script = shell_script(engine_plan("1.2.1", kind), "spec.yaml")
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_docker_line_that_is_pasted_reaches_docker_as_the_step_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has a name that needs quotes."""
    fake = FakeDocker(tmp_path / "docker")
    plan = engine_plan("1.2.1", "container")
    image = "nvidia/tritonserver:26.07-trtllm-python-py3"
    fake.add_image(image)
    fake.add_command("trtllm-build", '#!/bin/sh\necho built > "$4/rank0.engine"\n')
    directory = tmp_path / "my $HOME here"
    for place in ("convert/h100", "build/h100"):
        (directory / "llama-steps" / place).mkdir(parents=True)
    (tmp_path / "home" / "container-home").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{fake.directory}:/usr/bin:/bin")
    line = line_of(shell_script(plan, "spec.yaml"), "build")
    subprocess.run(["sh", "-ec", line], cwd=directory, check=True)
    assert (directory / "llama-steps" / "build" / "h100" / "rank0.engine").read_text() == "built\n"


def test_accepted_warnings_are_accepted_by_the_script_too() -> None:
    script = shell_script(planned(spec_data(force=["W201", "W203"])), "spec.yaml")
    assert "enginery plan spec.yaml --force W201 --force W203 --json" in script
