"""Tests of the validation of an engine: results, reports, and the recipe of the step."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from enginery.backends import validate
from enginery.builds import validation
from enginery.builds.validation import PromptResult, ValidationReport
from enginery.core.errors import StoreError, UsageError, ValidationError
from enginery.spec.validation import Prompt, ValidationOptions
from enginery.store.context import StepContext
from enginery.toolchains import drivers

QUESTION = "How do I count to nine in French?"


def prompt(**expected: str) -> Prompt:
    return Prompt.model_validate({"prompt": QUESTION, **expected})


def result(got: str, *, finish: str = "eos", **expected: str) -> PromptResult:
    passed, reason = validate.judge(prompt(**expected), got)
    return PromptResult(
        prompt=QUESTION,
        expected=expected,
        got=got,
        passed=passed,
        reason=reason,
        tokens=1,
        token_ids=(7,),
        finish=finish,
        seconds_to_first_token=0.1,
        seconds=0.2,
    )


def report(*results: PromptResult) -> ValidationReport:
    return ValidationReport(passed=all(each.passed for each in results), results=results, driver_sha256="d")


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ({"equals": "un, deux"}, " un, deux\n"),
        ({"equals": " un, deux "}, "un, deux"),
        ({"contains": "neuf"}, "huit, neuf"),
        ({"matches": r"h\w+t"}, "sept, huit, neuf"),
        ({"matches": r"^un"}, "un, deux"),
        ({"contains": "un", "matches": "x$"}, "un, deux"),
        ({"contains": ""}, "anything"),
    ],
)
def test_an_expected_answer_passes(expected: dict[str, str], answer: str) -> None:
    assert validate.judge(prompt(**expected), answer) == (True, "")


@pytest.mark.parametrize(
    ("expected", "answer", "reason"),
    [
        ({"equals": "un, deux"}, "un,  deux", "not: equals 'un, deux'"),
        ({"equals": ""}, "un", "not: equals ''"),
        ({"contains": "Neuf"}, "huit, neuf", "not: contains 'Neuf'"),
        ({"matches": r"^deux"}, "un, deux", "not: matches '^deux'"),
        ({"contains": "un", "matches": "dix"}, "un, deux", "not: matches 'dix'"),
        ({"contains": "dix", "matches": "onze"}, "un", "not: contains 'dix', matches 'onze'"),
    ],
)
def test_another_answer_fails_and_the_reason_names_what_did_not_hold(
    expected: dict[str, str], answer: str, reason: str
) -> None:
    assert validate.judge(prompt(**expected), answer) == (False, reason)


def test_a_prompt_without_expectation_is_only_recorded() -> None:
    assert validate.judge(prompt(), "whatever") == (True, "nothing expected; only recorded")


def test_a_report_without_prompts_passes() -> None:
    validation.require_passed(report(), "validate cpu")


def test_a_passed_report_stops_nothing() -> None:
    validation.require_passed(report(result("neuf", contains="neuf")), "validate cpu")


def test_a_miss_stops_with_prompt_expected_and_got() -> None:
    with pytest.raises(ValidationError) as caught:
        validation.require_passed(report(result("neuf", contains="neuf"), result("dix", contains="neuf")), "validate x")
    assert str(caught.value) == (
        "validate x: 1 of 2 answers are not as expected:\n"
        "  prompt:   'How do I count to nine in French?'\n"
        "  expected: contains 'neuf'\n"
        "  got:      'dix'\n"
        "  -> correct the expectation in the spec, or build with a higher precision; nothing was published"
    )
    assert caught.value.exit_code == 7


def test_every_miss_is_reported_with_all_its_expectations_and_whether_it_was_cut_off() -> None:
    misses = (result("un", contains="neuf", matches="dix"), result("un, de", finish="length", equals="un, deux"))
    with pytest.raises(ValidationError) as caught:
        validation.require_passed(report(*misses), "validate x")
    text = str(caught.value)
    assert "2 of 2" in text
    assert "contains 'neuf' and matches 'dix'" in text
    assert "'un, de' (cut off at max_tokens)" in text


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    written = report(result("huit, neuf é", contains="neuf"))
    (tmp_path / "report.json").write_text(written.model_dump_json(), encoding="utf-8")
    assert validation.read_report(tmp_path) == written


@pytest.mark.parametrize("content", ["", "{}", "not json", '{"passed": true, "driver_sha256": "d", "more": 1}'])
def test_what_is_not_a_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(StoreError, match="is not a validation report"):
        validation.read_report(tmp_path)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"report\.json: is not a validation report"):
        validation.read_report(tmp_path)


def test_the_recipe_holds_all_that_decides_and_no_more() -> None:
    options = ValidationOptions(max_tokens=7, prompts=(Prompt(prompt="a", contains="b", max_tokens=3),))
    call = validate.validate_call(options)
    assert call.function == "validate"
    assert set(call.parameters) == {"prompts", "max_tokens", "driver_sha256"}
    assert call.parameters["prompts"] == [{"prompt": "a", "contains": "b", "max_tokens": 3}]
    assert call.parameters["max_tokens"] == 7


def test_another_expectation_is_another_recipe() -> None:
    one, other = (ValidationOptions(prompts=(Prompt(prompt="a", contains=text),)) for text in "bc")
    assert validate.validate_call(one) != validate.validate_call(other)


def test_a_changed_driver_is_another_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = validate.validate_call(ValidationOptions())
    changed = tmp_path / "driver.py"
    changed.write_bytes(drivers.ANSWER_PROMPTS.read_bytes() + b"#")
    monkeypatch.setattr(validate, "ANSWER_PROMPTS", changed)
    assert validate.validate_call(ValidationOptions()) != before


def context(tmp_path: Path, options: ValidationOptions | None = None, **parameters: str) -> StepContext:
    call = validate.validate_call(options or ValidationOptions())
    return StepContext(
        key="0" * 64,
        parameters={**call.parameters, **parameters},
        inputs={"engine": tmp_path, "weights": tmp_path},
        output=tmp_path,
        chain=(),
        toolchain=None,
        log=lambda _: None,
    )


def test_a_plan_of_another_version_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another version"):
        validate.validate(context(tmp_path, driver_sha256="0" * 64))


def test_a_validation_without_toolchain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a toolchain"):
        validate.validate(context(tmp_path))


TWO_PROMPTS = ValidationOptions(prompts=(Prompt(prompt="a", contains="un"), Prompt(prompt="b", contains="deux")))


@pytest.mark.parametrize(("second", "failed"), [("deux", 0), ("two, two, two", 1)])
def test_one_wrong_answer_makes_a_validation_fail_and_the_report_and_the_facts_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str, failed: int
) -> None:
    answers = tuple(
        validate.Answer(text=text, token_ids=(7,), tokens=1, seconds_to_first_token=0.1, seconds=0.5, finish="eos")
        for text in ("un", second)
    )
    monkeypatch.setattr(validate, "answers_to", lambda *_: (answers, None))
    facts = validate.validate(context(tmp_path, TWO_PROMPTS))
    assert facts == {"passed": not failed, "prompts": 2, "failed": failed, "tokens_per_second": 2.0}
    found = validation.read_report(tmp_path)
    assert [found.passed, *(each.passed for each in found.results)] == [not failed, True, not failed]
    with pytest.raises(ValidationError, match=second) if failed else nullcontext():
        validation.require_passed(found, "validate cpu-int4")
