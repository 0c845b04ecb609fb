"""Chooses the release of a target, and knows the keys of its LLM API and how certain they are.

Up to 0.20 the PyTorch backend's own keys are inside `pytorch_backend_config`. In 0.21 they are at the top level (pull
request 4603 of TensorRT-LLM). From 1.0 on many of them are inside new objects (pull requests 5014 and 6003).
`enginery.releases` has no facts of the keys before 1.0. Their names were read by eye in two commits of the class
`PyTorchConfig`, not at the releases' tags.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from packaging.version import Version

from enginery.backends.common import newest_release
from enginery.core.versions import LATEST, full, is_version, mistake
from enginery.releases import (
    PYTORCH,
    Argument,
    Certainty,
    Known,
    Provenance,
    arguments,
    builds_engines,
    classes,
    pytorch_architectures,
    releases,
    releases_read,
    was_never_made,
)
from enginery.spec import Finding

FIRST = "0.17.0"
"""The first release with the PyTorch backend. There is no upper limit."""

NESTED = "pytorch_backend_config"
NESTED_CLASS = "PyTorchConfig"
BASE = "BaseLlmArgs"
NESTED_BASE = "LlmArgs"
NESTED_RELEASE = "0.16.0"
"""The release whose facts are used for `Layout.NESTED`. It is the last one before the PyTorch backend."""
OBJECTS_RELEASE = "1.3.0rc3"
REMOVED_WITH_ENGINES = frozenset({"sampler_type"})
KV_CACHE_CLASS = "KvCacheConfig"

COMMON = {
    "use_cuda_graph": "bool",
    "cuda_graph_batch_sizes": "Optional[List[int]]",
    "cuda_graph_max_batch_size": "int",
    "cuda_graph_padding_enabled": "bool",
    "attn_backend": "str",
    "kv_cache_dtype": "str",
    "enable_iter_perf_stats": "bool",
    "print_iter_log": "bool",
    "torch_compile_enabled": "bool",
    "torch_compile_fullgraph": "bool",
    "torch_compile_inductor_enabled": "bool",
    "torch_compile_enable_userbuffers": "bool",
    "enable_layerwise_nvtx_marker": "bool",
    "load_format": "str",
}

UNTIL_0_19 = {
    "enable_overlap_scheduler": "bool",
    "mixed_decoder": "bool",
    "enable_trtllm_decoder": "bool",
    "use_kv_cache": "bool",
}

FROM_0_20 = {
    "disable_overlap_scheduler": "bool",
    "moe_max_num_tokens": "Optional[int]",
    "moe_load_balancer": "object",
    "moe_backend": "str",
    "mixed_sampler": "bool",
    "enable_trtllm_sampler": "bool",
    "enable_iter_req_stats": "bool",
    "torch_compile_piecewise_cuda_graph": "bool",
    "autotuner_enabled": "bool",
    "enable_min_latency": "bool",
    "allreduce_strategy": "str",
    "stream_interval": "int",
}

KV_CACHE = {
    "enable_block_reuse": "bool",
    "max_tokens": "Optional[int]",
    "max_attention_window": "Optional[List[int]]",
    "sink_token_length": "Optional[int]",
    "free_gpu_memory_fraction": "Optional[float]",
    "host_cache_size": "Optional[int]",
    "onboard_blocks": "bool",
    "cross_kv_cache_fraction": "Optional[float]",
    "secondary_offload_min_priority": "Optional[int]",
    "event_buffer_max_size": "int",
    "enable_partial_reuse": "bool",
    "copy_on_partial_reuse": "bool",
}

Keys = Mapping[str, Argument]
Path = tuple[str, ...]
"""A key of the LLM API, or such a key and a key inside its object."""


class Layout(StrEnum):
    """Where the PyTorch backend's own keys are: inside one object, at the top level, or inside several objects."""

    NESTED = "nested"
    FLAT = "flat"
    OBJECTS = "objects"


def chosen_release(wanted: str) -> str:
    """The release that is chosen for a version, a range or `latest`; empty if there is none.

    A version without facts of its own can be chosen, too. Then the facts of the nearest release are used.
    """
    if refusal(wanted) is not None:
        return ""
    return full(wanted) if is_version(wanted) else newest_release(wanted, _with_backend())


def refusal(wanted: str) -> Finding | None:
    """The finding that says why no release can be chosen; None if one can."""
    known = _with_backend()
    newest, one_of = newest_release(LATEST, known), f"use one of {', '.join(known)}"
    if problem := mistake(wanted):
        return Finding("E101", "release", problem, f"write a release, such as {newest}")
    if is_version(wanted):
        if not _has_backend(wanted):
            problem = f"{wanted} has no PyTorch backend: {FIRST} is the first with one"
            return Finding("E401", "release", problem, f"use {newest}, or backend: tensorrt")
        if was_never_made(wanted):
            problem = f"no release {wanted} of TensorRT-LLM is known, though later ones are"
            return Finding("E102", "release", problem, one_of)
        return None
    if newest_release(wanted, known):
        return None
    problem = f"no known release with the PyTorch backend fits {wanted!r}; {FIRST} is the first with one"
    return Finding("E401", "release", problem, one_of)


def pytorch_remedy(release: str, architecture: str) -> str:
    """The words for a remedy that suggest this backend, for a target with this release.

    They are empty if no release that was read runs the architecture.
    """
    read = releases_read("pytorch", "architectures")
    if not any(architecture in pytorch_architectures(one).value for one in read):
        return ""
    return "backend: pytorch" if _has_backend(release) else f"backend: pytorch with release {FIRST} or a later one"


def layout(release: str) -> Layout:
    """The layout of a release."""
    number = Version(release).release
    if number >= (1, 0):
        return Layout.OBJECTS
    return Layout.FLAT if number >= (0, 21) else Layout.NESTED


@lru_cache
def keys(release: str) -> Known[Keys]:
    """The keys at the top level of a release's LLM API."""
    place = layout(release)
    if place is Layout.NESTED:
        found = arguments(NESTED_RELEASE, NESTED_BASE)
        nested = Argument(NESTED, f"Optional[{NESTED_CLASS}]")
        backend = Argument("backend", "Optional[str]")
        return Known({**found.value, "backend": backend, NESTED: nested}, _nearest(found, release))
    if place is Layout.FLAT:
        found = arguments(OBJECTS_RELEASE, BASE)
        return Known({**found.value, **own_keys(release)}, _nearest(found, release))
    found = arguments(release, PYTORCH)
    if builds_engines(release):
        return found
    newer = arguments(release, BASE)
    merged = {**newer.value, **found.value}
    return Known({name: merged[name] for name in merged if name not in REMOVED_WITH_ENGINES}, newer.provenance)


@lru_cache
def class_keys(release: str, name: str) -> Keys:
    """The keys of a class of arguments; none if the class is not known."""
    place = layout(release)
    if place is not Layout.OBJECTS:
        if name == NESTED_CLASS:
            return own_keys(release)
        if name == KV_CACHE_CLASS:
            return _as_arguments(KV_CACHE)
    known = NESTED_RELEASE if place is Layout.NESTED else OBJECTS_RELEASE if place is Layout.FLAT else release
    return arguments(known, name).value if name in classes() else {}


def is_certain(release: str) -> bool:
    """Whether the facts about the keys are facts of exactly this release."""
    return Version(keys(release).provenance.release) == Version(release)


def own_keys(release: str) -> Mapping[str, Argument]:
    """The PyTorch backend's own keys before 1.0."""
    later = FROM_0_20 if Version(release).release >= (0, 20) else UNTIL_0_19
    return _as_arguments({**COMMON, **later})


def _nearest(found: Known[Mapping[str, Argument]], release: str) -> Provenance:
    origin = found.provenance
    note = f"known of {origin.release} ({origin.certainty}), not of {release}; the backend's own keys were read by eye"
    return Provenance(Certainty.NEAREST, origin.release, origin.source, origin.method, note)


def _as_arguments(annotations: Mapping[str, str]) -> Mapping[str, Argument]:
    return {name: Argument(name, annotation) for name, annotation in annotations.items()}


def _with_backend() -> list[str]:
    return [one for one in releases() if _has_backend(one)]


def _has_backend(release: str) -> bool:
    return Version(release) >= Version(FIRST)
