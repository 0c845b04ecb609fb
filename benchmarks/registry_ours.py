"""Publishes a directory as the model repository of a build, or pulls it, for `registry.py`."""

import argparse
import json
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import JsonValue

from benchmarks.registry_files import RECORDS
from enginery.builds import REPORT_FILE, ValidationReport
from enginery.core import __version__
from enginery.core.progress import Facts
from enginery.core.s3 import connection
from enginery.registry import Registry, publish, pull
from enginery.store import Call, FileRecord, Stage, Step, StepContext, StepRecord

LIBRARIES = ("boto3", "boto3.s3.transfer", "obstore", "obstore.store", "obstore.auth.boto3")
"""Modules that are imported at their first use. They are imported before the measurement, as in a running process."""
MODEL = "bench"
BUILD = "bench-000000000000"
TARGET: dict[str, JsonValue] = {
    "name": "bench",
    "gpu": "cpu",
    "backend": "onnxruntime",
    "release": "0",
    "precision": "int4",
}


def main() -> None:
    """The command: publish or pull, and write the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=("publish", "pull"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("address")
    parser.add_argument("result", type=Path, help="the JSON file for the seconds")
    arguments = parser.parse_args()
    for library in LIBRARIES:
        import_module(library)
    connection()
    facts: Facts = {}
    before, clock = time.process_time(), time.perf_counter()
    if arguments.work == "pull":
        registry = Registry(arguments.address)
        pull(registry, registry.manifest(MODEL, BUILD), arguments.directory)
    else:
        facts = _publish(arguments.directory, arguments.address)
    taken = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - before}
    arguments.result.write_text(json.dumps({**taken, "facts": dict(facts)}), encoding="utf-8")


def _publish(directory: Path, address: str) -> Facts:
    with TemporaryDirectory(prefix="enginery-bench-") as scratch:
        return publish(_context(directory, address, Path(scratch)))


def _context(directory: Path, address: str, scratch: Path) -> StepContext:
    for name in ("report", "weights", "output"):
        (scratch / name).mkdir()
    report = ValidationReport(passed=True, results=(), driver_sha256="0" * 64)
    (scratch / "report" / REPORT_FILE).write_text(report.model_dump_json(), encoding="utf-8")
    return StepContext(
        key="0" * 64,
        parameters={
            "model": MODEL,
            "build_id": BUILD,
            "target": TARGET,
            "to": address,
            "channel": "candidate",
            "allow_unconditional_writes": True,
        },
        inputs={"model_repository": directory, "report": scratch / "report", "weights": scratch / "weights"},
        output=scratch / "output",
        chain=(_packaged(directory),),
        toolchain=None,
        log=lambda _: None,
    )


def _packaged(directory: Path) -> StepRecord:
    step = Step(stage=Stage.PACKAGE, inputs={}, recipe=Call(function="package", version=1))
    recorded = json.loads(directory.with_suffix(f".{RECORDS}").read_text(encoding="utf-8"))
    return StepRecord(
        key=step.key,
        step=step,
        label="package bench",
        files=tuple(FileRecord(**file) for file in recorded),
        started=datetime.now(UTC),
        seconds=0.0,
        host="bench",
        enginery=__version__,
    )


if __name__ == "__main__":
    main()
