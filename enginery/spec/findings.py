"""Findings: what a plan finds wrong with a spec before anything runs. Each has a code, the figures and a remedy.

An error stops the plan. A warning stops it too, unless the spec accepts it by its code (`force`, or `--force CODE`).
The codes are listed in docs/tensorrt-llm.md.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

Level = Literal["error", "warning"]

CODE_AT_END = re.compile(r"\[([EW]\d{3})\]$")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or likely to go wrong.

    Attributes:
        code: its short name: `E` or `W` and three digits.
        path: the field of the spec it is about.
        problem: what was found, with the figures.
        remedy: what to do, in the imperative.
        level: whether it can be accepted.
    """

    code: str
    path: str
    problem: str
    remedy: str = ""
    level: Level = "error"

    def __str__(self) -> str:
        then = f"; {self.remedy}" if self.remedy else ""
        accept = f", or accept it with --force {self.code}" if self.level == "warning" else ""
        return f"{self.path}: {self.problem}{then}{accept} [{self.code}]"

    def under(self, prefix: str) -> "Finding":
        """The same finding with `prefix` before its path: from a target's field to that of the whole spec."""
        return replace(self, path=f"{prefix}{self.path}")


def code_of(sentence: str) -> str:
    """The code at the end of a finding's sentence; empty for another sentence."""
    found = CODE_AT_END.search(sentence)
    return found[1] if found else ""


def warning(code: str, path: str, problem: str, remedy: str = "") -> Finding:
    """A finding that can be accepted."""
    return Finding(code, path, problem, remedy, "warning")


def stopping(findings: Iterable[Finding], accepted: Collection[str]) -> list[Finding]:
    """Those that stop a plan: all but the warnings that were accepted."""
    return [finding for finding in findings if finding.level == "error" or finding.code not in accepted]
