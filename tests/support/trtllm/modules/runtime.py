"""`tensorrt_llm.runtime`: the release's two model runners."""

from pathlib import Path
from typing import Any, ClassVar

from tests.support.trtllm import facts, home
from tests.support.trtllm.files.engine import EngineDirectory, check_world
from tests.support.trtllm.home import Home
from tests.support.trtllm.misbehaviour import Ways
from tests.support.trtllm.modules import answers
from tests.support.trtllm.modules.torch_like import Tensor, tensor

EXECUTOR_FROM = "0.11.0"


class ModelRunner:
    """The Python session. `from_dir` makes it."""

    own: ClassVar[Home]
    ways: ClassVar[Ways]
    name: ClassVar[str] = "ModelRunner"

    def __init__(self, engine: EngineDirectory, rank: int, limits: dict[str, int]) -> None:
        self.engine = engine
        self.limits = limits
        checkpoint = engine.load(self.own, rank).checkpoint
        self.tokens = answers.tokens_of(self.own, checkpoint)
        self.model = answers.model_of(self.own, checkpoint)

    @classmethod
    def from_dir(cls, *given: Any, **named: Any) -> "ModelRunner":
        """Load an engine directory.

        Raises:
            AssertionError: when it was built for another number of MPI ranks, or a limit is larger than the engine's.
            RuntimeError: the same, from the C++ session.
        """
        bound = _bind(cls, "from_dir", given, named)
        cls.ways.begin(None)
        engine = EngineDirectory(Path(bound["engine_dir"]))
        _check_world(cls, engine)
        rank = bound.get("rank", 0)
        if cls.name == "ModelRunnerCpp":
            assert rank == home.rank()
        cls.ways.during()
        home.log("Load engine takes: 0.1 sec")
        return cls(engine, rank, _limits(engine, bound))

    @property
    def max_sequence_length(self) -> int:
        return self.limits["max_seq_len"]

    @property
    def gather_context_logits(self) -> bool:
        return self.model is not None and bool(self.engine.limits.get("gather_context_logits"))

    gather_generation_logits = gather_context_logits

    def generate(self, *given: Any, **named: Any) -> Any:
        """Answer a batch. Returns prompts with answers as `[batch, beams, length]`, padded with the end token."""
        bound = _bind(type(self), "generate", given, named)
        if self.name == "ModelRunnerCpp" and facts.at_least(self.own.release, EXECUTOR_FROM) and home.rank() != 0:
            return []
        options = vars(bound.get("sampling_config") or object.__new__(SamplingConfig)) | bound
        batch, most = [one.tolist() for one in bound["batch_input_ids"]], int(options.get("max_new_tokens", 1))
        beams = int(options.get("num_beams", 1))
        self._check(batch, most, beams)
        said = [answers.answer(self.own, self.tokens, ids, most, self.model) for ids in batch]
        rows = [ids + one.ids for ids, one in zip(batch, said, strict=True)]
        outputs = self._outputs(rows, beams, options)
        if self.gather_context_logits and options.get("return_dict"):
            assert self.model is not None
            outputs["context_logits"] = [tensor(self.model.logits(ids)) for ids in batch]
        return outputs

    def _outputs(self, rows: list[list[int]], beams: int, options: dict[str, Any]) -> Any:
        end, width = options.get("end_id"), self.limits["max_seq_len"]
        if end is None:
            raise TypeError("an integer is required (got type NoneType)")
        filled = tensor([[row + [end] * (width - len(row))] * beams for row in rows], dtype="int32")
        if not options.get("return_dict"):
            return filled
        lengths: dict[str, Tensor] = {}
        if options.get("output_sequence_lengths"):
            lengths["sequence_lengths"] = tensor([[len(row)] * beams for row in rows], dtype="int32")
        return {"output_ids": filled, **lengths}

    def _check(self, batch: list[list[int]], most: int, beams: int) -> None:
        longest = max(len(ids) for ids in batch)
        added = f"Maximum input length ({longest}) + maximum new tokens ({most})"
        for text, value, name in (
            (f"Input batch size ({len(batch)})", len(batch), "max_batch_size"),
            (f"Maximum input length ({longest})", longest, "max_input_len"),
            (added, longest + most, "max_seq_len"),
            (f"Num beams ({beams})", beams, "max_beam_width"),
        ):
            if value > self.limits[name]:
                raise RuntimeError(f"{text} exceeds the engine or specified limit ({self.limits[name]})")


class ModelRunnerCpp(ModelRunner):
    """The C++ session. It finds its MPI rank itself. In later releases only rank 0 returns answers."""

    name = "ModelRunnerCpp"


class SamplingConfig:
    """`tensorrt_llm.runtime.SamplingConfig` with the release's fields."""

    own: ClassVar[Home]

    def __init__(self, end_id: int | None, pad_id: int | None, **named: Any) -> None:
        names = facts.fields(self.own.release, "SamplingConfig")
        for name in named:
            if name not in names:
                raise TypeError(f"SamplingConfig.__init__() got an unexpected keyword argument '{name}'")
        vars(self).update({"end_id": end_id, "pad_id": pad_id, "max_new_tokens": 20, "num_beams": 1, **named})


def _bind(cls: type[ModelRunner], method: str, given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    name = f"{cls.name}.{method}"
    signature = facts.signature(cls.own.release, name)
    if signature is None:
        raise AttributeError(f"type object '{cls.name}' has no attribute '{method}'")
    return signature.bind(name, given, named)


def _check_world(cls: type[ModelRunner], engine: EngineDirectory) -> None:
    other = "world_size_mismatch" in cls.ways.active
    size = home.world_size() + (1 if other else 0)
    check_world(cls.own.release, engine.mapping, size, in_cpp=cls.name == "ModelRunnerCpp")


def _limits(engine: EngineDirectory, bound: dict[str, Any]) -> dict[str, int]:
    found = {name: int(engine.limits[name]) for name in ("max_batch_size", "max_input_len", "max_beam_width")}
    found["max_seq_len"] = engine.max_seq_len
    for name, limit in list(found.items()):
        asked = bound.get(name)
        if asked is not None:
            assert asked <= limit or name == "max_input_len"
            found[name] = asked
    if bound.get("max_output_len") is not None and bound.get("max_input_len") is not None:
        longest = bound["max_input_len"] + bound["max_output_len"]
        assert longest <= found["max_seq_len"]
        found["max_seq_len"] = longest
    return found
