"""Findings on evaluations, before anything runs."""

from collections.abc import Iterator
from pathlib import Path

from enginery.backends.evaluate.step import PLACEHOLDERS, SCRIPT, placeholders
from enginery.core.errors import ToolchainError, UsageError
from enginery.spec import Evaluation, EvaluationGate, Finding, Mode
from enginery.toolchains import Identify

FIELD = "validation.gates.evaluation.run"
SHOWN = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def evaluation_findings(gate: EvaluationGate, identify: Identify) -> list[Finding]:
    """What is wrong with the evaluations of a spec. Paths begin at the target."""
    if gate.mode is Mode.OFF:
        return []
    names = [one.name for one in gate.run]
    found: list[Finding] = []
    for number, one in enumerate(gate.run):
        path = f"{FIELD}.{number}"
        if one.name in names[:number]:
            problem = f"another evaluation is named {one.name}, too"
            found.append(Finding("E550", f"{path}.name", problem, "give each its own name"))
        found += [
            *_toolchain(one, path, identify),
            *_placeholders(one, path),
            *_script(one, path),
            *_samples(one, path),
        ]
    return found


def evaluation_notes(gate: EvaluationGate) -> list[str]:
    """Notes on evaluations that decide nothing by themselves."""
    if gate.mode is Mode.OFF:
        return []
    return [
        f"evaluation {one.name} has no reference: its score is recorded, and compared with that of the channel's build"
        for one in gate.run
        if one.reference is None
    ]


def _toolchain(one: Evaluation, path: str, identify: Identify) -> Iterator[Finding]:
    if one.toolchain is None:
        return
    try:
        identify(one.toolchain)
    except (UsageError, ToolchainError) as error:
        yield Finding("E551", f"{path}.toolchain", f"{one.toolchain}: {error.problem}", error.remedy)


def _placeholders(one: Evaluation, path: str) -> Iterator[Finding]:
    named = placeholders(one)
    if unknown := sorted(named - set(PLACEHOLDERS)):
        listed = ", ".join(f"{{{name}}}" for name in unknown)
        yield Finding("E552", f"{path}.command", f"there is no placeholder {listed}", f"use {SHOWN}")
    if "output" not in named:
        remedy = f"tell the command to write {one.result} into {{output}}"
        yield Finding("E553", f"{path}.command", "the command does not name {output}", remedy)


def _script(one: Evaluation, path: str) -> Iterator[Finding]:
    if one.script is None and SCRIPT in placeholders(one):
        yield Finding("E554", f"{path}.command", "the command names {script}, and script is not set", "set script")
    if one.script is not None and not Path(one.script).is_file():
        yield Finding("E554", f"{path}.script", f"there is no file {one.script}", "correct the path")


def _samples(one: Evaluation, path: str) -> Iterator[Finding]:
    if one.samples is None and one.items is None:
        problem = "nothing says how many samples there are, so no test can decide whether the score is good enough"
        yield Finding("E555", f"{path}.samples", problem, "set samples to the number or its path, or set items")
