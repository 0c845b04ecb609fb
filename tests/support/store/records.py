"""Step records like those of a run of the pipeline, without running it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from enginery.store.blobs import digest_output
from enginery.store.steps import Call, Command, FileRecord, Recipe, Stage, Step, StepRecord

STARTED = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def a_record(
    stage: Stage,
    *,
    inputs: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    facts: Mapping[str, JsonValue] | None = None,
    directory: Path | None = None,
) -> StepRecord:
    """The record of a finished step. `directory` has its output."""
    recipe = recipe or Call(function=stage, version=1)
    step = Step(stage=stage, inputs=inputs or {}, recipe=recipe)
    no_files: tuple[FileRecord, ...] = ()
    return StepRecord(
        key=step.key,
        step=step,
        label=f"{stage} cpu-int4",
        files=digest_output(directory) if directory else no_files,
        started=STARTED,
        seconds=4.25,
        host="builder-1",
        toolchain={"onnxruntime-genai": "0.18.0"} if isinstance(recipe, Command) else {},
        commands=(recipe.argv,) if isinstance(recipe, Command) else (),
        facts=facts or {},
        enginery="0.1.0",
    )


def a_chain() -> tuple[StepRecord, ...]:
    """The records of a build up to its model repository, each after the records of its inputs."""
    origin: dict[str, JsonValue] = {"kind": "huggingface", "location": "owner/tiny", "commit": "c0ffee" * 6 + "c0ff"}
    weights = a_record(Stage.DOWNLOAD, recipe=Call(function="download", version=1, parameters=origin))
    builder = Command(argv=("python", "-m", "onnxruntime_genai.models.builder", "-p", "int4"))
    engine = a_record(Stage.BUILD, inputs={"weights": weights.key}, recipe=builder)
    both = {"engine": engine.key, "weights": weights.key}
    report = a_record(Stage.VALIDATE, inputs=both, facts={"passed": True, "prompts": 1})
    package = a_record(Stage.PACKAGE, inputs=both)
    return weights, engine, report, package
