"""Prints the results of commands: tables and progress bars made with rich; plain text if there is no terminal."""

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from enginery.core.late import late
from enginery.core.progress import Log, LogProgress, Progress
from enginery.core.text import human_bytes

if TYPE_CHECKING:
    from rich import progress as bars

    from enginery import builds, pipeline, registry
    from enginery.builds import Comparison, GateReport, Manifest, SpeedReport
    from enginery.cli.doctor import Check
    from enginery.dev import Services
    from enginery.pipeline import BuildSummary, Outcome, Plan, Verdict
    from enginery.registry import Audit, ChannelPointer, Pruning, PublishedBuild, Resolved
    from enginery.releases import Listing
    from enginery.store import StepRecord
    from enginery.toolchains import ToolchainReport, ToolchainStatus
    from enginery.triton import ServedSpeed
else:
    bars = late("rich.progress")
    builds = late("enginery.builds")
    pipeline, registry = late("enginery.pipeline"), late("enginery.registry")

PIPE_WIDTH = 250
FATES = {"stays": "stays", "goes": "[yellow]goes[/]", "gone": "[red]gone[/]"}


class BarProgress:
    """A `Progress` that draws one bar on the terminal for each transfer."""

    def __init__(self, drawn: "bars.Progress") -> None:
        self._drawn = drawn
        self._task: bars.TaskID | None = None
        self._done = 0
        self._lock = threading.Lock()

    def begin(self, what: str, *, files: int, size: int) -> None:
        """Begin a bar."""
        self._done = 0
        self._task = self._drawn.add_task(what, total=size, files=files, done=0)

    def add(self, size: int) -> None:
        """Count bytes."""
        if self._task is not None:
            self._drawn.advance(self._task, size)

    def end_file(self) -> None:
        """Count a file."""
        with self._lock:
            self._done += 1
            if self._task is not None:
                self._drawn.update(self._task, done=self._done)


def console() -> Console:
    """The console of the command line. In a file or a pipe it is so wide that lines are not wrapped."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def plain_table(*columns: str) -> Table:
    """A table without lines. Text that is too wide for its column is wrapped, never cut."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_plan(plan: "Plan", done: "Mapping[str, StepRecord]", reasons: Mapping[str, Sequence[str]]) -> None:
    """Print a plan: its targets, its steps and which are done, the decisions made, and why steps must run."""
    out = console()
    out.print(f"[bold]{plan.spec.name}[/] from {plan.source.location} at {plan.source.commit[:12]}")
    targets = plain_table("target", "gpu", "backend", "release", "precision", "build")
    for target in plan.targets:
        targets.add_row(target.name, target.gpu, target.backend, target.release, target.precision, target.build_id)
    out.print(targets, _steps_table(plan, done), sep="\n")
    for planned in plan.steps:
        for reason in reasons.get(planned.id, ()):
            out.print(f"  {planned.id}: {reason}", markup=False)
    for note in plan.notes:
        out.print(f"  note: {note}", markup=False)
    to_run = sum(1 for planned in plan.steps if planned.key not in done)
    out.print(f"{to_run} of {len(plan.steps)} steps to run" if to_run else "nothing to run: every step is done")


def outcomes_table(steps: "Iterable[Outcome]") -> Table:
    """A table of steps with their times and sizes, and whether each ran now."""
    table = plain_table("step", "state", "time", "size")
    for step in steps:
        state = "[green]ran[/]" if step.ran else "[dim]already done[/]"
        table.add_row(step.label, state, f"{step.seconds:.1f} s", human_bytes(step.size))
    return table


def print_summary(summary: "BuildSummary") -> None:
    """Print the summary of a run: its steps, and the addresses of its builds."""
    out = console()
    out.print(outcomes_table(summary.steps))
    for step in summary.steps:
        warnings = step.facts.get("warnings")
        for warning in warnings if isinstance(warnings, list) else ():
            out.print(f"[yellow]warning[/] {escape(f'{step.label}: {warning}')}", soft_wrap=True)
    for address in summary.published:
        out.print(f"published {address}", markup=False)
    if summary.run_url:
        out.print(f"run: {summary.run_url}", markup=False)
    out.print(summary.sentence)


def print_builds(builds: "Iterable[PublishedBuild]") -> None:
    """Print one line for each published build."""
    table = plain_table("model", "build", "target", "precision", "created", "size")
    for build in builds:
        created = f"{build.created:%Y-%m-%d %H:%M}"
        table.add_row(build.model, build.build_id, build.target, build.precision, created, human_bytes(build.size))
    console().print(table)


def print_manifest(manifest: "Manifest") -> None:
    """Print one build: target, prompts with answers, files."""
    out = console()
    out.print(f"[bold]{manifest.model}/{manifest.build_id}[/] {manifest.created:%Y-%m-%d %H:%M} UTC")
    for name, value in manifest.described.items():
        out.print(f"  {name}: {value}", markup=False, soft_wrap=True)
    prompts = plain_table("prompt", "answer", "passed")
    for result in manifest.validation.results:
        passed = "yes" if result.checked else "recorded only"
        prompts.add_row(result.question, result.got, passed if result.passed else "[red]no[/]")
    if manifest.gates:
        out.print(gates_table(manifest.gates))
    files = plain_table("file", "size", "sha256")
    for file in manifest.files:
        files.add_row(file.path, human_bytes(file.size), file.sha256[:12])
    out.print(prompts, files, sep="\n")


def print_speed(report: "SpeedReport") -> None:
    """Print how fast an engine is, and where that was measured."""
    table = plain_table(*builds.SPEED_COLUMNS)
    for row in builds.speed_rows(report):
        table.add_row(*row)
    _print_with_notes(table, builds.measured_on(report), report.notes)


def print_served_speed(report: "ServedSpeed") -> None:
    """Print how fast a served model is under load."""
    table = plain_table(
        "at once", "ms to first token", "p99", "ms between tokens", "p99", "ms in all", "p99", "tokens/s"
    )
    for load in report.loads:
        pairs = (load.first_ms, load.gap_ms, load.request_ms)
        cells = [f"{value:.4g}" if one else "" for one in pairs for value in ((one.median, one.p99) if one else (0, 0))]
        table.add_row(str(load.concurrency), *cells, f"{load.tokens_per_second:.4g}")
    answered = sum(load.requests for load in report.loads)
    errors = sum(load.errors for load in report.loads)
    where = (
        f"{report.model} at {report.url} ({report.server}), asked with {report.generator} from {report.client.host}"
        f" ({report.client.cpu}, {report.client.cores} CPUs): {report.prompt_tokens} tokens in,"
        f" {report.loads[0].output_tokens:g} out; {answered} requests answered, {errors} failed"
    )
    _print_with_notes(table, where, report.notes)


def _print_with_notes(table: Table, sentence: str, notes: Iterable[str]) -> None:
    out = console()
    out.print(table)
    for line in (sentence, *notes):
        out.print(line, markup=False, soft_wrap=True)


def gates_table(report: "GateReport") -> Table:
    """A table of gates: the verdict, what follows from it, and the measures with their limits."""
    table = plain_table("gate", "verdict", "mode", "what was found")
    colors = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    for one in report.results:
        forced = f"accepted by {one.forced.by}: {one.forced.why}" if one.forced else ""
        measured = [measure.told for measure in one.measures] or [one.reason]
        found = escape("\n".join(filter(None, [forced, *measured])))
        table.add_row(one.gate, f"[{colors[one.verdict]}]{one.verdict}[/]", one.mode, found)
    return table


def print_toolchains(rows: "Iterable[ToolchainStatus]") -> None:
    """Print one line for each toolchain."""
    table = plain_table("toolchain", "backend", "release", "state")
    for row in rows:
        table.add_row(
            row.name, row.backend, row.release, str(row.directory) if row.created else "installed when a step needs it"
        )
    console().print(table)


def print_toolchain_report(report: "ToolchainReport") -> None:
    """Print the differences between a toolchain and its pins."""
    out = console()
    state = "as pinned" if report.good else "not as pinned" if report.created else "not made yet"
    out.print(f"{report.name}: {state}")
    for line in report.mismatches:
        out.print(f"  {line}", markup=False)
    if report.verdict:
        out.print(f"verdict: {report.verdict}", markup=False)
    for line in report.disagreements:
        out.print(f"  not as recorded: {line}", markup=False)


def print_services(services: "Services") -> None:
    """Print the addresses of the local services."""
    out = console()
    for name, address in services.addresses().items():
        out.print(f"{name:8} {address}", markup=False)
    out.print('to make other commands use them: eval "$(enginery dev env)"', markup=False)


def print_findings(findings: "Iterable[Check]") -> None:
    """Print the results of `enginery doctor`."""
    out = console()
    marks = {"ok": "[green]ok     [/]", "warning": "[yellow]warning[/]", "error": "[red]error  [/]"}
    for finding in findings:
        out.print(f"{marks[finding.level]} {finding.subject}: {finding.found}")
        if finding.remedy:
            out.print(f"        -> {finding.remedy}", markup=False)


def print_channels(pointers: "Iterable[ChannelPointer]") -> None:
    """Print one line for each channel and target: the build, and the last move."""
    shown = plain_table("channel", "target", "build", "since", "by", "how", "from")
    for pointer in pointers:
        move = pointer.last
        since = f"{move.moved:%Y-%m-%d %H:%M}"
        shown.add_row(
            pointer.channel, pointer.target, pointer.build_id, since, move.by or "?", move.action, move.previous or "-"
        )
    console().print(shown)


def print_history(pointers: "Iterable[ChannelPointer]") -> None:
    """Print the recorded moves of channels, the last one first."""
    for pointer in pointers:
        console().print(registry.channel_reference(pointer.model, pointer.channel, pointer.target), markup=False)
        shown = plain_table("when", "by", "how", "build", "from", "why")
        for move in reversed(pointer.history):
            when = f"{move.moved:%Y-%m-%d %H:%M:%S}"
            why = "; ".join(filter(None, (move.reason, f"forced: {'; '.join(move.forced)}" if move.forced else "")))
            shown.add_row(when, move.by or "?", move.action, move.build_id, move.previous or "-", escape(why))
        console().print(shown)
        if pointer.dropped:
            console().print(f"  and {pointer.dropped} older moves, which are not kept")


def resolved_line(resolved: "Resolved") -> str:
    """One line for people about a build that `resolve` found."""
    manifest, target = resolved.manifest, resolved.manifest.target
    gpus = "" if target.gpu == "cpu" else f", {target.world_size} x {target.gpu}"
    kind = f"{target.name}: {target.backend} {target.release}, {target.precision}{gpus}, {human_bytes(manifest.size)}"
    if resolved.pointer is None:
        return kind
    return f"{kind}; on {resolved.pointer.channel} since {resolved.pointer.moved:%Y-%m-%d %H:%M} UTC"


def resolved_json(resolved: "Resolved") -> dict[str, JsonValue]:
    """The same build as plain data for scripts."""
    manifest, pointer = resolved.manifest, resolved.pointer
    return {
        "model": manifest.model,
        "build_id": manifest.build_id,
        "uri": resolved.uri,
        "target": {**manifest.target.model_dump(mode="json"), "world_size": manifest.target.world_size},
        "engine": manifest.engine.model_dump(mode="json"),
        "license": manifest.license.model_dump(mode="json"),
        "created": manifest.created.isoformat(),
        "size": manifest.size,
        "channel": pointer.channel if pointer else None,
        "moved": pointer.moved.isoformat() if pointer else None,
        "etag": resolved.etag,
        "warnings": list(resolved.warnings),
    }


def print_pruning(pruning: "Pruning") -> None:
    """Print what a prune removes, what stays, and why."""
    table = plain_table("", "what", "name", "for", "since", "size", "why")
    for verdict in pruning.verdicts:
        size = human_bytes(verdict.size) if verdict.size else ""
        since = f"{verdict.since:%Y-%m-%d}"
        table.add_row(FATES[verdict.fate], verdict.kind, verdict.name, verdict.target, since, size, verdict.reason)
    out = console()
    if pruning.verdicts:
        out.print(table)
    out.print(pruning.sentence, markup=False)
    if pruning.dry_run and pruning.removable:
        out.print("remove them with --yes", markup=False)


def print_audit(audit: "Audit") -> None:
    """Print the problems that an audit found, damage first."""
    out = console()
    for problem in audit.problems:
        mark = "[red]damage  [/]" if problem.level == "damage" else "[yellow]leftover[/]"
        out.print(f"{mark} {problem.subject}: {problem.problem}", soft_wrap=True)
        out.print(f"         -> {problem.remedy}", markup=False)
    out.print(audit.sentence, markup=False)


def print_verdicts(verdicts: "Iterable[Verdict]") -> None:
    """Print one line for each verdict on a release."""
    rows = pipeline.verdict_rows(verdicts)
    _print_table(console(), [*rows[0]] if rows else (), [[*row.values()] for row in rows])


def print_listing(found: "Listing", *, prereleases: bool) -> None:
    """Print one line for each release, newest first; then the releases that were left out."""
    out = console()
    usable = found.usable(prereleases=prereleases)
    rows = [[one.release, f"{len(one.wheels)} wheels" if one.wheels else "source only"] for one in reversed(usable)]
    _print_table(out, ("release", "files"), rows)
    if withdrawn := [one.release for one in found.releases if one.yanked]:
        out.print(f"withdrawn: {', '.join(withdrawn)}", markup=False)
    if found.not_numbers:
        out.print(f"left out, because they are not version numbers: {', '.join(found.not_numbers)}", markup=False)


def print_comparison(found: "Comparison") -> None:
    """Print the differences between two builds."""
    out = console()
    out.print(f"[bold]{escape(found.before)} -> {escape(found.after)}[/]")
    _print_table(out, ("", "before", "after", ""), pipeline.figures(found))
    out.print(pipeline.answers_sentence(found), markup=False)
    differing = [(one.prompt, one.before, one.after, one.said) for one in found.different_answers]
    _print_table(out, ("prompt", "before", "after", ""), differing)
    _print_table(out, ("changed", "before", "after"), [(one.name, one.before, one.after) for one in found.changes])
    for note in found.notes:
        out.print(f"note: {note}", markup=False)


@contextmanager
def shown_progress(log: Log, console: Console | None = None) -> Iterator[Progress]:
    """Show progress during a `with` block: bars on a terminal (standard error, or `console`), otherwise log lines."""
    terminal = console or Console(file=sys.stderr)
    if not terminal.is_terminal:
        yield LogProgress(log)
        return
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TextColumn("{task.fields[done]}/{task.fields[files]} files"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=terminal) as drawn:
        yield BarProgress(drawn)


def _steps_table(plan: "Plan", done: "Mapping[str, StepRecord]") -> Table:
    table = plain_table("step", "for", "on", "state", "key")
    for planned in plan.steps:
        record = done.get(planned.key)
        state = (
            f"[green]done[/] ({record.seconds:.1f} s, {human_bytes(record.size)})" if record else "[yellow]to run[/]"
        )
        table.add_row(planned.id, ", ".join(planned.targets), planned.step.runs_on, state, planned.key[:12])
    return table


def _print_table(out: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = plain_table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)
