"""Tests of the pools file: which pool gets a target, and mistakes with their place in the file."""

from pathlib import Path

import pytest
import yaml

from enginery.core.errors import PlanError, SpecError
from enginery.pipeline.fleet import Pools, read_pools
from enginery.pipeline.flows.fan_out import FanOut, batches, part_for, stays_local
from enginery.pipeline.plan import Plan
from enginery.store import open_store
from tests.support.plans.plan import planned, spec_data
from tests.support.prefect.fan_out import FanPipeline, fan_spec

INFRA = Path(__file__).parents[2] / "infra" / "pools.yaml"


def pools(*entries: dict[str, object], **more: object) -> Pools:
    return Pools.model_validate({"pools": list(entries), **more})


def mistakes(tmp_path: Path, text: str) -> str:
    (tmp_path / "pools.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        read_pools(tmp_path / "pools.yaml")
    return str(caught.value)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    names = ("l4-1", "l4-2", "l4-3", "l40s-1")
    return FanPipeline(tmp_path / "pipeline").plan(fan_spec(*names))


def test_the_pools_of_the_repository_are_sound() -> None:
    found = read_pools(INFRA)
    assert found.flows.work_pool == "enginery-flows"
    assert {pool.type for pool in found.work_pools.values()} == {"process", "docker", "kubernetes"}


def test_a_target_goes_to_the_first_pool_that_takes_its_gpu_and_name(plan: Plan) -> None:
    found = pools(
        {"gpu": "L4", "targets": ["l4-2", "*-3"], "work_pool": "some"},
        {"gpu": "L4", "work_pool": "others"},
        {"gpu": "*", "work_pool": "rest"},
    ).assign(plan)
    assert {name: pool.work_pool for name, pool in found.items()} == {
        "l4-1": "others", "l4-2": "some", "l4-3": "some", "l40s-1": "rest",
    }  # fmt: skip


@pytest.mark.parametrize("written", ["nvidia l4", "NVIDIA-L4", "l4"])
def test_a_gpu_may_be_written_as_tools_print_it(written: str) -> None:
    assert pools({"gpu": written, "work_pool": "one"}).pools[0].gpu == "L4"


def test_every_target_without_a_pool_is_reported_at_once(plan: Plan) -> None:
    with pytest.raises(PlanError) as caught:
        pools({"gpu": "L4", "targets": ["l4-1"], "work_pool": "one"}).assign(plan)
    assert [line.partition(":")[0] for line in caught.value.mistakes] == [
        "targets.1 (l4-2).gpu", "targets.2 (l4-3).gpu", "targets.3 (l40s-1).gpu",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"gpu": "H100", "work_pool": "one"}, "pools.0.gpu: unknown GPU 'H100'; use one that is known, such as H100-"),
        ({"gpu": "Z9-*", "work_pool": "one"}, "pools.0.gpu: no known GPU has a name like 'Z9-*'"),
        ({"gpu": "L4", "work_pool": "a pool"}, "pools.0.work_pool: "),
        ({"gpu": "L4", "work_pool": "one", "concurrency": 0}, "pools.0.concurrency: "),
        ({"gpu": "L4", "work_pool": "one", "type": "vm"}, "pools.0.type: "),
        ({"gpu": "L4"}, "pools.0.work_pool: missing"),
        ({"gpu": "L4", "work_pool": "one", "queue": "q"}, "pools.0.queue: unknown field"),
        ({"gpu": "L4", "work_pool": "enginery-flows"}, "enginery-flows is the pool of builds that wait"),
    ],
)
def test_a_mistake_is_reported_with_its_place(entry: dict[str, object], message: str, tmp_path: Path) -> None:
    assert message in mistakes(tmp_path, yaml.safe_dump({"pools": [entry]}))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "pools: [{gpu: X9, work_pool: one}, {gpu: L4, concurrency: many, work_pool: two}]")
    assert "2 mistakes" in found
    assert "pools.0.gpu" in found
    assert "pools.1.concurrency" in found


@pytest.mark.parametrize("text", ["", "pools: []", "[]", "nonsense: {", "pools: \x00"])
def test_what_is_no_pools_file_is_reported_with_its_name(text: str, tmp_path: Path) -> None:
    assert str(tmp_path / "pools.yaml") in mistakes(tmp_path, text)


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_pools(tmp_path / "pools.yaml")


def test_a_pool_that_is_listed_twice_has_the_capacity_of_both_entries() -> None:
    found = pools(
        {"gpu": "L4", "work_pool": "one", "concurrency": 2}, {"gpu": "L40S", "work_pool": "one", "concurrency": 3}
    )
    assert {name: pool.concurrency for name, pool in found.work_pools.items()} == {"enginery-flows": 10, "one": 5}


def test_targets_are_dealt_to_as_many_runs_as_a_pool_does_at_once(plan: Plan) -> None:
    found = batches(
        plan, pools({"gpu": "L4", "work_pool": "one", "concurrency": 2}, {"gpu": "L40S", "work_pool": "two"})
    )
    assert [(batch.pool.work_pool, batch.targets) for batch in found] == [
        ("one", ("l4-1", "l4-3")), ("one", ("l4-2",)), ("two", ("l40s-1",)),
    ]  # fmt: skip
    assert len({batch.id for batch in found}) == 3


def test_no_run_is_started_without_targets(plan: Plan) -> None:
    found = batches(plan, pools({"gpu": "*", "work_pool": "one", "concurrency": 50}))
    assert [len(batch.targets) for batch in found] == [1, 1, 1, 1]


def test_a_batch_of_many_targets_has_a_short_name(plan: Plan) -> None:
    (batch,) = batches(plan, pools({"gpu": "*", "work_pool": "one"}))
    assert batch.label == "l4-1, l4-2, l4-3 and 1 more"


def test_a_run_has_the_steps_of_its_targets_and_those_it_shares(plan: Plan) -> None:
    assert [planned.id for planned in part_for(plan, ["l4-2"])] == ["download", "build/l4-2", "package/l4-2"]


def test_a_rollout_and_a_source_on_this_machine_stay_here() -> None:
    from_the_hub = planned()
    from_here = planned(spec_data(source={"path": "weights"}))
    assert [step.id for step in from_the_hub.steps if stays_local(step)] == ["rollout/cpu-int4"]
    assert [step.id for step in from_here.steps if stays_local(step)] == ["download", "rollout/cpu-int4"]
    assert "rollout/cpu-int4" not in [step.id for step in part_for(from_here, ["cpu-int4"])]


def test_a_build_that_is_tried_again_knows_its_runs_although_the_notes_of_its_plan_have_changed(
    plan: Plan, tmp_path: Path
) -> None:
    """The notes describe the last build, which can now be this build."""
    found = pools({"gpu": "L4", "work_pool": "l4"}, {"gpu": "L40S", "work_pool": "l40s"})
    store = open_store(str(tmp_path / "store"))
    changed = plan.model_copy(update={"notes": ("the last build was of another release",)})
    jobs = [FanOut(one, batches(one, found), "run-1", None, 60.0) for one in (plan, changed)]
    first, second = ([fan._run_of(batch, "0" * 64, store).key for batch in fan.batches] for fan in jobs)
    assert first == second
    assert len(set(first)) == len(first)
