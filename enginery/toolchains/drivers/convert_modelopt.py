"""Converts a Hugging Face model with NVIDIA ModelOpt: quantizes it and writes a checkpoint.

Runs in ModelOpt's own environment and needs nothing of Enginery's, nor the network. With `--format tensorrt_llm` the
checkpoint is what `trtllm-build` reads (`config.json`, `rank<N>.safetensors`), with `hf` what TensorRT-LLM's LLM API
reads (a Hugging Face model directory with `hf_quant_config.json`). The last line on standard output is one JSON object
with the facts of the conversion. What cannot be converted ends it with one line on standard error and status 2; any
other problem with a traceback.

ModelOpt's export for TensorRT-LLM is corrected where its result could not be read or would answer wrongly; each such
place says why.
"""

import argparse
import json
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import modelopt.torch.export as mte  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
import modelopt.torch.quantization as mtq  # type: ignore[import-not-found,unused-ignore]
import torch  # type: ignore[import-not-found,unused-ignore]
import transformers  # type: ignore[import-not-found,unused-ignore]
from modelopt.torch.quantization.utils import core_utils  # type: ignore[import-not-found,unused-ignore]

WEIGHT_ONLY_ALGORITHMS = {"int8_wo": "W8A16", "int4_wo": "W4A16"}
QUANT_CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int8_wo": "INT8_WEIGHT_ONLY_CFG",
    "int4_wo": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
}
INT8_KV_CACHE = [{"quantizer_name": "*[kv]_bmm_quantizer", "cfg": {"num_bits": 8, "axis": None}}]
KV_CACHE_CONFIGS = ("auto", "fp8", "int8", "nvfp4")
BLOCK_SIZES = {"int4_awq": 128, "w4a8_awq": 128, "nvfp4": 16}
"""Numbers of a weight's row that share one scale: each GPU's part of a row must be whole blocks."""

AWQ_VOCABULARY = 64
TENSORRT_LLM_DECODERS = ("gpt", "gemma", "llama", "qwen", "mpt", "dbrx")
"""ModelOpt's names of the families it writes a `config.json` of TensorRT-LLM's for."""

WITH_QUERY_KEY_NORMS = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
TEXT_FILES = (".jsonl", ".json", ".txt")
TEXT_FIELDS = ("text", "prompt", "article", "content")
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
COPIED_FILES = (*TOKENIZER_FILES, "chat_template*", "generation_config.json", "LICENSE*", "USE_POLICY*", "NOTICE*")

BUILT_IN_PROMPTS = (
    "How do I count to nine in French? Begin with un, deux, trois and go on until neuf.",
    "The city council met on Tuesday evening to vote on a new budget for public libraries and parks.",
    "def add(a: int, b: int) -> int:\n    return a + b\n\nprint(add(2, 3))",
    "Water boils at 100 degrees Celsius at sea level, and at lower temperatures in the mountains.",
    "Once upon a time there was a small fox who lived at the edge of a large, dark forest.",
    "What is the capital of France? The capital of France is Paris.",
    "To bake bread you need flour, water, yeast and salt. Mix them, let the dough rise, and bake it for forty minutes.",
    "La lune tourne autour de la Terre en un peu plus de vingt-sept jours.",
    "Der schnelle braune Fuchs springt über den faulen Hund, und niemand wundert sich.",
    "El tren sale de la estación a las ocho de la mañana y llega a Sevilla al mediodía.",
    "SELECT name, population FROM cities WHERE population > 1000000 ORDER BY population DESC;",
    "In 1969 two astronauts walked on the Moon for the first time, and millions watched on television.",
    "If x + 3 = 10, then x = 7. If 2x = 18, then x = 9. If x / 4 = 5, then x = 20.",
    "Dear Sir or Madam, I am writing to ask about the order that I placed with you last week.",
    "The heart pumps blood through the body; the lungs bring oxygen into it and carry carbon dioxide out.",
    "Please summarize the following article in three sentences, and keep to what it says.",
)
"""Calibrates when no texts are given: enough to try a conversion, too little to judge a quantized model by."""


def refuse(problem: str) -> NoReturn:
    """End with one line that says what is wrong."""
    print(f"error: {problem}", file=sys.stderr, flush=True)  # noqa: T201  read by whoever started this
    raise SystemExit(2)


@dataclass
class Stopwatch:
    """How long each part took, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        """Do a part of the work."""
        print(f"{part} ...", flush=True)  # noqa: T201  progress, for the step's log
        started = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] = round(time.perf_counter() - started, 2)
        return result


@dataclass(frozen=True)
class Calibration:
    """The texts whose activations decide the scales.

    Attributes:
        source: where they are from, for people.
        texts: the texts themselves.
    """

    source: str
    texts: tuple[str, ...]


def read_config(arguments: argparse.Namespace) -> Any:
    """The model's configuration, with its rotary settings where transformers 4 looks for them.

    transformers 5 writes them as `rope_parameters`, which transformers 4 leaves unread: it would take its own default.
    """
    if not (arguments.model_dir / "config.json").is_file():
        refuse(f"{arguments.model_dir} is no Hugging Face model: it has no config.json")
    config = transformers.AutoConfig.from_pretrained(arguments.model_dir, local_files_only=True)
    rope = getattr(config, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in rope.values()):
        refuse("layers of this model have different rotary embeddings (rope_parameters), which cannot be carried over")
    if "rope_theta" in rope:
        config.rope_theta = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default" and not getattr(config, "rope_scaling", None):
        config.rope_scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return config


def check_request(arguments: argparse.Namespace, config: Any) -> None:
    """Refuse what ModelOpt cannot do, or would do wrongly, before anything is loaded."""
    if getattr(config, "quantization_config", None):
        refuse("this model is quantized already; convert the model it was made from")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        refuse("there is no GPU here that PyTorch can use; take --device cpu")
    if arguments.format == "hf":
        check_for_hf(arguments)
    else:
        check_for_tensorrt_llm(arguments, config)


def check_for_hf(arguments: argparse.Namespace) -> None:
    """Refuse what a Hugging Face checkpoint cannot say."""
    if arguments.tp_size * arguments.pp_size > 1:
        refuse("a Hugging Face checkpoint is not split: the LLM API does that (--tp_size 1 --pp_size 1)")
    if arguments.kv_cache_dtype == "int8":
        refuse("ModelOpt writes no int8 KV cache into a Hugging Face checkpoint; take fp8")


def check_for_tensorrt_llm(arguments: argparse.Namespace, config: Any) -> None:
    """Refuse what TensorRT-LLM could not build an engine of, or only a wrong one."""
    architecture = (getattr(config, "architectures", None) or ["?"])[0]
    if arguments.dtype == "float32":
        refuse("ModelOpt's export for TensorRT-LLM turns float32 into float16; ask for float16 or bfloat16")
    if architecture in WITH_QUERY_KEY_NORMS:
        refuse(f"ModelOpt leaves the norms of queries and keys out of {architecture}; use --format hf")
    if architecture.startswith("Gemma") and arguments.pp_size > 1:
        refuse(f"ModelOpt leaves the last layer of {architecture} out when --pp_size is above 1")
    if arguments.qformat in ("int4_awq", "w4a8_awq") and config.vocab_size % AWQ_VOCABULARY:
        refuse(
            f"ModelOpt would fill the vocabulary of {config.vocab_size} up to a multiple of {AWQ_VOCABULARY} for"
            f" {arguments.qformat}, with tokens that mean nothing; use --format hf"
        )
    check_division(arguments, config)


def check_division(arguments: argparse.Namespace, config: Any) -> None:
    """Refuse a number of GPUs that the model's layers, heads or rows cannot be divided by."""
    tensor, pipeline = arguments.tp_size, arguments.pp_size
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if config.num_hidden_layers % pipeline:
        refuse(f"{config.num_hidden_layers} layers cannot be divided by --pp_size {pipeline}")
    if heads % tensor:
        refuse(f"{heads} attention heads cannot be divided by --tp_size {tensor}")
    if kv_heads % tensor and tensor % kv_heads:
        refuse(f"{kv_heads} heads of keys and values cannot be divided by --tp_size {tensor}, nor repeated for it")
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    rows = {"hidden": config.hidden_size, "attention": heads * head_size}
    rows["feed-forward"] = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    block = BLOCK_SIZES.get(arguments.qformat, 1)
    for name, size in rows.items():
        if size % (block * tensor):
            refuse(
                f"the {name} size {size} divided by --tp_size {tensor} is not a multiple of {block}, the block size of"
                f" {arguments.qformat}"
            )


def read_calibration(arguments: argparse.Namespace) -> Calibration:
    """The texts to calibrate with: the file's, or the built-in ones; a sample of them where there are too many."""
    if not arguments.calib_dataset:
        return Calibration("built-in prompts", BUILT_IN_PROMPTS[: arguments.calib_size])
    path = Path(arguments.calib_dataset)
    if not path.is_file() or path.suffix not in TEXT_FILES:
        problem = f"it is no {', '.join(TEXT_FILES)} file" if path.exists() else "there is no such file"
        refuse(
            f"calibration texts {path.name!r}: {problem}, and a data set cannot be fetched by its name; give a .jsonl"
            f" file (a field {', '.join(TEXT_FIELDS)}), a .json file (an array of those) or a .txt file (lines)"
        )
    texts = [text for text in read_texts(path) if text.strip()]
    if not texts:
        refuse(f"calibration texts {path.name}: the file has none")
    if len(texts) > arguments.calib_size:
        texts = random.Random(arguments.seed).sample(texts, arguments.calib_size)  # noqa: S311  a sample, no secret
    return Calibration(path.name, tuple(texts))


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a `.jsonl` file, of a JSON array of texts, or the lines of a text file."""
    if path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").splitlines()
        return
    for number, entry in enumerate(read_entries(path), start=1):
        named = [entry[name] for name in TEXT_FIELDS if name in entry] if isinstance(entry, dict) else [entry]
        if not named or not isinstance(named[0], str):
            refuse(f"calibration texts {path.name}: entry {number} has no field {', '.join(TEXT_FIELDS)} with a text")
        yield named[0]


def read_entries(path: Path) -> list[Any]:
    """The entries of a JSON array, or of a file with one JSON value in a line."""
    content = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            return list(json.loads(content))
        return [json.loads(line) for line in content.splitlines() if line.strip()]
    except ValueError as error:
        refuse(f"calibration texts {path.name}: not JSON ({error})")


def load_model(arguments: argparse.Namespace, config: Any) -> Any:
    """The model, on the device; spread over all GPUs where one is too small."""
    placed = {"device_map": "auto"} if arguments.device == "cuda" else {}
    dtype = getattr(torch, arguments.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model_dir, config=config, dtype=dtype, local_files_only=True, **placed
    )
    # The source's own file is copied: transformers refuses to write one it finds inconsistent.
    model.generation_config = transformers.GenerationConfig()
    return model.eval()


def quantize(arguments: argparse.Namespace, model: Any, batches: list[dict[str, Any]]) -> Any:
    """Quantize the model as asked; what needs no quantizing by ModelOpt stays as it is."""
    kv_cache = kv_cache_config(arguments.kv_cache_dtype)
    name = QUANT_CONFIGS.get(arguments.qformat)
    if arguments.format == "tensorrt_llm" and arguments.qformat in WEIGHT_ONLY_ALGORITHMS:
        name = None  # TensorRT-LLM quantizes these itself when it loads them: it cannot read what ModelOpt writes
    config = getattr(mtq, name) if name else None
    if kv_cache:
        base = config or {"quant_cfg": None, "algorithm": "max"}
        config = core_utils.update_quant_cfg_with_kv_cache_quant(base, kv_cache)
    if config is None:
        return model

    def calibrate(being_quantized: Any) -> None:
        for number, batch in enumerate(batches, start=1):
            being_quantized(**batch)
            print(f"calibration batch {number} of {len(batches)}", flush=True)  # noqa: T201  progress

    return mtq.quantize(model, config, calibrate)


def kv_cache_config(kind: str) -> list[dict[str, Any]] | None:
    """ModelOpt's settings for a KV cache of that kind; None to leave it alone."""
    known = {"fp8": "FP8_KV_CFG", "nvfp4": "NVFP4_KV_CFG"}
    if kind == "int8":
        return INT8_KV_CACHE
    return list(getattr(mtq, known[kind])["quant_cfg"]) if kind in known else None


def needs_calibration(arguments: argparse.Namespace) -> bool:
    """Whether activations decide anything: not when only weights are quantized."""
    weights_only = arguments.qformat in ("full_prec", *WEIGHT_ONLY_ALGORITHMS)
    return arguments.kv_cache_dtype != "auto" or not weights_only


def encode(arguments: argparse.Namespace, calibration: Calibration, config: Any, device: Any) -> list[dict[str, Any]]:
    """The texts as batches of tokens on the device."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        arguments.model_dir, local_files_only=True, padding_side="left"
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    limit = min(arguments.calib_max_length, getattr(config, "max_position_embeddings", None) or sys.maxsize)
    texts, size = calibration.texts, arguments.calib_batch_size
    groups = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
    encoded = [
        tokenizer(group, return_tensors="pt", padding=True, truncation=True, max_length=limit) for group in groups
    ]
    return [{name: batch[name].to(device) for name in ("input_ids", "attention_mask")} for batch in encoded]


def export(arguments: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Write the checkpoint; returns its `quantization` section."""
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, arguments.dtype)
    with torch.inference_mode():
        if arguments.format == "hf":
            mte.export_hf_checkpoint(model, dtype=dtype, export_dir=arguments.output_dir)
            return finish_hf(arguments)
        split = {"inference_tensor_parallel": arguments.tp_size, "inference_pipeline_parallel": arguments.pp_size}
        mte.export_tensorrt_llm_checkpoint(model, mte.get_model_type(model), dtype, arguments.output_dir, **split)
    return finish_tensorrt_llm(arguments, model.config)


def finish_hf(arguments: argparse.Namespace) -> dict[str, Any]:
    """Put what makes the directory a whole model beside the weights, as the source has it."""
    for pattern in COPIED_FILES:
        for path in sorted(arguments.model_dir.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, arguments.output_dir / path.name)
    if not (arguments.model_dir / "generation_config.json").is_file():
        (arguments.output_dir / "generation_config.json").unlink(missing_ok=True)
    described = arguments.output_dir / "hf_quant_config.json"
    return dict(json.loads(described.read_text(encoding="utf-8"))["quantization"]) if described.is_file() else {}


def finish_tensorrt_llm(arguments: argparse.Namespace, source: Any) -> dict[str, Any]:
    """Say in the checkpoint's configuration what ModelOpt leaves out."""
    path = arguments.output_dir / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if arguments.qformat in WEIGHT_ONLY_ALGORITHMS:
        config["quantization"]["quant_algo"] = WEIGHT_ONLY_ALGORITHMS[arguments.qformat]
    if config["quantization"]["quant_algo"] != "MIXED_PRECISION":
        (arguments.output_dir / "quant_cfg.json").unlink(missing_ok=True)  # empty, and for mixed precision only
    if config["decoder"] == "qwen":
        config["qwen_type"] = source.model_type  # without it TensorRT-LLM takes every Qwen for the first one
    if config["decoder"] == "llama":  # without these TensorRT-LLM makes no place for the biases that are there
        config["attn_bias"] = bool(getattr(source, "attention_bias", False))
        config["mlp_bias"] = bool(getattr(source, "mlp_bias", False))
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return dict(config["quantization"])


def peak_memory() -> dict[str, int]:
    """The most memory used at a time, in bytes: of the host, and of each GPU together."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gpus = [torch.cuda.max_memory_allocated(gpu) for gpu in range(torch.cuda.device_count())]
    return {"peak_host_bytes": host, "peak_gpu_bytes": sum(gpus)}


def convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do it all; returns the facts."""
    config = read_config(arguments)
    check_request(arguments, config)
    calibration = read_calibration(arguments) if needs_calibration(arguments) else Calibration("none needed", ())
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    watch = Stopwatch()
    model = watch.time("load", lambda: load_model(arguments, config))
    if arguments.format == "tensorrt_llm" and mte.get_model_type(model) not in TENSORRT_LLM_DECODERS:
        refuse(f"ModelOpt writes no TensorRT-LLM checkpoint of {type(model).__name__}; use --format hf")
    batches = encode(arguments, calibration, config, model.device) if calibration.texts else []
    model = watch.time("quantize", lambda: quantize(arguments, model, batches))
    quantization = watch.time("export", lambda: export(arguments, model))
    return {
        "converter": f"nvidia-modelopt {version('nvidia-modelopt')}, transformers {transformers.__version__}",
        "format": arguments.format,
        "quant_algo": quantization.get("quant_algo"),
        "kv_cache_quant_algo": quantization.get("kv_cache_quant_algo"),
        "calibration": calibration.source,
        "calibration_texts": len(calibration.texts),
        "calibration_tokens": sum(int(batch["attention_mask"].sum()) for batch in batches),
        "seed": arguments.seed,
        "device": torch.cuda.get_device_name(0) if arguments.device == "cuda" else "cpu",
        "seconds": watch.seconds,
        **peak_memory(),
    }


def main() -> None:
    """Read the arguments, convert, print the facts."""
    parser = argparse.ArgumentParser(description="Quantize a Hugging Face model and write a checkpoint of it.")
    parser.add_argument("--model_dir", type=Path, required=True, help="the Hugging Face model's directory")
    parser.add_argument("--output_dir", type=Path, required=True, help="the directory to write the checkpoint to")
    parser.add_argument("--format", choices=("tensorrt_llm", "hf"), default="tensorrt_llm")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--qformat", choices=("full_prec", *QUANT_CONFIGS), default="full_prec")
    parser.add_argument("--kv_cache_dtype", choices=KV_CACHE_CONFIGS, default="auto", help="auto: not quantized")
    parser.add_argument("--tp_size", type=int, default=1, help="GPUs that share each layer")
    parser.add_argument("--pp_size", type=int, default=1, help="groups of GPUs that share the layers")
    parser.add_argument("--calib_dataset", default="", help="file with texts; built-in prompts when left out")
    parser.add_argument("--calib_size", type=int, default=512, help="texts to take at most")
    parser.add_argument("--calib_max_length", type=int, default=512, help="tokens of a text to take at most")
    parser.add_argument("--calib_batch_size", type=int, default=1, help="texts at a time")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    facts = convert(parser.parse_args())
    print(json.dumps(facts), flush=True)  # noqa: T201  the result, for whoever started this


if __name__ == "__main__":
    main()
