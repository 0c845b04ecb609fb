# ruff: noqa: F811  fixtures are imported
"""Tests of a step's commands in a container, with the stand-in for docker in tests/support."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginery import toolchains
from enginery.core.errors import CommandError
from enginery.core.process.failures import FailureCause
from enginery.pipeline.plan import make_plan
from enginery.pipeline.run import run_with_inputs
from enginery.spec.spec import parse_spec
from enginery.store.context import StepContext
from enginery.store.local import LocalStore
from enginery.toolchains.container import Container, container_home
from enginery.toolchains.identity import Toolchain
from tests.support.paths import TINY_LLAMA
from tests.support.plans.light import LIGHT
from tests.support.toolchains.docker import FakeDocker, fake, release  # noqa: F401
from tests.support.toolchains.docker import option_values as values
from tests.support.trtllm import StandIn
from tests.support.waiting import wait_until

NAME = "tensorrt-llm-1.2.1"
IMAGE = "nvidia/tritonserver:26.07-trtllm-python-py3"
KEY = "0123456789abcdef" * 4


@pytest.fixture
def toolchain(fake: FakeDocker, tmp_path: Path) -> Toolchain:
    """A toolchain whose image was already inspected."""
    fake.add_image(IMAGE)
    identity = toolchains.identify(NAME, "container")
    return Container(identity, tmp_path / "known", Path("python3"), dict(os.environ), IMAGE)


def step(toolchain: Toolchain, tmp_path: Path, **changes: Any) -> StepContext:
    work = tmp_path / "work"
    (work / "inputs" / "weights").mkdir(parents=True)
    (work / "output").mkdir()
    given: dict[str, Any] = {
        "key": KEY,
        "parameters": {},
        "inputs": {"weights": work / "inputs" / "weights"},
        "output": work / "output",
        "chain": (),
        "toolchain": toolchain,
        "log": lambda _line: None,
    }
    return StepContext(**given | changes)


def test_a_step_sees_its_inputs_and_writes_its_output(fake: FakeDocker, toolchain: Toolchain, tmp_path: Path) -> None:
    context = step(toolchain, tmp_path)
    context.run(["sh", "-c", 'pwd > "$1/where"', "sh", str(context.output)])
    assert (context.output / "where").read_text().strip() == str(context.output.parent)
    (call,) = fake.calls("run")
    volumes = values(["run", *call["argv"]], "--volume")
    assert f"{context.inputs['weights']}:{context.inputs['weights']}:ro" in volumes
    assert f"{context.output.parent}:{context.output.parent}:rw" in volumes
    assert any(volume.endswith("enginery/toolchains/drivers:ro") for volume in volumes)
    (done,) = context.completed
    assert done.argv[:2] == ("docker", "run")
    assert done.peak_memory_bytes == 0


def test_the_users_own_places_are_mounted_and_those_of_the_image_are_not(
    fake: FakeDocker, toolchain: Toolchain, tmp_path: Path
) -> None:
    own = tmp_path / "prompts.jsonl"
    own.touch()
    context = step(toolchain, tmp_path, places={"dataset": str(own), "examples": "/app/no-such-examples"})
    context.run(["true"])
    volumes = values(["run", *fake.calls("run")[0]["argv"]], "--volume")
    assert f"{own}:{own}:ro" in volumes
    assert not any("no-such-examples" in volume for volume in volumes)


def test_a_checkout_with_the_examples_that_an_image_lacks_is_mounted(
    fake: FakeDocker, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tmp_path / "TensorRT-LLM" / "examples"
    examples.mkdir(parents=True)
    monkeypatch.setenv("ENGINERY_TRTLLM_EXAMPLES", str(examples))
    step(toolchain, tmp_path / "with").run(["true"])
    lacking = replace(toolchain, identity=toolchains.identify("tensorrt-llm-0.8.0", "container"))
    step(lacking, tmp_path / "without").run(["true"])
    mounted = [f"{examples}:{examples}:ro" in call["argv"] for call in fake.calls("run")]
    assert mounted == [False, True]


def test_a_step_without_need_of_the_network_has_none(fake: FakeDocker, toolchain: Toolchain, tmp_path: Path) -> None:
    context = step(toolchain, tmp_path)
    context.run(["true"], {"HF_HUB_OFFLINE": "1"})
    context.run(["true"], {})
    networks = [values(["run", *call["argv"]], "--network") for call in fake.calls("run")]
    assert networks == [["none"], ["host"]]


def test_two_commands_of_a_step_have_two_names_that_tell_the_step(
    fake: FakeDocker, toolchain: Toolchain, tmp_path: Path
) -> None:
    context = step(toolchain, tmp_path)
    context.run(["true"])
    context.run(["true"])
    names = {values(["run", *call["argv"]], "--name")[0] for call in fake.calls("run")}
    assert len(names) == 2
    assert all(name.startswith(f"enginery-{KEY[:12]}-") for name in names)


def test_the_token_reaches_the_command_as_a_file_that_is_gone_afterwards(
    fake: FakeDocker, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_seen")
    context = step(toolchain, tmp_path)
    lines: list[str] = []
    context.log = lines.append
    script = 'cp "$HF_TOKEN_PATH" "$1/token"; stat -c %a "$HF_TOKEN_PATH" > "$1/mode"; test -z "$HF_TOKEN"'
    context.run(["sh", "-c", script, "sh", str(context.output)])
    assert (context.output / "token").read_text() == "hf_not_to_be_seen"
    assert int((context.output / "mode").read_text(), 8) & (stat.S_IRWXG | stat.S_IRWXO) == 0
    (call,) = fake.calls("run")
    assert "hf_not_to_be_seen" not in str(call["argv"])
    assert "hf_not_to_be_seen" not in "".join(lines)
    (path,) = [Path(word.partition("=")[2]) for word in call["argv"] if word.startswith("HF_TOKEN_PATH=")]
    assert not path.exists()


def test_a_container_is_killed_when_its_time_is_over(fake: FakeDocker, toolchain: Toolchain, tmp_path: Path) -> None:
    """The command ignores the signal, as a hanging build does. Only the daemon could end a real container."""
    context = step(toolchain, tmp_path, timeout=5.0)
    with pytest.raises(CommandError, match="time limit") as caught:
        context.run(["sh", "-c", "trap '' TERM INT; while :; do sleep 0.1; done"])
    assert caught.value.cause == FailureCause.TIMEOUT
    (name,) = values(["run", *fake.calls("run")[0]["argv"]], "--name")
    assert {tuple(call["argv"]) for call in fake.calls("rm")} == {("rm", "--force", name)}
    assert fake.running() == []


def test_a_container_is_killed_when_the_step_is_cancelled(
    fake: FakeDocker, toolchain: Toolchain, tmp_path: Path
) -> None:
    context = step(toolchain, tmp_path)
    pids: list[int] = []

    def cancel(line: str) -> None:
        if line == "started":
            pids.extend(fake.running())
            raise KeyboardInterrupt

    context.log = cancel
    known = 'until cat "$1"/* 2>/dev/null | grep -q .; do sleep 0.05; done'  # the daemon reports it a little later
    script = f"trap '' TERM INT; {known}; echo started; while :; do sleep 0.1; done"
    with pytest.raises(KeyboardInterrupt):
        context.run(["sh", "-c", script, "sh", str(fake.directory / "running")])
    assert len(pids) == 1
    wait_until(lambda: not Path(f"/proc/{pids[0]}").exists(), seconds=20)


RUN_A_BOX = """
import os, sys
from pathlib import Path
from enginery.toolchains import Access, identify
from enginery.toolchains.container import Container
toolchain = Container(identify(sys.argv[1], "container"), Path("."), Path("python3"), dict(os.environ), sys.argv[2])
script = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"
toolchain.run(["sh", "-c", script], Access(name="hanging"), log=lambda line: None, timeout=None)
"""


def test_a_container_is_removed_also_when_enginery_itself_is_killed(fake: FakeDocker) -> None:
    """The daemon would let the container run on. The supervisor tells it to remove the container."""
    fake.add_image(IMAGE)
    pid = container_home() / "pid"
    parent = subprocess.Popen([sys.executable, "-c", RUN_A_BOX, NAME, IMAGE])
    wait_until(lambda: pid.exists() and pid.read_text() != "", seconds=30)
    parent.kill()
    parent.wait()
    (name,) = values(["run", *fake.calls("run")[0]["argv"]], "--name")
    wait_until(lambda: ["rm", "--force", name] in [call["argv"] for call in fake.calls("rm")], seconds=30)


def test_a_failed_command_leaves_no_complaint_about_its_container(toolchain: Toolchain, tmp_path: Path) -> None:
    lines: list[str] = []
    context = step(toolchain, tmp_path, log=lines.append)
    with pytest.raises(CommandError, match="exit status 3"):
        context.run(["sh", "-c", "exit 3"])
    assert not any("may still run" in line for line in lines)


def test_the_releases_own_commands_run_in_it(
    fake: FakeDocker, release: StandIn, toolchain: Toolchain, tmp_path: Path
) -> None:
    assert (release.bin / "trtllm-build").is_file()
    lines: list[str] = []
    step(toolchain, tmp_path, log=lines.append).run(["trtllm-build", "--help"])
    assert any(line.strip().startswith("--max_batch_size") for line in lines)
    assert fake.calls("run")[0]["command"] == ["trtllm-build", "--help"]


def test_scratch_lies_where_a_container_can_read_and_write(toolchain: Toolchain, tmp_path: Path) -> None:
    context = step(toolchain, tmp_path)
    (context.scratch / "requests").write_text("ask")
    context.run(["sh", "-c", 'cp "$1/requests" "$1/answers"', "sh", str(context.scratch)])
    assert (context.scratch / "answers").read_text() == "ask"
    assert container_home().is_dir()


def test_a_docker_without_nvidias_toolkit_is_named(fake: FakeDocker, toolchain: Toolchain, tmp_path: Path) -> None:
    (fake.directory / "nvidia-smi").write_text("#!/bin/sh\n")
    (fake.directory / "nvidia-smi").chmod(0o755)
    fake.change("no-toolkit")
    with pytest.raises(CommandError, match="cannot give it a GPU") as caught:
        step(toolchain, tmp_path).run(["true"])
    assert caught.value.cause == FailureCause.CONTAINER_GPU
    assert "nvidia-ctk" in caught.value.remedy


@pytest.mark.parametrize("entrypoint", ["", '#!/bin/bash\necho NVIDIA\nexec "$@"\n', '#!/bin/sh\nexec "$@"\n'])
def test_a_command_that_the_image_does_not_have_is_named(
    fake: FakeDocker, toolchain: Toolchain, tmp_path: Path, entrypoint: str
) -> None:
    if entrypoint:
        fake.change("entrypoint", entrypoint)
    with pytest.raises(CommandError, match="no such command in the image") as caught:
        step(toolchain, tmp_path).run(["trtllm-build"])
    assert caught.value.cause == FailureCause.NOT_FOUND


def test_a_container_that_could_not_be_killed_is_named(fake: FakeDocker, toolchain: Toolchain, tmp_path: Path) -> None:
    """The daemon stops while the command runs."""
    lines: list[str] = []
    context = step(toolchain, tmp_path, log=lines.append)
    script = 'echo "Cannot connect to the Docker daemon" > "$1"; exit 3'
    with pytest.raises(CommandError, match="exit status 3"):
        context.run(["sh", "-c", script, "sh", str(fake.directory / "fail")])
    (name,) = values(["run", *fake.calls("run")[0]["argv"]], "--name")
    assert any(line.startswith(f"container {name} may still run: ") for line in lines)


def test_a_container_that_may_not_be_killed_is_named(fake: FakeDocker, toolchain: Toolchain, tmp_path: Path) -> None:
    fake.change("unkillable")
    lines: list[str] = []
    context = step(toolchain, tmp_path, timeout=5.0, log=lines.append)
    with pytest.raises(CommandError, match="time limit"):
        context.run(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
    assert any("may still run" in line and "permission denied" in line for line in lines)


# A plan's steps


def rename_a_flag_in_the_help(release: StandIn) -> None:
    builder = release.bin / "trtllm-build"
    plain = builder.read_text().replace("exec ", "").rstrip()
    builder.write_text(f"{plain} | sed -e 's/--workers WORKERS/--helpers HELPERS/'\n")


def test_a_planned_engine_is_converted_built_and_asked_in_containers(
    fake: FakeDocker, release: StandIn, tmp_path: Path
) -> None:
    """The user's own image may have any Python. The stand-in has the Python of this interpreter."""
    (fake.directory / "nvidia-smi").symlink_to(release.bin / "nvidia-smi")
    fake.add_image("team/trtllm:1")
    target = {
        "name": "h100",
        "gpu": "H100-SXM5-80GB",
        "backend": "tensorrt",
        "release": "1.2.1",
        "precision": "bfloat16",
        "toolchain": "container",
        "image": "team/trtllm:1",
    }
    plan = make_plan(
        parse_spec(
            {
                "name": "tiny",
                "source": {"path": str(TINY_LLAMA)},
                "targets": [target],
                "convert": {"examples": str(release.examples)},
                "validation": LIGHT | {"prompts": [{"prompt": "How are you?", "equals": "Well."}]},
            }
        )
    )
    release.answer("How are you?", "Well.")
    rename_a_flag_in_the_help(release)
    store = LocalStore(tmp_path / "store")
    lines: list[str] = []
    outcome = run_with_inputs(plan.find("validate/h100"), plan, store, lines.append)
    assert outcome.facts["passed"]
    record = store.find(plan.find("build/h100").key)
    assert record is not None
    assert {"config.json", "rank0.engine"} <= {file.path for file in record.files}
    assert record.toolchain["image"] == "team/trtllm:1"
    assert record.toolchain["verdict"] == "engine"
    assert "--helpers is listed by trtllm-build --help and not" in record.toolchain["disagreements"]
    warnings = [
        line for line in lines if line.startswith(f"warning: the toolchain {NAME} differs from what is recorded: ")
    ]
    assert len(warnings) == 3, "each of convert, build and validate says so"
    assert all(command[:2] == ("docker", "run") for command in record.commands)
    converted = [call for call in fake.calls("run") if "convert_checkpoint.py" in str(call["command"])]
    assert len(converted) == 1
