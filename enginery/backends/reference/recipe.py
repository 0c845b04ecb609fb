"""Plans the step of a reference. All targets with the same weights, prompts and settings share it.

The step's key contains what decides its result: the weights, the prompts, the digest of the texts, and the toolchain.
What a prompt's answer should be is not part of it, so a changed expectation does not run the model again.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from pydantic import JsonValue

from enginery import toolchains
from enginery.backends.reference.texts import own_texts, require_readable, texts_digest
from enginery.backends.request import BackendStep, Request, command_step
from enginery.backends.validate import chat_recipe
from enginery.core.errors import SourceError, ToolchainError
from enginery.core.model import Frozen
from enginery.spec import Finding, Prompt, ValidationOptions, gpus
from enginery.store import ANY_GPU, Call, Stage, Step
from enginery.toolchains import ANSWER_REFERENCE, Identify, ToolchainIdentity, driver_sha256

FUNCTION_VERSION = 1
FAMILY = "transformers"
WINDOW = 512
"""The longest piece of a text, in tokens."""
RUNS_ON = {"cuda": ANY_GPU, "cpu": gpus.CPU.name}
"""Where the step runs, by the device that the spec asks for; on any machine for `auto`."""
TEXTS = "texts"
"""The placeholder of the user's own texts."""
WHOLE_NAME = re.compile(r"(?:(?P<registry>s3://[^#@]+)#)?(?P<model>[^/#@]+)/(?P<build>[^/#@]+)")


class PublishedBuildName(NamedTuple):
    """A published build: the registry's address, the model's name and the whole build id."""

    registry: str
    model: str
    build: str


class ReferenceParameters(Frozen):
    """The recipe's parameters.

    Attributes:
        prompts: the spec's prompts, without what their answers should be.
        max_tokens: the longest answer, for prompts that do not say it.
        chat: whether prompts that do not say it go through the chat template.
        wrong_template: `accepted` if a chat template that is another model's may be used.
        texts_sha256: digest of the texts; empty if they are those of a published build.
        text_tokens: how many tokens of the texts are predicted at most.
        window: the longest piece of a text, in tokens.
        dtype: the number format; `auto` is chosen with the device.
        device: where the weights run; `auto` is chosen when the step runs.
        driver_sha256: digest of the driver that the plan was made with; empty if it does not run.
        registry: for the reference of a published build, the registry's address; else empty.
        build: the build, `MODEL/BUILD`; empty if the weights are run.
    """

    prompts: tuple[Prompt, ...] = ()
    max_tokens: int
    chat: bool = False
    wrong_template: str = ""
    texts_sha256: str = ""
    text_tokens: int = 0
    window: int = WINDOW
    dtype: str = "auto"
    device: str = "auto"
    driver_sha256: str = ""
    registry: str = ""
    build: str = ""

    @property
    def validation(self) -> ValidationOptions:
        """The prompts as a spec has them."""
        return ValidationOptions(prompts=self.prompts, max_tokens=self.max_tokens, chat=self.chat)


def transformers_toolchain() -> str:
    """The newest toolchain with transformers.

    Raises:
        ToolchainError: when there is none.
    """
    found = toolchains.newest(FAMILY)
    if found is None:
        remedy = "pin one (see infra/toolchains/README.md), or set validation.reference.use: off"
        raise ToolchainError("there is no toolchain with transformers", subject=FAMILY, remedy=remedy)
    return found


@lru_cache(maxsize=2)  # a plan for a thousand targets asks a thousand times, with the same function
def reference_toolchain(identify: Identify) -> ToolchainIdentity:
    """The toolchain that runs references.

    Raises:
        ToolchainError: when there is none, or this machine has no Python for it.
    """
    return identify(transformers_toolchain(), "venv")


def planned_reference(request: Request, weights: str, identify: Identify, longest: int = 0) -> BackendStep | None:
    """The step that makes a target's reference; None if the spec wants none.

    Args:
        request: the target.
        weights: the key of the step with the weights.
        identify: returns a toolchain's identity.
        longest: the longest sequence that the engine takes, in tokens; 0 if it is not known.

    Raises:
        ToolchainError: when there is no toolchain with transformers.
        SourceError: when the texts cannot be read; `reference_findings` reports the same.
    """
    options = request.validation.reference
    if options.use == "off":
        return None
    registry = request.spec.publish.to if request.spec.publish else ""
    recipe = reference_call(request.validation, longest, registry)
    inputs = {"weights": weights}
    if options.use == "build":
        return BackendStep(Step(stage=Stage.REFERENCE, inputs=inputs, recipe=recipe))
    runs_on = RUNS_ON.get(options.device, "any")
    toolchain = reference_toolchain(identify)
    made = command_step(Stage.REFERENCE, inputs, recipe, toolchain, runs_on)
    return made._replace(places=reference_places(request.validation))


def reference_call(validation: ValidationOptions, longest: int = 0, registry: str = "") -> Call:
    """The recipe of a reference.

    Args:
        validation: the spec's `validation`.
        longest: the longest sequence that the engine takes, in tokens; 0 if it is not known.
        registry: the registry that the spec publishes to; empty if it publishes to none.

    Raises:
        SourceError: when the texts cannot be read, or the build to take the reference from is not named in full.
    """
    options = validation.reference
    window = min(WINDOW, longest) if longest else WINDOW
    sent = {"prompt", "messages", "chat", "max_tokens"}
    details: dict[str, JsonValue] = {
        "prompts": [prompt.model_dump(mode="json", include=sent, exclude_none=True) for prompt in validation.prompts],
        "max_tokens": validation.max_tokens,
        **chat_recipe(validation),
        "window": window,
    }
    if options.use == "build":
        build = published_build_name(options.build or "", registry)
        details |= {"registry": build.registry, "build": f"{build.model}/{build.build}"}
        # Without texts in the spec, those of the build are as good.
        details |= {"texts_sha256": texts_digest(own_texts(options))} if options.texts is not None else {}
    else:
        details |= {
            "texts_sha256": texts_digest(own_texts(options)),
            "text_tokens": options.max_tokens,
            "dtype": options.dtype,
            "device": options.device,
            "driver_sha256": driver_sha256(ANSWER_REFERENCE),
        }
    return Call(function="reference", version=FUNCTION_VERSION, parameters=details)


def reference_places(validation: ValidationOptions) -> Mapping[str, str]:
    """Placeholder -> path of the user's own texts. A step's key contains their digest, and not the path."""
    texts = own_texts(validation.reference)
    return {} if texts is None else {TEXTS: str(texts)}


def published_build_name(written: str, registry: str = "") -> PublishedBuildName:
    """The build that a spec names, `s3://registry/prefix#MODEL/BUILD`, or `MODEL/BUILD` in `registry`.

    Raises:
        SourceError: when it is not of this form, or there is no registry to look in.
    """
    found = WHOLE_NAME.fullmatch(written)
    if found is None:
        problem = f"{written!r} does not name a build"
        remedy = "write MODEL/BUILD with the whole build id, or s3://registry/prefix#MODEL/BUILD"
        raise SourceError(problem, subject="validation.reference.build", remedy=remedy)
    address = found["registry"] or registry
    if not address:
        problem = f"{written!r} names no registry, and the spec publishes to none"
        remedy = f"write s3://registry/prefix#{written}"
        raise SourceError(problem, subject="validation.reference.build", remedy=remedy)
    return PublishedBuildName(address.rstrip("/"), found["model"], found["build"])


def toolchain_problem(identify: Identify) -> str | None:
    """Why this machine cannot run a reference; None if it can."""
    try:
        reference_toolchain(identify)
    except ToolchainError as error:
        return f"{error.subject}: {error.problem}; {error.remedy}"
    return None


def reference_findings(request: Request) -> Iterator[Finding]:
    """Everything that stops the reference of this target: its texts, and the build to take it from."""
    options = request.validation.reference
    if options.use != "off" and (texts := own_texts(options)) is not None:
        try:
            require_readable(texts)
        except SourceError as error:
            yield Finding("E530", "validation.reference.texts", f"{error.subject} {error.problem}", error.remedy)
    if options.use == "build":
        try:
            published_build_name(options.build or "", request.spec.publish.to if request.spec.publish else "")
        except SourceError as error:
            yield Finding("E531", error.subject, error.problem, error.remedy)
