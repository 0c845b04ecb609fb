"""Judges one answer: whether it is as the spec expects, and whether it is empty or only repeats itself."""

import re

from enginery.models import Degenerate, is_empty, loop_in
from enginery.spec import Prompt


def expectations(prompt: Prompt) -> dict[str, str]:
    """What the answer must be: `equals`, `contains` or `matches` -> text."""
    named = {"equals": prompt.equals, "contains": prompt.contains, "matches": prompt.matches}
    return {name: text for name, text in named.items() if text is not None}


def judge(prompt: Prompt, answer: str, *, ended: bool = True) -> tuple[bool, str]:
    """Whether an answer is as expected, and if not, why.

    `equals` ignores white space at the ends, `contains` is case-sensitive, `matches` may match anywhere. If a prompt
    has several of them, all must hold. An answer that is empty or only repeats itself is never as expected, unless the
    prompt allows it, or says with `equals` that it must be just this. If a prompt expects nothing, every other answer
    passes.

    Args:
        prompt: the prompt with its expectations.
        answer: the text of the answer.
        ended: whether the model ended the answer, and it was not cut off.
    """
    expected = expectations(prompt)
    holds = {
        "equals": answer.strip() == (prompt.equals or "").strip(),
        "contains": (prompt.contains or "") in answer,
        "matches": re.search(prompt.matches or "", answer) is not None,
    }
    misses = [f"{name} {text!r}" for name, text in expected.items() if not holds[name]]
    reasons = [f"not: {', '.join(misses)}"] if misses else []
    if degenerate(prompt, answer, ended=ended):
        reasons.append(_degeneration(answer, ended=ended))
    if not expected and not reasons:
        return True, "nothing expected; only recorded"
    return not reasons, "; ".join(reasons)


def degenerate(prompt: Prompt, answer: str, *, ended: bool) -> Degenerate | None:
    """How an answer is degenerate; None if it is not, or if the prompt allows it."""
    if prompt.equals is not None and answer.strip() == prompt.equals.strip():
        return None
    if is_empty(answer):
        return None if prompt.may_be_empty else Degenerate.EMPTY
    return Degenerate.REPEATS if not prompt.may_repeat and loop_in(answer, ended=ended) else None


def _degeneration(answer: str, *, ended: bool) -> str:
    loop = loop_in(answer, ended=ended)
    return f"it only repeats itself: {loop.unit!r} {loop.times} times" if loop else "it is empty"
