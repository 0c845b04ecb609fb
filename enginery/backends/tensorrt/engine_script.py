"""Asks an engine with the release's own `examples/run.py`, as NVIDIA's tutorials do."""

import dataclasses
import json
import re
from pathlib import Path

from enginery.answering import ENVIRONMENT, Answer, launched, model_directory
from enginery.context import Log, StepContext
from enginery.errors import CommandError, PlanError
from enginery.release_examples import examples_dir
from enginery.releases.flags import flag, script
from enginery.spec import Prompt
from enginery.toolchains import Toolchain

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
    done = aside.run([*launched(context, toolchain, by_rank=True), *words, prompt.prompt], ENVIRONMENT)
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
