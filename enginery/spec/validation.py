"""What a user writes of the checks of a built engine: prompts, the reference to compare with, and the gates.

A gate is a measure with a limit and a verdict. What each gate measures, and where its default limits come from, is told
in docs/trust.md.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, JsonValue, StringConstraints, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from enginery.spec.types import AtLeastOne, SpecModel

NotEmpty = Annotated[str, StringConstraints(min_length=1)]
Percent = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Chance = Annotated[float, Field(gt=0, lt=0.5)]


class Mode(StrEnum):
    """What a gate does with a verdict other than pass."""

    BLOCK = "block"
    """The build stops and is not published."""
    WARN = "warn"
    """The build goes on, and everything that shows it shows the verdict."""
    OFF = "off"
    """The gate is not judged."""


class GateName(StrEnum):
    """The gates, in the order in which they are shown."""

    DISTRIBUTION = "distribution"
    ANSWERS = "answers"
    SIZE = "size"
    EVALUATION = "evaluation"
    SPEED = "speed"
    CHANNEL = "channel"


class Message(SpecModel):
    """One message of a chat."""

    role: NotEmpty
    """Who speaks: `system`, `user` or `assistant`, or another role that the model's template knows."""
    content: str
    """The text."""


class Prompt(SpecModel):
    """One question to a built engine, as `prompt` or as `messages`, and what its answer must be."""

    prompt: NotEmpty | None = None
    """The text sent to the model as it is, or as the user's message if `chat` is set."""
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    """A chat. The model's own chat template makes it into the text that is sent."""
    chat: bool | None = None
    """Send `prompt` as a user's message through the model's chat template; `validation.chat` when left out."""
    equals: str | None = None
    """The answer, exactly, apart from white space at its ends."""
    contains: str | None = None
    """A text that must be in the answer."""
    matches: str | None = None
    """A Python regular expression that must be found in the answer."""
    may_be_empty: bool = False
    """Accept an empty answer. Without this it is never as expected."""
    may_repeat: bool = False
    """Accept an answer that only repeats itself. Without this it is never as expected."""
    max_tokens: AtLeastOne | None = None
    """Longest answer in tokens; the validation's own when left out."""

    @model_validator(mode="after")
    def _is_one_question(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        if self.messages is not None and self.chat is False:
            raise ValueError("messages are a chat; remove chat: false, or write the text as prompt")
        return self

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Self:
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"matches is not a regular expression: {error}") from error
        return self


class ReferenceOptions(SpecModel):
    """What the engine is compared with: the answers of the original weights, or an accepted build."""

    use: Literal["weights", "build", "off"] = "weights"
    """`weights` runs the original weights through `transformers`; `build` takes the reference of an accepted build, for
    models too large to load; `off` makes no reference, and the gates that need it are not judged."""
    build: str | None = None
    """The build to take the reference from: `s3://registry/prefix#MODEL/BUILD`, or `MODEL/BUILD` in `publish.to`."""
    texts: str | None = None
    """A file (`.txt`, or `.jsonl` with `text`) or a directory of such files, relative to the spec or absolute: the
    texts to compare on. Those that come with Enginery when left out."""
    max_tokens: AtLeastOne = 8192
    """How many tokens of the texts are compared at most."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the original weights run; `auto` is the GPU if there is one with enough memory, else the CPU."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """The number format of the original weights; `auto` is their own on a GPU, and float32 on a CPU."""

    @field_validator("use", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, written: Any) -> Any:
        # YAML reads a bare `off` as false.
        return "off" if written is False else written

    @model_validator(mode="after")
    def _build_is_given(self) -> Self:
        if (self.use == "build") != (self.build is not None):
            raise ValueError("use: build and build: MODEL/BUILD belong together")
        return self


class Accepted(SpecModel):
    """A forced pass: who accepts a verdict that is not pass, and why. Both are kept in the build's manifest."""

    by: NotEmpty
    """Who accepts it, such as a name or an address."""
    why: Annotated[str, StringConstraints(min_length=8)]
    """The reason, in a sentence."""


class Gate(SpecModel):
    """A gate: what follows from its verdict. It may be written as the mode alone, such as `speed: warn`."""

    mode: Mode | None = None
    """`block`, `warn` or `off`. When left out, `block`, or `warn` for `speed` and where the plan says why."""
    accept: Accepted | None = None
    """Let a build pass that does not pass this gate."""

    @model_validator(mode="before")
    @classmethod
    def _mode_alone(cls, data: Any) -> Any:
        # YAML reads a bare `off` as false.
        if data is False:
            return {"mode": "off"}
        return {"mode": data} if isinstance(data, str) else data

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_no_boolean(cls, written: Any) -> Any:
        return "off" if written is False else written

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of the settings, or of the mode alone: Prefect checks parameters of a run against it."""
        return {"anyOf": [super().__get_pydantic_json_schema__(core, handler), {"enum": [mode.value for mode in Mode]}]}


class DistributionGate(Gate):
    """How far the engine's predictions are from the reference's, over all tokens of the texts.

    A limit that is left out depends on the precision (docs/trust.md).
    """

    mean_kl: Positive | None = None
    """Largest mean KL divergence from the reference to the engine, in nats per token."""
    p99_kl: Positive | None = None
    """Largest 99th percentile of it."""
    top1_agreement: Share | None = None
    """Smallest share of tokens for which both think the same token most likely."""
    perplexity_ratio: Positive | None = None
    """Largest ratio of the engine's perplexity to the reference's."""


class AnswersGate(Gate):
    """Whether the answers are as expected, and do not loop, stop at once or change their script."""

    agreement: Share | None = None
    """Smallest share of the reference's greedy tokens that the engine gives before it first differs, over all prompts.
    Without a limit it is only recorded: a near tie can change an answer of a good engine."""


class SizeGate(Gate):
    """Whether the engine has the bits per parameter that its precision promises."""

    bits_per_parameter: Positive | None = None
    """Most bits per parameter; the default depends on the precision."""


class SpeedGate(Gate):
    """Whether the engine is slower than the build on the channel, measured with the same settings on the same GPU."""

    slower_percent: Percent = 5.0
    """By how many percent a time may be longer. So a build that is slower by 10% is found, and noise is not."""
    concurrency: Annotated[tuple[AtLeastOne, ...], Field(min_length=1)] = (1,)
    """How many sequences at once, for each measurement."""
    prompt_tokens: AtLeastOne = 128
    """Tokens of each prompt."""
    output_tokens: AtLeastOne = 64
    """Tokens of each answer."""


class ChannelGate(Gate):
    """Whether the build is worse than the one that the channel points to.

    It is judged when the build is published, and before a release watch promotes it. If the mode is left out,
    publishing only warns, and the release watch does not promote the build.
    """

    mode: Mode | None = None
    """`block`, `warn` or `off`. When left out, publishing warns, and the release watch blocks."""
    larger_percent: Percent = 20.0
    """By how many percent the engine may be larger."""
    slower_percent: Percent | None = None
    """By how many percent a time may be longer; that of the gate `speed` when left out."""
    worse_share: Share = 0.01
    """By how much a share or a score may be worse, such as the agreement on the most likely token. 0.01 is one percent
    point."""
    farther_percent: Percent = 10.0
    """By how many percent a divergence or a perplexity ratio may be larger."""


class Evaluation(SpecModel):
    """One evaluation: a command that writes JSON, and what its score must be."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    """Its name in reports."""
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    """The command and its arguments. `{engine}`, `{weights}` and `{output}` are directories, `{python}` is the Python
    of the toolchain, and `{script}` is the file of the field `script`."""
    toolchain: NotEmpty | None = None
    """The toolchain that the command runs in; the backend's own when left out."""
    script: NotEmpty | None = None
    """A file of yours that the command needs, such as an evaluator, relative to the spec or absolute. If it changes,
    the evaluation runs again."""
    network: bool = True
    """Whether the command may use the network, such as to fetch its data set."""
    result: NotEmpty = "results.json"
    """The JSON file that the command writes, relative to `{output}`. It may be a pattern that fits one file, such as
    `**/results_*.json`."""
    score: NotEmpty
    """Where the score is in that file, as a path such as `results.gsm8k.exact_match`; from 0 to 1."""
    percent: bool = False
    """Whether scores in that file are from 0 to 100."""
    samples: AtLeastOne | NotEmpty | None = None
    """The number of samples, or where it is in that file; the number of `items` when left out."""
    items: NotEmpty | None = None
    """Where the scores of the single items are in that file: a list, or an object of item -> score. `*` stands for
    every entry of a list, as in `samples.*.exact_match`. With it, builds are compared item by item."""
    reference: Share | None = None
    """The score that is to be reached, measured with as many samples. When left out, the score is recorded, and only
    compared with that of the channel's build."""
    theta: Annotated[float, Field(gt=0, le=1)] = 0.05
    """The loss that must be found. With too few samples to find it, the evaluation is inconclusive."""
    alpha: Chance = 0.05
    """The chance to refuse a build that is as good as the reference."""
    beta: Chance = 0.2
    """The chance to accept a build that is worse by `theta`."""
    sigma: Annotated[float, Field(gt=0, le=0.5)] = 0.5
    """The standard deviation of the score of one sample. 0.5 is the largest there is, and right for samples that are
    either right or wrong."""

    @field_validator("result")
    @classmethod
    def _is_below_the_output(cls, result: str) -> str:
        parts = result.split("/")
        if {"", ".", ".."} & set(parts) or "\\" in result or any("**" in part and part != "**" for part in parts):
            raise ValueError(f"{result!r} is not a path below {{output}}, such as results.json")
        if result == "evaluation.json":
            raise ValueError("evaluation.json is the name of Enginery's own file; let the command write another one")
        return result


class EvaluationGate(Gate):
    """Whether the scores of evaluations are as good as they should be, decided by a hypothesis test."""

    run: tuple[Evaluation, ...] = ()
    """The evaluations; none when left out."""


class Gates(SpecModel):
    """The gates of a build. Each is `block`, `warn` or `off`, or has more settings under its name."""

    distribution: DistributionGate = DistributionGate()
    """The engine's predictions against the reference's."""
    answers: AnswersGate = AnswersGate()
    """The answers to the prompts."""
    size: SizeGate = SizeGate()
    """Bits per parameter."""
    evaluation: EvaluationGate = EvaluationGate()
    """Evaluations by commands of your own choice."""
    speed: SpeedGate = SpeedGate()
    """Time to first token, time between tokens, tokens per second."""
    channel: ChannelGate = ChannelGate()
    """All of these against the build that the channel points to."""

    def channel_gate(self) -> ChannelGate:
        """The gate `channel`, with everything decided that it takes from other gates."""
        if self.channel.slower_percent is not None:
            return self.channel
        return self.channel.model_copy(update={"slower_percent": self.speed.slower_percent})

    def written_channel_gate(self) -> dict[str, JsonValue]:
        """What the user has written of that gate, as plain data; nothing if all is as when left out."""
        written = self.channel.model_dump(mode="json", exclude_unset=True)
        if "slower_percent" in self.speed.model_fields_set:
            written.setdefault("slower_percent", self.speed.slower_percent)
        return written


class ValidationOptions(SpecModel):
    """What a built engine must pass before it is published."""

    max_tokens: AtLeastOne = 64
    """Longest answer in tokens."""
    prompts: tuple[Prompt, ...] = ()
    """Sent in order, with greedy decoding."""
    chat: bool = False
    """Send each `prompt` as a user's message through the model's chat template."""
    run_script: bool = False
    """Send the prompts with the release's own `examples/run.py`, as in NVIDIA's tutorials, not with Enginery's driver.
    For engines of TensorRT-LLM only. The engine is loaded again for every prompt."""
    reference: ReferenceOptions = ReferenceOptions()
    """What the engine is compared with."""
    gates: Gates = Gates()
    """What must hold before a build is published."""
