"""What `enginery prune` and `enginery verify --all` show."""

from typing import TYPE_CHECKING

from rich.table import Table

from enginery.render import console
from enginery.units import human_bytes

if TYPE_CHECKING:
    from enginery.registry.auditing import Audit
    from enginery.registry.pruning import Pruning

FATES = {"stays": "stays", "goes": "[yellow]goes[/]", "gone": "[red]gone[/]"}


def print_pruning(pruning: "Pruning") -> None:
    """What goes, what stays and why."""
    table = Table("", "what", "name", "for", "since", "size", "why", box=None, padding=(0, 2, 0, 0))
    for verdict in pruning.verdicts:
        size = human_bytes(verdict.size) if verdict.size else ""
        since = f"{verdict.since:%Y-%m-%d}"
        fate = FATES[verdict.fate]
        table.add_row(fate, verdict.kind, verdict.name, verdict.target, since, size, verdict.reason)
    out = console()
    if pruning.verdicts:
        out.print(table)
    out.print(pruning.sentence, markup=False)
    if pruning.dry_run and pruning.removable:
        out.print("remove them with --yes", markup=False)


def print_audit(audit: "Audit") -> None:
    """What was found, damage first."""
    out = console()
    for problem in audit.problems:
        mark = "[red]damage  [/]" if problem.level == "damage" else "[yellow]leftover[/]"
        out.print(f"{mark} {problem.subject}: {problem.problem}", soft_wrap=True)
        out.print(f"         -> {problem.remedy}", markup=False)
    out.print(audit.sentence, markup=False)
