"""What the command line shows: tables and trees made with rich, plain where the output is no terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from enginery.units import human_bytes

PIPE_WIDTH = 250

if TYPE_CHECKING:
    from rich.tree import Tree

    from enginery.dev.services import Services
    from enginery.doctor import Finding
    from enginery.manifest import Manifest
    from enginery.plan import Plan
    from enginery.records import StepRecord
    from enginery.registry import PublishedBuild
    from enginery.runner import Outcome
    from enginery.summary import BuildSummary
    from enginery.toolchains import ToolchainReport, ToolchainStatus


def console() -> Console:
    """The console of the command line; lines for a file or a pipe are never cut."""
    plain = not sys.stdout.isatty()
    return Console(highlight=False, width=PIPE_WIDTH if plain else None)


def plain_table(*columns: str) -> Table:
    """A table without lines, whose cells are folded and never cut."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    print(json.dumps(value, indent=2))


def print_plan(plan: "Plan", done: Mapping[str, "StepRecord"], reasons: Mapping[str, Sequence[str]]) -> None:
    """The plan's steps, what is already done, what was decided, and why steps must run."""
    out = console()
    out.print(f"[bold]{plan.spec.name}[/] from {plan.source.location} at {plan.source.commit[:12]}")
    out.print(_targets_table(plan))
    out.print(_steps_table(plan, done))
    for planned in plan.steps:
        for reason in reasons.get(planned.id, ()):
            out.print(f"  {planned.id}: {reason}", markup=False)
    for note in plan.notes:
        out.print(f"  note: {note}", markup=False)
    to_run = sum(1 for planned in plan.steps if planned.key not in done)
    out.print(f"{to_run} of {len(plan.steps)} steps to run" if to_run else "nothing to run: every step is done")


def _targets_table(plan: "Plan") -> Table:
    table = plain_table("target", "gpu", "backend", "release", "precision", "build")
    for target in plan.targets:
        row = (target.name, target.gpu, target.backend, target.release, target.precision, target.build_id)
        table.add_row(*row)
    return table


def _steps_table(plan: "Plan", done: Mapping[str, "StepRecord"]) -> Table:
    table = plain_table("step", "for", "on", "state", "key")
    for planned in plan.steps:
        record = done.get(planned.key)
        state = (
            f"[green]done[/] ({record.seconds:.1f} s, {human_bytes(record.size)})" if record else "[yellow]to run[/]"
        )
        table.add_row(planned.id, ", ".join(planned.targets), planned.step.runs_on, state, planned.key[:12])
    return table


def outcomes_table(steps: Iterable["Outcome"]) -> Table:
    """Steps with their times and sizes, and whether each ran now."""
    table = plain_table("step", "state", "time", "size")
    for step in steps:
        state = "[green]ran[/]" if step.ran else "[dim]already done[/]"
        table.add_row(step.label, state, f"{step.seconds:.1f} s", human_bytes(step.size))
    return table


def print_summary(summary: "BuildSummary") -> None:
    """The end of a run: its steps, and where the builds are."""
    out = console()
    out.print(outcomes_table(summary.steps))
    for address in summary.published:
        out.print(f"published {address}", markup=False)
    if summary.run_url:
        out.print(f"run: {summary.run_url}", markup=False)
    out.print(summary.sentence)


def print_builds(builds: Iterable["PublishedBuild"]) -> None:
    """Published builds, a line each."""
    table = plain_table("model", "build", "target", "precision", "created", "size")
    for build in builds:
        created = f"{build.created:%Y-%m-%d %H:%M}"
        table.add_row(build.model, build.build_id, build.target, build.precision, created, human_bytes(build.size))
    console().print(table)


def print_manifest(manifest: "Manifest") -> None:
    """One build: target, prompts with answers, files."""
    out = console()
    out.print(f"[bold]{manifest.model}/{manifest.build_id}[/] {manifest.created:%Y-%m-%d %H:%M} UTC")
    for name, value in manifest.described.items():
        out.print(f"  {name}: {value}", markup=False, soft_wrap=True)
    prompts = plain_table("prompt", "answer", "passed")
    for result in manifest.validation.results:
        prompts.add_row(result.prompt, result.got, "yes" if result.passed else "[red]no[/]")
    files = plain_table("file", "size", "sha256")
    for file in manifest.files:
        files.add_row(file.path, human_bytes(file.size), file.sha256[:12])
    out.print(prompts, files, sep="\n")


def print_tree(tree: "Tree") -> None:
    """A tree, such as a lineage."""
    console().print(tree)


def print_toolchains(rows: Iterable["ToolchainStatus"]) -> None:
    """Toolchains, a line each."""
    table = plain_table("toolchain", "backend", "release", "state")
    for row in rows:
        table.add_row(row.name, row.backend, row.release, str(row.directory) if row.created else "made when needed")
    console().print(table)


def print_toolchain_report(report: "ToolchainReport") -> None:
    """What a toolchain holds against its pins."""
    out = console()
    state = "as pinned" if report.good else "not as pinned" if report.created else "not made yet"
    out.print(f"{report.name}: {state}")
    for line in report.mismatches:
        out.print(f"  {line}", markup=False)
    if report.verdict:
        out.print(f"verdict: {report.verdict}", markup=False)
    for line in report.disagreements:
        out.print(f"  otherwise than recorded: {line}", markup=False)


def print_services(services: "Services") -> None:
    """Where the local services are."""
    out = console()
    for name, address in services.addresses().items():
        out.print(f"{name:8} {address}", markup=False)
    out.print('point other commands at them with: eval "$(enginery dev env)"', markup=False)


def print_findings(findings: Iterable["Finding"]) -> None:
    """What `enginery doctor` found."""
    out = console()
    marks = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}
    for finding in findings:
        out.print(f"{marks[finding.level]} {finding.subject}: {finding.found}")
        if finding.remedy:
            out.print(f"        -> {finding.remedy}", markup=False)
