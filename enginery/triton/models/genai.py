"""An engine of ONNX Runtime GenAI. Tokens are chosen by us; the library runs the model and keeps its memory."""

import ctypes
import json
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .sampling import Logits

NEVER = np.float32(-1e9)


class GenaiEngine:
    """A model directory that the GenAI model builder has made.

    Args:
        directory: the engine.
        provider: `cpu` or `cuda`.
        device: which GPU, for `cuda`.
        threads: of the CPU; half of those there are, when left out.

    Attributes:
        context_length: most tokens in prompt and answer together.
        end_ids: the model's own end tokens.
        filler: the token that fills up shorter prompts, which the library masks.
        last_token: the one token at which the library ends a row by itself. It is one that no answer has, so that
            where an answer ends is up to the request.
        vocabulary: the number of tokens the model knows.
    """

    def __init__(self, directory: Path, *, provider: str = "cpu", device: int = 0, threads: int | None = None) -> None:
        self._library: Any = import_module("onnxruntime_genai")
        facts = json.loads((directory / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = facts["eos_token_id"]
        self.end_ids = [int(token) for token in (ends if isinstance(ends, list) else [ends])]
        self.context_length = int(facts["context_length"])
        self.vocabulary = int(facts["vocab_size"])
        self.filler = _filler(facts, self.end_ids)
        self.last_token = _last_token(facts, self.end_ids, self.filler)
        config = self._library.Config(str(directory))
        config.overlay(json.dumps({"model": self._overlay(threads or default_threads())}))
        self._model = self._on_gpu(config, device) if provider == "cuda" else self._library.Model(config)

    def _on_gpu(self, config: Any, device: int) -> Any:
        """The model on this GPU, and on nothing else: the library may fall back to the CPU without a word."""
        _load_cuda()
        config.set_provider_option("cuda", "device_id", str(device))
        model = self._library.Model(config)
        if model.device_type != "CUDA":
            raise RuntimeError(f"this engine is to run on CUDA device {device} but runs on {model.device_type}")
        return model

    def _overlay(self, threads: int) -> dict[str, Any]:
        options = {"intra_op_num_threads": threads, "session.intra_op.allow_spinning": "0"}
        return {
            "eos_token_id": self.last_token,
            "pad_token_id": self.filler,
            "decoder": {"session_options": options},
        }

    def start(self, prompts: Sequence[Sequence[int]], length: int) -> "GenaiSession":
        """Begin with these prompts; no row will grow beyond `length` tokens."""
        options = self._library.GeneratorParams(self._model)
        options.set_search_options(max_length=length, batch_size=len(prompts), do_sample=False)
        width = max(map(len, prompts))
        rows = [[*prompt, *[self.filler] * (width - len(prompt))] for prompt in prompts]
        generator = self._library.Generator(self._model, options)
        generator.append_tokens(np.asarray(rows if len(rows) > 1 else rows[0], dtype=np.int32))
        return GenaiSession(generator, len(prompts))


class GenaiSession:
    """A generator of the library, told which tokens to take."""

    def __init__(self, generator: Any, rows: int) -> None:
        self._generator = generator
        self._rows = rows
        self._width = int(generator.get_logits().shape[-1])

    def logits(self) -> Logits:
        """What the model thinks of each possible next token: shape (rows, vocabulary)."""
        found = np.asarray(self._generator.get_logits(), dtype=np.float32)
        return found.reshape(self._rows, -1, found.shape[-1])[:, -1]

    def append(self, tokens: Sequence[int]) -> None:
        """Put one token behind each row: the only one left that the library's own search can take."""
        forced = np.full((self._rows, 1, self._width), NEVER, dtype=np.float32)
        forced[np.arange(self._rows), 0, list(tokens)] = 0
        self._generator.set_logits(forced)
        self._generator.generate_next_token()


def _load_cuda() -> None:
    """Load the CUDA libraries that were installed as wheels, where the system's loader does not look.

    ONNX Runtime leaves out one: NVRTC asks for its builtins by name as soon as cuDNN compiles a kernel.
    """
    runtime: Any = import_module("onnxruntime")
    runtime.preload_dlls()
    for library in Path(runtime.__file__).parents[1].glob("nvidia/*/lib/libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(library))


def _filler(facts: dict[str, Any], end_ids: Sequence[int]) -> int:
    padding = facts.get("pad_token_id")
    if isinstance(padding, int) and padding not in (*end_ids, facts.get("bos_token_id")):
        return padding
    return int(facts["vocab_size"]) - 1


def _last_token(facts: dict[str, Any], end_ids: Sequence[int], filler: int) -> int:
    beginning = facts.get("bos_token_id")
    return beginning if isinstance(beginning, int) and beginning not in end_ids else filler


def default_threads() -> int:
    """Half of the processors this process may use: they are often two to a core, and Triton needs some itself."""
    return max(1, len(os.sched_getaffinity(0)) // 2)
