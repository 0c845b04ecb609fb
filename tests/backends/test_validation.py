"""Tests of the validation of an engine: results, reports, and the recipe of the step."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from enginery.backends import validate
from enginery.backends.gates import expectations
from enginery.builds import validation
from enginery.builds.validation import PromptResult, ValidationReport
from enginery.core.errors import SourceError, StoreError, UsageError, ValidationError
from enginery.models import Degenerate, SentPrompt
from enginery.spec.validation import Gates, Message, Prompt, ValidationOptions
from enginery.store.context import StepContext
from enginery.toolchains import drivers
from tests.support.models.chat_templates import CHATML

CHAT = (Message(role="system", content="Be brief."), Message(role="user", content="Hi"))
QUESTION = "How do I count to nine in French?"


def prompt(**expected: str) -> Prompt:
    return Prompt.model_validate({"prompt": QUESTION, **expected})


def result(got: str, *, finish: str = "eos", **expected: str) -> PromptResult:
    passed, reason = expectations.judge(prompt(**expected), got)
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
    assert expectations.judge(prompt(**expected), answer) == (True, "")


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
    assert expectations.judge(prompt(**expected), answer) == (False, reason)


def test_a_prompt_without_expectation_is_only_recorded() -> None:
    assert expectations.judge(prompt(), "whatever") == (True, "nothing expected; only recorded")


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
    assert set(call.parameters) == {"prompts", "max_tokens", "driver_sha256", "weights_driver_sha256"}
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
    monkeypatch.setattr(validate, "require_same_weights", lambda _: {"tensors_compared": 3})
    facts = validate.validate(context(tmp_path, TWO_PROMPTS))
    assert facts == {"passed": not failed, "prompts": 2, "failed": failed, "tensors_compared": 3}
    found = validation.read_report(tmp_path)
    assert [found.passed, *(each.passed for each in found.results)] == [not failed, True, not failed]
    with pytest.raises(ValidationError, match=second) if failed else nullcontext():
        validation.require_passed(found, "validate cpu-int4")


@pytest.mark.parametrize(
    ("answer", "finish", "why"),
    [
        (" \n", "eos", "it is empty"),
        ("two, two, two, two, two, two, two", "length", "it only repeats itself: 'two,' 7 times"),
    ],
)
def test_an_empty_answer_or_a_loop_is_never_as_expected(answer: str, finish: str, why: str) -> None:
    ended = finish == "eos"
    assert expectations.judge(prompt(), answer, ended=ended) == (False, why)
    assert expectations.judge(prompt(matches=""), answer, ended=ended) == (False, why)
    assert expectations.judge(prompt(contains="x"), answer, ended=ended) == (False, f"not: contains 'x'; {why}")


def test_a_prompt_may_accept_an_empty_answer_or_a_loop() -> None:
    empty = Prompt(prompt=QUESTION, may_be_empty=True)
    assert expectations.judge(empty, "") == (True, "nothing expected; only recorded")
    loop = Prompt(prompt=QUESTION, may_repeat=True, contains="la")
    assert expectations.judge(loop, "la " * 9, ended=False) == (True, "")
    assert expectations.judge(loop, "") == (False, "not: contains 'la'; it is empty")
    assert expectations.judge(prompt(equals="la la la la la la la la"), "la la la la la la la la") == (True, "")
    assert expectations.judge(prompt(equals=""), "") == (True, "")


def test_a_degenerate_answer_stops_with_what_it_is_and_what_to_do() -> None:
    miss = result("").model_copy(update={"degenerate": Degenerate.EMPTY})
    with pytest.raises(ValidationError) as caught:
        validation.require_passed(report(miss), "validate x")
    assert "expected: an answer\n  got:      ''\n  but:      it is empty" in str(caught.value)
    assert "chat: true" in str(caught.value)
    assert "may_be_empty" in str(caught.value)


def test_specs_without_chats_have_nothing_of_them_in_their_recipe() -> None:
    plain = ValidationOptions(prompts=(Prompt(prompt="a", contains="b"),))
    expected = {"prompts", "max_tokens", "driver_sha256", "weights_driver_sha256"}
    assert set(validate.validate_call(plain).parameters) == expected
    unused = plain.model_copy(update={"gates": Gates.model_validate({"answers": "warn"})})
    assert validate.validate_call(unused) == validate.validate_call(plain)


def test_a_chat_is_another_recipe_than_raw_text() -> None:
    raw = ValidationOptions(prompts=(Prompt(prompt="a"),))
    every = ValidationOptions(prompts=(Prompt(prompt="a"),), chat=True)
    one = ValidationOptions(prompts=(Prompt(prompt="a", chat=True),))
    messages = ValidationOptions(prompts=(Prompt(messages=(Message(role="user", content="a"),)),))
    calls = [validate.validate_call(options) for options in (raw, every, one, messages)]
    assert all(first != second for place, first in enumerate(calls) for second in calls[:place])
    assert validate.validate_call(every).parameters["chat"] is True


@pytest.mark.parametrize("gate", ["warn", "off", {"accept": {"by": "me", "why": "the markers are right"}}])
def test_the_recipe_says_whether_another_models_template_is_accepted(gate: object) -> None:
    chat = {"prompts": [{"prompt": "a"}], "chat": True}
    strict = validate.validate_call(ValidationOptions.model_validate(chat))
    assert "wrong_template" not in strict.parameters
    accepting = ValidationOptions.model_validate({**chat, "gates": {"answers": gate}})
    assert validate.validate_call(accepting).parameters["wrong_template"] == "accepted"


def test_the_releases_script_adds_nothing_to_a_chat() -> None:
    options = ValidationOptions(prompts=(Prompt(prompt="a"), Prompt(prompt="b", chat=True)), run_script=True)
    parameters = validate.validate_call(options, "tensorrt", "0.8.0").parameters
    chats, raw = parameters["argv_of_chats"], parameters["argv"]
    assert isinstance(chats, list)
    assert isinstance(raw, list)
    assert sorted(str(word) for word in chats if word not in raw) == ["--no_add_special_tokens", "--no_prompt_template"]
    assert chats[-1] == raw[-1] == "--input_text"
    without = options.model_copy(update={"prompts": (Prompt(prompt="a"),)})
    assert "argv_of_chats" not in validate.validate_call(without, "tensorrt", "0.8.0").parameters


def test_the_report_has_the_messages_and_the_text_that_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    added = [{"content": text, "special": True} for text in ("<|im_start|>", "<|im_end|>")]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": {}}}))
    prompts = (Prompt(prompt="a", chat=False), Prompt(prompt="b"), Prompt(messages=CHAT))
    options = ValidationOptions(prompts=prompts, chat=True)
    asked: list[SentPrompt] = []
    answer = validate.Answer(text="un", token_ids=(7,), tokens=1, seconds_to_first_token=0.1, seconds=0.5, finish="eos")

    def answers_to(_context: StepContext, _options: ValidationOptions, sent: tuple[SentPrompt, ...]) -> Any:
        asked.extend(sent)
        return (answer,) * len(sent), None

    monkeypatch.setattr(validate, "answers_to", answers_to)
    monkeypatch.setattr(validate, "require_same_weights", lambda _: {})
    assert validate.validate(context(tmp_path, options))["passed"]
    found = validation.read_report(tmp_path)
    assert found.chat_template == "chat_template.jinja"
    raw, chat, several = found.results
    assert (raw.prompt, raw.messages, raw.text_sent, raw.checked) == ("a", (), "a", False)
    assert (chat.prompt, chat.text_sent) == ("b", "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n")
    assert (several.prompt, several.messages) == ("Hi", CHAT)
    assert several.question == "system: Be brief.\nuser: Hi"
    assert [one.add_special_tokens for one in asked] == [True, False, False]


def test_a_report_from_before_chats_is_still_read() -> None:
    new = {"messages", "sent", "as_raw_text", "degenerate"}
    old = {"results": [result("un", contains="un").model_dump(mode="json", exclude=new)], "passed": True}
    found = ValidationReport.model_validate({**old, "driver_sha256": "d"})
    assert found.results[0].text_sent == QUESTION
    assert found.results[0].checked


def test_another_models_template_stops_the_step_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<s>", "special": True}]}))
    monkeypatch.setattr(validate, "answers_to", lambda *_: pytest.fail("the model was asked"))
    with pytest.raises(SourceError, match=r"chat_template\.jinja.*<\|im_end\|>.*tokenizer\.json"):
        validate.validate(context(tmp_path, ValidationOptions(prompts=(Prompt(prompt="a"),), chat=True)))
