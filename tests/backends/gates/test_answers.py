"""Tests of the gate `answers`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.backends.gates.answers import judge_answers
from enginery.backends.gates.expectations import degenerate, expectations, judge
from enginery.builds.gates import GateResult, Measure, Verdict
from enginery.builds.validation import PromptResult, ValidationReport
from enginery.builds.verdicts.reference import Reference
from enginery.spec.validation import AnswersGate, Mode, Prompt
from tests.support.references import answer as reference_answer
from tests.support.references import write_reference

END = 2
VOCABULARY = 12


def answered(got: str, ids: Sequence[int] = (6, 7), finish: str = "eos", **prompt: Any) -> PromptResult:
    asked = Prompt.model_validate({"prompt": "How?", **prompt})
    passed, reason = judge(asked, got, ended=finish == "eos")
    return PromptResult(
        prompt=asked.prompt or "",
        sent=asked.prompt or "",
        expected=expectations(asked),
        got=got,
        passed=passed,
        degenerate=degenerate(asked, got, ended=finish == "eos"),
        reason=reason,
        tokens=len(ids),
        token_ids=tuple(ids),
        finish=finish,
        seconds_to_first_token=0.1,
        seconds=0.2,
    )


def report(*results: PromptResult) -> ValidationReport:
    return ValidationReport(passed=all(one.passed for one in results), results=results, driver_sha256="d")


def judged(*results: PromptResult, reference: Reference | None = None, **limits: float) -> GateResult:
    return judge_answers(report(*results), reference, AnswersGate.model_validate(limits), Mode.BLOCK)


def measure(result: GateResult, name: str) -> Measure:
    return next(one for one in result.measures if one.name == name)


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    """Says 6, 7, END to `How?`. Its second token is nearly 8, and never 9."""
    logits = np.zeros((3, VOCABULARY), dtype=np.float32)
    logits[0, 6] = logits[2, END] = 9
    logits[1, 7], logits[1, 8], logits[1, 9] = 9.0, 8.9, -9
    return write_reference(tmp_path, [reference_answer()], logits, VOCABULARY)


def test_all_answers_as_expected_pass(reference: Reference) -> None:
    result = judged(answered("So.", contains="So"), reference=reference)
    assert (result.gate, result.mode, result.verdict, result.reason) == ("answers", "block", Verdict.PASS, "")
    assert measure(result, "expected").told == "1 of 1 answers are as expected"
    assert measure(result, "agreement").value == 1.0
    assert measure(result, "agreement.1").told == "prompt 1 ('How?'): all 3 tokens are the reference's"


def test_an_answer_that_is_not_as_expected_fails_with_prompt_and_answer() -> None:
    result = judged(answered("No.", contains="So"), answered("So.", contains="So"), answered("Whatever."))
    assert result.stops
    told = measure(result, "expected").told
    assert told.startswith("1 of 2 answers are as expected; 1 more is recorded only; 'How?' was answered with 'No.'")
    assert result.reason == "1 of 2 answers are as expected"
    assert "correct the expectation" in result.remedy


def test_answers_without_an_expectation_are_recorded_only() -> None:
    result = judged(answered("Whatever."))
    assert result.verdict is Verdict.PASS
    assert measure(result, "expected").told == "nothing is expected of 1 answers: they are recorded only"


def test_without_prompts_there_is_nothing_to_judge() -> None:
    result = judged()
    assert result.verdict is Verdict.PASS
    assert measure(result, "expected").told == "there are no prompts"


@pytest.mark.parametrize(
    ("got", "finish", "expected", "what"),
    [
        ("", "eos", {}, "is empty"),
        ("\n\n", "length", {"matches": ".*"}, "is empty"),
        ("two, two, two, two, two, two, tw", "length", {}, "only repeats itself: 'two,' 6 times"),
        ("two, two, two, two, two, two, tw", "length", {"contains": "two"}, "only repeats itself"),
    ],
)
def test_an_empty_or_looping_answer_fails_also_where_the_expectation_holds(
    got: str, finish: str, expected: dict[str, str], what: str
) -> None:
    result = judged(answered(got, (5, 5, 5), finish, **expected))
    assert result.verdict is Verdict.FAIL
    assert what in measure(result, "degenerate").told
    assert measure(result, "degenerate").value == 1.0
    assert result.reason.endswith("1 degenerate answer")
    assert "validation.chat: true" in result.remedy
    assert not report(answered(got, (5,), finish, **expected)).passed


def test_a_prompt_may_allow_such_answers() -> None:
    loop = answered("la la la la la la la la", (5,), "length", may_repeat=True)
    result = judged(answered("", (), may_be_empty=True), loop)
    assert result.verdict is Verdict.PASS
    assert judged(answered("", (), equals="")).verdict is Verdict.PASS


def test_it_is_said_whether_the_original_weights_answer_in_the_same_way(tmp_path: Path) -> None:
    silent = reference_answer(answer_ids=(END,)).model_copy(update={"text": ""})
    same = judged(answered("", ()), reference=write_reference(tmp_path / "same", [silent]))
    other = judged(answered("", ()), reference=write_reference(tmp_path / "other", [reference_answer()]))
    assert same.verdict is other.verdict is Verdict.FAIL
    assert "the original weights answer in the same way" in measure(same, "degenerate").told
    assert "the original weights answer 'So.'" in measure(other, "degenerate").told


def test_an_answer_in_a_script_that_neither_prompt_nor_reference_has_fails(reference: Reference) -> None:
    result = judged(answered("Привет, как дела"), reference=reference)
    assert result.verdict is Verdict.FAIL
    assert "is in Cyrillic letters" in measure(result, "degenerate").told
    assert judged(answered("Привет, как дела")).verdict is Verdict.PASS


def test_a_divergence_is_told_with_how_near_the_tie_was(reference: Reference) -> None:
    result = judged(answered("So what", (6, 8), "eos"), reference=reference)
    assert measure(result, "agreement").value == pytest.approx(1 / 3)
    told = measure(result, "agreement.1").told
    assert "token 2 of 3 is the first that differs, a near tie of 0.10 nats (52." in told
    assert told.endswith("'So what' in place of 'So.'")
    assert result.verdict is Verdict.PASS


def test_a_divergence_far_from_a_tie_is_told_too(reference: Reference) -> None:
    told = measure(judged(answered("So no", (6, 9)), reference=reference), "agreement.1").told
    assert "no near tie of 18.00 nats" in told


def test_an_answer_that_ends_too_early_or_too_late_diverges_there(reference: Reference) -> None:
    early = measure(judged(answered("S", (6,)), reference=reference), "agreement.1")
    late = measure(judged(answered("So. And", (6, 7, 8)), reference=reference), "agreement.1")
    assert "token 2 of 3" in early.told
    assert early.value == pytest.approx(1 / 3)
    assert late.value == pytest.approx(2 / 3)


def test_an_answer_that_was_cut_off_agrees_as_far_as_it_goes(reference: Reference) -> None:
    assert measure(judged(answered("S", (6,), "length"), reference=reference), "agreement").value == 1.0


def test_agreement_below_its_limit_fails(reference: Reference) -> None:
    result = judged(answered("So what", (6, 8)), reference=reference, agreement=0.5)
    assert result.verdict is Verdict.FAIL
    assert "1 of 3 greedy tokens of the reference come before the first divergence (33%), at least 50%" in result.reason


@pytest.mark.parametrize("other", [None, "another prompt"])
def test_agreement_that_cannot_be_measured_is_inconclusive_if_it_has_a_limit(tmp_path: Path, other: str | None) -> None:
    reference = write_reference(tmp_path, [reference_answer(prompt=other)]) if other else None
    assert judged(answered("So."), reference=reference).verdict is Verdict.PASS
    result = judged(answered("So."), reference=reference, agreement=0.5)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.stops


def test_answers_of_the_releases_own_script_have_no_tokens_to_compare(reference: Reference) -> None:
    result = judged(answered("So.").model_copy(update={"tokens": None, "token_ids": ()}), reference=reference)
    assert "the release's own script reports no tokens" in measure(result, "agreement").told


def test_the_same_prompt_twice_is_compared_with_its_own_answers(tmp_path: Path) -> None:
    twice = [reference_answer(), reference_answer(name="prompt 2", answer_ids=(6, 9, END))]
    result = judged(answered("So."), answered("No.", (6, 9)), reference=write_reference(tmp_path, twice))
    assert measure(result, "agreement").value == 1.0
