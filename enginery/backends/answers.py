"""Gets a model's answers to the prompts of a validation.

A driver of Enginery's runs in the backend's toolchain, loads the model and generates. An engine of TensorRT-LLM can
also be run with the release's own `examples/run.py`, as NVIDIA's tutorials do (`validation.run_script`).
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import JsonValue, TypeAdapter

from enginery import releases
from enginery.backends.common import OFFLINE as NO_HUB
from enginery.backends.runtimes import Kind, mpirun, runtime_for
from enginery.core.errors import CommandError, PlanError, UsageError
from enginery.core.files import write_atomic
from enginery.core.model import Frozen
from enginery.spec import Prompt, ValidationOptions
from enginery.store import StepContext
from enginery.toolchains import ANSWER_PROMPTS, ANSWER_TENSORRT_LLM, Toolchain, driver_sha256, examples_dir

ONNXRUNTIME = "onnxruntime"
TENSORRT_LLM = "tensorrt_llm"
RUN_SCRIPT = "run_script"
DRIVERS = {ONNXRUNTIME: ANSWER_PROMPTS, TENSORRT_LLM: ANSWER_TENSORRT_LLM}

MAX_THREADS = 4
"""CPU threads of one validation: validations of several targets run side by side with builds."""

OFFLINE = {
    **NO_HUB,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # ONNX Runtime's wheels send usage reports, and write an identifier into HOME, unless this is set.
    "ORT_DISABLE_TELEMETRY": "1",
    # Each line is logged when it is printed.
    "PYTHONUNBUFFERED": "1",
}
"""Environment of the commands: the model comes from the step's inputs, nothing from the network."""

SCRIPT = "run.py"
FLAGS = ("--engine_dir", "{engine}", "--max_output_len", "{max_tokens}", "--tokenizer_dir", "{weights}", "--input_text")
"""The tutorial's arguments; the prompt comes last."""

ANSWER_START = re.compile(r'^Output \[Text 0(?: Beam 0)?\]: "')
NO_ANSWER = re.compile(r"^(Input|Output) \[Text|^\[TensorRT-LLM\]|^\[\d\d/\d\d/\d{4}-|^\[TRT|^\[rank|^-{20,}$")
"""A line that belongs to no answer. An answer may have several lines."""

Parameters = Mapping[str, JsonValue]


class Answer(Frozen):
    """The answer to one prompt, as a driver writes it; see `drivers/answer_prompts.py`.

    Attributes:
        tokens: None where the driver cannot tell.
        seconds_to_first_token: None where the answer comes in one piece.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: int | None
    seconds_to_first_token: float | None
    seconds: float
    finish: str


def driver_parameters(options: ValidationOptions, driver: str, parameters: Parameters) -> dict[str, JsonValue]:
    """The part of a validation's recipe that says how the model is run.

    Args:
        options: the spec's.
        driver: `onnxruntime` or `tensorrt_llm`.
        parameters: for `tensorrt_llm` the `release`, the `world_size` (1 when left out), the `backend` (`tensorrt` when
            left out, or `pytorch`) and the LLM API's `arguments` for it.

    Raises:
        PlanError: when the spec sets `run_script` for a model that has no such script.
        UsageError: when the release cannot run such a model.
    """
    backend = parameters.get("backend", "tensorrt")
    if options.run_script and (driver, backend) != (TENSORRT_LLM, "tensorrt"):
        problem = "validation.run_script: only engines of the backend tensorrt have such a script; leave it out"
        raise PlanError([problem])
    if driver == ONNXRUNTIME:
        return {"driver_sha256": driver_sha256(ANSWER_PROMPTS)}
    release, world_size = str(parameters["release"]), parameters.get("world_size", 1)
    if options.run_script:
        argv: list[JsonValue] = list(script_argv(release))
        return {"driver": RUN_SCRIPT, "release": release, "world_size": world_size, "argv": argv}
    kind: Kind = "pytorch" if backend == "pytorch" else "tensorrt"
    runtime = runtime_for(kind, release)
    given = parameters.get("arguments") or {}
    return {
        "driver": TENSORRT_LLM,
        "driver_sha256": driver_sha256(ANSWER_TENSORRT_LLM),
        "release": release,
        "world_size": world_size,
        "runtime": runtime.name,
        "by_rank": runtime.by_rank,
        "arguments": {**runtime.arguments, **(given if isinstance(given, dict) else {})},
    }


def answers_to(context: StepContext, options: ValidationOptions) -> tuple[Answer, ...]:
    """The model's answers to the prompts. The model is loaded also when there are none.

    Raises:
        UsageError: when the plan was made by a version whose drivers are different.
        CommandError: when the model cannot be loaded, or fails to answer.
    """
    driver, toolchain = str(context.parameters.get("driver", ONNXRUNTIME)), context.toolchain
    remedy = "make the plan again with this version"
    if driver not in RUNNERS:
        raise UsageError(f"there is no driver {driver!r}", remedy=remedy)
    if driver in DRIVERS and context.parameters["driver_sha256"] != driver_sha256(DRIVERS[driver]):
        raise UsageError("the plan was made with another version of Enginery's validation", remedy=remedy)
    if toolchain is None:
        raise UsageError("a validation needs a toolchain", remedy=remedy)
    # Beside the output: commands of every kind of toolchain can read and write there.
    with TemporaryDirectory(prefix="asking-", dir=context.output.parent) as scratch:
        return RUNNERS[driver](context, toolchain, options, Path(scratch))


def script_argv(release: str) -> tuple[str, ...]:
    """The command that runs the release's script, up to the prompt.

    Raises:
        PlanError: when the release does not have the script, or not its flags.
    """
    path = releases.script(release, SCRIPT).value
    missing = [name for name in FLAGS if name.startswith("--") and releases.flag(release, name, SCRIPT).value is None]
    if path is None or missing:
        what = f"its {SCRIPT} has no {', '.join(missing)}" if path else f"it has no {SCRIPT}"
        raise PlanError([f"validation.run_script: release {release} cannot run it: {what}; leave it out"])
    return ("{python}", path.replace("examples/", "{examples}/", 1), *FLAGS)


def printed_answer(lines: list[str]) -> str | None:
    """The answer to the first prompt among the lines that the script printed; None where there is none.

    It stands between quotes, may contain quotes, and may have several lines.
    """
    start = next((number for number, line in enumerate(lines) if ANSWER_START.search(line)), None)
    if start is None:
        return None
    rest = lines[start + 1 :]
    end = next((number for number, line in enumerate(rest) if NO_ANSWER.search(line)), len(rest))
    text = "\n".join([ANSWER_START.sub("", lines[start], count=1), *rest[:end]])
    return text.rpartition('"')[0] if '"' in text else text


def without_special_tokens(text: str, model: Path) -> str:
    """The text without special tokens at its start and end: the script prints them, servers do not."""
    path = model / "tokenizer.json"
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", []) if path.is_file() else []
    special = [token["content"] for token in added if token.get("special") and token["content"]]
    while found := next((token for token in special if text.endswith(token)), None):
        text = text.removesuffix(found)
    while found := next((token for token in special if text.startswith(token)), None):
        text = text.removeprefix(found)
    return text


def _run_onnxruntime(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, scratch: Path
) -> tuple[Answer, ...]:
    requests = {"threads": min(MAX_THREADS, os.cpu_count() or 1), "prompts": _prompts(options)}
    return _run_driver(context, (str(toolchain.python), str(ANSWER_PROMPTS)), requests, scratch)


def _run_tensorrt_llm(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, scratch: Path
) -> tuple[Answer, ...]:
    recipe = context.parameters
    requests = {"runtime": recipe["runtime"], "arguments": recipe["arguments"], "prompts": _prompts(options)}
    launcher = _launcher(context, toolchain, by_rank=bool(recipe["by_rank"]))
    return _run_driver(context, (*launcher, str(toolchain.python), str(ANSWER_TENSORRT_LLM)), requests, scratch)


def _run_script(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, _scratch: Path
) -> tuple[Answer, ...]:
    return tuple(
        _script_answer(context, toolchain, prompt, prompt.max_tokens or options.max_tokens)
        for prompt in options.prompts
    )


RUNNERS: Mapping[str, Callable[[StepContext, Toolchain, ValidationOptions, Path], tuple[Answer, ...]]] = {
    ONNXRUNTIME: _run_onnxruntime,
    TENSORRT_LLM: _run_tensorrt_llm,
    RUN_SCRIPT: _run_script,
}


def _prompts(options: ValidationOptions) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt.prompt, "max_tokens": prompt.max_tokens or options.max_tokens} for prompt in options.prompts
    ]


def _run_driver(
    context: StepContext, command: tuple[str, ...], requests: Mapping[str, Any], scratch: Path
) -> tuple[Answer, ...]:
    paths = {
        "--engine": _model_directory(context),
        "--tokenizer": context.inputs["weights"],
        "--requests": scratch / "requests.json",
        "--output": scratch / "answers.json",
    }
    write_atomic(paths["--requests"], json.dumps(requests))
    context.run([*command, *(str(part) for pair in paths.items() for part in pair)], OFFLINE)
    written = json.loads(paths["--output"].read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Answer, ...]).validate_python(written["answers"])


def _script_answer(context: StepContext, toolchain: Toolchain, prompt: Prompt, max_tokens: int) -> Answer:
    """The answer to one prompt, from the release's script.

    Raises:
        CommandError: when the script fails, or prints no answer.
        ToolchainError: when the release's examples are not there.
    """
    weights = context.inputs["weights"]
    values = {
        "python": str(toolchain.python),
        "examples": str(examples_dir(toolchain.identity, context.places.get("examples", ""))),
        "engine": str(_model_directory(context)),
        "weights": str(weights),
        "max_tokens": str(max_tokens),
    }
    template = context.parameters["argv"]
    words = [str(word).format(**values) for word in template] if isinstance(template, list) else []
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        context.log(line)

    launcher = _launcher(context, toolchain, by_rank=True)
    done = dataclasses.replace(context, log=log).run([*launcher, *words, prompt.prompt], OFFLINE)
    text = printed_answer(lines[1:])
    if text is None:
        raise CommandError(
            f"{SCRIPT} ended with exit status 0 but printed no answer",
            subject=SCRIPT,
            remedy="read its last lines; leave validation.run_script out to ask with Enginery's own driver",
            last_lines=done.last_lines,
        )
    text = without_special_tokens(text, weights)
    return Answer(
        text=text, token_ids=(), tokens=None, seconds_to_first_token=None, seconds=done.seconds, finish="unknown"
    )


def _model_directory(context: StepContext) -> Path:
    """The model to run: the engine, else the quantized checkpoint, else the weights."""
    return next(context.inputs[name] for name in ("engine", "checkpoint", "weights") if name in context.inputs)


def _launcher(context: StepContext, toolchain: Toolchain, *, by_rank: bool) -> tuple[str, ...]:
    """The start of a command that runs a model on several GPUs; empty where none is needed.

    A process that starts its ranks itself needs no `mpirun`, except on a node that Slurm manages: NVIDIA's
    documentation wants one rank there, however many GPUs.
    """
    world_size = int(str(context.parameters.get("world_size", 1)))
    if world_size == 1:
        return ()
    if by_rank:
        return mpirun(world_size)
    return mpirun(1) if "SLURM_JOB_ID" in toolchain.environment else ()
