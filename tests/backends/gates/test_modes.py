"""The mode of each gate: what the spec says, defaults, and notes of the plan about what is not checked."""

from typing import Any

import pytest

from enginery.backends.gates.modes import mode_notes, modes_of, wants_reference
from enginery.core.errors import SpecError
from enginery.spec import GateName, Mode, ValidationOptions
from enginery.spec.spec import parse_spec

NO_REFERENCE = {GateName.DISTRIBUTION: "there is no reference"}


def options(**given: Any) -> ValidationOptions:
    return ValidationOptions.model_validate(given)


def notes(given: ValidationOptions, without: dict[GateName, str] | None = None) -> str:
    return "\n".join(mode_notes(given, modes_of(given, without or {}), without or {}))


def test_gates_block_by_default_and_those_that_depend_on_earlier_builds_warn() -> None:
    modes = modes_of(options(), {})
    assert modes == {
        GateName.DISTRIBUTION: Mode.BLOCK,
        GateName.ANSWERS: Mode.BLOCK,
        GateName.SIZE: Mode.BLOCK,
        GateName.EVALUATION: Mode.OFF,
        GateName.SPEED: Mode.WARN,
        GateName.CHANNEL: Mode.WARN,
    }


def test_the_spec_decides_the_mode_of_a_gate() -> None:
    gates = {"speed": "block", "size": {"mode": "warn"}, "distribution": "off"}
    modes = modes_of(options(gates=gates), {})
    assert [modes[name] for name in (GateName.SPEED, GateName.SIZE, GateName.DISTRIBUTION)] == ["block", "warn", "off"]


def test_off_without_quotes_is_false_in_yaml_and_means_off() -> None:
    assert options(gates={"size": False}).gates.size.mode is Mode.OFF
    assert options(gates={"size": {"mode": False}}).gates.size.mode is Mode.OFF


def test_evaluations_block_as_soon_as_there_are_any() -> None:
    run = [{"name": "math", "command": ["score"], "score": "score"}]
    assert modes_of(options(gates={"evaluation": {"run": run}}), {})[GateName.EVALUATION] is Mode.BLOCK


def test_a_gate_that_cannot_be_judged_warns_and_the_plan_says_why() -> None:
    assert modes_of(options(), NO_REFERENCE)[GateName.DISTRIBUTION] is Mode.WARN
    assert "gate distribution: there is no reference; it only warns" in notes(options(), NO_REFERENCE)


def test_a_gate_that_cannot_be_judged_still_blocks_if_the_spec_says_so() -> None:
    given = options(gates={"distribution": "block"})
    assert modes_of(given, NO_REFERENCE)[GateName.DISTRIBUTION] is Mode.BLOCK
    assert "this build will stop there" in notes(given, NO_REFERENCE)


def test_the_plan_says_that_no_prompt_has_an_expectation() -> None:
    assert "no prompt says what its answer must be: only what the gates measure is checked" in notes(options())
    expecting = options(prompts=[{"prompt": "What is 1 plus 1?", "contains": "2"}])
    assert "no prompt says" not in notes(expecting)


def test_the_plan_says_that_nothing_is_checked_if_all_gates_are_off() -> None:
    gates = {name.value: "off" for name in GateName}
    assert "nothing checks this engine" in notes(options(gates=gates))


def test_the_plan_tells_who_accepted_a_verdict_beforehand() -> None:
    accept = {"by": "ann@example.com", "why": "a demonstration, not for users"}
    told = notes(options(gates={"distribution": {"accept": accept}}))
    assert "gate distribution lets this build pass whatever it finds: ann@example.com: a demonstration" in told


def test_a_forced_pass_without_a_reason_is_a_mistake() -> None:
    spec = {
        "name": "m",
        "source": {"path": "."},
        "targets": [{"name": "cpu", "precision": "int4"}],
        "validation": {"gates": {"size": {"accept": {"by": "ann", "why": ""}}}},
    }
    with pytest.raises(SpecError, match="validation.gates.size.accept.why"):
        parse_spec(spec)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, True),
        ({"reference": {"use": "off"}}, False),
        ({"gates": {"distribution": "off"}}, True),
        ({"gates": {"distribution": "off", "answers": "off"}}, False),
    ],
)
def test_a_reference_is_made_if_a_gate_compares_with_it(given: dict[str, Any], wanted: object) -> None:
    assert wants_reference(options(**given)) is wanted
