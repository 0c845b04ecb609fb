"""Which keys the LLM API of a release takes, and how sure that is."""

from collections.abc import Mapping
from functools import lru_cache

from packaging.version import Version

from enginery.backends.pytorch.older import (
    NESTED,
    NESTED_CLASS,
    Layout,
    kv_cache_keys,
    layout,
    own_keys,
)
from enginery.releases.arguments import PYTORCH, Argument, arguments, classes
from enginery.releases.known import builds_engines
from enginery.releases.provenance import Certainty, Known, Provenance

BASE = "BaseLlmArgs"
FIRST_CLASS = "LlmArgs"
FIRST_RELEASE = "0.16.0"
"""The last release before the backend: the nearest to those whose keys are nested."""
OBJECTS_RELEASE = "1.3.0rc3"
REMOVED_WITH_ENGINES = frozenset({"sampler_type"})
KV_CACHE_CLASS = "KvCacheConfig"

Keys = Mapping[str, Argument]


@lru_cache
def keys(release: str) -> Known[Keys]:
    """The keys at the top of a release's LLM API."""
    where = layout(release)
    if where is Layout.NESTED:
        found = arguments(FIRST_RELEASE, FIRST_CLASS)
        nested = Argument(NESTED, f"Optional[{NESTED_CLASS}]")
        backend = Argument("backend", "Optional[str]")
        return Known({**found.value, "backend": backend, NESTED: nested}, _nearest(found, release))
    if where is Layout.FLAT:
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
    """The keys of a class of arguments; none where nothing is known of it."""
    where = layout(release)
    if where is not Layout.OBJECTS:
        if name == NESTED_CLASS:
            return own_keys(release)
        if name == KV_CACHE_CLASS:
            return kv_cache_keys()
    known = FIRST_RELEASE if where is Layout.NESTED else OBJECTS_RELEASE if where is Layout.FLAT else release
    return arguments(known, name).value if name in classes() else {}


def _nearest(found: Known[Mapping[str, Argument]], release: str) -> Provenance:
    origin = found.provenance
    note = f"known of {origin.release} ({origin.certainty}), not of {release}; the backend's own keys were read by eye"
    return Provenance(Certainty.NEAREST, origin.release, origin.source, origin.method, note)


def is_certain(release: str) -> bool:
    """Whether the keys are those of this very release."""
    return Version(keys(release).provenance.release) == Version(release)
