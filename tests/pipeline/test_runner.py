"""Tests of running one step: it runs once, its output is complete or absent, and errors are clear."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from enginery.builds.gates import GateReport, GateResult, Verdict
from enginery.core.errors import CommandError, SourceError, StoreError, UsageError, ValidationError
from enginery.pipeline import perform, run
from enginery.pipeline.perform import fill
from enginery.pipeline.plan import PlannedStep
from enginery.pipeline.prepared import require_prepared
from enginery.pipeline.run import chain_of, find_valid, run_step
from enginery.store import Store, open_store
from enginery.store.context import StepContext
from enginery.store.local import LocalStore
from enginery.store.steps import Call, Command, Stage, Step, StepRecord
from tests.support.models.checkpoints import source_layout, write_source


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def shell_step(script: str, *, stage: Stage = Stage.BUILD, **inputs: PlannedStep) -> PlannedStep:
    """A step that runs `script`, in which `$1` is the output and `$2`, `$3`… the inputs in their order."""
    places = tuple(f"{{{given}}}" for given in inputs)
    step = Step(
        stage=stage,
        inputs={given: planned.key for given, planned in inputs.items()},
        recipe=Command(argv=("sh", "-ec", script, "sh", "{output}", *places)),
    )
    return PlannedStep(id=f"{stage}/x", key=step.key, step=step, targets=("x",))


def ignore(_line: str) -> None:
    """The log of a test that does not look at it."""


def content(store: Store, planned: PlannedStep, name: str, scratch: Path) -> str:
    record = store.find(planned.key)
    assert record is not None
    store.fetch(record, scratch)
    return (scratch / name).read_text()


def test_a_step_keeps_what_its_command_wrote(store: Store, tmp_path: Path) -> None:
    planned = shell_step("echo engine > $1/engine.bin")
    outcome = run_step(planned, store, ignore)
    assert outcome.ran
    assert outcome.size == len("engine\n")
    assert content(store, planned, "engine.bin", tmp_path / "out") == "engine\n"


def test_a_step_that_is_done_is_not_done_again(store: Store, tmp_path: Path) -> None:
    planned = shell_step(f"echo once >> {tmp_path}/count; echo x > $1/x")
    assert run_step(planned, store, ignore).ran
    assert not run_step(planned, store, ignore).ran
    assert (tmp_path / "count").read_text() == "once\n"


def test_a_step_reads_its_inputs(store: Store, tmp_path: Path) -> None:
    weights = shell_step("echo weights > $1/w", stage=Stage.DOWNLOAD)
    engine = shell_step("cat $2/w > $1/e; echo engine >> $1/e", weights=weights)
    run_step(weights, store, ignore)
    run_step(engine, store, ignore)
    assert content(store, engine, "e", tmp_path / "out") == "weights\nengine\n"


def downloaded(store: Store, tmp_path: Path, lost: str) -> PlannedStep:
    """A download that an earlier version kept, with the test model without one of its tensors."""
    layout = {name: about for name, about in source_layout().items() if name != lost}
    write_source(tmp_path / "model", layout)
    planned = shell_step(f"cp {tmp_path}/model/* $1", stage=Stage.DOWNLOAD)
    run_step(planned, store, ignore)
    return planned


def test_a_download_that_was_kept_although_a_tensor_is_missing_is_used_no_more(store: Store, tmp_path: Path) -> None:
    lost = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(SourceError, match=lost):
        find_valid(downloaded(store, tmp_path, lost), store)


def test_a_whole_download_is_used_again(store: Store, tmp_path: Path) -> None:
    planned = downloaded(store, tmp_path, "")
    assert find_valid(planned, store) is not None
    assert not run_step(planned, store, ignore).ran


def test_a_download_of_which_this_machine_has_only_some_files_is_not_looked_into(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = downloaded(store, tmp_path, "lm_head.weight")
    monkeypatch.setattr(store, "paths", lambda record: {record.files[0].path: tmp_path})
    assert find_valid(planned, store) is not None


def test_a_missing_input_is_an_error_that_says_what_to_do(store: Store) -> None:
    weights = shell_step("echo weights > $1/w", stage=Stage.DOWNLOAD)
    with pytest.raises(StoreError, match="run the build again"):
        run_step(shell_step("cat $2/w > $1/e", weights=weights), store, ignore)


def test_a_failing_command_leaves_nothing_in_the_store(store: Store) -> None:
    planned = shell_step("echo half > $1/half; echo no good >&2; exit 3")
    with pytest.raises(CommandError, match="no good"):
        run_step(planned, store, ignore)
    assert store.find(planned.key) is None
    assert list(store.records()) == []


def test_a_failure_names_the_file_with_the_whole_log(store: Store, own_home: Path) -> None:
    planned = shell_step("for i in $(seq 100); do echo line $i; done; exit 3")
    with pytest.raises(CommandError) as caught:
        run_step(planned, store, ignore)
    (note,) = caught.value.__notes__
    log = Path(note.removeprefix("whole log: "))
    assert log.is_relative_to(own_home)
    assert "line 1\n" in log.read_text()
    assert "line 100\n" in log.read_text()


def test_a_home_that_cannot_be_written_is_named(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="cannot be written"):
        run_step(shell_step("echo x > $1/x"), store, ignore)


def test_a_failed_step_can_be_run_again(store: Store, tmp_path: Path) -> None:
    planned = shell_step(f"test -e {tmp_path}/mended && echo good > $1/e")
    with pytest.raises(CommandError):
        run_step(planned, store, ignore)
    (tmp_path / "mended").touch()
    assert run_step(planned, store, ignore).ran


def test_the_log_hears_every_line_as_it_comes(store: Store) -> None:
    lines: list[str] = []
    run_step(shell_step("echo first; echo second; echo x > $1/x"), store, lines.append)
    assert [line for line in lines if line in {"first", "second"}] == ["first", "second"]


def test_a_record_tells_command_host_time_and_memory(store: Store) -> None:
    planned = shell_step("echo x > $1/x")
    run_step(planned, store, ignore)
    record = store.find(planned.key)
    assert record is not None
    assert record.commands[0][:2] == ("sh", "-ec")
    assert record.host
    assert record.peak_memory_bytes > 0
    assert record.started.tzinfo is not None


def test_a_placeholder_that_nothing_fills_is_refused() -> None:
    with pytest.raises(UsageError, match="engine"):
        fill(Command(argv=("run", "{engine}")), {"output": "x"})


def test_braces_that_are_no_placeholder_are_left_alone() -> None:
    command = Command(argv=('{"a": 1}', "{output}/x"))
    assert fill(command, {"output": "o"}) == ('{"a": 1}', "o/x")


def test_a_step_for_a_gpu_that_is_not_here_is_refused_before_it_starts(store: Store, tmp_path: Path) -> None:
    step = Step(stage=Stage.BUILD, recipe=Command(argv=("touch", str(tmp_path / "ran"))), runs_on="B200")
    planned = PlannedStep(id="build/b200", key=step.key, step=step, targets=("b200",))
    with pytest.raises(UsageError, match="must run on B200"):
        run_step(planned, store, ignore)
    assert not (tmp_path / "ran").exists()


def test_the_chain_holds_every_step_after_those_it_needs(store: Store) -> None:
    weights = shell_step("echo w > $1/w", stage=Stage.DOWNLOAD)
    engine = shell_step("echo e > $1/e", weights=weights)
    package = shell_step("echo p > $1/p", stage=Stage.PACKAGE, engine=engine, weights=weights)
    for planned in (weights, engine, package):
        run_step(planned, store, ignore)
    assert [record.key for record in chain_of((package.key,), store)] == [weights.key, engine.key, package.key]


def call_step(function: str, stage: Stage = Stage.PUBLISH) -> PlannedStep:
    step = Step(stage=stage, recipe=Call(function=function, version=1, parameters={"to": "there"}))
    return PlannedStep(id=f"{stage}/x", key=step.key, step=step, targets=("x",))


def test_an_unknown_function_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="'nonsense'"):
        run_step(call_step("nonsense"), store, ignore)


class Elsewhere:
    """Something outside the store, which a step changes."""

    def __init__(self) -> None:
        self.changed = 0
        self.holds = True

    def change(self, context: StepContext) -> dict[str, Any]:
        self.changed += 1
        (context.output / "done").write_text(f"done {self.changed}")
        return {"uri": context.parameters["to"], "times": self.changed}

    def still_holds(self, _parameters: Mapping[str, Any]) -> bool:
        return self.holds


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    outside = Elsewhere()
    monkeypatch.setattr(perform, "find_function", lambda _name: outside.change)
    monkeypatch.setattr(run, "find_effect_check", lambda _recipe: outside.still_holds)
    return outside


def test_a_change_elsewhere_is_not_made_twice(store: Store, elsewhere: Elsewhere) -> None:
    planned = call_step("publish")
    assert run_step(planned, store, ignore).facts == {"uri": "there", "times": 1}
    assert not run_step(planned, store, ignore).ran
    assert elsewhere.changed == 1


def test_a_change_elsewhere_that_is_gone_is_made_again(store: Store, elsewhere: Elsewhere) -> None:
    planned = call_step("publish")
    run_step(planned, store, ignore)
    elsewhere.holds = False
    assert find_valid(planned, store) is None
    assert run_step(planned, store, ignore).ran
    assert elsewhere.changed == 2


def test_a_change_elsewhere_that_was_made_again_is_recorded_again(
    store: Store, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    planned = call_step("publish")
    run_step(planned, store, ignore)
    elsewhere.holds = False
    outcome = run_step(planned, store, ignore)
    record = store.find(planned.key)
    assert record is not None
    assert outcome.facts == record.facts == {"uri": "there", "times": 2}
    assert content(store, planned, "done", tmp_path / "out") == "done 2"


class FirstElsewhere(LocalStore):
    """A store in which another machine finishes each step just before this machine."""

    def add(self, record: StepRecord, root: Path, *, replace: bool = False) -> StepRecord:
        super().add(record.model_copy(update={"seconds": 77.0}), root)
        return super().add(record, root, replace=replace)


def test_a_step_that_another_machine_finished_first_is_reported_as_stored(tmp_path: Path) -> None:
    outcome = run_step(shell_step("echo x > $1/x"), FirstElsewhere(tmp_path / "store"), ignore)
    assert outcome.ran
    assert outcome.seconds == 77.0


def test_what_a_killed_step_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    left = [store.root / "work" / name for name in ("0" * 64, f"{'1' * 64}.incoming")]
    busy = [store.root / "work" / name for name in ("2" * 64, f"{'3' * 64}.incoming")]
    for directory in left + busy:
        (directory / "output").mkdir(parents=True)
        (directory / "output" / "half").write_text("half")
    with store.lock("2" * 64), store.lock(f"{'3' * 64}.add"):
        run_step(shell_step("echo x > $1/x"), store, ignore)
        assert sorted((store.root / "work").iterdir()) == busy


def test_a_gate_that_stops_the_build_is_recorded_and_stops_each_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "1 of 1 answers are not as expected: 'How many?' is answered with 'eight', not with 'nine'"
    result = GateResult(gate="answers", mode="block", verdict=Verdict.FAIL, reason=reason)
    calls = []

    def judge(context: StepContext) -> dict[str, Any]:
        calls.append(context.key)
        (context.output / "gates.json").write_text(GateReport(results=(result,)).model_dump_json())
        return {"passed": False}

    monkeypatch.setattr(perform, "find_function", lambda _name: judge)
    planned = call_step("gates", Stage.GATES)
    for _ in range(2):
        with pytest.raises(ValidationError) as caught:
            run_step(planned, store, ignore)
        for text in ("How many?", "nine", "eight"):
            assert text in str(caught.value)
    assert len(calls) == 1
    assert store.find(planned.key) is not None


def test_errors_keep_their_details_when_they_cross_processes() -> None:
    import pickle

    error = CommandError("failed", subject="build", remedy="try", cause="timeout", last_lines=("a", "b"))
    error.add_note("whole log: there")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, CommandError)
    assert str(again) == str(error)
    assert again.__notes__ == error.__notes__
    assert again.cause == "timeout"


def test_what_steps_need_elsewhere_is_asked_for_by_the_steps_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Mapping[str, Any]] = []
    monkeypatch.setattr("enginery.registry.require_publishable", calls.append)
    require_prepared([shell_step("true"), call_step("publish")])
    assert calls == [{"to": "there"}]


def test_an_engine_has_as_much_time_for_the_texts_as_the_original_weights() -> None:
    assert run.TIMEOUT_SECONDS[Stage.VALIDATE] >= run.TIMEOUT_SECONDS[Stage.REFERENCE]
