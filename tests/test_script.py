"""A plan as a shell script that can be pasted."""

import shlex
import subprocess

from enginery.script import shell_script
from tests.support.plans import planned, spec_data


def test_the_script_is_valid_shell() -> None:
    subprocess.run(["bash", "-n"], input=shell_script(planned(), "spec.yaml"), text=True, check=True)


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
