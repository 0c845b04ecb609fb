"""Asks a model of TensorRT-LLM some prompts, one by one, with greedy decoding.

Runs in the release's own environment and needs nothing of Enginery's. The requests are

    {"runtime": "tensorrt_llm:LLM", "arguments": {},
     "prompts": [{"prompt": "How…", "max_tokens": 64, "add_special_tokens": true}]}

The runtime is a model runner, started once for each rank by `mpirun`, or an `LLM`, which starts its ranks itself. The
model is an engine directory or a Hugging Face checkpoint, as the runtime wants it. Rank 0 writes the answers, in the
order of the prompts. Any problem ends it with a traceback and a nonzero status, without an output file.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RUNNERS = ("ModelRunnerCpp", "ModelRunner")

Generate = Callable[[list[int], int], list[int]]
"""Takes a prompt's tokens and how many more to make at most; gives those it made."""


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: the answer without the prompt and without special tokens.
        token_ids: its tokens, without the one that ended it.
        tokens: how many these are.
        seconds_to_first_token: None, as the answers do not come token by token.
        seconds: from the prompt to the end of the answer.
        finish: `eos` when the model ended the answer, `length` when it reached its limit.
        as_raw_text: whether a server that is sent the prompt as text gets the same tokens.
    """

    text: str
    token_ids: list[int]
    tokens: int
    seconds_to_first_token: float | None
    seconds: float
    finish: str
    as_raw_text: bool


@dataclass(frozen=True)
class Words:
    """The model's tokenizer, and what ends an answer.

    Attributes:
        tokenizer: as `transformers` loads it.
        end: the token that the runtime is told to end with.
        ends: all tokens that end an answer of this model.
    """

    tokenizer: Any
    end: int
    ends: frozenset[int]

    @classmethod
    def load(cls, directory: Path) -> "Words":
        """Read them from a model's directory.

        Raises:
            ValueError: when nothing there says what ends an answer.
        """
        from transformers import AutoTokenizer  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

        tokenizer = AutoTokenizer.from_pretrained(str(directory), legacy=False)
        ends = ends_of(directory)
        end = tokenizer.eos_token_id
        if end is None and not ends:
            raise ValueError(f"neither the tokenizer nor generation_config.json in {directory} names an end token")
        return cls(tokenizer, ends[0] if end is None else end, frozenset(ends if end is None else [end, *ends]))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a prompt. A token that the text begins with is not added again."""
        plain = [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]
        if not add_special_tokens:
            return plain
        return once([int(token) for token in self.tokenizer.encode(text, add_special_tokens=True)], plain)

    def answer(self, made: list[int], limit: int, seconds: float, *, as_raw_text: bool) -> Answer:
        """What was said, up to the first token that ends it, which some runtimes give and some keep."""
        place = next((place for place, token in enumerate(made) if token in self.ends), None)
        kept = made[:place]
        ended = place is not None or len(made) < limit
        return Answer(
            text=self.tokenizer.decode(kept, skip_special_tokens=True),
            token_ids=kept,
            tokens=len(kept),
            seconds_to_first_token=None,
            seconds=seconds,
            finish="eos" if ended else "length",
            as_raw_text=as_raw_text,
        )


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


def ends_of(directory: Path) -> list[int]:
    """The end tokens that a model's own settings name, in their order."""
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            if found is not None:
                return list(found) if isinstance(found, list) else [found]
    return []


@dataclass(frozen=True)
class Batch:
    """All prompts as tokens, and what the runtime must have room for.

    Attributes:
        prompts: their tokens.
        limits: how many tokens each answer may have.
        end: the token that ends an answer.
        raw: for each prompt, whether a server that is sent its text gets the same tokens.
    """

    prompts: list[list[int]]
    limits: list[int]
    end: int
    raw: list[bool]

    @classmethod
    def of(cls, words: Words, asked: list[dict[str, Any]]) -> "Batch":
        """The prompts of a request as tokens."""
        prompts = [words.encode(one["prompt"], add_special_tokens=one.get("add_special_tokens", True)) for one in asked]
        raw = [words.encode(one["prompt"]) == prompt for one, prompt in zip(asked, prompts, strict=True)]
        return cls(prompts, [one["max_tokens"] for one in asked], words.end, raw)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts), default=1)

    @property
    def room(self) -> int:
        """Tokens that the longest prompt with its answer may have."""
        return max((len(prompt) + limit for prompt, limit in zip(self.prompts, self.limits, strict=True)), default=2)


def require_room(engine: Path, batch: Batch) -> None:
    """Say in figures what the runtime would say with an assertion.

    Raises:
        ValueError: when a prompt and its answer may be longer than the engine's longest sequence.
    """
    path = engine / "config.json"
    built = json.loads(path.read_text(encoding="utf-8")).get("build_config", {}) if path.is_file() else {}
    room = built.get("max_seq_len") or (built.get("max_input_len") or 0) + (built.get("max_output_len") or 0)
    for number, (prompt, limit) in enumerate(zip(batch.prompts, batch.limits, strict=True), start=1):
        if "max_input_len" in built and room and len(prompt) + limit > room:
            raise ValueError(
                f"prompt {number} has {len(prompt)} tokens and its answer may have {limit}; the engine was built for"
                f" {room} together: lower validation.max_tokens, or raise build.max_seq_len"
            )


def load(runtime: str, model: Path, tokenizer: Path, arguments: dict[str, Any], batch: Batch) -> Generate:
    """Load a model, to be asked one prompt after the other."""
    module, _, name = runtime.partition(":")
    if name in RUNNERS:
        return load_runner(module, name, model, batch)
    return load_llm(module, name, model, tokenizer, arguments)


def load_runner(module: str, name: str, engine: Path, batch: Batch) -> Generate:
    """Load an engine directory with a model runner, as the release's `examples/run.py` does.

    Every rank does all of this, and only rank 0 is given answers.
    """
    import tensorrt_llm  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  of the toolchain, as torch
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    found = importlib.import_module(module)
    named: dict[str, Any] = {"engine_dir": str(engine), "rank": tensorrt_llm.mpi_rank()}
    if name == "ModelRunnerCpp" and not getattr(found, "PYTHON_BINDINGS", True):
        print("this build of TensorRT-LLM has no session in C++; the one in Python is asked", flush=True)  # noqa: T201
        name = "ModelRunner"
    if name == "ModelRunnerCpp":
        named |= {"max_batch_size": 1, "max_beam_width": 1}
        named |= {"max_input_len": batch.longest, "max_output_len": batch.room - batch.longest}
    runner = getattr(found, name).from_dir(**named)

    def generate(prompt: list[int], limit: int) -> list[int]:
        with torch.no_grad():
            outputs = runner.generate(
                [torch.tensor(prompt, dtype=torch.int32)],
                max_new_tokens=limit,
                end_id=batch.end,
                pad_id=batch.end,
                temperature=1.0,
                top_k=1,
                top_p=0.0,
                num_beams=1,
                output_sequence_lengths=True,
                return_dict=True,
            )
            torch.cuda.synchronize()
        if tensorrt_llm.mpi_rank() != 0:
            return []
        length = int(outputs["sequence_lengths"][0][0])
        return [int(token) for token in outputs["output_ids"][0][0][len(prompt) : length].tolist()]

    return generate


def load_llm(module: str, name: str, model: Path, tokenizer: Path, arguments: dict[str, Any]) -> Generate:
    """Load an engine directory or a checkpoint with the LLM API."""
    found = importlib.import_module(module)
    parameters = importlib.import_module("tensorrt_llm").SamplingParams
    llm = getattr(found, name)(model=str(model), tokenizer=str(tokenizer), **arguments)

    def generate(prompt: list[int], limit: int) -> list[int]:
        output = llm.generate(prompt, parameters(max_tokens=limit, top_k=1))
        return [int(token) for token in output.outputs[0].token_ids]

    return generate


def rank() -> int:
    """This process's rank among those that `mpirun` started; 0 without it."""
    return int(importlib.import_module("tensorrt_llm").mpi_rank())


def answer_all(generate: Generate, words: Words, batch: Batch) -> list[dict[str, Any]]:
    """Ask every prompt."""
    answers = []
    for number, (prompt, limit) in enumerate(zip(batch.prompts, batch.limits, strict=True), start=1):
        started = time.perf_counter()
        made = generate(prompt, limit)
        seconds, raw = time.perf_counter() - started, batch.raw[number - 1]
        answers.append(asdict(words.answer(made, limit, seconds, as_raw_text=raw)))
        if rank() == 0:
            said = f"{answers[-1]['tokens']} tokens in {answers[-1]['seconds']:.2f} s"
            print(f"prompt {number} of {len(batch.prompts)}: {said}", flush=True)  # noqa: T201  for the step's log
    return answers


def main() -> None:
    """Read the requests, load the model, write the answers."""
    parser = argparse.ArgumentParser(description="Ask a model of TensorRT-LLM some prompts, with greedy decoding.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's or the checkpoint's directory")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the model's directory, for its tokenizer")
    parser.add_argument("--requests", type=Path, required=True, help="JSON file with runtime and prompts")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args()
    requests = json.loads(given.requests.read_text(encoding="utf-8"))
    words = Words.load(given.tokenizer)
    batch = Batch.of(words, requests["prompts"])
    require_room(given.engine, batch)
    generate = load(requests["runtime"], given.engine, given.tokenizer, requests["arguments"], batch)
    answers = answer_all(generate, words, batch)
    if rank() == 0:
        given.output.write_text(json.dumps({"answers": answers}, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
