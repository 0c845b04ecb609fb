"""The answers of the stand-in's models: the control file's answer to a prompt, else the prompt itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.trtllm.home import TOKENIZERS, Home
from tests.support.trtllm.modules.tokens import Tokens


@dataclass(frozen=True)
class Answer:
    """An answer's tokens, without the end token, and whether an end token ended it; else it reached the limit."""

    ids: list[int]
    ended: bool


def tokens_of(own: Home, checkpoint: str) -> Tokens | None:
    """The tokenizer of the model that was converted; None if the conversion did not record it."""
    from tokenizers import Tokenizer

    for name in (checkpoint, "default"):
        path = own.directory / TOKENIZERS / f"{name}.json"
        if path.exists():
            return Tokens(Tokenizer.from_file(str(path)), {})
    return None


def answer(own: Home, tokens: Tokens | None, prompt_ids: Sequence[int], limit: int) -> Answer:
    """The answer to a prompt, with at most `limit` tokens. Without a tokenizer it is the prompt's tokens."""
    ids = list(prompt_ids)
    if tokens is not None:
        prompt = tokens.decode(ids, skip_special_tokens=True)
        table = own.control["answers"]
        text = table.get(prompt, table.get(prompt.strip(), prompt))
        ids = tokens.encode(text, add_special_tokens=False)
    return Answer(ids[:limit], ended=len(ids) < limit)
