"""Tests of the benchmarks' arithmetic, and that some of them run. The measured values are not checked."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import many_targets, pipeline, timing
from benchmarks.demo import environment
from benchmarks.dvc import stages
from benchmarks.results import Goal, Row, median, shown, table
from benchmarks.step_overhead import seconds_outside
from benchmarks.workbench import NO_BYTECODE, REPOSITORY, settle_environment
from enginery.core import process
from enginery.pipeline.plan import make_plan
from enginery.spec.spec import parse_spec
from enginery.store import open_store
from tests.support.plans.plan import planned

TWICE = Goal(2.0, "times")
A_BIT_MORE = Goal(0.05, "seconds more")
A_SECOND = Goal(1.0, "seconds")


def rendered(*rows: Row) -> str:
    output = StringIO()
    Console(file=output, width=200, highlight=False).print(table(rows))
    return output.getvalue()


def test_the_median_is_the_middle_and_not_the_mean() -> None:
    assert median([9.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 100.0]) == 3.0


@pytest.mark.parametrize(
    ("goal", "ours", "theirs", "met"),
    [
        (TWICE, 2.0, 1.0, True),
        (TWICE, 2.1, 1.0, False),
        (A_BIT_MORE, 10.04, 10.0, True),
        (A_BIT_MORE, 10.06, 10.0, False),
        (A_BIT_MORE, 9.0, 10.0, True),
        (A_SECOND, 1.0, None, True),
        (A_SECOND, 1.01, None, False),
        (A_SECOND, 1.01, 5.0, False),
    ],
)
def test_a_goal_is_judged_by_what_it_limits(goal: Goal, ours: float, theirs: float | None, met: bool) -> None:  # noqa: FBT001
    assert goal.met(ours, theirs) is met
    assert Row("a", ours, theirs, goal).met is met


@pytest.mark.parametrize("goal", [TWICE, A_BIT_MORE])
def test_a_goal_that_compares_is_not_judged_without_something_to_compare_with(goal: Goal) -> None:
    with pytest.raises(ValueError, match="needs something to compare with"):
        goal.met(1.0, None)


def test_goals_say_what_they_ask() -> None:
    assert [str(goal) for goal in (TWICE, A_BIT_MORE, A_SECOND)] == ["2 x", "50 ms more", "1 s"]


def test_the_ratio_is_ours_in_theirs() -> None:
    assert Row("a", 3.0, 2.0).ratio == 1.5
    assert Row("a", 3.0).ratio is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00123, "1.23 ms"), (0.0123, "12.3 ms"), (0.4567, "457 ms"), (1.234, "1.23 s"), (123.4, "123 s")],
)
def test_seconds_are_shown_with_three_digits(seconds: float, text: str) -> None:
    assert shown(seconds) == text


def test_the_table_shows_ours_theirs_ratio_goal_and_whether_it_is_met() -> None:
    good, bad = rendered(Row("plan", 0.1, 0.4, TWICE, 15, 1.25), Row("demo", 200.0, None, A_SECOND)).splitlines()[1:]
    assert good.split() == ["plan", "100", "ms", "400", "ms", "0.25", "2", "x", "yes", "15", "1.2"]
    assert bad.split() == ["demo", "200", "s", "1", "s", "no", "1"]


def test_a_row_without_a_goal_claims_nothing() -> None:
    line = rendered(Row("only to know", 0.1)).splitlines()[1]
    assert "yes" not in line
    assert "no" not in line.split()


def test_plain_data_of_a_row_can_be_written_as_json() -> None:
    plain = json.loads(json.dumps(Row("plan", 1.0, 4.0, TWICE, 3, 0.5).plain()))
    assert plain == {
        "what": "plan", "ours": 1.0, "theirs": 4.0, "goal": "2 x", "runs": 3, "load": 0.5, "ratio": 0.25, "met": True,
    }  # fmt: skip


def test_things_are_done_in_turn_and_warm_ups_are_not_counted() -> None:
    done: list[str] = []
    ours, theirs = timing.in_turn(lambda: done.append("o"), lambda: done.append("t"), times=3, warm_ups=1)
    assert len(ours) == len(theirs) == 3
    assert "".join(done) in {"totototo", "toottoot", "ottootto"}
    assert done.count("o") == done.count("t") == 4


def test_a_command_that_fails_is_an_error_with_what_it_printed() -> None:
    with pytest.raises(RuntimeError, match="status 3:\noh no"):
        timing.command([sys.executable, "-c", "print('oh no'); exit(3)"])


def test_the_time_of_commands_is_not_counted_as_time_outside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", lambda _argv: process.Completed((), 100.0, 0, ()))
    assert seconds_outside(lambda: process.run(["build"])) < -99
    assert process.run(["build"]).seconds == 100.0


def test_a_part_that_fails_is_reported_and_the_others_are_measured() -> None:
    def broken() -> list[Row]:
        raise RuntimeError("no network")

    output = StringIO()
    rows, failed = pipeline.run_parts(
        {"broken": broken, "good": lambda: [Row("good", 1.0)]}, Console(file=output, width=200)
    )
    assert [row.what for row in rows] == ["good"]
    assert failed == ["broken"]
    assert "no network" in output.getvalue()


def test_the_machine_is_described_with_its_processors_and_its_load() -> None:
    machine = pipeline.describe_machine()
    assert machine["cpus"] == str(os.cpu_count())
    assert len(machine["load averages"].split()) == 3


def test_settings_of_the_user_do_not_reach_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "AWS_PROFILE", "MAKEFLAGS", "ENGINERY_STORE"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv(NO_BYTECODE, "1")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert settle_environment()
    kept = {"PREFECT_API_URL", "AWS_PROFILE", "MAKEFLAGS", "ENGINERY_STORE", NO_BYTECODE} & set(os.environ)
    assert not kept
    assert os.environ["ENGINERY_HOME"].endswith("bench/home")
    assert not settle_environment()


def test_the_demo_gets_a_new_home_and_only_pips_settings_of_the_old_one(tmp_path: Path) -> None:
    made = environment(tmp_path)
    assert made["HOME"] == str(tmp_path)
    assert made["ENGINERY_HOME"] == str(tmp_path / ".enginery")
    assert "VIRTUAL_ENV" not in made
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    cache = subprocess.run(command, env=made, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    assert cache == made["PIP_CACHE_DIR"]
    assert not cache.startswith(str(tmp_path))


def test_the_dvc_pipeline_has_a_stage_for_each_step_with_the_same_needs() -> None:
    plan = planned()
    made = stages(plan)
    assert len(made) == len(plan.steps)
    assert made["download"] == {
        "cmd": "cat source.txt > download.txt",
        "deps": ["source.txt"],
        "outs": ["download.txt"],
    }
    assert set(made["package-cpu-int4"]["deps"]) == {"build-cpu-int4.txt", "download.txt"}


def test_a_thousand_targets_share_hardly_a_step() -> None:
    plan = make_plan(parse_spec(many_targets.many_targets(100)))
    assert len(plan.targets) == 100
    assert len(plan.steps) == 1 + 2 * len(many_targets.ENGINES) + 5 * 100


def test_filled_means_that_every_step_is_in_the_store(tmp_path: Path) -> None:
    plan, store = make_plan(parse_spec(many_targets.many_targets(3))), open_store()
    many_targets.fill(store, plan, tmp_path / "output")
    assert set(store.find_many([step.key for step in plan.steps])) == {step.key for step in plan.steps}


@pytest.mark.integration
def test_the_part_on_many_targets_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    nothing_done, *_, all_done, _, _ = many_targets.measure(targets=3, times=1)
    assert nothing_done.what == "plan for 3 targets, nothing done: 22 steps"
    assert all_done.what == "plan for 3 targets, all done: 22 steps"
    assert nothing_done.met is not None
