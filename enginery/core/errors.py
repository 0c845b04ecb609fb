"""The errors that a user sees. Each of them is an `EngineryError`.

Each error says what happened, to which input, and what to do next. `transient` says whether another attempt can help.
It can help after a network failure; it cannot help after a bad spec or a refused password. Each class of errors has
its own exit status for the command line.
"""

import copyreg
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from enginery.core.text import indented


class EngineryError(Exception):
    """Something went wrong that a user can understand and act on.

    Attributes:
        problem: what happened, one sentence.
        subject: the field, file, address or step with the problem; empty when `problem` names it.
        remedy: what to do next, one sentence in the imperative.
        transient: whether the same call may succeed later although nobody changes anything.
    """

    exit_code = 1

    def __init__(self, problem: str, *, subject: str = "", remedy: str = "", transient: bool = False) -> None:
        self.problem = problem
        self.subject = subject
        self.remedy = remedy
        self.transient = transient
        super().__init__(problem, subject, remedy, transient)

    def __str__(self) -> str:
        where = f"{self.subject}: " if self.subject else ""
        then = f"\n  -> {self.remedy}" if self.remedy else ""
        return f"{where}{self.problem}{then}"

    def __reduce__(self) -> tuple[object, ...]:
        # Unpickling must not call the constructor: each class has its own arguments.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class UsageError(EngineryError):
    """The request is wrong and nothing was started."""

    exit_code = 2


class SpecError(UsageError):
    """A spec has mistakes. The error lists all of them.

    Attributes:
        mistakes: one sentence for each mistake, beginning with the path of the field.
    """

    def __init__(self, mistakes: Sequence[str], *, subject: str = "spec") -> None:
        self.mistakes = tuple(mistakes)
        count = f"{len(self.mistakes)} mistakes" if len(self.mistakes) > 1 else "1 mistake"
        listed = "".join(f"\n  - {mistake}" for mistake in self.mistakes)
        super().__init__(f"{count} to correct; nothing was started:{listed}", subject=subject)


class PlanError(SpecError):
    """The form of a spec is correct, but what the spec describes cannot be built."""


class SourceError(EngineryError):
    """Weights could not be found, reached or trusted.

    Attributes:
        config: the model's `config.json` if it was read, for a plan that looks for more mistakes; else empty.
    """

    exit_code = 3
    config: Mapping[str, object] = MappingProxyType({})


class StoreError(EngineryError):
    """The store could not be read or written, or its files differ from its records."""

    exit_code = 4


class ToolchainError(EngineryError):
    """A toolchain could not be made, or does not have the versions of its pins."""

    exit_code = 5


class CommandError(EngineryError):
    """A command failed or could not be started.

    Attributes:
        cause: a name from `process.FailureCause`, for scripts and retry policies.
        last_lines: the last lines that the command printed.
    """

    exit_code = 6

    def __init__(  # noqa: PLR0913  an error carries what the reader needs
        self,
        problem: str,
        *,
        subject: str = "",
        remedy: str = "",
        transient: bool = False,
        cause: str = "unknown",
        last_lines: Sequence[str] = (),
    ) -> None:
        super().__init__(problem, subject=subject, remedy=remedy, transient=transient)
        self.cause = cause
        self.last_lines = tuple(last_lines)

    def __str__(self) -> str:
        return f"{super().__str__()}{indented(self.last_lines)}"


class ValidationError(EngineryError):
    """A built engine does not give the answers that the spec expects."""

    exit_code = 7


class RegistryError(EngineryError):
    """Publishing, finding or fetching a build failed."""

    exit_code = 8


class RolloutError(EngineryError):
    """A build could not be put into service; the message says what serves now."""

    exit_code = 9
