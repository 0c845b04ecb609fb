"""The answers of the stand-in's models: the control file's answer to a prompt, else the prompt itself.

If only one token is wanted, it is the one that the converted model finds most likely, unless the control file has an
answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.trtllm.home import TOKENIZERS, Home
from tests.support.trtllm.modules.forward import Llama, llama
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


def model_of(own: Home, checkpoint: str) -> Llama | None:
    """The model that was converted; None if the conversion did not keep it."""
    return llama(own.directory / TOKENIZERS / checkpoint)


def answer(
    own: Home, tokens: Tokens | None, prompt_ids: Sequence[int], limit: int, model: Llama | None = None
) -> Answer:
    """The answer to a prompt, with at most `limit` tokens. Without a tokenizer it is the prompt's tokens."""
    ids = list(prompt_ids)
    if limit == 1 and model is not None and not _is_known(own, tokens, ids):
        token = int(model.logits(ids)[-1].argmax())
        return Answer([], ended=True) if token in model.ends else Answer([token], ended=False)
    if tokens is not None:
        prompt = tokens.decode(ids, skip_special_tokens=True)
        table = own.control["answers"]
        text = table.get(prompt, table.get(prompt.strip(), prompt))
        ids = tokens.encode(text, add_special_tokens=False)
    return Answer(ids[:limit], ended=len(ids) < limit)


def _is_known(own: Home, tokens: Tokens | None, ids: Sequence[int]) -> bool:
    """Whether the control file has an answer to a prompt."""
    if tokens is None:
        return False
    prompt = tokens.decode(ids, skip_special_tokens=True)
    return bool({prompt, prompt.strip()} & own.control["answers"].keys())
