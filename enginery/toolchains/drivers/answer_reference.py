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
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from transformers import (  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (  # type: ignore[import-not-found,unused-ignore]
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "use_cache": True,
}
"""Said in full. The model's own generation settings are not used, but for the tokens that end an answer."""
DEQUANTIZED = ("fp8", "mxfp4")
"""Formats of quantized weights that transformers itself turns back into plain ones when it loads them."""
ITEM_BYTES = {"F64": 1, "F32": 1, "F16": 1, "BF16": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 2}
"""Weights in one element of a tensor, by its format in a safetensors file. In MXFP4 a byte is two weights."""
WORKING = 1.15
"""Memory of a loaded model, as a multiple of its weights: there are activations too, and the pieces of loading."""
SMALL = 20_000_000
"""A model with fewer weights runs on one thread: several wait for each other longer than they work."""
LOGITS_AT_ONCE = 256 * 1024**2
OFFLOADED_LOGITS = 1024**3
"""Bytes of logits of one batch. Each batch reads all weights, which is slow from disk."""
ROWS_AT_ONCE = 64
LONG_PIECE = 128
"""Tokens that are wanted of each text at least, if there are very many."""
DISK_SHARE = 0.5
"""The share of the free memory that holds layers, if not all fit. The rest is for the layer at work and its copies."""
SHOWN = 60
"""So much of a prompt is in an error."""
CGROUP = Path("/sys/fs/cgroup")


def refuse(problem: str) -> NoReturn:
    """End with one line that says what is wrong."""
    print(f"error: {problem}", file=sys.stderr, flush=True)  # noqa: T201  read by whoever started this
    raise SystemExit(2)


def say(line: str) -> None:
    """Write a line to the step's log."""
    print(line, flush=True)  # noqa: T201


@dataclass(frozen=True)
class Place:
    """Where the weights are run, and in which number format.

    Attributes:
        device: where the tokens go, such as `cpu` or `cuda:0`.
        dtype: the number format.
        memory: device -> bytes of layers that it may hold; None if one device holds the whole model.
        offloaded: whether some layers stay on disk.
    """

    device: str
    dtype: Any
    memory: dict[Any, int] | None = None
    offloaded: bool = False


@dataclass
class Model:
    """The loaded model with its tokenizer.

    Attributes:
        ends: the tokens that end an answer.
        positions: the longest sequence; 0 if it has no limit.
    """

    model: Any
    tokenizer: Any
    place: Place
    ends: list[int]
    positions: int


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


def weight_count(directory: Path) -> int:
    """How many weights the files have; 0 if there are no files in a known format."""
    counted = sum(_counted(path) for path in sorted(directory.glob("*.safetensors")))
    if counted:
        return counted
    # PyTorch's own files say their formats only when they are read. Nearly all have 16 bits.
    return sum(path.stat().st_size for path in directory.glob("pytorch_model*.bin")) // 2


def _counted(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    tensors = (about for name, about in header.items() if name != "__metadata__")
    return sum(ITEM_BYTES.get(about["dtype"], 1) * int(np.prod(about["shape"], dtype=np.int64)) for about in tensors)


def free_memory(limit: int | None) -> int:
    """The bytes of memory that are free on this machine and in this container, and at most `limit`."""
    free = _available()
    try:
        most = int((CGROUP / "memory.max").read_text())
        used = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, most - int(used["anon"]))
    except (OSError, ValueError, KeyError):
        pass  # there is no limit, or an older kernel has its files elsewhere
    return free if limit is None else min(free, limit)


def _available() -> int:
    """The memory of the machine that is free, or holds only copies of files."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return next(int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:")


def choose_place(request: dict[str, Any], directory: Path, config: Any) -> Place:
    """Choose a device with enough memory: one GPU, else several, else the CPU; else layers stay on disk."""
    device, count, limit = request["device"], weight_count(directory), request.get("memory")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not on_gpu:
        refuse("reference.device is cuda, and PyTorch finds no usable GPU here; use device: cpu or auto")
    if on_gpu:
        dtype = _dtype(request["dtype"], _own_dtype(config))
        free = {number: _capped(torch.cuda.mem_get_info(number)[0], limit) for number in _gpus()}
        need = count * dtype.itemsize * WORKING
        best = max(free, key=lambda number: free[number])
        if need <= free[best]:
            return Place(f"cuda:{best}", dtype)
        if need <= sum(free.values()) * 0.9:
            return Place("cuda:0", dtype, {number: int(size * 0.9) for number, size in free.items()})
    host, dtype_here = free_memory(limit), _dtype(request["dtype"], torch.float32)
    if device != "cuda" and count * dtype_here.itemsize * WORKING <= host:
        return Place("cpu", dtype_here)
    if on_gpu:
        parts: dict[Any, int] = {number: int(size * DISK_SHARE) for number, size in free.items()}
        return Place("cuda:0", dtype, {**parts, "cpu": int(host * DISK_SHARE)}, offloaded=True)
    return Place("cpu", dtype_here, {"cpu": int(host * DISK_SHARE)}, offloaded=True)


def _gpus() -> range:
    return range(torch.cuda.device_count())


def _capped(free: int, limit: int | None) -> int:
    return free if limit is None else min(free, limit)


def _own_dtype(config: Any) -> Any:
    """The number format of the weights, as their configuration says."""
    found = config.dtype or config.get_text_config().dtype
    return found if isinstance(found, torch.dtype) else getattr(torch, str(found or "float32"), torch.float32)


def _dtype(wanted: str, usual: Any) -> Any:
    return usual if wanted == "auto" else getattr(torch, wanted)


def load(directory: Path, request: dict[str, Any], scratch: Path) -> Model:
    """Load the model and its tokenizer, and make sure that no weight is missing."""
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    quantized = getattr(config, "quantization_config", None)
    if isinstance(quantized, dict) and quantized.get("quant_method") in DEQUANTIZED:
        quantized["dequantize"] = True
    place = choose_place(request, directory, config)
    weights = weight_count(directory)
    if weights < SMALL:
        torch.set_num_threads(1)
    where = "layer by layer, with those on disk that do not fit" if place.offloaded else "whole"
    say(f"loading {weights:,} weights as {_name(place.dtype)} for {place.device}, {where}")
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    made, report = (AutoModelForCausalLM if known else AutoModelForImageTextToText).from_pretrained(
        directory, config=config, trust_remote_code=False, output_loading_info=True, **_loading(place, scratch)
    )
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, report[what])):
            refuse(f"the weights are not those of this model: {what.replace('_', ' ')} {', '.join(names[:5])}")
    tokenizer = load_tokenizer(directory)
    ends = _ends(made, tokenizer)
    # The model's own settings would be mixed into those that are given.
    made.generation_config = GenerationConfig(**GREEDY, eos_token_id=ends or None, pad_token_id=(ends or [0])[0])
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Model(made.eval(), tokenizer, place, ends, positions if isinstance(positions, int) else 0)


def load_tokenizer(directory: Path) -> Any:
    """The model's tokenizer. If its class is the model's own code, the tokens are those of its `tokenizer.json`."""
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except (ValueError, OSError, ImportError, KeyError) as error:
        if (directory / "tokenizer.json").is_file():
            say(f"the tokenizer is read from tokenizer.json alone: {str(error).splitlines()[0]}")
            return PreTrainedTokenizerFast.from_pretrained(directory)
        refuse(f"transformers cannot load the tokenizer of this model: {str(error).splitlines()[0]}")


def _loading(place: Place, scratch: Path) -> dict[str, Any]:
    if place.memory is None:
        return {"dtype": place.dtype, "device_map": None if place.device == "cpu" else {"": place.device}}
    return {"dtype": place.dtype, "device_map": "auto", "max_memory": place.memory, "offload_folder": str(scratch)}


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """All tokens that end an answer: those of the generation settings, else of the configuration; the tokenizer's."""
    own = model.generation_config.eos_token_id if model.generation_config else None
    own = model.config.get_text_config().eos_token_id if own is None else own
    listed = own if isinstance(own, list) else [own]
    return [int(end) for end in dict.fromkeys([*listed, tokenizer.eos_token_id]) if end is not None]


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


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
        return sum(torch.cuda.max_memory_allocated(number) for number in _gpus())
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
        "dtype": _name(model.place.dtype),
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
