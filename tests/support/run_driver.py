"""Runs a driver several times in one process of its toolchain, because its imports take longer than its work.

Its arguments: the driver, a JSON file with `{name: [argument, …]}`, and the JSON file to write. That has for each name
the driver's output on both streams and its exit status.
"""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path


def run_once(driver: str, arguments: list[str]) -> dict[str, object]:
    """Run the driver once, as if it was started as a process of its own."""
    sys.argv = [driver, *arguments]
    printed, complained, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        try:
            runpy.run_path(driver, run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
    return {"status": status, "printed": printed.getvalue(), "complained": complained.getvalue()}


if __name__ == "__main__":
    path, jobs, output = sys.argv[1:]
    named = json.loads(Path(jobs).read_text(encoding="utf-8"))
    results = {name: run_once(path, given) for name, given in named.items()}
    Path(output).write_text(json.dumps(results), encoding="utf-8")
