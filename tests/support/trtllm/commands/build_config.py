"""The `build_config` of an engine: the release's fields, with the values of the flags and the checkpoint."""

import argparse
from collections.abc import Mapping
from typing import Any

from tests.support.trtllm import facts, home

LLAMA3_LIKE = {"su", "longrope", "llama3"}
SWITCHED = {"enable": True, "disable": False}
SPECULATION = ("none", "draft_tokens_external", "medusa", "lookahead_decoding", "explicit_draft_tokens", "eagle")
OTHER_NAMES = {"use_strip_plan": "strip_plan"}


def build_config(release: str, arguments: argparse.Namespace, pretrained: Mapping[str, Any]) -> dict[str, Any]:
    """All fields, and in them the fields of the plugins."""
    given = vars(arguments)
    layout = facts.layout(release)
    made = {
        name: given.get(OTHER_NAMES.get(name, name), default)
        for name, default in layout["build_config"].items()
        if name not in {"dry_run", "visualize_network"}
    }
    made["plugin_config"] = plugin_config(layout["plugin_config"], given, pretrained["dtype"])
    if "max_output_len" not in made:
        made["max_seq_len"] = _max_seq_len(given, pretrained)
    if made["max_num_tokens"] is None:
        made["max_num_tokens"] = made["max_batch_size"] * made["max_input_len"]
        home.log("max_num_tokens is not set, using max_batch_size * max_input_len", "W")
    if "kv_cache_type" in made:
        kind = str(given.get("kv_cache_type") or _kind_of_paged(given.get("paged_kv_cache")))
        made["kv_cache_type"] = kind if facts.at_least(release, "1.0.0") else kind.upper()
    if "speculative_decoding_mode" in made:
        made["speculative_decoding_mode"] = 1 << SPECULATION.index(made["speculative_decoding_mode"] or "none")
    if given.get("gather_all_token_logits"):
        made |= {"gather_context_logits": True, "gather_generation_logits": True}
    return made


def plugin_config(fields: Mapping[str, Any], given: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The fields of the plugins: `disable` becomes null, `auto` the checkpoint's type, switches become booleans."""
    made = {}
    for name, default in fields.items():
        value = given.get(name, default)
        if isinstance(default, bool):
            made[name] = SWITCHED.get(str(value), value)
        else:
            made[name] = None if value == "disable" else dtype if value == "auto" else value
    if "dtype" in made:
        made["dtype"] = dtype
    return made


def _kind_of_paged(paged: Any) -> str:
    return "continuous" if paged == "disable" else "paged"


def _max_seq_len(given: Mapping[str, Any], pretrained: Mapping[str, Any]) -> int:
    longest = int(pretrained["max_position_embeddings"])
    scaling = pretrained.get("rotary_scaling") or {}
    kind = scaling.get("type", scaling.get("rope_type"))
    if scaling and kind not in LLAMA3_LIKE:
        longest = int(longest * scaling.get("factor", 1))
    if given.get("max_output_len") is not None:
        return int(given["max_input_len"]) + int(given["max_output_len"])
    asked = given.get("max_seq_len")
    if asked is None:
        home.log(f"max_seq_len is not specified, using deduced value {longest}", "W")
        return longest
    if int(asked) > longest:
        home.log(f"max_seq_len {asked} is larger than max_position_embeddings {longest} * rotary scaling", "W")
    return int(asked)
