"""Runs the benchmarks and shows their goals: `python -m benchmarks.pipeline [--only NAME ...] [--json FILE]`."""

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from rich.console import Console

from benchmarks.results import Row, table
from benchmarks.workbench import NO_BYTECODE, settle_environment

PARTS = {
    "plan": "benchmarks.plan_against_dvc",
    "cached": "benchmarks.cached_build",
    "steps": "benchmarks.step_overhead",
    "targets": "benchmarks.many_targets",
    "demo": "benchmarks.demo",
    "registry": "benchmarks.registry",
    "fleet": "benchmarks.orchestration",
}

Measure = Callable[[], list[Row]]


def main() -> int:
    """Measure and print a table. The exit status is 1 when a measurement failed; a missed goal does not change it."""
    arguments = _arguments()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    machine = describe_machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    if settle_environment():
        console.print(f"{NO_BYTECODE} was set; users do not have that, so it is removed for the measurements")
    chosen = {name: cast("Measure", import_module(PARTS[name]).measure) for name in arguments.only or PARTS}
    rows, failed = run_parts(chosen, console)
    console.print(table(rows))
    if failed:
        console.print(f"[red]not measured: {', '.join(failed)}[/]")
    if arguments.json:
        found = {"machine": machine, "rows": [row.plain() for row in rows], "failed": failed}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser.parse_args()


def run_parts(parts: Mapping[str, Measure], console: Console) -> tuple[list[Row], list[str]]:
    """Run the parts one after the other. A part that fails is printed and does not stop the others."""
    rows: list[Row] = []
    failed: list[str] = []
    for name, measure in parts.items():
        started = time.monotonic()
        console.print(f"measuring {name} …")
        try:
            found = measure()
        except Exception:  # noqa: BLE001  any error is printed, and the exit status becomes 1
            console.print(traceback.format_exc(), markup=False)
            failed.append(name)
            continue
        rows += found
        console.print(f"  took {time.monotonic() - started:.0f} s")
    return rows, failed


def describe_machine() -> dict[str, str]:
    """The facts about the machine that the figures depend on."""
    return {
        "cpus": str(os.cpu_count()),
        "load averages": " ".join(f"{value:.1f}" for value in _loads()),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }


def _loads() -> Sequence[float]:
    return os.getloadavg()


if __name__ == "__main__":
    sys.exit(main())
