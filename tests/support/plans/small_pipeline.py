"""A pipeline of real but tiny steps: shell commands and file copies, to test flows without toolchains.

It has the shape of a real one: download -> build -> validate -> gates -> publish, with one download for all targets.
Each step counts its runs. A test can add shell commands to a step, for example to make it fail.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue

from enginery.backends.gates.expectations import expectations, judge
from enginery.builds.gates import GATES_FILE, GateReport, GateResult, Verdict
from enginery.builds.validation import REPORT_FILE, PromptResult, ValidationReport, described_miss, read_report
from enginery.core.errors import RegistryError
from enginery.core.files import write_atomic
from enginery.core.progress import Facts, Log, no_log
from enginery.pipeline import functions
from enginery.pipeline.plan import Plan, PlannedStep, PlannedTarget
from enginery.sources import ResolvedSource
from enginery.spec.spec import Spec, Target, parse_spec
from enginery.spec.validation import Prompt
from enginery.store.context import StepContext
from enginery.store.steps import Call, Command, Stage, Step

ANSWER = "un, deux, trois, quatre, cinq, six, sept, huit, neuf"


def small_spec(*targets: str, expected: str = "neuf", name: str = "small") -> Spec:
    """A spec for these targets, with one prompt."""
    return parse_spec(
        {
            "name": name,
            "source": {"path": "weights"},
            "targets": [{"name": target, "gpu": "cpu", "precision": "float32"} for target in targets],
            "validation": {"prompts": [{"prompt": "How do I count to nine in French?", "contains": expected}]},
            "publish": {"to": "s3://small/models"},
        }
    )


class SmallPipeline:
    """Makes plans of tiny steps and counts how often the steps run.

    Attributes:
        directory: where runs are counted, builds are published, and steps can wait for a file.
        scripts: step id -> shell commands that the step runs before it makes its output.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scripts: dict[str, str] = {}
        self.runs_dir.mkdir(parents=True)

    @property
    def runs_dir(self) -> Path:
        return self.directory / "runs"

    def runs(self, step: str) -> int:
        """How often a step was started."""
        counter = self.runs_dir / step.replace("/", "-")
        return len(counter.read_text().splitlines()) if counter.exists() else 0

    def plan(self, spec: Spec, log: Log = no_log) -> Plan:  # noqa: ARG002  as `make_plan` has it
        """The plan of a spec, used instead of `make_plan`."""
        names = tuple(target.name for target in spec.targets)
        download = self.command("download", "echo weights > {output}/weights.txt", {}, names)
        steps = [download]
        for name in names:
            steps += self.steps(spec, name, download)
        targets = tuple(_target(target) for target in spec.targets)
        source = ResolvedSource(kind="path", location="weights", commit="0" * 40, files=())
        return Plan(spec=spec, source=source, targets=targets, steps=tuple(steps), notes=("a small plan",))

    def steps(self, spec: Spec, name: str, download: PlannedStep) -> list[PlannedStep]:
        """The steps of a target after the download."""
        script = f"echo '{ANSWER}' > {{output}}/engine.txt; cat {{weights}}/weights.txt > {{output}}/from.txt"
        build = self.command(f"build/{name}", script, {"weights": download.key}, (name,))
        prompts: list[JsonValue] = [prompt.model_dump(exclude_none=True) for prompt in spec.validation.prompts]
        counted: dict[str, JsonValue] = {"target": name, "directory": str(self.directory)}
        validate = _call(Stage.VALIDATE, name, {"engine": build.key}, counted | {"prompts": prompts})
        gates = _call(Stage.GATES, name, {"report": validate.key}, counted)
        inputs = {"engine": build.key, "report": validate.key, "gates": gates.key}
        return [build, validate, gates, _call(Stage.PUBLISH, name, inputs, counted | {"to": str(spec.publish)})]

    def command(self, identifier: str, script: str, inputs: dict[str, str], targets: tuple[str, ...]) -> PlannedStep:
        """A step whose id begins with its stage."""
        counter = self.runs_dir / identifier.replace("/", "-")
        more = self.scripts.get(identifier, ":")
        recipe = Command(argv=("sh", "-ec", f"echo run >> {counter}; {more}; {script}"))
        step = Step(stage=Stage(identifier.partition("/")[0]), inputs=inputs, recipe=recipe)
        return PlannedStep(id=identifier, key=step.key, step=step, targets=targets)


def _target(target: Target) -> PlannedTarget:
    return PlannedTarget(
        name=target.name,
        gpu=target.gpu,
        backend="onnxruntime",
        release="0.18.0",
        precision=str(target.precision),
        tensor_parallel=1,
        pipeline_parallel=1,
        build_id=f"{target.name}-0123456789ab",
    )


def _call(stage: Stage, target: str, inputs: dict[str, str], parameters: dict[str, JsonValue]) -> PlannedStep:
    step = Step(stage=stage, inputs=inputs, recipe=Call(function=stage, version=1, parameters=parameters))
    return PlannedStep(id=f"{stage}/{target}", key=step.key, step=step, targets=(target,))


def _count(context: StepContext, stage: str) -> Path:
    directory = Path(str(context.parameters["directory"]))
    with (directory / "runs" / f"{stage}-{context.parameters['target']}").open("a") as counter:
        counter.write("run\n")
    return directory


def validate(context: StepContext) -> Facts:
    """Validate the engine, a text file: its content is the answer to every prompt."""
    _count(context, "validate")
    answer = (context.inputs["engine"] / "engine.txt").read_text().strip()
    asked = context.parameters["prompts"]
    assert isinstance(asked, Sequence)
    results = tuple(_judged(Prompt.model_validate(prompt), answer) for prompt in asked)
    passed = all(result.passed for result in results)
    report = ValidationReport(passed=passed, results=results, driver_sha256="0" * 64)
    write_atomic(context.output / REPORT_FILE, report.model_dump_json())
    context.log(f"asked {len(results)} prompts")
    return {"passed": passed}


def gates(context: StepContext) -> Facts:
    """Judge the only gate: the answers."""
    _count(context, "gates")
    report = read_report(context.inputs["report"])
    verdict = Verdict.PASS if report.passed else Verdict.FAIL
    reason = "" if report.passed else described_miss(report.misses[0])
    result = GateResult(gate="answers", mode="block", verdict=verdict, reason=reason, remedy="correct the model")
    judged = GateReport(results=(result,))
    write_atomic(context.output / GATES_FILE, judged.model_dump_json())
    return {"passed": judged.passed}


def _judged(prompt: Prompt, answer: str) -> PromptResult:
    passed, reason = judge(prompt, answer)
    return PromptResult(
        prompt=prompt.prompt or "",
        expected=expectations(prompt),
        got=answer,
        passed=passed,
        reason=reason,
        tokens=1,
        token_ids=(1,),
        finish="eos",
        seconds_to_first_token=0.0,
        seconds=0.0,
    )


def publish(context: StepContext) -> Facts:
    """Copy the engine to the directory of published builds. If `unreachable-once` exists, fail once like a network."""
    directory = _count(context, "publish")
    trouble = directory / "unreachable-once"
    if trouble.exists():
        trouble.unlink()
        raise RegistryError("the registry did not answer", transient=True)
    target = str(context.parameters["target"])
    published = (directory / "published" / target).resolve()
    write_atomic(published, (context.inputs["engine"] / "engine.txt").read_bytes())
    write_atomic(context.output / "published.txt", str(published))
    return {"uri": f"s3://small/models/small/builds/{target}-0123456789ab"}


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallPipeline:
    """A pipeline that the flow uses instead of the real one."""
    made = SmallPipeline(tmp_path / "pipeline")
    monkeypatch.setattr("enginery.pipeline.flows.build.make_plan", made.plan)
    for name in ("validate", "gates", "publish"):
        monkeypatch.setitem(functions.FUNCTIONS, name, f"tests.support.plans.small_pipeline:{name}")
    monkeypatch.delitem(functions.EFFECT_CHECKS, "publish")
    monkeypatch.delitem(functions.PREPARATION_CHECKS, "publish")
    return made
