"""Asks a built engine the spec's prompts and judges what it says.

An engine that answers wrongly is a finding, not a failure of the step: the report is recorded either way, and
`require_passed` stops what would come after.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from enginery.answering import ONNXRUNTIME, Answer, ask, driver_parameters
from enginery.context import Facts, StepContext
from enginery.errors import StoreError, ValidationError
from enginery.files import write_atomic
from enginery.spec import Prompt, ValidationOptions
from enginery.steps import Call

REPORT_SCHEMA = 1
REPORT_FILE = "report.json"
FUNCTION_VERSION = 1


class PromptResult(BaseModel):
    """One prompt, judged.

    Attributes:
        expected: the expectations of the spec, `equals`, `contains` or `matches` -> text.
        got: the answer, without the prompt.
        passed: whether it is as expected; always so where nothing is expected.
        reason: why it did not pass, or that nothing was expected.
        tokens: length of the answer; None where the release's own script was asked, which does not tell.
        token_ids: the answer as tokens, to compare a served engine with; none where they were not told.
        finish: `eos` when the model ended the answer, `length` when it reached the limit; else `unknown`.
        seconds_to_first_token: from the prompt to the first token; None where the answer came in one piece.
        seconds: from the prompt to the end of the answer.
        max_tokens: the limit; None in reports from before it was noted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    expected: dict[str, str]
    got: str
    passed: bool
    reason: str
    tokens: int | None
    token_ids: tuple[int, ...]
    finish: str
    seconds_to_first_token: float | None
    seconds: float
    max_tokens: int | None = None


class ValidationReport(BaseModel):
    """What an engine said to all prompts.

    Attributes:
        passed: whether every answer is as expected; true when there are no prompts.
        tokens_per_second: of all answers together; None when there was no token, or they were not told.
        driver_sha256: digest of the script that asked; empty when it was the release's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = REPORT_SCHEMA
    passed: bool
    results: tuple[PromptResult, ...] = Field(default=())
    tokens_per_second: float | None = None
    driver_sha256: str

    @property
    def misses(self) -> tuple[PromptResult, ...]:
        """The answers that are not as expected."""
        return tuple(result for result in self.results if not result.passed)


def validate_call(
    options: ValidationOptions, *, driver: str = ONNXRUNTIME, parameters: Mapping[str, JsonValue] | None = None
) -> Call:
    """The recipe of a validation: all that decides what is asked and how it is judged.

    Args:
        options: the spec's.
        driver: who asks, `onnxruntime` or `tensorrt_llm`.
        parameters: what it must know; see `answering.driver_parameters`.

    Raises:
        PlanError: when the spec asks for `run_script` where there is none.
        UsageError: when the release cannot run such a model.
    """
    prompts: list[JsonValue] = [prompt.model_dump(mode="json", exclude_none=True) for prompt in options.prompts]
    return Call(
        function="validate",
        version=FUNCTION_VERSION,
        parameters={
            "prompts": prompts,
            "max_tokens": options.max_tokens,
            **driver_parameters(options, driver, parameters or {}),
        },
    )


def expectations(prompt: Prompt) -> dict[str, str]:
    """What the answer must be: `equals`, `contains` or `matches` -> text."""
    named = {"equals": prompt.equals, "contains": prompt.contains, "matches": prompt.matches}
    return {name: text for name, text in named.items() if text is not None}


def judge(prompt: Prompt, answer: str) -> tuple[bool, str]:
    """Whether an answer is as expected, and if not, why.

    `equals` ignores white space at the ends, `contains` minds case, `matches` may match anywhere. Where several are
    given, all must hold; where none is, every answer will do.
    """
    expected = expectations(prompt)
    if not expected:
        return True, "nothing expected; only recorded"
    misses = [f"{name} {text!r}" for name, text in expected.items() if not _holds(name, text, answer)]
    return not misses, f"not: {', '.join(misses)}" if misses else ""


def _holds(name: str, text: str, answer: str) -> bool:
    if name == "equals":
        return answer.strip() == text.strip()
    if name == "contains":
        return text in answer
    return re.search(text, answer) is not None


def validate(context: StepContext) -> Facts:
    """Ask the engine the prompts, and write `report.json` to the output. The step function `validate`.

    Inputs are `weights` (for the tokenizer) and `engine` or `checkpoint`, without which the weights themselves are
    asked. The model is loaded also when there are no prompts, so one that cannot be loaded is found out.

    Raises:
        CommandError: when the engine cannot be loaded or asked.
        UsageError: when the plan was made with another version of the driver.
    """
    options = ValidationOptions.model_validate(
        {"prompts": context.parameters["prompts"], "max_tokens": context.parameters["max_tokens"]}
    )
    report = _report(options, ask(context, options), str(context.parameters.get("driver_sha256", "")))
    write_atomic(context.output / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    for miss in report.misses:
        context.log(_described(miss))
    return {
        "passed": report.passed,
        "prompts": len(report.results),
        "failed": len(report.misses),
        "tokens_per_second": report.tokens_per_second,
    }


def _report(options: ValidationOptions, answers: tuple[Answer, ...], digest: str) -> ValidationReport:
    results = tuple(_result(prompt, answer, options) for prompt, answer in zip(options.prompts, answers, strict=True))
    seconds = sum(answer.seconds for answer in answers)
    tokens = sum(answer.tokens or 0 for answer in answers)
    told = all(answer.tokens is not None for answer in answers)
    return ValidationReport(
        passed=all(result.passed for result in results),
        results=results,
        tokens_per_second=round(tokens / seconds, 3) if tokens and told else None,
        driver_sha256=digest,
    )


def _result(prompt: Prompt, answer: Answer, options: ValidationOptions) -> PromptResult:
    passed, reason = judge(prompt, answer.text)
    return PromptResult(
        prompt=prompt.prompt,
        expected=expectations(prompt),
        got=answer.text,
        passed=passed,
        reason=reason,
        max_tokens=prompt.max_tokens or options.max_tokens,
        **answer.model_dump(exclude={"text"}),
    )


def require_passed(report: ValidationReport, label: str) -> None:
    """Stop unless the engine said what the spec expects.

    Args:
        report: what it said.
        label: the step's name for people.

    Raises:
        ValidationError: with prompt, expected and got of each miss.
    """
    if report.passed:
        return
    listed = "".join(f"\n{_described(miss)}" for miss in report.misses)
    raise ValidationError(
        f"{len(report.misses)} of {len(report.results)} answers are not as expected:{listed}",
        subject=label,
        remedy="correct the expectation in the spec, or build with a higher precision; nothing was published",
    )


def _described(miss: PromptResult) -> str:
    wanted = " and ".join(f"{name} {text!r}" for name, text in miss.expected.items())
    cut = " (cut off at max_tokens)" if miss.finish == "length" else ""
    return f"  prompt:   {miss.prompt!r}\n  expected: {wanted}\n  got:      {miss.got!r}{cut}"


def read_report(directory: Path) -> ValidationReport:
    """The report in a validation's output.

    Raises:
        StoreError: when there is none, or it is not one.
    """
    path = directory / REPORT_FILE
    try:
        return ValidationReport.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "remove the step from the store and run the build again"
        raise StoreError(f"is not a validation report: {error}", subject=str(path), remedy=remedy) from error
