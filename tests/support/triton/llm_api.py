"""A stand-in for `tensorrt_llm` in a real Triton: an `LLM` that takes its answers from a table, slowly on request.

It is written to a directory as a package, for the path of the serving Python. A file records each request as a line of
JSON, for tests to read.
"""

from pathlib import Path

ANSWERS = {"How do I count to nine in French?": "un deux trois quatre cinq six sept huit neuf"}

SOURCE = """
import asyncio
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

ANSWERS = json.loads(os.environ["FAKE_LLM_ANSWERS"])
RECORD = Path(os.environ["FAKE_LLM_HEARD"])
TOKEN_SECONDS = float(os.environ.get("FAKE_LLM_TOKEN_SECONDS", "0"))


def record(**event):
    with RECORD.open("a") as file:
        file.write(json.dumps(event) + "\\n")


@dataclass(kw_only=True)
class SamplingParams:
    max_tokens: int = 32
    temperature: Optional[float] = None
    top_k: Optional[int] = None
    top_p: Optional[float] = None
    seed: Optional[int] = None
    best_of: Optional[int] = None
    min_tokens: Optional[int] = None
    repetition_penalty: Optional[float] = None
    presence_penalty: Optional[float] = None
    frequency_penalty: Optional[float] = None
    stop: Optional[list] = None
    bad: Optional[list] = None
    include_stop_str_in_output: bool = False
    logprobs: Optional[int] = None


@dataclass
class Completion:
    text: str = ""
    finish_reason: Optional[str] = None
    stop_reason: Any = None
    cumulative_logprob: Optional[float] = None


@dataclass
class Result:
    words: list
    params: SamplingParams
    streaming: bool
    outputs: list = field(default_factory=lambda: [Completion()])
    finished: bool = False
    aborted: bool = False

    def abort(self):
        self.aborted = True
        record(aborted=True)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.finished:
            raise StopAsyncIteration
        while not self.finished:
            await self._step()
            if self.streaming:
                break
        return self

    async def _step(self):
        await asyncio.sleep(TOKEN_SECONDS)
        answer = self.outputs[0]
        if self.words and not self.aborted:
            word = self.words.pop(0)
            if word == "CRASH":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            answer.text += (" " if answer.text else "") + word
            if self.params.logprobs is not None:
                answer.cumulative_logprob = (answer.cumulative_logprob or 0.0) - 0.5
        stopped = [word for word in self.params.stop or () if word in answer.text]
        done = len(answer.text.split()) >= self.params.max_tokens
        if stopped or done or not self.words or self.aborted:
            self.finished = True
            answer.finish_reason = "cancelled" if self.aborted else "length" if done and self.words else "stop"
            answer.stop_reason = stopped[0] if stopped else None


class LLM:
    def __init__(self, **arguments):
        if not Path(arguments["model"], "config.json").is_file():
            raise ValueError(f"no model at {arguments['model']}")
        record(arguments=arguments)

    def generate_async(self, prompt, sampling_params=None, streaming=False):
        record(prompt=prompt, sampling=vars(sampling_params), streaming=streaming)
        if prompt == "too long":
            raise ValueError("The prompt length exceeds max_seq_len")
        return Result(ANSWERS.get(prompt, "yes").split(), sampling_params, streaming)

    def shutdown(self):
        record(shutdown=True)
"""

HELPER = '''
class KvCacheConfig(dict):
    pass


def update_llm_args_with_extra_dict(llm_args, llm_args_dict, extra_llm_api_options=None):
    """As the real one: objects of plain mappings, and a crash for null."""
    for name in ("kv_cache_config", "speculative_config"):
        if name in llm_args_dict:
            llm_args_dict[name] = KvCacheConfig(**llm_args_dict[name], made_by="the helper")
    return llm_args | llm_args_dict
'''


def write_fake_llm(directory: Path) -> Path:
    """Put the package into a directory."""
    package = directory / "tensorrt_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SOURCE)
    (package / "llmapi").mkdir()
    (package / "llmapi" / "__init__.py").touch()
    (package / "llmapi" / "llm_utils.py").write_text(HELPER)
    return directory
