"""The gate `answers`: expectations, degenerate answers, and agreement with the reference's greedy answers.

An engine that is as good as the original may answer a prompt in other words: two tokens were nearly equally likely, and
rounding decided. So agreement is only recorded, unless the spec sets a limit. For each divergence the gate tells how
near the tie was: how much more likely the reference found its own token than the engine's.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import exp
from typing import NamedTuple

from enginery.builds import (
    GateResult,
    Measure,
    PromptResult,
    Reference,
    ReferenceSequence,
    ValidationReport,
    Verdict,
    gate_result,
)
from enginery.models import Degenerate, foreign_script, is_empty, loop_in
from enginery.spec import AnswersGate, GateName, Mode

EOS = "eos"
NEAR_TIE = 0.5
"""A difference of so many nats is a near tie: the likelier token is less than 1.65 times as likely."""
AROUND, AFTER = 16, 28
"""Characters that are shown before and after the place where two answers begin to differ."""
SHOWN = 60
REMEDY = "correct the expectation in the spec, or build with a higher precision"
DEGENERATE_REMEDY = (
    "ask a chat model through its template (validation.chat: true), build with a higher precision, or accept such"
    " answers with may_be_empty or may_repeat"
)


class Compared(NamedTuple):
    """An answer beside the reference's.

    Attributes:
        number: of the prompt, from 1.
        result: the engine's answer.
        sequence: the reference's answer.
        start: the row of its first token.
        agreed: how many tokens are the same before the first that differs.
        total: how many there are to compare.
    """

    number: int
    result: PromptResult
    sequence: ReferenceSequence
    start: int
    agreed: int
    total: int


def judge_answers(
    report: ValidationReport, reference: Reference | None, options: AnswersGate, mode: Mode
) -> GateResult:
    """Judge the answers of an engine.

    Args:
        report: the engine's answers.
        reference: the answers of the original weights; None without a reference.
        options: the gate's limits.
        mode: what follows from the verdict.
    """
    theirs = _answers_of(report, reference)
    measures = (_expected(report), _degenerate(report, theirs), *_agreement(report, reference, theirs, options))
    bad = [measure for measure in measures if measure.verdict is not Verdict.PASS]
    remedies = {"expected": REMEDY, "degenerate": DEGENERATE_REMEDY}
    remedy = dict.fromkeys(remedies.get(measure.name, REMEDY) for measure in bad)
    reason = ", ".join(map(_reason, bad))
    return gate_result(GateName.ANSWERS, mode, options.accept, measures, "; ".join(remedy), reason=reason)


def _reason(measure: Measure) -> str:
    """What is wrong in a few words; the measure itself tells the rest."""
    match measure.name:
        case "expected":
            return measure.told.partition(";")[0]
        case "degenerate":
            return "1 degenerate answer" if measure.value == 1 else f"{measure.value:.0f} degenerate answers"
        case _:
            return measure.told


def _answers_of(report: ValidationReport, reference: Reference | None) -> dict[int, tuple[ReferenceSequence, int]]:
    """The reference's answer to each prompt, with its first row: by the text that was sent, in order."""
    found: dict[int, tuple[ReferenceSequence, int]] = {}
    free = [(sequence, rows.start) for sequence, rows in reference.rows()] if reference else []
    free = [one for one in free if one[0].kind == "answer"]
    for index, result in enumerate(report.results):
        same = next((one for one in free if one[0].prompt == result.text_sent), None)
        if same is not None:
            free.remove(same)
            found[index] = same
    return found


def _expected(report: ValidationReport) -> Measure:
    """How many of the answers of which something is expected are as expected."""
    checked = [result for result in report.results if result.checked]
    recorded = len(report.results) - len(checked)
    also = f"; {recorded} more {'is' if recorded == 1 else 'are'} recorded only" if recorded and checked else ""
    if not checked:
        told = (
            f"nothing is expected of {recorded} answers: they are recorded only" if recorded else "there are no prompts"
        )
        return Measure(name="expected", value=None, verdict=Verdict.PASS, told=told)
    good = [result for result in checked if result.passed]
    misses = "".join(f"; {_miss(result)}" for result in checked if not result.passed)
    return Measure(
        name="expected",
        value=len(good) / len(checked),
        limit=1.0,
        at_least=True,
        verdict=Verdict.PASS if len(good) == len(checked) else Verdict.FAIL,
        told=f"{len(good)} of {len(checked)} answers are as expected{also}{misses}",
    )


def _miss(result: PromptResult) -> str:
    return f"{_short(result.question)} was answered with {_short(result.got)} ({result.reason})"


def _degenerate(report: ValidationReport, theirs: Mapping[int, tuple[ReferenceSequence, int]]) -> Measure:
    """How many answers are empty, only repeat themselves, or are in another script than prompt and reference."""
    told = []
    for index, result in enumerate(report.results):
        sequence = theirs[index][0] if index in theirs else None
        what = _degeneration(result, sequence)
        if what:
            told.append(f"the answer to {_short(result.question)} {what}")
    count = len(told)
    return Measure(
        name="degenerate",
        value=float(count),
        limit=0.0,
        verdict=Verdict.FAIL if told else Verdict.PASS,
        told="; ".join(told) if told else "no answer is empty, only repeats itself, or changes its script",
    )


def _degeneration(result: PromptResult, sequence: ReferenceSequence | None) -> str:
    """How an answer is degenerate, and whether the reference answers in the same way; empty if it is not."""
    if result.degenerate is Degenerate.EMPTY:
        same = sequence is not None and is_empty(sequence.text)
        return f"is empty{_of_the_model(sequence, same=same)}"
    if result.degenerate is Degenerate.REPEATS:
        loop = loop_in(result.got, ended=result.finish == EOS)
        unit = f": {_short(loop.unit)} {loop.times} times" if loop else ""
        same = sequence is not None and loop_in(sequence.text, ended=sequence.finish == EOS) is not None
        return f"only repeats itself{unit}{_of_the_model(sequence, same=same)}"
    if sequence is None:
        return ""
    known = (result.text_sent, sequence.text, *result.expected.values())
    script = foreign_script(result.got, *known)
    return (
        f"is in {script.capitalize()} letters ({_short(result.got)}), which neither prompt nor reference has"
        if script
        else ""
    )


def _of_the_model(sequence: ReferenceSequence | None, *, same: bool) -> str:
    if sequence is None:
        return ""
    if same:
        return " (the original weights answer in the same way: the model does that, it is not the engine)"
    return f" (the original weights answer {_short(sequence.text)})"


def _agreement(
    report: ValidationReport,
    reference: Reference | None,
    theirs: Mapping[int, tuple[ReferenceSequence, int]],
    options: AnswersGate,
) -> Iterator[Measure]:
    """The share of the reference's tokens before the first divergence: of all prompts together, then of each."""
    compared = [
        _compare(index + 1, report.results[index], sequence, start)
        for index, (sequence, start) in theirs.items()
        if report.results[index].tokens is not None
    ]
    if reference is None or not compared:
        yield _not_compared(report, reference, options)
        return
    agreed, total = sum(one.agreed for one in compared), sum(one.total for one in compared)
    share, limit = agreed / total, options.agreement
    at_least = f", at least {limit:.0%}" if limit is not None else " (recorded only)"
    left = len(report.results) - len(compared)
    also = f"; {left} prompts could not be compared" if left else ""
    yield Measure(
        name="agreement",
        value=share,
        limit=limit,
        at_least=True,
        verdict=Verdict.PASS if limit is None or share >= limit else Verdict.FAIL,
        told=f"{agreed} of {total} greedy tokens of the reference come before the first divergence ({share:.0%})"
        f"{at_least}{also}",
    )
    for one in compared:
        yield Measure(
            name=f"agreement.{one.number}",
            value=one.agreed / one.total,
            verdict=Verdict.PASS,
            told=_told(one, reference),
        )


def _not_compared(report: ValidationReport, reference: Reference | None, options: AnswersGate) -> Measure:
    """The measure for answers that cannot be compared. It is inconclusive if the spec sets a limit."""
    why = "the reference has none of these prompts" if report.results else "there are no prompts"
    why = "there is no reference" if reference is None else why
    if reference is not None and any(result.tokens is None for result in report.results):
        why = "the release's own script reports no tokens"
    return Measure(
        name="agreement",
        value=None,
        limit=options.agreement,
        at_least=True,
        verdict=Verdict.PASS if options.agreement is None else Verdict.INCONCLUSIVE,
        told=f"agreement with the reference's answers was not measured: {why}",
    )


def _compare(number: int, result: PromptResult, sequence: ReferenceSequence, start: int) -> Compared:
    """An answer beside the reference's, token by token, the token that ends it among them."""
    wanted = sequence.answer_ids
    total = len(wanted)
    if result.finish != EOS:  # a shorter limit is no divergence
        total = min(total, len(result.token_ids)) or total
    agreed = 0
    for place in range(total):
        if not _same(result, sequence, place):
            break
        agreed += 1
    return Compared(number, result, sequence, start, agreed, total)


def _same(result: PromptResult, sequence: ReferenceSequence, place: int) -> bool:
    """Whether the token at this place of both answers is the same. The runtime does not say which token ended it."""
    ends = sequence.finish == EOS and place == len(sequence.answer_ids) - 1
    if place < len(result.token_ids):
        return not ends and result.token_ids[place] == sequence.answer_ids[place]
    return ends and result.finish == EOS


def _told(one: Compared, reference: Reference) -> str:
    """Where an answer begins to differ from the reference's, and how near the tie was there."""
    prompt = f"prompt {one.number} ({_short(one.result.question)})"
    if one.agreed == one.total:
        return f"{prompt}: all {one.total} tokens are the reference's"
    ours, theirs = _excerpts(one.result.got, one.sequence.text)
    return (
        f"{prompt}: token {one.agreed + 1} of {one.total} is the first that differs, {_tie(one, reference)}:"
        f" {ours} in place of {theirs}"
    )


def _tie(one: Compared, reference: Reference) -> str:
    """How much more likely the reference finds its own token than the engine's."""
    row = one.start + one.agreed
    own = float(reference.logprobs.next_logprobs[row])
    token = _token_at(one, reference.answers)
    ids = reference.logprobs.top_ids[row].tolist()
    if token is None:
        return f"the reference's token has a probability of {exp(own):.1%}"
    if token not in ids:
        over = own - float(reference.logprobs.top_logprobs[row][-1])
        return (
            f"no near tie: the engine's token is not among the reference's {len(ids)} likeliest (over {over:.1f} nats)"
        )
    other = float(reference.logprobs.top_logprobs[row][ids.index(token)])
    near = "a near tie" if own - other <= NEAR_TIE else "no near tie"
    return f"{near} of {own - other:.2f} nats ({exp(own):.1%} against {exp(other):.1%})"


def _token_at(one: Compared, answers: Sequence[ReferenceSequence]) -> int | None:
    """The engine's token at the divergence; None if it ended the answer, and the reference never says with which."""
    if one.agreed < len(one.result.token_ids):
        return one.result.token_ids[one.agreed]
    return next((sequence.ids[-1] for sequence in answers if sequence.finish == EOS), None)


def _excerpts(ours: str, theirs: str) -> tuple[str, str]:
    """Both answers around the first character that differs."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    place = next((index for index, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
    begin = max(0, place - AROUND)
    shown = []
    for text in (ours, theirs):
        cut = text[begin : place + AFTER]
        shown.append(repr(("…" if begin else "") + cut + ("…" if place + AFTER < len(text) else "")))
    return shown[0], shown[1]


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
