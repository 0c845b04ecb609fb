"""Lengths that no backend can serve: answers without room for a prompt, sequences beyond the model's positions."""

from collections.abc import Iterator

from enginery.backends.request import Request
from enginery.findings import Finding, warning
from enginery.model_facts import ModelFacts

NOT_MULTIPLIED = frozenset({"su", "longrope", "llama3"})
"""Kinds of rotary scaling whose factor is in the model's positions already."""


def answer_findings(request: Request, longest: int, field: str) -> Iterator[Finding]:
    """Answers that the validation asks for and that leave no room for a prompt.

    Args:
        request: the target.
        longest: prompt and answer together, in tokens; 0 where that is not known.
        field: where it is set.
    """
    validation = request.validation
    wanted = {"max_tokens": validation.max_tokens} | {
        f"prompts.{number}.max_tokens": prompt.max_tokens
        for number, prompt in enumerate(validation.prompts)
        if prompt.max_tokens
    }
    for path, tokens in wanted.items():
        if longest and tokens >= longest:
            problem = f"answers of {tokens} tokens do not fit in sequences of {longest}"
            yield Finding("E153", f"validation.{path}", problem, f"use fewer, or a larger {field}")


def position_findings(model: ModelFacts, asked: int, field: str) -> Iterator[Finding]:
    """Sequences that are longer than the model can tell places apart."""
    positions = model_positions(model)
    if positions and asked > positions:
        problem = f"sequences of {asked} tokens are longer than the {positions} that the model was made for"
        yield warning("W151", field, problem, f"use at most {positions}: beyond it answers get worse")


def model_positions(model: ModelFacts) -> int:
    """The longest sequence that the release builds for by itself; 0 where it is not known."""
    scaling = model.rope_scaling or {}
    factor = scaling.get("factor", 1)
    stretched = scaling.get("rope_type") not in NOT_MULTIPLIED and isinstance(factor, int | float)
    return int(model.max_positions * factor) if stretched else model.max_positions
