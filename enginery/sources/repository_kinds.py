"""Recognizes what a repository without usable weights is, such as a LoRA adapter, and says what to give instead.

A repository that also has whole weights is not asked about: an adapter or a GGUF file beside them does no harm.
"""

import fnmatch
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from enginery.core.text import first_of
from enginery.models import CONFIG, INDEX, SINGLE, WeightsFault

Documents = Mapping[str, Mapping[str, Any]]

ADAPTER = "adapter_config.json"
WHOLE = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
SHOWN = 4
"""How many files a message names."""

PLAIN = "use the model that it was made from, with safetensors weights and a config.json"
"""The remedy for a model that was converted for another runtime."""
NO_TEXT = "use a model that generates text"


@dataclass(frozen=True)
class Kind:
    """A kind of repository that is no whole model in Hugging Face's format.

    Attributes:
        what: words for it, such as `a model in GGUF format`.
        signs: patterns of names. Any file that matches shows the kind. `*` also matches `/`.
        remedy: what to use instead.
        rival: patterns of names that must be there, too; empty if the signs are enough.
    """

    what: str
    signs: tuple[str, ...]
    remedy: str
    rival: tuple[str, ...] = ()

    def files(self, names: Collection[str]) -> list[str]:
        """The files that show this kind; empty if the repository is of another kind."""
        if self.rival and not _matching(names, self.rival):
            return []
        return _matching(names, self.signs)


EMBEDDING = Kind(
    "a sentence-transformers model, which makes embeddings and no text",
    ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    NO_TEXT,
)
KINDS = (
    Kind("the LoRA weights of a diffusers pipeline, which makes images", ("pytorch_lora_weights.*",), NO_TEXT),
    Kind(
        "a diffusers pipeline, which makes images, video or sound",
        ("model_index.json", "unet/*", "vae/*", "diffusion_pytorch_model*"),
        NO_TEXT,
    ),
    Kind(
        "a repository as the Hub's own cache keeps it",
        ("refs/*",),
        "use the directory of the revision, below snapshots/",
        rival=("blobs/*",),
    ),
    Kind(
        "an engine or a checkpoint that TensorRT-LLM has made already",
        ("*.engine", "*.plan", "rank[0-9]*.safetensors"),
        "use the model in Hugging Face's format from which it was made: Enginery converts it and builds the engine",
    ),
    Kind(
        "a NeMo checkpoint",
        ("*.nemo", "model_config.yaml", "context/model.yaml"),
        "use the model in Hugging Face's format, or convert it with NeMo's own script first",
    ),
    Kind(
        "a distributed training checkpoint",
        ("*.distcp", "*zero_pp_rank_*", "*mp_rank_*", "global_step*/*"),
        "save the whole model with save_pretrained, and use that directory",
    ),
    Kind("a model in GGUF format, for llama.cpp", ("*.gguf", "*.ggml", "ggml-*.bin", "*.llamafile"), PLAIN),
    Kind("a model for MLC", ("mlc-chat-config.json", "params_shard_*.bin", "ndarray-cache.json"), PLAIN),
    Kind("an OpenVINO model", ("openvino_*.xml", "openvino_*.bin", "openvino/*"), PLAIN),
    Kind("a model in ONNX format", ("*.onnx", "*.onnx_data", "*.onnx.data", "genai_config.json"), PLAIN),
    Kind("a Core ML model", ("*.mlpackage/*", "*.mlmodel", "*.mlmodelc/*"), PLAIN),
    Kind(
        "a CTranslate2 model",
        ("model.bin",),
        PLAIN,
        rival=("vocabulary.json", "vocabulary.txt", "*_vocabulary.json", "*_vocabulary.txt"),
    ),
    Kind("a model for a mobile runtime", ("*.tflite", "*.litertlm", "*.task", "*.pte"), PLAIN),
    Kind(
        "a model in its author's original format",
        ("consolidated*.pth", "consolidated*.safetensors", "params.json", "original/*"),
        "use the repository or revision with the same model in Hugging Face's format, or convert it with transformers'"
        " own script (convert_…_weights_to_hf.py) first",
    ),
    Kind("weights of MLX", ("weights*.npz", "model*.npz"), PLAIN),
    Kind(
        "a model in TensorFlow's or Keras's format",
        ("tf_model*.h5", "saved_model.pb", "saved_model/*", "*.ckpt.index", "*.h5", "*.keras"),
        "use a revision with safetensors, or save it as such: with transformers 4, from_pretrained(…, from_tf=True) and"
        " then save_pretrained(…)",
    ),
    Kind(
        "a model in Flax's or JAX's format",
        ("flax_model*", "*.msgpack", "*_CHECKPOINT_METADATA", "*/_METADATA"),
        "use a revision with safetensors, or save it as such: with transformers 4, from_pretrained(…, from_flax=True)"
        " and then save_pretrained(…)",
    ),
    EMBEDDING,
)

DATA = Kind(
    "a data set",
    ("*.parquet", "*.arrow", "*.jsonl", "*.csv", "*.tsv", "dataset_info.json", "dataset_infos.json", "*.jsonl.gz"),
    "use the repository or directory of the model",
)


def recognize(names: Collection[str], documents: Documents, tokenizer: Callable[[str], bool]) -> WeightsFault | None:
    """What the repository is instead of a whole model, as one problem; None if it is not of a known kind.

    Args:
        names: the names of all files, also those in subdirectories.
        documents: the content of the small files that were read.
        tokenizer: whether a file of this name belongs to a tokenizer.
    """
    if ADAPTER in names or _matching(names, ("adapter_model.*", "*/adapter_model.*")):
        return _adapter(names, documents.get(ADAPTER, {}))
    for kind in KINDS:
        if files := kind.files(names):
            return _instead(kind.what, files, kind.remedy)
    if "_class_name" in documents.get(CONFIG, {}):
        return _instead("a part of a diffusers pipeline, which makes images, video or sound", names, NO_TEXT)
    return _without_config(names, tokenizer) if CONFIG not in names else None


def embeds(modules: bytes) -> WeightsFault | None:
    """The problem of a model of sentence-transformers, also if it has whole weights; None for another `modules.json`.

    Its architecture may be that of a language model, such as `Qwen3ForCausalLM`. But its weights have no output layer.
    """
    if b"sentence_transformers" not in modules:
        return None
    return WeightsFault(f"this is {EMBEDDING.what} (modules.json)", EMBEDDING.remedy)


def _without_config(names: Collection[str], tokenizer: Callable[[str], bool]) -> WeightsFault | None:
    if inside := sorted({name.rpartition("/")[0] for name in names if _whole_inside(name, names)}):
        problem = f"there is no model at the top level; it is in the subdirectory {_shown(inside)}"
        return WeightsFault(problem, "use that directory, or copy its files to a place of their own")
    if files := DATA.files(names):
        return _instead(DATA.what, files, DATA.remedy)
    if files := [name for name in names if tokenizer(name)]:
        return _instead("only a tokenizer", files, "use the repository or directory with the whole model")
    return None


def _whole_inside(name: str, names: Collection[str]) -> bool:
    """Whether the file is the configuration of a whole model in a subdirectory."""
    directory, _, last = name.rpartition("/")
    return bool(directory) and last == CONFIG and any(f"{directory}/{weights}" in names for weights in WHOLE)


def _adapter(names: Collection[str], config: Mapping[str, Any]) -> WeightsFault:
    named = config.get("base_model_name_or_path")
    base = named if isinstance(named, str) and named else "its base model"
    kind = config.get("peft_type")
    of = f" for {named}" if base == named else ""
    what = f"a {kind} adapter" if isinstance(kind, str) and kind not in {"", "LORA"} else "a LoRA adapter"
    files = _matching(names, (ADAPTER, "*adapter_model.*"))
    remedy = f"merge it into {base} first (peft: merge_and_unload) and use the result, or use {base} without it"
    return _instead(f"{what}{of}", files, remedy)


def _instead(what: str, files: Collection[str], remedy: str) -> WeightsFault:
    problem = f"this is {what}: there is no model.safetensors; found only {_shown(files)}"
    return WeightsFault(problem, remedy)


def _shown(files: Collection[str]) -> str:
    return first_of(sorted(files, key=lambda name: (name.count("/"), name)), SHOWN)


def _matching(names: Collection[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
