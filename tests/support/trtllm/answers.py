"""What the stand-in's models say: what the control file has for a prompt, else the prompt again."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.trtllm.home import TOKENIZERS, Home
from tests.support.trtllm.tokens import Tokens


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        ids: its tokens, without the one that ended it.
        ended: whether the model ended it; else it reached its limit.
    """

    ids: list[int]
    ended: bool


def tokens_of(own: Home, checkpoint: str) -> Tokens | None:
    """The tokenizer that was beside the weights when they were converted; None where nobody saw it."""
    from tokenizers import Tokenizer

    for name in (checkpoint, "default"):
        path = own.directory / TOKENIZERS / f"{name}.json"
        if path.exists():
            return Tokens(Tokenizer.from_file(str(path)), {})
    return None


def answer(own: Home, tokens: Tokens | None, prompt_ids: Sequence[int], limit: int) -> Said:
    """The answer to a prompt, of at most `limit` tokens; where no tokenizer is known, the prompt's tokens again."""
    ids = list(prompt_ids)
    if tokens is not None:
        prompt = tokens.decode(ids, skip_special_tokens=True)
        table = own.control["answers"]
        text = table.get(prompt, table.get(prompt.strip(), prompt))
        ids = tokens.encode(text, add_special_tokens=False)
    return Said(ids[:limit], ended=len(ids) < limit)
