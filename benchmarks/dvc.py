"""Installs DVC in an environment of its own, and makes a DVC pipeline with as many stages as a plan has steps."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.timing import command
from enginery.pipeline import Plan, PlannedStep

VERSION = "3.67.1"


@dataclass(frozen=True)
class DvcPipeline:
    """A DVC pipeline that is up to date.

    Attributes:
        directory: the pipeline's directory.
        program: the `dvc` command.
        environment: the environment for the command, without the user's DVC settings.
    """

    directory: Path
    program: Path
    environment: Mapping[str, str]

    def repro(self) -> None:
        """Run `dvc repro`, which finds that nothing has changed."""
        command([self.program, "repro"], self.directory, self.environment)


def ensure_dvc(venv: Path) -> Path:
    """The `dvc` command of the pinned version. If `venv` does not have it, pip installs it there."""
    program, python = venv / "bin" / "dvc", venv / "bin" / "python"
    if not program.exists() or _version(program) != VERSION:
        command([sys.executable, "-m", "venv", "--clear", venv])
        command([python, "-m", "pip", "install", "--disable-pip-version-check", f"dvc=={VERSION}"])
    return program


def _version(program: Path) -> str:
    return subprocess.run([program, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def pipeline_like(plan: Plan, directory: Path, program: Path) -> DvcPipeline:
    """A DVC pipeline with the shape of a plan: a stage with a small output for each step, with the same inputs.

    To be fast, DVC uses no Git repository, sends no analytics and does not check for updates.
    """
    directory.mkdir(parents=True)
    own = {"DVC_SITE_CACHE_DIR": "site", "DVC_GLOBAL_CONFIG_DIR": "global", "DVC_SYSTEM_CONFIG_DIR": "system"}
    environment = os.environ | {name: str(directory / ".dvc" / value) for name, value in own.items()}
    for arguments in (
        ["init", "--quiet", "--no-scm"],
        ["config", "core.analytics", "false"],
        ["config", "core.check_update", "false"],
    ):
        command([program, *arguments], directory, environment)
    (directory / "source.txt").write_text("the weights\n", encoding="utf-8")
    (directory / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages(plan)}), encoding="utf-8")
    pipeline = DvcPipeline(directory, program, environment)
    pipeline.repro()
    return pipeline


def stages(plan: Plan) -> dict[str, dict[str, Any]]:
    """A stage for each step of a plan, as `dvc.yaml` lists them."""
    return {_name(planned): _stage(planned, plan) for planned in plan.steps}


def _name(planned: PlannedStep) -> str:
    return planned.id.replace("/", "-")


def _stage(planned: PlannedStep, plan: Plan) -> dict[str, Any]:
    inputs = set(planned.step.inputs.values())
    needs = [f"{_name(step)}.txt" for step in plan.steps if step.key in inputs] or ["source.txt"]
    made = f"{_name(planned)}.txt"
    return {"cmd": f"cat {' '.join(needs)} > {made}", "deps": needs, "outs": [made]}
