"""The output of `enginery releases`: a list of releases, one release, or the differences between two."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from enginery.cli.output import console, plain_table
from enginery.pipeline import SpecChanges
from enginery.releases import (
    Changes,
    Provenance,
    builds_engines,
    capabilities,
    containers,
    families,
    flags_of,
    pin,
    pins,
    precisions,
    releases,
    shown,
)

Row = dict[str, Any]


def release_rows() -> list[Row]:
    """One row for each known release, the newest first."""
    return [_summary(release) for release in reversed(releases())]


def described(release: str) -> Row:
    """The facts of a release that `enginery releases show` prints, as plain data."""
    images, flag, family = containers(release), flags_of(release), families(release)
    return {
        "release": release,
        "builds_engines": builds_engines(release),
        "pins": {name: _row(known.value, known.provenance) for name, known in pins(release).items()},
        "containers": _row([asdict(one) for one in images.value], images.provenance),
        "precisions": {
            f"{major}.{minor}": _row(sorted(known.value), known.provenance)
            for major, minor in capabilities(release).value
            for known in (precisions(release, (major, minor)),)
        },
        "families": _row(sorted(family.value), family.provenance),
        "trtllm-build": _row(len(flag.value), flag.provenance),
    }


def as_data(found: Changes, for_spec: SpecChanges | None) -> Row:
    """The changes between two releases as plain data."""
    data = asdict(found)
    for one, row in zip(found.changed, data["changed"], strict=True):
        row["differences"] = one.texts()
    return {**data, "spec": asdict(for_spec) if for_spec else None}


def print_listed(rows: Iterable[Row]) -> None:
    """Print the list of releases. A star marks a fact that is taken from the nearest release."""
    out = console()
    table = plain_table("release", "flags", "python", "cuda", "tensorrt", "triton container")
    for row in rows:
        cells = [row[name] + ("*" if name in row["nearest"] else "") for name in ("python", "cuda", "tensorrt")]
        table.add_row(row["release"], row["flags"], *cells, row["container"])
    out.print(table)
    out.print("flags: how the flags of trtllm-build are known.  *: taken from the nearest release")


def print_described(one: Row) -> None:
    """Print the facts of one release, each with how it is known."""
    out = console()
    out.print(f"[bold]TensorRT-LLM {one['release']}[/]")
    table = plain_table("", "", "known")
    for name, known in one["pins"].items():
        table.add_row(name, _text(known["value"]), _known(known))
    images = [f"{image['image']} (TensorRT {image['tensorrt'] or '?'})" for image in one["containers"]["value"]]
    table.add_row("containers", "\n".join(images) or "none", _known(one["containers"]))
    for capability, known in one["precisions"].items():
        table.add_row(f"compute capability {capability}", ", ".join(known["value"]), _known(known))
    table.add_row("families", ", ".join(one["families"]["value"]) or "none", _known(one["families"]))
    table.add_row("trtllm-build", f"{one['trtllm-build']['value']} flags", _known(one["trtllm-build"]))
    out.print(table)
    if not one["builds_engines"]:
        out.print("This release builds no TensorRT engines any more: use the backend pytorch.")


def print_changes(old: str, new: str, found: Changes) -> None:
    """Print the changes in a command's flags between two releases."""
    out = console()
    out.print(f"[bold]{found.command}: {old} -> {new}[/]")
    for release, origin in ((old, found.old), (new, found.new)):
        out.print(f"  facts of {release}: {origin}", markup=False)
    if found.command_gone:
        out.print(f"  {new} has no {found.command}", markup=False)
        return
    table = plain_table("", "flag", "")
    for gone in found.removed:
        instead = gone.replacement
        how = f"{', '.join(instead.by)}{': ' if instead.by else ''}{instead.how}" if instead else ""
        table.add_row("-", gone.flag.name, f"default was {shown(gone.flag)}" + (f"; now: {how}" if how else ""))
    for flag in found.added:
        choices = f"; one of {', '.join(map(str, flag.choices))}" if flag.choices else ""
        table.add_row("+", flag.name, f"default {shown(flag)}{choices}")
    for changed in found.changed:
        table.add_row("~", changed.name, "; ".join(changed.texts()))
    out.print(table if table.row_count else "  no flag changes")


def print_spec_changes(name: str, found: SpecChanges) -> None:
    """Print the changes that a new release makes for a spec."""
    out = console()
    out.print(f"[bold]for the spec {name}[/]")
    table = plain_table("target", "field", "", "")
    for one in found.fields:
        table.add_row(one.target, f"{one.field}: {one.value}", one.effect, one.text)
    for sentence, targets in (*((one, ()) for one in found.unset), *found.some_unset):
        field, _, change = sentence.partition(": ")
        table.add_row(", ".join(targets), field, "unset", change)
    out.print(table if table.row_count else "  no field of it changes")


def _summary(release: str) -> Row:
    images = containers(release).value
    found = {name: pin(release, name) for name in ("python", "cuda", "tensorrt")}
    return {
        "release": release,
        "flags": flags_of(release).provenance.certainty,
        **{name: _text(known.value) for name, known in found.items()},
        "container": images[0].image.split(":")[-1] if images else "",
        "nearest": sorted(name for name, known in found.items() if known.provenance.certainty == "nearest"),
    }


def _row(value: Any, provenance: Provenance) -> Row:
    return {"value": value, "certainty": provenance.certainty, "of": provenance.release, "note": provenance.note}


def _known(known: Row) -> str:
    return f"{known['certainty']}: {known['note']}" if known["note"] else str(known["certainty"])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
