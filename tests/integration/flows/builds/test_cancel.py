"""A build that is ended while a step's command runs leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from enginery.core.process.service import Service
from tests.support.plans.small_pipeline import small_spec
from tests.support.waiting import ACCEPT_INTERRUPTS, wait_until

CHECKOUT = Path(__file__).parents[4]
BUILD = """
import sys
from pathlib import Path
from enginery.pipeline import functions
from enginery.pipeline.flows import build
from tests.support.plans.small_pipeline import SmallPipeline, small_spec

directory = Path(sys.argv[1])
pipeline = SmallPipeline(directory)
pipeline.scripts["build/a"] = f"sleep 300 & echo $! > {directory}/child; echo $$ > {directory}/parent; wait"
build.make_plan = pipeline.plan
functions.PREPARATION_CHECKS.clear()  # its publish needs no registry
from enginery.pipeline.flows.console import build_from_cli
build_from_cli(small_spec("a"))
"""


FROM_THE_COMMAND_LINE = (
    BUILD.replace('from enginery.pipeline.flows.console import build_from_cli\nbuild_from_cli(small_spec("a"))', "")
    + """
from enginery.cli.app import main
sys.argv = ["enginery", "build", sys.argv[2]]
main()
"""
)


def test_ctrl_c_ends_the_command_line_with_130_and_says_that_finished_steps_are_kept(
    prefect_api: str, tmp_path: Path
) -> None:
    directory, spec = tmp_path / "pipeline", tmp_path / "spec.yaml"
    spec.write_text(json.dumps(small_spec("a").model_dump(mode="json")))
    environment = dict(os.environ) | {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home")}
    argv = [sys.executable, "-c", ACCEPT_INTERRUPTS + FROM_THE_COMMAND_LINE, str(directory), str(spec)]
    with subprocess.Popen(argv, env=environment, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as build:
        try:
            wait_until((directory / "parent").exists, seconds=60)
            build.send_signal(signal.SIGINT)
            _, errors = build.communicate(timeout=60)
        finally:
            build.kill()
    assert build.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; finished steps are kept"
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_no_command_behind(
    number: signal.Signals, prefect_api: str, tmp_path: Path
) -> None:
    directory = tmp_path / "pipeline"
    environment = dict(os.environ) | {"PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path / "prefect-home")}
    argv = [sys.executable, "-c", BUILD, str(directory)]
    service = Service.start(argv, env=environment, cwd=CHECKOUT, log_file=tmp_path / "build.log")
    try:
        parent, child = directory / "parent", directory / "child"
        wait_until(lambda: parent.exists() and parent.read_text().strip(), seconds=60)
        commands = [psutil.Process(int(file.read_text())) for file in (parent, child)]
        (build,) = (process for process in psutil.Process(service.pid).children() if process.cmdline()[:2] == argv[:2])
        build.send_signal(number)
        wait_until(lambda: not any(command.is_running() for command in commands), seconds=20)
        wait_until(lambda: not service.alive(), seconds=30)
    finally:
        service.stop()
