"""`LLM` on an engine directory, and from 1.0 `LLM` of the PyTorch backend, on a Hugging Face checkpoint."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from enginery.releases.flags import arguments
from tests.support.trtllm import facts
from tests.support.trtllm.files.checkpoint import read_source
from tests.support.trtllm.files.engine import EngineDirectory
from tests.support.trtllm.home import Home
from tests.support.trtllm.misbehaviour import Ways, ways_of
from tests.support.trtllm.modules import answers, llm_arguments
from tests.support.trtllm.modules.forward import Llama, llama
from tests.support.trtllm.modules.sampling import CompletionOutput, RequestOutput, SamplingParams
from tests.support.trtllm.modules.tokens import Tokens
from tests.support.trtllm.modules.torch_like import tensor

MODEL_BY_NAME_FROM = "0.11.0"


class LLM:
    """The common part of both classes."""

    own: ClassVar[Home]
    ways: ClassVar[Ways]
    pytorch: ClassVar[bool] = False

    def __init__(self, *given: Any, **named: Any) -> None:
        signature = facts.signature(self.own.release, "LLM.__init__")
        assert signature is not None
        self.arguments = signature.bind("LLM.__init__", given, named)
        llm_arguments.check(self.own.release, self.arguments, pytorch=self.pytorch)
        self.ways.begin(None)
        self.model = Path(self.arguments["model"])
        self.max_seq_len = self._load()
        self.ways.during()
        self.tokenizer = self._tokenizer()
        self.weights = self._weights()

    def _weights(self) -> Llama | None:
        """The model that predicts; None if its weights are not known."""
        raise NotImplementedError

    def _gives_logits(self) -> bool:
        """Whether it gives the logits of prompts."""
        return True

    def _load(self) -> int:
        """Load the model. Returns the length of the longest sequence."""
        raise NotImplementedError

    def _check_gpus(self, wanted: int) -> None:
        there = len(self.own.visible_gpus())
        if wanted > there:
            raise RuntimeError(f"Only {there} GPUs are available, but {wanted} are required.")

    def _tokenizer(self) -> Tokens | None:
        given = self.arguments.get("tokenizer")
        if self.arguments.get("skip_tokenizer_init"):
            return None
        if given is not None:
            return given if isinstance(given, Tokens) else Tokens.from_pretrained(given)
        return Tokens.from_pretrained(self.model) if (self.model / "tokenizer.json").exists() else None

    def generate(self, *given: Any, **named: Any) -> Any:
        """Answer one prompt or several, given as texts or as tokens."""
        signature = facts.signature(self.own.release, "LLM.generate")
        assert signature is not None
        bound = signature.bind("LLM.generate", given, named)
        prompts = bound[signature.positional[0]]
        single = isinstance(prompts, (str, dict)) or isinstance(prompts[0], int)
        every: Sequence[Any] = [prompts] if single else prompts
        asked = bound.get("sampling_params")
        each = asked if isinstance(asked, list) else [asked or SamplingParams()] * len(every)
        made = [self._answer(number, *one) for number, one in enumerate(zip(every, each, strict=True), start=1)]
        return made[0] if single else made

    def generate_async(
        self, inputs: Any, sampling_params: SamplingParams | None = None, *, streaming: bool = False
    ) -> RequestOutput:
        """Answer one prompt. With `streaming`, going through the result gives the tokens one by one."""
        assert streaming, "a driver that wants no single tokens calls generate"
        return self._answer(1, inputs, sampling_params or SamplingParams())

    def _answer(self, number: int, prompt: Any, sampling: SamplingParams) -> RequestOutput:
        if isinstance(prompt, dict):
            prompt = prompt.get("prompt", prompt.get("prompt_token_ids"))
        if self.tokenizer is None and isinstance(prompt, str):
            raise ValueError("tokenizer is required to tokenize string prompt")
        ids = self.tokenizer.encode(prompt) if self.tokenizer and isinstance(prompt, str) else list(prompt)
        if len(ids) + sampling.limit > self.max_seq_len:
            raise ValueError(
                f"The sum of prompt length ({len(ids)}) and max_tokens ({sampling.limit}) should not exceed "
                f"max_seq_len ({self.max_seq_len})"
            )
        answer = answers.answer(self.own, self.tokenizer, ids, sampling.limit, self.weights)
        text = self.tokenizer.decode(answer.ids, skip_special_tokens=True) if self.tokenizer else ""
        output = CompletionOutput(0, text, self._tokens(answer), "stop" if answer.ended else "length")
        wanted = vars(sampling).get("return_context_logits") and self._gives_logits() and self.weights
        logits = tensor(self.weights.logits(ids)) if wanted and self.weights else None
        return RequestOutput(number, prompt if isinstance(prompt, str) else None, ids, [output], context_logits=logits)

    def _tokens(self, answer: answers.Answer) -> list[int]:
        return answer.ids

    def shutdown(self) -> None:
        """Do nothing: the stand-in has no processes to end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.shutdown()


class EngineLLM(LLM):
    """`LLM` on an engine directory. It starts the needed ranks itself."""

    def _load(self) -> int:
        config = json.loads((self.model / "config.json").read_text(encoding="utf-8"))
        if "build_config" not in config:
            raise NotImplementedError("the stand-in's LLM builds no engines: give it an engine directory")
        engine = EngineDirectory(self.model)
        for name, short in (("tensor_parallel_size", "tp_size"), ("pipeline_parallel_size", "pp_size")):
            asked, built = self.arguments.get(name, 1), engine.mapping[short]
            if asked not in {1, built}:
                raise ValueError(f"{short} {asked} is not consistent with the engine's {short} {built}")
        world = engine.mapping["world_size"] * (2 if "world_size_mismatch" in self.ways.active else 1)
        self._check_gpus(world)
        for rank in range(world):
            engine.load(self.own, rank)
        self.engine = engine
        return engine.max_seq_len

    def _weights(self) -> Llama | None:
        return answers.model_of(self.own, self.engine.load(self.own, 0).checkpoint)

    def _gives_logits(self) -> bool:
        return bool(self.engine.limits.get("gather_context_logits"))


class TorchLLM(LLM):
    """`LLM` of the PyTorch backend, on a Hugging Face checkpoint."""

    pytorch = True

    def _load(self) -> int:
        source = read_source(self.model)
        if "model_type" not in source:
            raise ValueError(f"Unrecognized model in {self.model}. Should have a `model_type` key in its config.json.")
        if not list(self.model.glob("*.safetensors")):
            raise ValueError(f"No weights found in {self.model}")
        sizes = (self.arguments.get(f"{one}_parallel_size") or 1 for one in ("tensor", "pipeline", "context"))
        world = 1
        for size in sizes:
            world *= size
        self._check_gpus(world)
        return int(self.arguments.get("max_seq_len") or source["max_position_embeddings"])

    def _weights(self) -> Llama | None:
        return llama(self.model)

    def _tokens(self, answer: answers.Answer) -> list[int]:
        """The tokens of an answer. This backend includes the end token."""
        end = self.tokenizer.eos_token_id if self.tokenizer else None
        return [*answer.ids, end] if answer.ended and end is not None else answer.ids


class OldLLM:
    """The `LLM` before 0.11, which needs a `ModelConfig`. The validation does not use it, so it is not implemented."""

    def __init__(self, *_given: Any, **_named: Any) -> None:
        raise NotImplementedError("the stand-in has no LLM of releases before 0.11: use ModelRunner")


def engine_names(own: Home) -> dict[str, Any]:
    return _names(own, choose)


def choose(*given: Any, **named: Any) -> LLM:
    """The LLM on engines, unless the argument `backend` asks for PyTorch, as it did before 1.0."""
    kind = TorchLLM if named.get("backend") == "pytorch" else EngineLLM
    return kind(*given, **named)


def pytorch_names(own: Home) -> dict[str, Any]:
    return _names(own, TorchLLM)


def _names(own: Home, kind: Callable[..., LLM]) -> dict[str, Any]:
    if not facts.at_least(own.release, MODEL_BY_NAME_FROM):
        return {"LLM": OldLLM}
    LLM.own = SamplingParams.own = own
    LLM.ways = ways_of(own, "tensorrt_llm")
    return {"LLM": kind, "SamplingParams": SamplingParams, "KvCacheConfig": _kv_cache_config(own)}


def _kv_cache_config(own: Home) -> Any:
    known = arguments(own.release, "KvCacheConfig").value if facts.at_least(own.release, "0.16.0") else {}

    def made(**named: Any) -> dict[str, Any]:
        for name in named:
            if known and name not in known:
                raise TypeError(f"KvCacheConfig.__init__() got an unexpected keyword argument '{name}'")
        return named

    return made
