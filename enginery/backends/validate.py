"""The step that validates a model: it gets the answers to the spec's prompts and judges them.

A driver (a script of Enginery) runs in the backend's toolchain, loads the model and generates the answers. An engine of
TensorRT-LLM can also be run with the release's `examples/run.py`, as in NVIDIA's tutorials (`validation.run_script`).
A wrong answer does not make the step fail: `require_passed` reads the report and stops the steps that come after.

Prompts that are chats are rendered with the model's chat template first. A template that refuses them, or that is
another model's, ends the step before the model is loaded.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue, TypeAdapter

from enginery import releases
from enginery.backends.checkpoints.onnx_weights import require_same_weights, weights_recipe
from enginery.backends.common import OFFLINE as NO_HUB
from enginery.backends.gates.expectations import degenerate, expectations, judge
from enginery.backends.runtimes import Kind, launch_words, runtime_for
from enginery.builds import (
    DISTRIBUTION_FILE,
    REPORT_FILE,
    DistributionFacts,
    PromptResult,
    ValidationReport,
    described_miss,
)
from enginery.core.errors import CommandError, PlanError, UsageError
from enginery.core.files import write_atomic
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.models import (
    SentPrompt,
    SentPrompts,
    is_chat,
    messages_of,
    sent_prompts,
)
from enginery.spec import Mode, Prompt, ValidationOptions
from enginery.store import Call, StepContext
from enginery.toolchains import ANSWER_PROMPTS, ANSWER_TENSORRT_LLM, Toolchain, driver_sha256, examples_dir

FUNCTION_VERSION = 2
ONNXRUNTIME = "onnxruntime"
TENSORRT_LLM = "tensorrt_llm"
RUN_SCRIPT = "run_script"
DRIVERS = {ONNXRUNTIME: ANSWER_PROMPTS, TENSORRT_LLM: ANSWER_TENSORRT_LLM}

MAX_THREADS = 4
"""CPU threads of one validation. They are few because validations and builds run side by side."""

OFFLINE = {
    **NO_HUB,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # ONNX Runtime's wheels send usage reports, and write an identifier into HOME, unless this is set.
    "ORT_DISABLE_TELEMETRY": "1",
    # Each line is logged when it is printed.
    "PYTHONUNBUFFERED": "1",
}
"""Environment of the commands: the model comes from the step's inputs, nothing from the network."""

REFERENCE = "reference"
"""The input with the reference to compare with."""
NO_PROBABILITIES = "the release's run.py gives no probabilities"

SCRIPT = "run.py"
FLAGS = ("--engine_dir", "{engine}", "--max_output_len", "{max_tokens}", "--tokenizer_dir", "{weights}", "--input_text")
"""The script's arguments in NVIDIA's tutorial. The prompt comes last."""

AS_IT_IS = ("--no_add_special_tokens", "--no_prompt_template")
"""The script's flags for a text that is complete: it adds no tokens, and puts no template around it."""

ANSWER_START = re.compile(r'^Output \[Text 0(?: Beam 0)?\]: "')
NO_ANSWER = re.compile(r"^(Input|Output) \[Text|^\[TensorRT-LLM\]|^\[\d\d/\d\d/\d{4}-|^\[TRT|^\[rank|^-{20,}$")
"""A line that belongs to no answer. An answer may have several lines."""


class Answer(Frozen):
    """The answer to one prompt, as a driver writes it; see `drivers/answer_prompts.py`.

    Attributes:
        tokens: the number of tokens in the answer; None if the driver cannot count them.
        seconds_to_first_token: None if the answer comes in one piece.
        as_raw_text: whether a server that is sent the text of the prompt gets the same tokens.
    """

    text: str
    token_ids: tuple[int, ...]
    tokens: int | None
    seconds_to_first_token: float | None
    seconds: float
    finish: str
    as_raw_text: bool = True


def validate_call(
    options: ValidationOptions,
    kind: Kind | None = None,
    release: str = "",
    world_size: int = 1,
    arguments: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Call:
    """The recipe of a validation: its prompts, how the model is run, and how answers are judged.

    Args:
        options: the spec's `validation`.
        kind: what TensorRT-LLM runs, an engine or a checkpoint; None if ONNX Runtime runs the model.
        release: the release of TensorRT-LLM.
        world_size: how many GPUs the model uses.
        arguments: the arguments of the LLM API.

    Raises:
        PlanError: when the spec sets `run_script` and this release or backend has no such script.
        UsageError: when the release cannot run this kind of model.
    """
    if options.run_script and kind != "tensorrt":
        problem = "validation.run_script: only engines of the backend tensorrt have such a script; leave it out"
        raise PlanError([problem])
    prompts: list[JsonValue] = [prompt.model_dump(mode="json", exclude_defaults=True) for prompt in options.prompts]
    how: dict[str, JsonValue] = {"driver_sha256": driver_sha256(ANSWER_PROMPTS), **weights_recipe()}
    if options.run_script:
        how = {"driver": RUN_SCRIPT, "release": release, "world_size": world_size, "argv": list(script_argv(release))}
        if any(is_chat(prompt, options) for prompt in options.prompts):
            how["argv_of_chats"] = list(script_argv(release, as_it_is=True))
    elif kind is not None:
        runtime = runtime_for(kind, release)
        how = {
            "driver": TENSORRT_LLM,
            "driver_sha256": driver_sha256(ANSWER_TENSORRT_LLM),
            "release": release,
            "world_size": world_size,
            "runtime": runtime.name,
            "by_rank": runtime.by_rank,
            "with_logits": runtime.with_logits,
            "arguments": {**runtime.arguments, **arguments},
        }
    details = {"prompts": prompts, "max_tokens": options.max_tokens, **chat_recipe(options), **how}
    return Call(function="validate", version=FUNCTION_VERSION, parameters=details)


def chat_recipe(options: ValidationOptions) -> dict[str, JsonValue]:
    """What a recipe says of chats; nothing if no prompt is one. A reference and a validation say the same."""
    if not any(is_chat(prompt, options) for prompt in options.prompts):
        return {}
    gate = options.gates.answers
    accepted = gate.mode in {Mode.WARN, Mode.OFF} or gate.accept is not None
    return {"chat": options.chat, **({"wrong_template": "accepted"} if accepted else {})}


def validate(context: StepContext) -> Facts:
    """Run the prompts and write `report.json` to the output. The step function `validate`.

    The inputs are `weights` (for the tokenizer) and `engine` or `checkpoint`. Without the last two the weights
    themselves are run. A driver loads the model even without prompts: this finds a model that cannot be loaded. With
    `reference` the model's predictions are compared with it, and `distribution.npz` has them.

    Raises:
        CommandError: when the engine cannot be loaded, or fails to answer.
        SourceError: when the chat template refuses a chat, or is another model's.
        UsageError: when the plan was made with another version of the driver.
        WeightsError: when an engine of ONNX Runtime has other weights than the model.
    """
    given = context.parameters
    options = ValidationOptions.model_validate(
        {"prompts": given["prompts"], "max_tokens": given["max_tokens"], "chat": given.get("chat", False)}
    )
    sent = sent_prompts(context.inputs["weights"], options, wrong_template=given.get("wrong_template") == "accepted")
    for note in sent.notes:
        context.log(f"note: {note}")
    answers, distribution = answers_to(context, options, sent.prompts)
    compared = require_same_weights(context) if given.get("driver", ONNXRUNTIME) == ONNXRUNTIME else {}
    report = _report(options, sent, answers, str(given.get("driver_sha256", "")))
    report = report.model_copy(update={"distribution": distribution})
    write_atomic(context.output / REPORT_FILE, report.model_dump_json(indent=2) + "\n")
    for miss in report.misses:
        context.log(described_miss(miss))
    return {
        "passed": report.passed,
        "prompts": len(report.results),
        "failed": len(report.misses),
        **compared,
    }


def answers_to(
    context: StepContext, options: ValidationOptions, sent: Sequence[SentPrompt] = ()
) -> tuple[tuple[Answer, ...], DistributionFacts | None]:
    """The model's answers to the prompts. A driver loads the model even if there are no prompts.

    With an input `reference` the driver compares the model's predictions with it, too, and writes `distribution.npz` to
    the output. What is said of it is the second result; None without a reference.

    Args:
        context: the step.
        options: the prompts and their limits.
        sent: the prompts as they are sent, in the same order.

    Raises:
        UsageError: when the plan was made by a version of Enginery with other drivers.
        CommandError: when the model cannot be loaded, or fails to answer.
    """
    driver, toolchain = str(context.parameters.get("driver", ONNXRUNTIME)), context.toolchain
    remedy = "make the plan again with this version"
    if driver not in {*DRIVERS, RUN_SCRIPT}:
        raise UsageError(f"there is no driver {driver!r}", remedy=remedy)
    if driver in DRIVERS and context.parameters["driver_sha256"] != driver_sha256(DRIVERS[driver]):
        raise UsageError("the plan was made with another version of Enginery's validation", remedy=remedy)
    if toolchain is None:
        raise UsageError("a validation needs a toolchain", remedy=remedy)
    if driver == RUN_SCRIPT:
        limits = [prompt.max_tokens or options.max_tokens for prompt in options.prompts]
        pairs = zip(sent, limits, strict=True)
        answers = tuple(_script_answer(context, toolchain, prompt, limit) for prompt, limit in pairs)
        return answers, DistributionFacts(why=NO_PROBABILITIES) if REFERENCE in context.inputs else None
    return _driver_answers(context, toolchain, options, sent, driver)


def script_argv(release: str, *, as_it_is: bool = False) -> tuple[str, ...]:
    """The command that runs the release's script, up to the prompt.

    Args:
        release: the release.
        as_it_is: whether the text is complete, so that the script adds nothing to it.

    Raises:
        PlanError: when the release does not have the script, or the script lacks one of the flags.
    """
    path = releases.script(release, SCRIPT).value
    flags = (*(AS_IT_IS if as_it_is else ()), *FLAGS)
    missing = [name for name in flags if name.startswith("--") and releases.flag(release, name, SCRIPT).value is None]
    if path is None or missing:
        what = f"its {SCRIPT} has no {', '.join(missing)}" if path else f"it has no {SCRIPT}"
        raise PlanError([f"validation.run_script: not possible with release {release}: {what}; leave it out"])
    return ("{python}", path.replace("examples/", "{examples}/", 1), *flags)


def printed_answer(lines: list[str]) -> str | None:
    """The answer to the first prompt among the lines that the script printed; None if there is no answer.

    The script prints the answer between quotes. The answer may contain quotes and several lines.
    """
    start = next((number for number, line in enumerate(lines) if ANSWER_START.search(line)), None)
    if start is None:
        return None
    rest = lines[start + 1 :]
    end = next((number for number, line in enumerate(rest) if NO_ANSWER.search(line)), len(rest))
    text = "\n".join([ANSWER_START.sub("", lines[start], count=1), *rest[:end]])
    return text.rpartition('"')[0] if '"' in text else text


def without_special_tokens(text: str, model: Path) -> str:
    """The text without special tokens at its start and end. The script prints such tokens, but servers do not."""
    path = model / "tokenizer.json"
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", []) if path.is_file() else []
    special = [token["content"] for token in added if token.get("special") and token["content"]]
    while found := next((token for token in special if text.endswith(token)), None):
        text = text.removesuffix(found)
    while found := next((token for token in special if text.startswith(token)), None):
        text = text.removeprefix(found)
    return text


def _report(
    options: ValidationOptions, sent: SentPrompts, answers: tuple[Answer, ...], digest: str
) -> ValidationReport:
    asked = zip(options.prompts, sent.prompts, answers, strict=True)
    results = tuple(_result(prompt, as_sent, answer, options) for prompt, as_sent, answer in asked)
    return ValidationReport(
        passed=all(result.passed for result in results),
        chat_template=sent.template,
        notes=sent.notes,
        results=results,
        driver_sha256=digest,
    )


def _result(prompt: Prompt, sent: SentPrompt, answer: Answer, options: ValidationOptions) -> PromptResult:
    ended = answer.finish == "eos"
    passed, reason = judge(prompt, answer.text, ended=ended)
    return PromptResult(
        prompt=messages_of(prompt)[-1].content,
        messages=sent.messages,
        sent=sent.text,
        expected=expectations(prompt),
        got=answer.text,
        passed=passed,
        degenerate=degenerate(prompt, answer.text, ended=ended),
        reason=reason,
        max_tokens=prompt.max_tokens or options.max_tokens,
        **answer.model_dump(exclude={"text"}),
    )


def _driver_answers(
    context: StepContext, toolchain: Toolchain, options: ValidationOptions, sent: Sequence[SentPrompt], driver: str
) -> tuple[tuple[Answer, ...], DistributionFacts | None]:
    """What one of Enginery's drivers gets from the model: answers, and predictions if there is a reference."""
    recipe = context.parameters
    launcher: tuple[str, ...] = ()
    how: dict[str, Any] = {"threads": min(MAX_THREADS, os.cpu_count() or 1)}
    if driver == TENSORRT_LLM:
        launcher = _launcher(context, toolchain, by_rank=bool(recipe["by_rank"]))
        how = {name: recipe[name] for name in ("runtime", "arguments", "with_logits")}
    prompts = [
        {
            "prompt": one.text,
            "max_tokens": prompt.max_tokens or options.max_tokens,
            "add_special_tokens": one.add_special_tokens,
        }
        for prompt, one in zip(options.prompts, sent, strict=True)
    ]
    # The directory is beside the output, because commands of every kind of toolchain can read and write there.
    with TemporaryDirectory(prefix="prompts-", dir=context.output.parent) as scratch:
        requests, output = Path(scratch) / "requests.json", Path(scratch) / "answers.json"
        write_atomic(requests, json.dumps({**how, "prompts": prompts}))
        places = ("--engine", _model_directory(context), "--tokenizer", context.inputs["weights"])
        files: tuple[str | Path, ...] = ("--requests", requests, "--output", output)
        if REFERENCE in context.inputs:
            kept = context.output / DISTRIBUTION_FILE
            files = (*files, "--reference", context.inputs[REFERENCE], "--distribution", kept)
        command = (*launcher, toolchain.python, DRIVERS[driver], *places, *files)
        context.run([str(word) for word in command], OFFLINE)
        written = json.loads(output.read_text(encoding="utf-8"))
    facts = written.get("distribution")
    answers = TypeAdapter(tuple[Answer, ...]).validate_python(written["answers"])
    return answers, DistributionFacts.model_validate(facts) if facts else None


def _script_answer(context: StepContext, toolchain: Toolchain, prompt: SentPrompt, max_tokens: int) -> Answer:
    """The answer to one prompt, from the release's script.

    Raises:
        CommandError: when the script fails, or prints no answer.
        ToolchainError: when the release's examples are missing.
    """
    weights = context.inputs["weights"]
    values = {
        "python": str(toolchain.python),
        "examples": str(examples_dir(toolchain.identity, context.places.get("examples", ""))),
        "engine": str(_model_directory(context)),
        "weights": str(weights),
        "max_tokens": str(max_tokens),
    }
    template = context.parameters["argv" if prompt.add_special_tokens else "argv_of_chats"]
    words = [str(word).format(**values) for word in template] if isinstance(template, list) else []
    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        context.log(line)

    launcher = _launcher(context, toolchain, by_rank=True)
    done = dataclasses.replace(context, log=log).run([*launcher, *words, prompt.text], OFFLINE)
    text = printed_answer(lines[1:])
    if text is None:
        raise CommandError(
            f"{SCRIPT} ended with exit status 0 but printed no answer",
            subject=SCRIPT,
            remedy="read its last lines; leave validation.run_script out to use Enginery's own driver",
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
    """The first words of a command that runs a model on several GPUs; empty if the command needs none."""
    return launch_words(int(str(context.parameters.get("world_size", 1))), toolchain.environment, by_rank=by_rank)
