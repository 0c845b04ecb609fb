"""The report of a validation: the prompts, the answers of the engine, and whether each is as the spec expects."""

from pathlib import Path

from enginery.core.errors import StoreError, ValidationError
from enginery.core.model import Frozen

REPORT_SCHEMA = 1
REPORT_FILE = "report.json"


class PromptResult(Frozen):
    """One prompt, the answer to it, and whether the answer is as expected.

    Attributes:
        prompt: the prompt.
        expected: the spec's expectations: `equals`, `contains` or `matches` -> text.
        got: the answer, without the prompt.
        passed: whether the answer is as expected; true when nothing is expected.
        reason: why the answer did not pass, or that nothing was expected.
        tokens: the number of tokens of the answer; None when the release's own script ran, which does not report it.
        token_ids: the tokens of the answer, which a served engine must give too; empty when not reported.
        finish: `eos` when the model ended the answer, `length` when it reached the limit, else `unknown`.
        seconds_to_first_token: the time from the prompt to the first token; None when the answer came in one piece.
        seconds: the time from the prompt to the end of the answer.
        max_tokens: the limit of tokens; None in older reports, which do not have it.
    """

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


class ValidationReport(Frozen):
    """The answers of an engine to all prompts.

    Attributes:
        passed: whether every answer is as expected; true when there are no prompts.
        tokens_per_second: in older reports, a speed that says little: the engine was cold, and not alone. It is read,
            and neither written, shown nor compared: see `SpeedReport`.
        driver_sha256: the digest of the script that ran the prompts; empty for the release's own script.
    """

    schema_version: int = REPORT_SCHEMA
    passed: bool
    results: tuple[PromptResult, ...] = ()
    tokens_per_second: float | None = None
    driver_sha256: str

    @property
    def misses(self) -> tuple[PromptResult, ...]:
        """The answers that are not as expected."""
        return tuple(result for result in self.results if not result.passed)


def require_passed(report: ValidationReport, label: str) -> None:
    """Make sure that every answer is as the spec expects.

    Args:
        report: the engine's answers.
        label: the step's name in the error.

    Raises:
        ValidationError: when an answer is not; has the prompt, the expectation and the answer of each miss.
    """
    if report.passed:
        return
    listed = "".join(f"\n{described_miss(miss)}" for miss in report.misses)
    raise ValidationError(
        f"{len(report.misses)} of {len(report.results)} answers are not as expected:{listed}",
        subject=label,
        remedy="correct the expectation in the spec, or build with a higher precision; nothing was published",
    )


def described_miss(miss: PromptResult) -> str:
    """An answer that is not as expected, in three lines: prompt, expectation and answer."""
    wanted = " and ".join(f"{name} {text!r}" for name, text in miss.expected.items())
    cut = " (cut off at max_tokens)" if miss.finish == "length" else ""
    return f"  prompt:   {miss.prompt!r}\n  expected: {wanted}\n  got:      {miss.got!r}{cut}"


def read_report(directory: Path) -> ValidationReport:
    """The report in the output of a validation step.

    Raises:
        StoreError: when there is no report, or it is not valid.
    """
    path = directory / REPORT_FILE
    try:
        return ValidationReport.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "remove the step from the store and run the build again"
        raise StoreError(f"is not a validation report: {error}", subject=str(path), remedy=remedy) from error
