"""Builds many targets of one-second steps on the workers of a pool, and prints the seconds as JSON.

`orchestration.py` starts it with Prefect's settings in its environment. The plan of the spec is replaced only in this
process: the runs on the workers take the plan from the store.
"""

import argparse
import json
from pathlib import Path
from unittest.mock import patch

from benchmarks.timing import seconds
from enginery.pipeline import Plan, PlannedStep, PlannedTarget
from enginery.pipeline.flows import build as build_flow
from enginery.sources import ResolvedSource
from enginery.spec import Spec, parse_spec
from enginery.store import Command, Stage, Step

STAGES = (Stage.CONVERT, Stage.BUILD, Stage.PACKAGE, Stage.PUBLISH)
GPU = "L4"
ARGV = ("sh", "-c", "sleep 1; echo made > {output}/made.txt")


def many_targets(number: int, name: str) -> Spec:
    """A spec with `number` targets for the same GPU."""
    targets = [{"name": f"target-{index}", "gpu": GPU, "precision": "float16"} for index in range(number)]
    prompts = {"prompts": [{"prompt": "How do I count to nine in French?"}]}
    return parse_spec({"name": name, "source": {"path": "weights"}, "targets": targets, "validation": prompts})


def plan_of(spec: Spec, stages: int) -> Plan:
    """A plan with a chain of `stages` steps for each target. Each step takes one second."""
    source = ResolvedSource(kind="path", location="weights", commit="0" * 40, files=())
    names = [target.name for target in spec.targets]
    steps = tuple(step for name in names for step in _chain(spec.name, name, STAGES[:stages]))
    return Plan(spec=spec, source=source, targets=tuple(map(_target, names)), steps=steps)


def _chain(build: str, target: str, stages: tuple[Stage, ...]) -> list[PlannedStep]:
    made: list[PlannedStep] = []
    for stage in stages:
        inputs = {"before": made[-1].key} if made else {}
        recipe = Command(argv=ARGV, environment={"FOR": f"{build} {target}"})
        step = Step(stage=stage, inputs=inputs, recipe=recipe)
        made.append(PlannedStep(id=f"{stage}/{target}", key=step.key, step=step, targets=(target,)))
    return made


def _target(name: str) -> PlannedTarget:
    return PlannedTarget(
        name=name,
        gpu=GPU,
        backend="onnxruntime",
        release="0.18.0",
        precision="float16",
        tensor_parallel=1,
        pipeline_parallel=1,
        build_id=f"{name}-0123456789ab",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, required=True)
    parser.add_argument("--stages", type=int, required=True)
    parser.add_argument("--pools", type=Path, required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--name", required=True)
    arguments = parser.parse_args()
    spec = many_targets(arguments.targets, arguments.name)
    plan = plan_of(spec, arguments.stages)

    def build() -> None:
        summary = build_flow.build_model(spec, store=arguments.store, pools=str(arguments.pools))
        assert len(summary.ran) == len(plan.steps), summary.sentence

    with patch.object(build_flow, "make_plan", lambda *_arguments, **_named: plan):
        print(json.dumps({"steps": len(plan.steps), "seconds": seconds(build)}))


if __name__ == "__main__":
    main()
