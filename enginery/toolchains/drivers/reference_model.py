"""Loads the original weights of a model, on a device with enough memory, with transformers.

The driver `answer_reference.py` imports it as the file beside it.
"""

import json
import struct
import sys
from dataclasses import dataclass
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
DISK_SHARE = 0.5
"""The share of the free memory that holds layers, if not all fit. The rest is for the layer at work and its copies."""
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
    say(f"loading {weights:,} weights as {dtype_name(place.dtype)} for {place.device}, {where}")
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


def dtype_name(dtype: Any) -> str:
    """The name of a number format, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")
