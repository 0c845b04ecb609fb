"""A step that measures speed runs alone on its machine; steps that do not work hard run at any time."""

import threading
from pathlib import Path

import pytest

from enginery.pipeline import run
from enginery.pipeline.plan import PlannedStep
from enginery.pipeline.run import run_step
from enginery.store import Stage, Store, open_store
from tests.pipeline.test_runner import shell_step

LONG = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


class Running(threading.Thread):
    """A step that runs in a thread. `waits` is set when it waits for others."""

    def __init__(self, planned: PlannedStep, store: Store) -> None:
        super().__init__(daemon=True)
        self.planned, self.store, self.lines, self.waits = planned, store, [""], threading.Event()
        self.start()

    def run(self) -> None:
        run_step(self.planned, self.store, self._log)

    def _log(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("waits "):
            self.waits.set()


def pausing(name: str, tmp_path: Path, stage: Stage) -> tuple[PlannedStep, Path, Path]:
    """A step that says by a file that it works, and ends when another file is there."""
    works, end = tmp_path / f"{name}.works", tmp_path / f"{name}.end"
    script = f"mkfifo {end}; echo x > {works}.new; mv {works}.new {works}; read line < {end}; echo x > $1/x"
    return shell_step(script, stage=stage), works, end


def appears(path: Path) -> None:
    """Wait until the file is there."""
    waiting = threading.Event()
    for _ in range(int(LONG * 100)):
        if path.exists():
            return
        waiting.wait(0.01)
    pytest.fail(f"{path} did not appear")


def test_a_bench_step_waits_for_a_running_sibling_and_runs_when_it_has_ended(store: Store, tmp_path: Path) -> None:
    planned, works, end = pausing("build", tmp_path, Stage.BUILD)
    build = Running(planned, store)
    appears(works)
    bench = Running(shell_step("echo fast > $1/bench.json", stage=Stage.BENCH), store)
    assert bench.waits.wait(LONG)
    assert bench.is_alive()
    end.write_text("go\n")
    build.join(LONG)
    bench.join(LONG)
    assert store.find(bench.planned.key) is not None
    assert any(line == f"waits to be alone on this CPU: {planned.label}" for line in bench.lines)


def test_a_build_waits_for_a_running_bench_step_and_a_package_step_does_not(store: Store, tmp_path: Path) -> None:
    planned, works, end = pausing("bench", tmp_path, Stage.BENCH)
    bench = Running(planned, store)
    appears(works)
    build = Running(shell_step("echo x > $1/engine", stage=Stage.BUILD), store)
    assert build.waits.wait(LONG)
    assert run_step(shell_step("echo x > $1/package", stage=Stage.PACKAGE), store, build.lines.append).ran
    assert build.is_alive()
    end.write_text("go\n")
    bench.join(LONG)
    build.join(LONG)
    assert store.find(build.planned.key) is not None


@pytest.mark.parametrize(
    ("stage", "runs_on", "gpu"),
    [
        (Stage.BUILD, "cpu", False),
        (Stage.BUILD, "H200-SXM5-141GB", True),
        (Stage.CONVERT, "any", False),
        (Stage.CONVERT, "nvidia", True),
        (Stage.REFERENCE, "any", True),
        (Stage.EVALUATE, "cpu", False),
        (Stage.BENCH, "cpu", False),
        (Stage.BENCH, "H200-SXM5-141GB", True),
        (Stage.DOWNLOAD, "any", None),
        (Stage.GATES, "any", None),
        (Stage.PUBLISH, "any", None),
    ],
)
def test_what_a_step_uses_decides_whom_it_may_disturb(
    store: Store, monkeypatch: pytest.MonkeyPatch, stage: Stage, runs_on: str, *, gpu: bool | None
) -> None:
    asked = []
    monkeypatch.setattr(store, "working", lambda _label, _log, **how: asked.append(how))
    planned = shell_step("true", stage=stage)
    planned = planned.model_copy(update={"step": planned.step.model_copy(update={"runs_on": runs_on})})
    run._place_on_machine(planned, store, print)
    assert asked == ([] if gpu is None else [{"alone": stage is Stage.BENCH, "gpu": gpu}])
