"""Builds engines with the recipe of a plan, and validates them like a validation step, without a store."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.backends import Request, backend_for, validate
from enginery.builds import validation
from enginery.core import process
from enginery.spec.gpus import CPU
from enginery.spec.spec import parse_spec
from enginery.spec.validation import ValidationOptions
from enginery.store.context import StepContext
from enginery.store.steps import Command
from enginery.toolchains.identity import Toolchain


def build(toolchain: Toolchain, weights: Path, output: Path, precision: str, **options: Any) -> Path:
    """Run the recipe of a build step; returns the engine's directory.

    `options` are the spec's build options, and `environment` adds to the toolchain's.
    """
    environment: Mapping[str, str] = options.pop("environment", {})
    target = {"name": "cpu", "gpu": "cpu", "precision": precision}
    spec = parse_spec({"name": "m", "source": {"path": str(weights)}, "targets": [target], "build": options})
    request = Request(spec, spec.targets[0], CPU)
    recipe = backend_for(request).chain(request, "0" * 64).making[0].step.recipe
    assert isinstance(recipe, Command)
    return run_recipe(recipe, toolchain, weights, output, environment)


def run_recipe(
    recipe: Command, toolchain: Toolchain, weights: Path, output: Path, environment: Mapping[str, str]
) -> Path:
    """Run a builder's command with its placeholders filled."""
    places = {"python": str(toolchain.python), "weights": str(weights), "output": str(output)}
    argv = [argument.format_map(places) for argument in recipe.argv]
    process.run(argv, env={**toolchain.environment, **environment, **recipe.environment})
    return output


@dataclass
class Asked:
    """A finished validation: its facts, its report and its log."""

    facts: Mapping[str, Any]
    report: validation.ValidationReport
    lines: list[str]


def ask(toolchain: Toolchain, engine: Path, weights: Path, output: Path, options: ValidationOptions) -> Asked:
    """Run the step function `validate` with an empty output directory."""
    output.mkdir(parents=True)
    lines: list[str] = []
    context = StepContext(
        key="0" * 64,
        parameters=validate.validate_call(options).parameters,
        inputs={"engine": engine, "weights": weights},
        output=output,
        chain=(),
        toolchain=toolchain,
        log=lines.append,
    )
    facts = validate.validate(context)
    return Asked(facts, validation.read_report(output), lines)
