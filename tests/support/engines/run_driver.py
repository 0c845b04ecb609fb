"""Runs scripts in one process of their toolchain, because their imports take longer than their work.

Its arguments: a JSON file with `{name: [script, argument, …]}`, and the JSON file to write. That has for each name the
script's output on both streams and its exit status.
"""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path


def run_once(argv: list[str]) -> dict[str, object]:
    """Run a script once, as if it was started as a process of its own."""
    script = argv[0]
    sys.argv, sys.path[0] = argv, str(Path(script).parent)
    printed, complained, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
    return {"status": status, "printed": printed.getvalue(), "complained": complained.getvalue()}


if __name__ == "__main__":
    jobs, output = sys.argv[1:]
    named = json.loads(Path(jobs).read_text(encoding="utf-8"))
    results = {name: run_once(given) for name, given in named.items()}
    Path(output).write_text(json.dumps(results), encoding="utf-8")
