"""Prints what transformers' own models have: their number of weights, and which matrices have a bias, as JSON.

It runs with the Python of a toolchain that has torch and transformers. The models have no numbers.
"""

import json
import re
import sys
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

QKV = re.compile(r"\.(q_proj|query_key_value|c_attn|qkv_proj|Wqkv)\.bias$")
OUT = re.compile(r"(attn|attention)\.(attention\.)?(o_proj|out_proj|dense|c_proj)\.bias$")
INNER = re.compile(r"(mlp\.(\w+\.)*(down_proj|c_proj|fc2|fc_out|dense_4h_to_h)(\.|_)bias|layers\.\d+\.fc2\.bias)$")
GATE = re.compile(r"(gate_proj|gate_up_proj)(\.weight)?$")


def described(model_type: str) -> dict[str, Any]:
    """The number of weights and the biases of a model with the defaults of its class."""
    config = CONFIG_MAPPING[model_type]()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    names = [name for name, _ in model.named_parameters()]
    found = {"attention_bias": QKV, "output_bias": OUT, "mlp_bias": INNER, "gated": GATE}
    weights = sum(parameter.numel() for parameter in model.parameters())
    return {"weights": weights, **{key: any(map(pattern.search, names)) for key, pattern in found.items()}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps({name: described(name) for name in sys.argv[1:]}))
