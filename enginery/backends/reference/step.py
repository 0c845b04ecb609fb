"""The step that makes a reference: it runs the original weights with transformers, or takes a published reference.

The weights run in a toolchain of their own, by Enginery's driver `answer_reference.py`. The output is `reference.json`
and `logprobs.npz` (`enginery.builds.read_reference`).
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import JsonValue

from enginery.backends.common import ENVIRONMENT
from enginery.backends.reference.published import fetch_reference, fitted
from enginery.backends.reference.recipe import TEXTS, ReferenceParameters
from enginery.backends.reference.texts import Text, require_texts
from enginery.backends.reference.tokenizers import tokenizer_digest
from enginery.builds import MOST_KEPT, Reference, read_reference
from enginery.core.errors import CommandError, SourceError, UsageError
from enginery.core.files import remove_tree, write_atomic
from enginery.core.progress import Facts
from enginery.models import SentPrompt, sent_prompts
from enginery.store import StepContext
from enginery.toolchains import ANSWER_REFERENCE, driver_sha256

WEIGHTS = "weights"
RUN_ENVIRONMENT = {
    **ENVIRONMENT,
    "TRANSFORMERS_VERBOSITY": "error",
    # Other steps run on the same cores. Threads that wait for each other without sleeping would slow all of them down.
    "OMP_WAIT_POLICY": "PASSIVE",
}
CHARACTERS_PER_TOKEN = 16
"""So many characters of a text are read for each token that is wanted of it. Few tokens are longer."""
SHORTEST_SHARE = 8
"""If there are very many texts, each of those that are used gives at least this number of tokens."""


def reference_step(context: StepContext) -> Facts:
    """Make the reference. The step function `reference`; its input is `weights`.

    Raises:
        UsageError: when the plan was made with another version of the driver.
        SourceError: when the texts are not those of the plan, a published reference does not fit, or a chat cannot be
            rendered.
        CommandError: when the weights cannot be run, or give values that are NaN.
        RegistryError: when the build to take the reference from cannot be read.
    """
    parameters = ReferenceParameters.model_validate(dict(context.parameters))
    return taken(context, parameters) if parameters.build else run(context, parameters)


def run(context: StepContext, parameters: ReferenceParameters) -> Facts:
    """Run the original weights."""
    remedy = "make the plan again with this version"
    if context.toolchain is None:
        raise UsageError("a reference needs a toolchain", remedy=remedy)
    if parameters.driver_sha256 != driver_sha256(ANSWER_REFERENCE):
        raise UsageError("the plan was made with another version of Enginery's reference", remedy=remedy)
    request = context.scratch / "request.json"
    write_atomic(request, json.dumps(_request(context, parameters), ensure_ascii=False))
    places = ("--model", context.inputs[WEIGHTS], "--request", request, "--output", context.output)
    offloaded = context.scratch / "offloaded"
    command = (context.toolchain.python, ANSWER_REFERENCE, *places, "--scratch", offloaded)
    try:
        context.run([str(word) for word in command], RUN_ENVIRONMENT)
    except CommandError as error:
        raise _with_way_out(error) from error
    finally:
        remove_tree(offloaded)
    return facts_of(read_reference(context.output))


def _with_way_out(error: CommandError) -> CommandError:
    """The error, whose remedy also says how to build without a reference."""
    out = "or set validation.reference.use: off, so that nothing is compared with the original weights"
    remedy = f"{error.remedy}; {out}" if error.remedy else f"correct what the last lines say, {out}"
    return CommandError(
        error.problem,
        subject=error.subject,
        remedy=remedy,
        transient=error.transient,
        cause=error.cause,
        last_lines=error.last_lines,
    )


def taken(context: StepContext, parameters: ReferenceParameters) -> Facts:
    """Take the reference of a published build, and leave out what the spec does not ask."""
    weights = context.inputs[WEIGHTS]
    published = fetch_reference(parameters.registry, parameters.build, context.scratch / "published")
    sent = [one.text for one in prompt_texts(context, parameters)]
    limits = [prompt.max_tokens or parameters.max_tokens for prompt in parameters.prompts]
    require_fitting(published, parameters, tokenizer_digest(weights))
    made = fitted(published, list(zip(sent, limits, strict=True)), parameters.window, context.output)
    remove_tree(context.scratch / "published")
    for number in unanswered(made, len(sent)):
        context.log(f"{parameters.build} has no answer to prompt {number}: its agreement is not judged")
    return {**facts_of(made), "build": parameters.build, "registry": parameters.registry}


def require_fitting(published: Reference, parameters: ReferenceParameters, tokenizer: str) -> None:
    """Make sure that a published reference has the tokens of this model, and the texts that the spec names.

    Raises:
        SourceError: when it does not.
    """
    facts, subject = published.facts, f"{parameters.registry}#{parameters.build}"
    if facts.tokenizer_sha256 != tokenizer:
        problem = "its reference was made with another tokenizer than that of this model"
        remedy = "name a build of the same model, or set validation.reference.use: weights"
        raise SourceError(problem, subject=subject, remedy=remedy)
    if parameters.texts_sha256 and facts.texts_sha256 != parameters.texts_sha256:
        problem = "its reference was made with other texts than those of validation.reference.texts"
        remedy = "leave texts out to take those of the build, or set validation.reference.use: weights"
        raise SourceError(problem, subject=subject, remedy=remedy)


def prompt_texts(context: StepContext, parameters: ReferenceParameters) -> tuple[SentPrompt, ...]:
    """Each prompt as it is sent to the model, in the spec's order. The validation sends the same.

    Raises:
        SourceError: when the chat template refuses a chat, or is another model's.
    """
    accepted = parameters.wrong_template == "accepted"
    return sent_prompts(context.inputs[WEIGHTS], parameters.validation, wrong_template=accepted).prompts


def unanswered(reference: Reference, prompts: int) -> Iterator[int]:
    """The numbers of the prompts, from 1, that a reference has no answer to."""
    answered = {sequence.name for sequence in reference.answers}
    yield from (number for number in range(1, prompts + 1) if prompt_name(number) not in answered)


def prompt_name(number: int) -> str:
    """The name of the sequence of a prompt; the first prompt is number 1."""
    return f"prompt {number}"


def facts_of(reference: Reference) -> Facts:
    """What the step's record says: how the reference was made, and how well the weights know each text."""
    facts, texts = reference.facts, [one for one in reference.sequences if one.kind == "text"]
    perplexities: dict[str, JsonValue] = {
        name: round(value, 3) if math.isfinite(value) else None for name, value in reference.perplexities().items()
    }
    return {
        "dtype": facts.dtype,
        "device": facts.device,
        "offloaded": facts.offloaded,
        "seconds": facts.seconds,
        "peak_memory_bytes": facts.peak_memory_bytes,
        "tokens": sum(one.rows for one in texts),
        "answers": len(reference.answers),
        "near_ties": facts.near_ties,
        "perplexity": perplexities,
    }


def _request(context: StepContext, parameters: ReferenceParameters) -> dict[str, JsonValue]:
    """What the driver is asked to do."""
    weights, own = context.inputs[WEIGHTS], context.places.get(TEXTS)
    texts = require_texts(Path(own) if own else None, parameters.texts_sha256)
    sent = prompt_texts(context, parameters)
    prompts: list[JsonValue] = [
        {
            "name": prompt_name(number),
            "text": one.text,
            "add_special_tokens": one.add_special_tokens,
            "max_tokens": asked.max_tokens or parameters.max_tokens,
        }
        for number, (one, asked) in enumerate(zip(sent, parameters.prompts, strict=True), start=1)
    ]
    most = parameters.text_tokens * CHARACTERS_PER_TOKEN
    chosen: list[JsonValue] = [
        {"name": one.name, "text": one.text[:most]} for one in spread(texts, parameters.text_tokens // SHORTEST_SHARE)
    ]
    return {
        "dtype": parameters.dtype,
        "device": parameters.device,
        "top": MOST_KEPT,
        "window": parameters.window,
        "max_tokens": parameters.text_tokens,
        "texts": chosen,
        "prompts": prompts,
        "about": {"tokenizer_sha256": tokenizer_digest(weights), "texts_sha256": parameters.texts_sha256},
    }


def spread(texts: Sequence[Text], most: int) -> Sequence[Text]:
    """At most `most` of the texts, at least one, evenly from the first to the last."""
    number = min(len(texts), max(1, most))
    return [texts[place * len(texts) // number] for place in range(number)]
