"""Runs the original weights of a model with transformers: its greedy answers, and what it predicts at each token.

Runs in the toolchain of transformers and needs nothing of Enginery's, nor the network. It never runs code that comes
with a model. The request is

    {"dtype": "auto", "device": "auto", "top": 64, "window": 512, "max_tokens": 8192, "about": {},
     "texts": [{"name": "english", "text": "…"}],
     "prompts": [{"name": "prompt 1", "text": "How…", "add_special_tokens": true, "max_tokens": 64}]}

`memory` in it limits the memory of each device, in bytes. The output is `reference.json` with the sequences, and
`logprobs.npz` with a row for each predicted token of them. An answer is generated token by token, and then predicted
once more as a whole. Where two tokens are nearly equally likely, rounding may make these two differ: the answer keeps
the generated token, and its row says how likely it is.

What cannot be run ends it with one line on standard error and status 2; any other problem with a traceback.
"""

import argparse
import inspect
import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from reference_model import (  # type: ignore[import-not-found,unused-ignore]  # beside it
    Model,
    Place,
    dtype_name,
    load,
    refuse,
    say,
)

LOGITS_AT_ONCE = 256 * 1024**2
OFFLOADED_LOGITS = 1024**3
"""Bytes of logits of one batch. Each batch reads all weights, which is slow from disk."""
ROWS_AT_ONCE = 64
LONG_PIECE = 128
"""Tokens that are wanted of each text at least, if there are very many."""
SHOWN = 60
"""So much of a prompt is in an error."""


@dataclass
class Tokens:
    """Tokens of which those from `first` on are predicted, and their predictions."""

    name: str
    kind: str
    ids: list[int]
    first: int
    more: dict[str, Any] = field(default_factory=dict)
    top_ids: Any = None
    top_logprobs: Any = None
    next_logprobs: Any = None

    def described(self) -> dict[str, Any]:
        """What `reference.json` says of it."""
        return {"name": self.name, "kind": self.kind, "ids": self.ids, "first": self.first, **self.more}


def windows(model: Model, request: dict[str, Any]) -> Iterator[Tokens]:
    """The texts as sequences: each begins as the tokenizer begins a text, and none is longer than the window."""
    before = beginning(model.tokenizer)
    first = max(1, len(before))
    size = min(request["window"], model.positions or request["window"])
    room = size - len(before)
    if room < 1 or size <= first:
        refuse(f"windows of {size} tokens have no room for a text")
    most = request["max_tokens"]
    texts = [(text["name"], encode(model.tokenizer, text["text"], special=False)[:most]) for text in request["texts"]]
    texts = chosen(texts, most)
    for (name, ids), share in zip(texts, shared([len(ids) for _, ids in texts], most), strict=True):
        pieces = [[*before, *ids[start : min(start + room, share)]] for start in range(0, share, room)]
        for number, piece in enumerate((piece for piece in pieces if len(piece) > first), start=1):
            yield Tokens(f"{name}-{number}", "text", piece, first)


def beginning(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text."""
    text = "a"
    plain, whole = encode(tokenizer, text, special=False), encode(tokenizer, text, special=True)
    places = (place for place in range(len(whole)) if whole[place : place + len(plain)] == plain)
    return whole[: next(places, 0)]


def encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """The tokens of a text, with the special tokens that belong around a text if `special`."""
    return [int(token) for token in tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]]


def once(whole: list[int], plain: list[int]) -> list[int]:
    """The tokens of a text without those in front that the text has itself, and the tokenizer adds again.

    The drivers of the engines have the same rule, so that both answer the same tokens.

    Args:
        whole: the tokens with special tokens added.
        plain: the tokens without.
    """
    for added in range(len(whole) - len(plain), 0, -1):
        if whole[added : added + len(plain)] == plain and whole[:added] == plain[:added]:
            return whole[added:]
    return whole


def chosen(texts: list[tuple[str, list[int]]], most: int) -> list[tuple[str, list[int]]]:
    """Some of very many texts, evenly from the first to the last: so few that each gives a long piece."""
    number = max(1, most // LONG_PIECE)
    while number < len(texts):
        some = [texts[place * len(texts) // number] for place in range(number)]
        if sum(min(len(ids), LONG_PIECE) for _, ids in some) >= most // 2:
            return some
        number *= 2
    return texts


def shared(sizes: Sequence[int], most: int) -> list[int]:
    """How many tokens of each text are used: as evenly as their sizes allow, and `most` in all."""
    shares = [0] * len(sizes)
    left = most
    for position, number in enumerate(sorted(range(len(sizes)), key=lambda number: sizes[number])):
        shares[number] = min(sizes[number], left // (len(sizes) - position))
        left -= shares[number]
    return shares


def answers(model: Model, request: dict[str, Any]) -> list[Tokens]:
    """The greedy answers to the prompts. If layers are on disk, all are made together: one reading gives a token."""
    found = [_asked(model, prompt) for prompt in request["prompts"]]
    together = model.place.offloaded or not hasattr(model.model, "generate")
    if together:
        _answer_together(model, found)
    for number, one in enumerate(found, start=1):
        if not together:
            one.ids += _generated(model, one)
        said = one.ids[one.first :]
        ended = said[-1] in model.ends
        one.more["finish"] = "eos" if ended else "length"
        one.more["text"] = model.tokenizer.decode(said[:-1] if ended else said, skip_special_tokens=True)
        del one.more["limit"]
        say(f"prompt {number} of {len(found)}: {len(said)} tokens")
    return found


def _asked(model: Model, prompt: dict[str, Any]) -> Tokens:
    ids = encode(model.tokenizer, prompt["text"], special=False)
    if prompt["add_special_tokens"]:
        ids = once(encode(model.tokenizer, prompt["text"], special=True), ids)
    limit = len(ids) + prompt["max_tokens"]
    limit = min(limit, model.positions) if model.positions else limit
    if not 0 < len(ids) < limit:
        shown = prompt["text"][:SHOWN]
        refuse(f"{prompt['name']} has {len(ids)} tokens, and the model's limit is {model.positions}: {shown!r}")
    return Tokens(prompt["name"], "answer", ids, len(ids), {"prompt": prompt["text"], "limit": limit})


def _generated(model: Model, asked: Tokens) -> list[int]:
    tokens = torch.tensor([asked.ids], device=model.place.device)
    mask, room = torch.ones_like(tokens), asked.more["limit"] - len(asked.ids)
    made = model.model.generate(tokens, attention_mask=mask, max_new_tokens=room, max_length=None)
    return [int(token) for token in made[0, len(asked.ids) :]]


def _answer_together(model: Model, sequences: list[Tokens]) -> None:
    """Add a token to each answer at a time. What stands to the right of a token does not change its prediction."""
    rounds = 0
    while waiting := [one for one in sequences if not _is_finished(model, one)]:
        longest = max(len(one.ids) for one in waiting)
        rows = [one.ids + [one.ids[-1]] * (longest - len(one.ids)) for one in waiting]
        logits = model.model(torch.tensor(rows, device=model.place.device), use_cache=False).logits
        for row, one in enumerate(waiting):
            one.ids.append(int(logits[row, len(one.ids) - 1].argmax()))
        rounds += 1
        say(f"{len(waiting)} answers, {rounds} tokens each")


def _is_finished(model: Model, one: Tokens) -> bool:
    return len(one.ids) >= one.more["limit"] or (len(one.ids) > one.first and one.ids[-1] in model.ends)


def predict(model: Model, sequences: list[Tokens], top: int) -> int:
    """Fill in the predictions of all sequences; returns the number of tokens that have a logit.

    Sequences of the same length are predicted together.
    """
    vocabulary, done, total = 0, 0, sum(len(one.ids) - one.first for one in sequences)
    for batch in _batches(sequences, _vocabulary(model), OFFLOADED_LOGITS if model.place.offloaded else LOGITS_AT_ONCE):
        tokens = torch.tensor([one.ids for one in batch], device=model.place.device)
        logits = model.model(tokens, use_cache=False, **_last_logits(model, batch)).logits
        vocabulary = int(logits.shape[-1])
        for one, rows in zip(batch, logits, strict=True):
            _keep(one, rows, min(top, vocabulary))
            done += len(one.ids) - one.first
        say(f"predicted {done:,} of {total:,} tokens")
    return vocabulary or _vocabulary(model)


def _last_logits(model: Model, batch: list[Tokens]) -> dict[str, int]:
    """Leave out the logits of long prompts, of which no token is predicted: they may take more memory than the model.

    The logits of the last token are left in, although nothing follows it.
    """
    wanted, length = max(len(one.ids) - one.first for one in batch) + 1, len(batch[0].ids)
    known = "logits_to_keep" in inspect.signature(model.model.forward).parameters
    return {"logits_to_keep": wanted} if known and wanted < length else {}


def _vocabulary(model: Model) -> int:
    return int(model.model.config.get_text_config().vocab_size)


def _batches(sequences: list[Tokens], vocabulary: int, room: int) -> Iterator[list[Tokens]]:
    lengths: dict[int, list[Tokens]] = {}
    for one in sequences:
        lengths.setdefault(len(one.ids), []).append(one)
    for length, same in lengths.items():
        size = max(1, room // (4 * length * vocabulary))
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _keep(one: Tokens, logits: Any, top: int) -> None:
    """Keep the most likely tokens of each row. The whole vocabulary is in float32 for a few rows at a time only."""
    parts, left_out = [], len(one.ids) - len(logits)
    for start in range(one.first - 1, len(one.ids) - 1, ROWS_AT_ONCE):
        end = min(start + ROWS_AT_ONCE, len(one.ids) - 1)
        rows = logits[start - left_out : end - left_out].float()
        if bool(torch.isnan(rows).any()) or bool((rows == torch.inf).any()):
            refuse(f"the original weights give logits that are NaN or infinite ({one.name}); the model is damaged")
        logprobs = torch.log_softmax(rows, dim=-1)
        best = logprobs.topk(top, dim=-1)
        following = torch.tensor(one.ids[start + 1 : end + 1], device=rows.device).unsqueeze(1)
        parts.append((best.indices, best.values, logprobs.gather(1, following).squeeze(1)))
    ids, values, following = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    if not (np.isfinite(values).all() and np.isfinite(following).all()):
        refuse(
            f"the original weights give tokens a probability of zero ({one.name}); no engine can be compared with it"
        )
    one.top_ids, one.top_logprobs, one.next_logprobs = ids.astype(np.int32), values, following


def near_ties(sequences: list[Tokens]) -> int:
    """The tokens of answers that are not the most likely ones when the answer is predicted as a whole."""
    made = [one for one in sequences if one.kind == "answer"]
    return sum(int((one.top_ids[:, 0] != np.array(one.ids[one.first :])).sum()) for one in made)


def write(directory: Path, sequences: list[Tokens], about: dict[str, Any], top: int) -> None:
    """Write both files; the one with the sequences last."""
    kept = min(top, about["vocab_size"])
    np.savez_compressed(
        directory / "logprobs.npz",
        top_ids=np.concatenate([np.empty((0, kept), np.int32), *(one.top_ids for one in sequences)]),
        top_logprobs=np.concatenate([np.empty((0, kept), np.float32), *(one.top_logprobs for one in sequences)]),
        next_logprobs=np.concatenate([np.empty(0, np.float32), *(one.next_logprobs for one in sequences)]),
    )
    content = {"schema_version": 1, **about, "sequences": [one.described() for one in sequences]}
    (directory / "reference.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def peak_memory(place: Place) -> int:
    """The highest memory of this run: of the GPUs if it ran there, else of this process."""
    if place.device.startswith("cuda"):
        return sum(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Read the request, run the model, write the reference."""
    parser = argparse.ArgumentParser(description="Run the original weights of a model as a reference.")
    parser.add_argument("--model", type=Path, required=True, help="the model's directory")
    parser.add_argument("--request", type=Path, required=True, help="JSON file with texts, prompts and settings")
    parser.add_argument("--scratch", type=Path, required=True, help="directory for layers that do not fit into memory")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    arguments = parser.parse_args()
    request = json.loads(arguments.request.read_text(encoding="utf-8"))
    started = time.perf_counter()
    with torch.inference_mode():
        model = load(arguments.model, request, arguments.scratch)
        sequences = [*windows(model, request), *answers(model, request)]
        vocabulary = predict(model, sequences, request["top"])
    about = {
        "dtype": dtype_name(model.place.dtype),
        "device": model.place.device.partition(":")[0],
        "vocab_size": vocabulary,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory(model.place),
        "window": min(request["window"], model.positions or request["window"]),
        "offloaded": model.place.offloaded,
        "near_ties": near_ties(sequences),
        **request["about"],
    }
    write(arguments.output, sequences, about, request["top"])


if __name__ == "__main__":
    main()
