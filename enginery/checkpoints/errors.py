"""The error of a checkpoint that is not what it should be."""

from collections.abc import Sequence

from enginery.errors import EngineryError


class CheckpointError(EngineryError):
    """A converted checkpoint that differs from its model or from what was asked; an engine of it would be wrong.

    Attributes:
        differences: one sentence for each difference.
    """

    exit_code = 6

    def __init__(self, differences: Sequence[str], *, subject: str, remedy: str) -> None:
        self.differences = tuple(differences)
        count = f"{len(self.differences)} differences" if len(self.differences) > 1 else "1 difference"
        listed = "".join(f"\n  - {difference}" for difference in self.differences)
        super().__init__(f"this checkpoint is not to be used: {count}{listed}", subject=subject, remedy=remedy)
