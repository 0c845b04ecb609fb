"""The report of a validation: the prompts, the answers of the engine, and whether each is as the spec expects."""

from pathlib import Path

from enginery.builds.verdicts.distribution import DistributionFacts
from enginery.core.errors import StoreError, ValidationError
from enginery.core.model import Frozen
from enginery.models import Degenerate
from enginery.spec import Message

REPORT_SCHEMA = 1
REPORT_FILE = "report.json"


class PromptResult(Frozen):
    """One prompt, the answer to it, and whether the answer is as expected.

    Attributes:
        prompt: the prompt; of a chat, its last message.
        messages: the chat that was sent; empty for raw text.
        sent: the text as it was sent: a chat as the model's template renders it. Empty in older reports.
        as_raw_text: whether a server that is sent this text gets the same tokens. It does not if the tokenizer adds a
            token at the beginning that the template does not write.
        expected: the spec's expectations: `equals`, `contains` or `matches` -> text.
        got: the answer, without the prompt.
        passed: whether the answer is as expected. If nothing is expected, whether there is a real answer: one that is
            not empty and does not only repeat itself.
        degenerate: how the answer is degenerate, `empty` or `repeats`, and the prompt does not allow it; else None.
        reason: why the answer did not pass, or that nothing was expected.
        tokens: the number of tokens of the answer; None when the release's own script ran, which does not report it.
        token_ids: the tokens of the answer, which a served engine must give too; empty when not reported.
        finish: `eos` when the model ended the answer, `length` when it reached the limit, else `unknown`.
        seconds_to_first_token: the time from the prompt to the first token; None when the answer came in one piece.
        seconds: the time from the prompt to the end of the answer.
        max_tokens: the limit of tokens; None in older reports, which do not have it.
    """

    prompt: str
    messages: tuple[Message, ...] = ()
    sent: str = ""
    as_raw_text: bool = True
    expected: dict[str, str]
    got: str
    passed: bool
    degenerate: Degenerate | None = None
    reason: str
    tokens: int | None
    token_ids: tuple[int, ...]
    finish: str
    seconds_to_first_token: float | None
    seconds: float
    max_tokens: int | None = None

    @property
    def checked(self) -> bool:
        """Whether something is expected of the answer. Without this it is only recorded."""
        return bool(self.expected)

    @property
    def text_sent(self) -> str:
        """The text as it was sent."""
        return self.sent or self.prompt

    @property
    def question(self) -> str:
        """The prompt for people: the messages of a chat, one on each line."""
        if len(self.messages) <= 1:
            return self.prompt
        return "\n".join(f"{message.role}: {message.content}" for message in self.messages)


class ValidationReport(Frozen):
    """The answers of an engine to all prompts.

    Attributes:
        passed: whether every answer is as expected; true when there are no prompts.
        chat_template: the file of the chat template that rendered the chats; empty if no prompt is one.
        notes: what is strange about the template.
        tokens_per_second: in older reports, a speed that says little: the engine was cold, and not alone. It is read,
            and neither written, shown nor compared: see `SpeedReport`.
        distribution: how the engine's predictions were measured; None without a reference, and in older reports.
        driver_sha256: the digest of the script that ran the prompts; empty for the release's own script.
    """

    schema_version: int = REPORT_SCHEMA
    passed: bool
    chat_template: str = ""
    notes: tuple[str, ...] = ()
    results: tuple[PromptResult, ...] = ()
    tokens_per_second: float | None = None
    distribution: DistributionFacts | None = None
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
        remedy=f"{_remedy(report.misses)}; nothing was published",
    )


def described_miss(miss: PromptResult) -> str:
    """An answer that is not as expected, in three lines: prompt, expectation and answer."""
    wanted = " and ".join(f"{name} {text!r}" for name, text in miss.expected.items()) or "an answer"
    cut = " (cut off at max_tokens)" if miss.finish == "length" else ""
    why = f"\n  but:      {miss.reason}" if miss.degenerate else ""
    return f"  prompt:   {miss.question!r}\n  expected: {wanted}\n  got:      {miss.got!r}{cut}{why}"


def _remedy(misses: tuple[PromptResult, ...]) -> str:
    """What to do about answers that are not as expected."""
    degenerate = [miss for miss in misses if miss.degenerate]
    remedies = {
        "correct the expectation in the spec": len(degenerate) < len(misses),
        "ask a chat model through its template (chat: true)": any(not miss.messages for miss in degenerate),
        "accept such answers with may_be_empty or may_repeat": bool(degenerate),
    }
    found = [remedy for remedy, helps in remedies.items() if helps]
    return ", ".join([*found, "or build with a higher precision"])


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
