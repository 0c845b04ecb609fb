"""Triton Inference Server: writes model repositories and the models in them, and rolls builds out.

    results = roll_out_build(manifest, registry, endpoints, model_repository, print, policy)

The servers are updated one after the other. On any failure, the previous build is restored.

- Writing a model repository: `repository`, `inflight`, `llmapi`, `problems`, `served`, `launch`.
- What Triton runs: `models`.
- Rolling out: `client`, `loading`, `placement`, `state`, `rollout`.
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.triton import rollout
    from enginery.triton.inflight import ENGINE_MODEL, InflightOptions, write_inflight_repository
    from enginery.triton.launch import keeps_measurements
    from enginery.triton.llmapi import MODELS, LlmApiOptions, write_llmapi_repository
    from enginery.triton.load import Latency, ServedLoad, ServedSpeed, measure_served
    from enginery.triton.loading import EndpointResult
    from enginery.triton.problems import rollout_problems, serving_notes, serving_problems, tokenizer_problems
    from enginery.triton.repository import package
    from enginery.triton.rollout import is_serving, require_rollout_possible, roll_out_build
    from enginery.triton.rollout import rollout as rollout_step
    from enginery.triton.served import served_models_digest
else:
    __getattr__ = door(__name__, __file__)
