"""`SamplingParams` and the results of `LLM.generate`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from tests.support.trtllm import facts
from tests.support.trtllm.home import Home

DEFAULT_LIMIT = 32


class SamplingParams:
    """The release's fields, which can be given only by name."""

    own: ClassVar[Home]

    def __init__(self, **named: Any) -> None:
        names = facts.fields(self.own.release, "SamplingParams")
        for name in named:
            if name not in names:
                raise TypeError(f"SamplingParams.__init__() got an unexpected keyword argument '{name}'")
        vars(self).update({**dict.fromkeys(names), **named})

    @property
    def limit(self) -> int:
        """The largest number of tokens in an answer. The field has two names."""
        given = vars(self)
        return int(given.get("max_tokens") or given.get("max_new_tokens") or DEFAULT_LIMIT)


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    cumulative_logprob: float | None = None
    logprobs: list[float] = field(default_factory=list)
    stop_reason: int | str | None = None

    @property
    def length(self) -> int:
        return len(self.token_ids)


@dataclass
class RequestOutput:
    """The answers to one prompt; always exactly one."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True
    context_logits: Any = None

    def __iter__(self) -> Iterator["RequestOutput"]:
        """The answer so far, after each token."""
        for length in range(1, self.outputs[0].length + 1):
            part = replace(self.outputs[0], token_ids=self.outputs[0].token_ids[:length])
            yield replace(self, outputs=[part], finished=length == self.outputs[0].length)

    def result(self) -> "RequestOutput":
        """The whole answer."""
        return self
