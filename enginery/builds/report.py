"""A build's report for people: one HTML page that needs no other files, made from the manifest alone."""

from collections.abc import Iterable, Sequence
from html import escape

from enginery.builds.gates import GateResult, Verdict
from enginery.builds.manifest import Manifest
from enginery.builds.speed import SPEED_COLUMNS, measured_on, speed_rows
from enginery.builds.validation import PromptResult
from enginery.store import Command

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1c2024 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .35rem .8rem .35rem 0;
border-bottom: 1px solid #dfe3e6; vertical-align: top } code { font-size: .85em; overflow-wrap: anywhere }
.miss { color: #b3261e; font-weight: 600 } .quiet { color: #60646c } td { white-space: pre-wrap }
@media (prefers-color-scheme: dark) { body { background: #18191b; color: #edeef0 } th, td { border-color: #363a3f } }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
<p class="quiet">built by Enginery {version} · {size:,} bytes in {count} files</p>
{sections}
</body></html>
"""


def html_report(manifest: Manifest) -> str:
    """The page as HTML: target, prompts with answers, steps with times and commands, files with digests.

    It does not say when the build was published, so the same build always gives the same page.
    """
    target = [(escape(name), escape(str(value))) for name, value in manifest.described.items()]
    files = [(escape(file.path), f"{file.size:,}", _digest(file.sha256)) for file in manifest.files]
    sections = (
        _section("Target", ("", ""), target),
        _gates(manifest),
        _prompts(manifest),
        *_speed(manifest),
        _steps(manifest),
        _section("Files", ("file", "bytes", "sha256"), files),
    )
    return PAGE.format(
        title=escape(f"{manifest.model}/{manifest.build_id}"),
        style=STYLE,
        version=escape(manifest.enginery),
        size=manifest.size,
        count=len(manifest.files),
        sections="\n".join(sections),
    )


def _gates(manifest: Manifest) -> str:
    """A table of the gates; nothing for a build that is older than the gates."""
    if manifest.gates is None:
        return ""
    rows = [
        (escape(one.gate), _gate_verdict(one), escape(one.mode), escape(one.reason), "\n".join(_measures(one)))
        for one in manifest.gates.results
    ]
    return _section("Gates", ("gate", "verdict", "mode", "why", "what was measured"), rows)


def _gate_verdict(result: GateResult) -> str:
    word = escape(result.verdict)
    shown = word if result.verdict is Verdict.PASS else f'<span class="miss">{word}</span>'
    if result.forced is None:
        return shown
    return f"{shown}\naccepted by {escape(result.forced.by)}: {escape(result.forced.why)}"


def _measures(result: GateResult) -> Iterable[str]:
    """Each measure in a line, with its limit."""
    for one in result.measures:
        told = escape(one.told)
        yield told if one.verdict is Verdict.PASS else f'<span class="miss">{told}</span>'


def _prompts(manifest: Manifest) -> str:
    rows = [
        (
            _question(result),
            escape(result.got),
            _judged(result),
            f"{'' if result.tokens is None else f'{result.tokens} tokens, '}{result.seconds:.2f} s",
        )
        for result in manifest.validation.results
    ]
    notes = "".join(f'\n<p class="quiet">note: {escape(note)}</p>' for note in manifest.validation.notes)
    return _section("What it says", ("prompt", "answer", "", ""), rows) + notes


def _question(result: PromptResult) -> str:
    """The user's words first, then the text that the chat template made of them."""
    if not result.messages:
        return escape(result.prompt)
    sent = f"<details><summary>as sent</summary><code>{escape(result.sent)}</code></details>"
    return f"{escape(result.question)}{sent}"


def _judged(result: PromptResult) -> str:
    if not result.passed:
        return f'<span class="miss">{escape(result.reason)}</span>'
    return "as expected" if result.checked else '<span class="quiet">recorded only</span>'


def _speed(manifest: Manifest) -> Iterable[str]:
    """How fast the engine is, and on which machine; nothing if it was not measured."""
    if manifest.speed is None:
        return
    rows = [tuple(escape(cell) for cell in row) for row in speed_rows(manifest.speed)]
    yield _section("How fast it is", SPEED_COLUMNS, rows)
    yield f'<p class="quiet">{escape(measured_on(manifest.speed))}</p>'


def _steps(manifest: Manifest) -> str:
    rows = []
    for record in manifest.steps:
        recipe = record.step.recipe
        what = " ".join(recipe.argv) if isinstance(recipe, Command) else f"{recipe.function} v{recipe.version}"
        where = f"{record.started:%Y-%m-%d %H:%M} on {record.host}"
        cost = f"{record.seconds:.1f} s, {record.size:,} bytes"
        rows.append((escape(record.label), f"<code>{escape(what)}</code>", escape(where), cost, _digest(record.key)))
    return _section("Where it comes from", ("step", "what was done", "when and where", "cost", "key"), rows)


def _digest(value: str) -> str:
    return f'<code title="{value}">{value[:12]}</code>'


def _section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A heading and a table; the cells must be HTML already."""
    head = "".join(f"<th>{name}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{title}</h2>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
