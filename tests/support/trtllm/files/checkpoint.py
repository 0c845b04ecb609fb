"""A checkpoint's `config.json` and its rank files, as a release's scripts write them."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.trtllm import facts, home
from tests.support.trtllm.commands.command import Run
from tests.support.trtllm.modules.forward import LARGEST

DTYPE_NAMES = {"torch.float32": "float32", "torch.float16": "float16", "torch.bfloat16": "bfloat16"}


def read_source(directory: Path) -> dict[str, Any]:
    """A Hugging Face model's `config.json`."""
    path = directory / "config.json"
    if not path.exists():
        raise OSError(f"{directory} does not appear to have a file named config.json.")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def dtype_of(wanted: str, source: Mapping[str, Any]) -> str:
    """The number format that a flag means. `auto` is the model's own, or float16 if that is float32."""
    if wanted != "auto":
        return wanted
    own = str(source.get("torch_dtype") or source.get("dtype") or "float16")
    own = DTYPE_NAMES.get(own, own)
    return "float16" if own == "float32" else own


def config(run: Run, source: Mapping[str, Any], dtype: str, quantization: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's `config.json` without the mapping's ranks."""
    heads = source["num_attention_heads"]
    tp, pp = int(str(run.given("tp_size", 1))), int(str(run.given("pp_size", 1)))
    assert heads % tp == 0, f"num_attention_heads ({heads}) is not a multiple of tp_size ({tp})"
    layers = source["num_hidden_layers"]
    assert layers % pp == 0, f"num_layers {layers} must be a multiple of pipeline parallelism size {pp}"
    made = {
        "architecture": source["architectures"][0],
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": source["vocab_size"],
        "max_position_embeddings": source["max_position_embeddings"],
        "hidden_size": source["hidden_size"],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": source.get("num_key_value_heads", heads),
        "head_size": source.get("head_dim") or source["hidden_size"] // heads,
        "hidden_act": "swiglu" if source.get("num_local_experts") else source["hidden_act"],
        "intermediate_size": source["intermediate_size"],
        "norm_epsilon": source["rms_norm_eps"],
        "position_embedding_type": "rope_gpt_neox",
        "use_parallel_embedding": bool(run.given("use_parallel_embedding")),
        "embedding_sharding_dim": run.given("embedding_sharding_dim", 0),
        "share_embedding_table": bool(run.given("use_embedding_sharing")),
        "mapping": _mapping(run.release, tp, pp),
        "quantization": {**facts.layout(run.release)["quantization"], **quantization},
    }
    return made | _rope(run, source) | _experts(run.release, source)


def _mapping(release: str, tp: int, pp: int) -> dict[str, Any]:
    known = {"world_size": tp * pp, "tp_size": tp, "pp_size": pp, "gpus_per_node": 8, "moe_tp_size": tp}
    odd = {"cp_config": {}, "enable_attention_dp": False, "enable_lm_head_tp_in_adp": False, "attn_tp_size": tp}
    # The real scripts leave the rank out: the file is the same for all ranks.
    names = [name for name in facts.layout(release)["mapping"] if name != "rank"]
    return {name: (known | odd).get(name, 1) for name in names}


def _rope(run: Run, source: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary base and scaling: the model's, but in 0.8.0 those of the flags, except for Mixtral."""
    if facts.at_least(run.release, "0.9.0") or run.command == "quantize.py":
        return {"rotary_base": source.get("rope_theta", 10000.0), "rotary_scaling": source.get("rope_scaling")}
    scaling = run.given("rotary_scaling")
    given = {"type": scaling[0], "factor": float(scaling[1])} if isinstance(scaling, list) else None
    base = run.given("rotary_base", 10000.0)
    if source.get("model_type") == "mixtral":
        base = source.get("rope_theta", base)
    return {"rotary_base": base, "rotary_scaling": given}


def _experts(release: str, source: Mapping[str, Any]) -> dict[str, Any]:
    count, top = source.get("num_local_experts", 0), source.get("num_experts_per_tok", 0)
    if facts.at_least(release, "0.11.0"):
        return {"moe": {"num_experts": count, "top_k": top, "normalization_mode": 1}}
    return {"moe_num_experts": count, "moe_top_k": top, "moe_normalization_mode": 1}


def write(run: Run, source: Path, config_json: Mapping[str, Any], stored: str | None) -> None:
    """Write `config.json`, then each rank's weights, quantized by the algorithm `stored`."""
    from safetensors.numpy import save_file

    from tests.support.trtllm.files import quantization, weights

    output = Path(run.arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config_json, indent=4), encoding="utf-8")
    run.ways.during()
    model = weights.read_model(source, config_json["dtype"])
    mapping, chosen = config_json["mapping"], config_json["quantization"]
    for rank, place in enumerate(weights.places(mapping["tp_size"], mapping["pp_size"])):
        own = weights.rank_weights(model, config_json, place)
        own = quantization.quantized(own, stored, chosen["kv_cache_quant_algo"], chosen.get("group_size") or 128)
        path = output / f"rank{rank}.safetensors"
        save_file(own, path)
        remember_tokenizer(run.home, path, source)
    run.ways.spoil(output)
    home.log("Total time of converting checkpoints: 00:00:01")


def find_calibration_data(run: Run, usual: str) -> None:
    """Check that the calibration data are there: a path, or the name of a data set on the Hub."""
    name = str(run.given("calib_dataset", usual))
    if name.startswith(("/", ".")):
        if not Path(name).exists():
            raise FileNotFoundError(f"Couldn't find a dataset script or any data file at {name}.")
    elif os.environ.get("HF_HUB_OFFLINE") == "1":
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub (OfflineModeIsEnabled)")


def remember_tokenizer(own: home.Home, rank_file: Path, source: Path) -> None:
    """Keep the model's tokenizer under the digest of the weights: engines need it to answer, and do not contain it."""
    if (source / "tokenizer.json").exists():
        kept = own.directory / home.TOKENIZERS / f"{digest(rank_file)}.json"
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(source / "tokenizer.json", kept)
        _remember_weights(kept.with_suffix(""), source)


def _remember_weights(directory: Path, source: Path) -> None:
    """Keep the weights of a small model, to predict with them."""
    files = [source / "config.json", *source.glob("*.safetensors")]
    if sum(file.stat().st_size for file in files) <= LARGEST:
        directory.mkdir(exist_ok=True)
        for file in files:
            shutil.copyfile(file, directory / file.name)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
