"""Asks an engine of ONNX Runtime GenAI some prompts, one by one, with greedy decoding.

Runs in the release's own environment and needs nothing of Enginery's. The requests are

    {"threads": 2, "prompts": [{"prompt": "How…", "max_tokens": 64, "add_special_tokens": true}]}

The answers are written in the same order. Any problem ends it with a traceback and a nonzero status, without an output
file.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime_genai as genai  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from tokenizers import Tokenizer  # type: ignore[import-not-found,unused-ignore]  # of the toolchain

GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
}
"""Said in full: a model's own generation settings would otherwise be mixed in."""
NO_TOKEN = -1


@dataclass(frozen=True)
class Answer:
    """What an engine said.

    Attributes:
        text: the answer without the prompt and without special tokens.
        token_ids: its tokens, without the one that ended it.
        tokens: how many these are.
        seconds_to_first_token: from the prompt to the first token; None without a token.
        seconds: from the prompt to the end of the answer.
        finish: `eos` when the model ended the answer, `length` when it reached its limit.
        as_raw_text: whether a server that is sent this text gets the same tokens.
    """

    text: str
    token_ids: list[int]
    tokens: int
    seconds_to_first_token: float | None
    seconds: float
    finish: str
    as_raw_text: bool


@dataclass(frozen=True)
class Engine:
    """A loaded engine with its tokenizer and what its configuration says.

    Attributes:
        shortest_cache: the tokens that the KV cache must have room for; 0 without layers with a sliding window.
    """

    model: Any
    tokenizer: Any
    context_length: int
    end_ids: frozenset[int]
    shortest_cache: int


def load(engine: Path, tokenizer: Path, threads: int) -> Engine:
    """Load an engine to run on `threads` CPU threads; 0 leaves their number to the runtime.

    Raises:
        RuntimeError: when an engine for a GPU runs on something else.
    """
    described = json.loads((engine / "genai_config.json").read_text(encoding="utf-8"))["model"]
    ends = described["eos_token_id"]
    config = genai.Config(str(engine))
    # GenAI takes such a token at the end of a prompt for padding, and leaves it out.
    config.overlay(json.dumps({"model": {"pad_token_id": NO_TOKEN}}))
    if threads:
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return Engine(
        model=load_model(config, wanted="CUDA" if is_for_cuda(described) else "CPU"),
        tokenizer=Tokenizer.from_file(str(tokenizer / "tokenizer.json")),
        context_length=described["context_length"],
        end_ids=frozenset(ends if isinstance(ends, list) else [ends]),
        shortest_cache=described["decoder"].get("sliding_window", {}).get("window_size", 0),
    )


def is_for_cuda(described: dict[str, Any]) -> bool:
    """Whether an engine's configuration asks for the CUDA provider."""
    providers = described["decoder"]["session_options"].get("provider_options", [])
    return any("cuda" in provider for provider in providers)


def load_model(config: Any, *, wanted: str) -> Any:
    """Load the model and make sure that it is on the device it was built for, `CUDA` or `CPU`."""
    if wanted == "CUDA":
        preload_cuda()
    model = genai.Model(config)
    print(f"engine loaded on {model.device_type}", flush=True)  # noqa: T201  for the step's log
    if model.device_type != wanted:
        raise RuntimeError(f"this engine was built for {wanted} but runs on {model.device_type}")
    return model


def preload_cuda() -> None:
    """Load the CUDA libraries that were installed as wheels: the system's loader does not look there.

    ONNX Runtime leaves out one: NVRTC asks for its builtins by name as soon as cuDNN compiles a kernel.
    """
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  slow; a CPU needs none of it

    onnxruntime.preload_dlls()
    for library in Path(onnxruntime.__file__).parents[1].glob("nvidia/*/lib/libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(library))


def once(whole: list[int], plain: list[int]) -> list[int]:
    """The tokens of a text without those in front that the text has itself, and the tokenizer adds again.

    Args:
        whole: the tokens with special tokens added.
        plain: the tokens without.
    """
    for added in range(len(whole) - len(plain), 0, -1):
        if whole[added : added + len(plain)] == plain and whole[:added] == plain[:added]:
            return whole[added:]
    return whole


def answer(engine: Engine, prompt: str, max_tokens: int, *, add_special_tokens: bool) -> Answer:
    """Ask one prompt.

    Raises:
        ValueError: when the prompt is no token at all, or leaves no room for an answer.
    """
    started = time.perf_counter()
    plain = engine.tokenizer.encode(prompt, add_special_tokens=False).ids
    raw = once(engine.tokenizer.encode(prompt, add_special_tokens=True).ids, plain)
    prompt_ids = raw if add_special_tokens else plain
    limit = min(len(prompt_ids) + max_tokens, engine.context_length)
    if not 0 < len(prompt_ids) < limit:
        raise ValueError(f"prompt of {len(prompt_ids)} tokens, model's limit is {engine.context_length}: {prompt!r}")
    ids, moments = [], []
    for token in generate(engine, prompt_ids, limit):
        ids.append(token)
        moments.append(time.perf_counter() - started)
    # A runtime may end an answer without a token.
    ended = not ids or ids[-1] in engine.end_ids
    kept = ids[:-1] if ended else ids
    return Answer(
        text=engine.tokenizer.decode(kept, skip_special_tokens=True),
        token_ids=kept,
        tokens=len(kept),
        seconds_to_first_token=moments[0] if moments else None,
        seconds=time.perf_counter() - started,
        finish="eos" if ended else "length",
        as_raw_text=prompt_ids == raw,
    )


def generate(engine: Engine, prompt_ids: list[int], limit: int) -> Iterator[int]:
    """The tokens after the prompt, up to the one that ends the answer or `limit` tokens in all."""
    generator = start(engine, limit)
    generator.append_tokens(prompt_ids)
    for _ in range(limit - len(prompt_ids)):
        if generator.is_done():
            return
        generator.generate_next_token()
        yield int(generator.get_next_tokens()[0])


def compare(engine: Engine, reference: Path, output: Path) -> dict[str, Any]:
    """Feed the engine the reference's sequences, write what it predicts, and say how it was measured."""
    from distribution import Recorder  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  beside this file

    recorder = Recorder(reference)
    for number, sequence in enumerate(recorder.sequences, start=1):
        for skipped, logits in predictions(engine, sequence.ids[:-1][: engine.context_length - 1], sequence.first):
            recorder.logits(sequence, logits, skipped)
        if number % 10 == 0 or number == len(recorder.sequences):
            print(f"compared {number} of {len(recorder.sequences)} sequences", flush=True)  # noqa: T201
    recorder.write(output)
    return dict(recorder.described("logits", ""))


def predictions(engine: Engine, ids: list[int], first: int) -> Iterator[tuple[int, Any]]:
    """The logits of the predictions from `first` on, in pieces: how many come before, and their logits.

    An engine that takes its input in pieces has only the logits of the last piece: such a one gets a token at a time.
    """
    if len(ids) < first:
        return
    generator = start(engine, len(ids) + 1)
    generator.append_tokens(ids)
    logits = generator.get_output("logits")[0]
    if len(logits) == len(ids):
        yield 0, logits[first - 1 :]
        return
    generator = start(engine, len(ids) + 1)
    generator.append_tokens(ids[:first])
    for position in range(first, len(ids) + 1):
        yield position - first, generator.get_output("logits")[0][-1:]
        if position < len(ids):
            generator.append_tokens([ids[position]])


def start(engine: Engine, limit: int) -> Any:
    """A generator with room for so many tokens, which changes no logits."""
    parameters = genai.GeneratorParams(engine.model)
    parameters.set_search_options(max_length=max(limit, engine.shortest_cache), **GREEDY)
    return genai.Generator(engine.model, parameters)


def main() -> None:
    """Read the requests, load the engine, write the answers."""
    parser = argparse.ArgumentParser(description="Ask an engine some prompts, with greedy decoding.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's directory")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the directory that holds tokenizer.json")
    parser.add_argument("--requests", type=Path, required=True, help="JSON file with the prompts")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--reference", type=Path, help="the directory of a reference to compare with")
    parser.add_argument("--distribution", type=Path, help="the file to write what the engine predicts for it")
    arguments = parser.parse_args()
    requests = json.loads(arguments.requests.read_text(encoding="utf-8"))
    engine = load(arguments.engine, arguments.tokenizer, requests["threads"])
    answers: list[dict[str, Any]] = []
    for number, request in enumerate(requests["prompts"], start=1):
        special = request.get("add_special_tokens", True)
        answers.append(asdict(answer(engine, request["prompt"], request["max_tokens"], add_special_tokens=special)))
        last = answers[-1]
        print(  # noqa: T201  progress, for the step's log
            f"prompt {number} of {len(requests['prompts'])}: {last['tokens']} tokens in {last['seconds']:.2f} s",
            flush=True,
        )
    written: dict[str, Any] = {"answers": answers}
    if arguments.reference:
        written["distribution"] = compare(engine, arguments.reference, arguments.distribution)
    arguments.output.write_text(json.dumps(written, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
