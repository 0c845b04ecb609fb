"""Asks a model the prompts of its validation: with the driver that its backend names, in its toolchain."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from enginery.context import StepContext
from enginery.drivers import ANSWER_PROMPTS, ANSWER_TENSORRT_LLM, driver_sha256
from enginery.errors import PlanError, UsageError
from enginery.files import write_atomic
from enginery.runtimes import Kind, mpirun, runtime_for
from enginery.spec import ValidationOptions
from enginery.toolchains import Toolchain

ONNXRUNTIME = "onnxruntime"
TENSORRT_LLM = "tensorrt_llm"
RUN_SCRIPT = "run_script"

MAX_THREADS = 4
"""Validations of several targets run side by side with builds."""

ENVIRONMENT = {
    # A model comes from the step's inputs and from nowhere else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # ONNX Runtime's wheels report their use to their maker, and leave an identifier in HOME, unless told not to.
    "ORT_DISABLE_TELEMETRY": "1",
    # Lines come when they are printed.
    "PYTHONUNBUFFERED": "1",
}


class Answer(BaseModel):
    """What the driver says of one prompt; see `drivers/answer_prompts.py`.

    Attributes:
        tokens: None where the driver cannot tell.
        seconds_to_first_token: None where the answer comes in one piece.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    token_ids: tuple[int, ...]
    tokens: int | None
    seconds_to_first_token: float | None
    seconds: float
    finish: str


Parameters = Mapping[str, JsonValue]


def driver_parameters(options: ValidationOptions, driver: str, parameters: Parameters) -> dict[str, JsonValue]:
    """What a validation's recipe says of who asks, and how.

    Args:
        options: the spec's.
        driver: `onnxruntime` or `tensorrt_llm`.
        parameters: for `tensorrt_llm` the `release`, the `world_size` (1 when left out), the `backend` (`tensorrt` when
            left out, or `pytorch`) and the LLM API's `arguments` for it.

    Raises:
        PlanError: when the spec asks for `run_script` where there is none.
        UsageError: when the release cannot run such a model.
    """
    backend = parameters.get("backend", "tensorrt")
    if options.run_script and (driver, backend) != (TENSORRT_LLM, "tensorrt"):
        raise PlanError(
            ["validation.run_script: only engines of the backend tensorrt have such a script; leave it out"]
        )
    if driver == ONNXRUNTIME:
        return {"driver_sha256": driver_sha256(ANSWER_PROMPTS)}
    release, world_size = str(parameters["release"]), parameters.get("world_size", 1)
    said: dict[str, JsonValue] = {"release": release, "world_size": world_size}
    if options.run_script:
        from enginery.backends.tensorrt.engine_script import script_argv  # noqa: PLC0415  few specs ask for it

        return {"driver": RUN_SCRIPT, **said, "argv": list(script_argv(release))}
    kind: Kind = "pytorch" if backend == "pytorch" else "tensorrt"
    runtime = runtime_for(kind, release)
    given = parameters.get("arguments") or {}
    arguments = {**runtime.arguments, **(given if isinstance(given, dict) else {})}
    return {
        "driver": TENSORRT_LLM,
        "driver_sha256": driver_sha256(ANSWER_TENSORRT_LLM),
        **said,
        "runtime": runtime.name,
        "by_rank": runtime.by_rank,
        "arguments": arguments,
    }


def ask(context: StepContext, options: ValidationOptions) -> tuple[Answer, ...]:
    """Ask the prompts; the model is loaded also when there are none.

    Raises:
        UsageError: when the plan was made for something else than this version can ask.
        CommandError: when the model cannot be loaded or asked.
    """
    driver = str(context.parameters.get("driver", ONNXRUNTIME))
    toolchain = context.toolchain
    if driver not in ASKS:
        raise UsageError(f"there is no driver {driver!r}", remedy="make the plan again with this version")
    _require_same_driver(driver, context.parameters)
    if toolchain is None:
        raise UsageError("a validation needs a toolchain", remedy="make the plan again with this version")
    # Beside the output, where the toolchain's commands can read and write whatever kind it is.
    with TemporaryDirectory(prefix="asking-", dir=context.output.parent) as scratch:
        return ASKS[driver](context, toolchain, options, Path(scratch))


def _require_same_driver(driver: str, parameters: Parameters) -> None:
    script = {ONNXRUNTIME: ANSWER_PROMPTS, TENSORRT_LLM: ANSWER_TENSORRT_LLM}.get(driver)
    if script is not None and parameters["driver_sha256"] != driver_sha256(script):
        raise UsageError(
            "the plan was made with another version of Enginery's validation",
            remedy="make the plan again with this version",
        )


def model_directory(context: StepContext) -> Path:
    """What is asked: the engine, else the quantized checkpoint, else the weights."""
    return next(context.inputs[name] for name in ("engine", "checkpoint", "weights") if name in context.inputs)


def _ask_onnxruntime(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, scratch: Path
) -> tuple[Answer, ...]:
    requests = {"threads": min(MAX_THREADS, os.cpu_count() or 1), "prompts": _prompts(options)}
    return _run_driver(context, (str(toolchain.python), str(ANSWER_PROMPTS)), requests, scratch)


def _ask_tensorrt_llm(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, scratch: Path
) -> tuple[Answer, ...]:
    known = context.parameters
    requests = {"runtime": known["runtime"], "arguments": known["arguments"], "prompts": _prompts(options)}
    launcher = launched(context, toolchain, by_rank=bool(known["by_rank"]))
    return _run_driver(context, (*launcher, str(toolchain.python), str(ANSWER_TENSORRT_LLM)), requests, scratch)


def launched(context: StepContext, toolchain: Toolchain, *, by_rank: bool) -> tuple[str, ...]:
    """What stands before a command that runs a model on the GPUs it takes.

    A process that starts its ranks itself needs no `mpirun`, except, as NVIDIA's documentation says, on a node that
    Slurm manages: one rank there, however many GPUs.
    """
    world_size = int(str(context.parameters.get("world_size", 1)))
    if world_size == 1:
        return ()
    if by_rank:
        return mpirun(world_size)
    return mpirun(1) if "SLURM_JOB_ID" in toolchain.environment else ()


def _ask_run_script(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, _scratch: Path
) -> tuple[Answer, ...]:
    from enginery.backends.tensorrt.engine_script import ask_with_script  # noqa: PLC0415  few specs ask for it

    return tuple(
        ask_with_script(context, toolchain, prompt, prompt.max_tokens or options.max_tokens)
        for prompt in options.prompts
    )


Ask = Callable[[StepContext, Toolchain, ValidationOptions, Path], tuple[Answer, ...]]

ASKS: dict[str, Ask] = {
    ONNXRUNTIME: _ask_onnxruntime,
    TENSORRT_LLM: _ask_tensorrt_llm,
    RUN_SCRIPT: _ask_run_script,
}


def _run_driver(
    context: StepContext, command: tuple[str, ...], requests: Mapping[str, Any], scratch: Path
) -> tuple[Answer, ...]:
    places = {
        "--engine": model_directory(context),
        "--tokenizer": context.inputs["weights"],
        "--requests": scratch / "requests.json",
        "--output": scratch / "answers.json",
    }
    write_atomic(places["--requests"], json.dumps(requests))
    flags = [str(part) for pair in places.items() for part in pair]
    context.run([*command, *flags], ENVIRONMENT)
    return _read_answers(places["--output"])


def _prompts(options: ValidationOptions) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt.prompt, "max_tokens": prompt.max_tokens or options.max_tokens} for prompt in options.prompts
    ]


def _read_answers(path: Path) -> tuple[Answer, ...]:
    written = json.loads(path.read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Answer, ...]).validate_python(written["answers"])
