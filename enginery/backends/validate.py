"""The step that validates a model: it gets the answers to the spec's prompts and judges them.

A wrong answer does not make the step fail. The report is stored either way, and `require_passed` stops the steps that
would come after it.
"""

import re
from collections.abc import Mapping

from pydantic import JsonValue

from enginery.backends.answers import ONNXRUNTIME, Answer, answers_to, driver_parameters
from enginery.builds import REPORT_FILE, PromptResult, ValidationReport, described_miss
from enginery.core.files import write_atomic
from enginery.core.progress import Facts
from enginery.spec import Prompt, ValidationOptions
from enginery.store import Call, StepContext

FUNCTION_VERSION = 1


def validate_call(
    options: ValidationOptions, *, driver: str = ONNXRUNTIME, parameters: Mapping[str, JsonValue] | None = None
) -> Call:
    """The recipe of a validation: everything that decides which prompts there are and how answers are judged.

    Args:
        options: the spec's.
        driver: what runs the model, `onnxruntime` or `tensorrt_llm`.
        parameters: what the driver needs to know, see `driver_parameters`.

    Raises:
        PlanError: when the spec sets `run_script` for a model that has no such script.
        UsageError: when the release cannot run such a model.
    """
    prompts: list[JsonValue] = [prompt.model_dump(mode="json", exclude_none=True) for prompt in options.prompts]
    how = driver_parameters(options, driver, parameters or {})
    details = {"prompts": prompts, "max_tokens": options.max_tokens, **how}
    return Call(function="validate", version=FUNCTION_VERSION, parameters=details)


def validate(context: StepContext) -> Facts:
    """Run the prompts and write `report.json` to the output. The step function `validate`.

    Inputs are `weights` (for the tokenizer) and `engine` or `checkpoint`; with neither, the weights themselves are
    run. The model is loaded also when there are no prompts, so that one that cannot be loaded is found.

    Raises:
        CommandError: when the engine cannot be loaded, or fails to answer.
        UsageError: when the plan was made with another version of the driver.
    """
    options = ValidationOptions.model_validate(
        {"prompts": context.parameters["prompts"], "max_tokens": context.parameters["max_tokens"]}
    )
    report = _report(options, answers_to(context, options), str(context.parameters.get("driver_sha256", "")))
    write_atomic(context.output / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    for miss in report.misses:
        context.log(described_miss(miss))
    return {
        "passed": report.passed,
        "prompts": len(report.results),
        "failed": len(report.misses),
        "tokens_per_second": report.tokens_per_second,
    }


def expectations(prompt: Prompt) -> dict[str, str]:
    """What the answer must be: `equals`, `contains` or `matches` -> text."""
    named = {"equals": prompt.equals, "contains": prompt.contains, "matches": prompt.matches}
    return {name: text for name, text in named.items() if text is not None}


def judge(prompt: Prompt, answer: str) -> tuple[bool, str]:
    """Whether an answer is as expected, and if not, why.

    `equals` ignores white space at the ends, `contains` is case-sensitive, `matches` may match anywhere. All that are
    given must hold. Where none is given, every answer passes.
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


def _report(options: ValidationOptions, answers: tuple[Answer, ...], digest: str) -> ValidationReport:
    results = tuple(_result(prompt, answer, options) for prompt, answer in zip(options.prompts, answers, strict=True))
    seconds = sum(answer.seconds for answer in answers)
    tokens = sum(answer.tokens or 0 for answer in answers)
    counted = tokens and all(answer.tokens is not None for answer in answers)
    return ValidationReport(
        passed=all(result.passed for result in results),
        results=results,
        tokens_per_second=round(tokens / seconds, 3) if counted else None,
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
