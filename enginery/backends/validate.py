"""Asks a built engine the spec's prompts and judges what it says.

An engine that answers wrongly is a finding, not a failure of the step: the report is recorded either way, and
`require_passed` stops what would come after.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from packaging.version import Version
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter

from enginery.builds import REPORT_FILE, PromptResult, ValidationReport, described_miss
from enginery.core.errors import CommandError, PlanError, UsageError
from enginery.core.files import write_atomic
from enginery.core.progress import Facts, Log
from enginery.releases import flag, script
from enginery.spec import Prompt, ValidationOptions
from enginery.store import Call, StepContext
from enginery.toolchains import ANSWER_PROMPTS, ANSWER_TENSORRT_LLM, Toolchain, driver_sha256, examples_dir

# Which of TensorRT-LLM's runtimes is asked for answers in which release, and how it is started.


Kind = Literal["tensorrt", "pytorch"]


class Runtime(NamedTuple):
    """A way to run a model.

    Attributes:
        since: the first release it is used for.
        name: the class, as module:class.
        by_rank: whether `mpirun` starts one process for each rank; else one process starts the ranks it needs.
        arguments: what it is always given besides the model.
        source: where this was read.
    """

    since: str
    name: str
    by_rank: bool
    arguments: dict[str, JsonValue]
    source: str


RUNTIMES: dict[Kind, tuple[Runtime, ...]] = {
    "tensorrt": (
        Runtime(
            "0.8.0",
            "tensorrt_llm.runtime:ModelRunnerCpp",
            by_rank=True,
            arguments={},
            source="examples/run.py and tensorrt_llm/runtime/model_runner_cpp.py of v0.8.0 to v0.15.0; mpirun in"
            " examples/llama/README.md",
        ),
        Runtime(
            "0.16.0",
            "tensorrt_llm:LLM",
            by_rank=False,
            arguments={},
            source="tensorrt_llm/llmapi/llm.py and llm_utils.py of v0.16.0 (an engine directory gives its own parallel"
            " sizes); docs/source/llm-api/index.md: no mpirun on a single node",
        ),
        Runtime(
            "1.0.0",
            "tensorrt_llm._tensorrt_engine:LLM",
            by_rank=False,
            arguments={},
            source="docs legacy/tensorrt_quickstart; tensorrt_llm/_tensorrt_engine of 1.3.0rc3",
        ),
    ),
    "pytorch": (
        Runtime(
            "0.17.0",
            "tensorrt_llm._torch:LLM",
            by_rank=False,
            arguments={},
            source="programs of that time import LLM from tensorrt_llm._torch; not read in the release itself",
        ),
        Runtime(
            "0.19.0",
            "tensorrt_llm:LLM",
            by_rank=False,
            arguments={"backend": "pytorch"},
            source="release notes of 0.19 and 1.0: the backend is named until it becomes the default",
        ),
        Runtime(
            "1.0.0",
            "tensorrt_llm:LLM",
            by_rank=False,
            arguments={},
            source="examples/pytorch/quickstart.py; tensorrt_llm/llmapi/llm.py of 1.3.0rc3",
        ),
    ),
}
"""By what is to be run, an engine or a checkpoint; oldest first."""


def runtime_for(kind: Kind, release: str) -> Runtime:
    """The runtime of a release.

    Raises:
        UsageError: when the release has none for this.
    """
    fitting = [one for one in RUNTIMES[kind] if _since(release) >= Version(one.since)]
    if not fitting:
        first = RUNTIMES[kind][0].since
        remedy = f"take a release from {first} on"
        raise UsageError(f"TensorRT-LLM {release} cannot run a model this way", subject=kind, remedy=remedy)
    return fitting[-1]


def _since(release: str) -> Version:
    """Previews count as the release they lead to: they were taken from the branch that became it."""
    return Version(Version(release).base_version)


def mpirun(world_size: int) -> tuple[str, ...]:
    """What starts a command once for each rank.

    As in the release's own examples: Open MPI refuses to run as root, which one is in a container, and counts a
    machine's cores as slots, of which there may be fewer than GPUs.
    """
    return ("mpirun", "-n", str(world_size), "--allow-run-as-root", "--oversubscribe")


# Asks a model the prompts of its validation: with the driver that its backend names, in its toolchain.


ONNXRUNTIME = "onnxruntime"
TENSORRT_LLM = "tensorrt_llm"
RUN_SCRIPT = "run_script"

MAX_THREADS = 4
"""Validations of several targets run side by side with builds."""

OFFLINE = {
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
    context.run([*command, *flags], OFFLINE)
    return _read_answers(places["--output"])


def _prompts(options: ValidationOptions) -> list[dict[str, Any]]:
    return [
        {"prompt": prompt.prompt, "max_tokens": prompt.max_tokens or options.max_tokens} for prompt in options.prompts
    ]


def _read_answers(path: Path) -> tuple[Answer, ...]:
    written = json.loads(path.read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Answer, ...]).validate_python(written["answers"])


FUNCTION_VERSION = 1


def validate_call(
    options: ValidationOptions, *, driver: str = ONNXRUNTIME, parameters: Mapping[str, JsonValue] | None = None
) -> Call:
    """The recipe of a validation: all that decides what is asked and how it is judged.

    Args:
        options: the spec's.
        driver: who asks, `onnxruntime` or `tensorrt_llm`.
        parameters: what it must know; see `answering.driver_parameters`.

    Raises:
        PlanError: when the spec asks for `run_script` where there is none.
        UsageError: when the release cannot run such a model.
    """
    prompts: list[JsonValue] = [prompt.model_dump(mode="json", exclude_none=True) for prompt in options.prompts]
    return Call(
        function="validate",
        version=FUNCTION_VERSION,
        parameters={
            "prompts": prompts,
            "max_tokens": options.max_tokens,
            **driver_parameters(options, driver, parameters or {}),
        },
    )


def expectations(prompt: Prompt) -> dict[str, str]:
    """What the answer must be: `equals`, `contains` or `matches` -> text."""
    named = {"equals": prompt.equals, "contains": prompt.contains, "matches": prompt.matches}
    return {name: text for name, text in named.items() if text is not None}


def judge(prompt: Prompt, answer: str) -> tuple[bool, str]:
    """Whether an answer is as expected, and if not, why.

    `equals` ignores white space at the ends, `contains` minds case, `matches` may match anywhere. Where several are
    given, all must hold; where none is, every answer will do.
    """
    expected = expectations(prompt)
    if not expected:
        return True, "nothing expected; only recorded"
    misses = [f"{name} {text!r}" for name, text in expected.items() if not _holds(name, text, answer)]
    return not misses, f"not: {', '.join(misses)}" if misses else ""


def _holds(name: str, text: str, answer: str) -> bool:
    if name == "equals":
        return answer.strip() == text.strip()
    if name == "contains":
        return text in answer
    return re.search(text, answer) is not None


def validate(context: StepContext) -> Facts:
    """Ask the engine the prompts, and write `report.json` to the output. The step function `validate`.

    Inputs are `weights` (for the tokenizer) and `engine` or `checkpoint`, without which the weights themselves are
    asked. The model is loaded also when there are no prompts, so one that cannot be loaded is found out.

    Raises:
        CommandError: when the engine cannot be loaded or asked.
        UsageError: when the plan was made with another version of the driver.
    """
    options = ValidationOptions.model_validate(
        {"prompts": context.parameters["prompts"], "max_tokens": context.parameters["max_tokens"]}
    )
    report = _report(options, ask(context, options), str(context.parameters.get("driver_sha256", "")))
    write_atomic(context.output / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    for miss in report.misses:
        context.log(described_miss(miss))
    return {
        "passed": report.passed,
        "prompts": len(report.results),
        "failed": len(report.misses),
        "tokens_per_second": report.tokens_per_second,
    }


def _report(options: ValidationOptions, answers: tuple[Answer, ...], digest: str) -> ValidationReport:
    results = tuple(_result(prompt, answer, options) for prompt, answer in zip(options.prompts, answers, strict=True))
    seconds = sum(answer.seconds for answer in answers)
    tokens = sum(answer.tokens or 0 for answer in answers)
    told = all(answer.tokens is not None for answer in answers)
    return ValidationReport(
        passed=all(result.passed for result in results),
        results=results,
        tokens_per_second=round(tokens / seconds, 3) if tokens and told else None,
        driver_sha256=digest,
    )


def _result(prompt: Prompt, answer: Answer, options: ValidationOptions) -> PromptResult:
    passed, reason = judge(prompt, answer.text)
    return PromptResult(
        prompt=prompt.prompt,
        expected=expectations(prompt),
        got=answer.text,
        passed=passed,
        reason=reason,
        max_tokens=prompt.max_tokens or options.max_tokens,
        **answer.model_dump(exclude={"text"}),
    )


# Asks an engine with the release's own `examples/run.py`, as NVIDIA's tutorials do.


SCRIPT = "run.py"
FLAGS = ("--engine_dir", "{engine}", "--max_output_len", "{max_tokens}", "--tokenizer_dir", "{weights}", "--input_text")
"""The tutorial's arguments; the prompt comes last."""

SAID = re.compile(r'^Output \[Text 0(?: Beam 0)?\]: "')
OTHER = re.compile(r"^(Input|Output) \[Text|^\[TensorRT-LLM\]|^\[\d\d/\d\d/\d{4}-|^\[TRT|^\[rank|^-{20,}$")
"""Lines that are none of the answer's, which may have several."""


def script_argv(release: str) -> tuple[str, ...]:
    """The command, up to the prompt.

    Raises:
        PlanError: when the release does not have the script, or not its flags.
    """
    where = script(release, SCRIPT).value
    missing = [name for name in FLAGS if name.startswith("--") and flag(release, name, SCRIPT).value is None]
    if where is None or missing:
        what = f"its {SCRIPT} has no {', '.join(missing)}" if where else f"it has no {SCRIPT}"
        raise PlanError([f"validation.run_script: release {release} cannot be asked so: {what}; leave it out"])
    return ("{python}", where.replace("examples/", "{examples}/", 1), *FLAGS)


def ask_with_script(context: StepContext, toolchain: Toolchain, prompt: Prompt, max_tokens: int) -> Answer:
    """Ask one prompt.

    Raises:
        CommandError: when the script fails, or prints no answer.
        ToolchainError: when the release's examples are not there.
    """
    values = {
        "python": str(toolchain.python),
        "examples": str(examples_dir(toolchain.identity, context.places.get("examples", ""))),
        "engine": str(model_directory(context)),
        "weights": str(context.inputs["weights"]),
        "max_tokens": str(max_tokens),
    }
    template = context.parameters["argv"]
    words = [str(word).format(**values) for word in template] if isinstance(template, list) else []
    lines: list[str] = []
    aside = dataclasses.replace(context, log=_both(context, lines))
    done = aside.run([*launched(context, toolchain, by_rank=True), *words, prompt.prompt], OFFLINE)
    text = printed_answer(lines[1:])
    if text is None:
        raise CommandError(
            f"{SCRIPT} ended with exit status 0 but printed no answer",
            subject=SCRIPT,
            remedy="read its last lines; leave validation.run_script out to ask with Enginery's own driver",
            last_lines=done.last_lines,
        )
    text = without_special_tokens(text, context.inputs["weights"])
    return Answer(
        text=text, token_ids=(), tokens=None, seconds_to_first_token=None, seconds=done.seconds, finish="unknown"
    )


def _both(context: StepContext, lines: list[str]) -> Log:
    """The step's log, and a list."""

    def log(line: str) -> None:
        lines.append(line)
        context.log(line)

    return log


def printed_answer(lines: list[str]) -> str | None:
    """The answer to the first prompt among what the script printed; None where there is none.

    It stands between quotes, which the answer may have too, and goes on over as many lines as the answer has.
    """
    start = next((number for number, line in enumerate(lines) if SAID.search(line)), None)
    if start is None:
        return None
    rest = lines[start + 1 :]
    end = next((number for number, line in enumerate(rest) if OTHER.search(line)), len(rest))
    text = "\n".join([SAID.sub("", lines[start], count=1), *rest[:end]])
    return text.rpartition('"')[0] if '"' in text else text


def without_special_tokens(text: str, model: Path) -> str:
    """The text without the special tokens at its ends, which the script leaves in and servers do not."""
    path = model / "tokenizer.json"
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", []) if path.is_file() else []
    special = [token["content"] for token in added if token.get("special") and token["content"]]
    while found := next((token for token in special if text.endswith(token)), None):
        text = text.removesuffix(found)
    while found := next((token for token in special if text.startswith(token)), None):
        text = text.removeprefix(found)
    return text
