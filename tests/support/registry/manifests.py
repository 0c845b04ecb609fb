"""Manifests of builds of every kind, without building them, and a way to put them into a registry."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

from enginery.builds.manifest import BuildTarget, Manifest, engine_facts
from enginery.registry import Registry
from enginery.registry.layout import manifest_path
from enginery.store.steps import FileRecord
from tests.support.registry.builds import ANSWERS, a_report
from tests.support.store.records import a_chain

ENGINE = "model_repository/tensorrt_llm/1/rank{}.engine"
WEIGHTS = "model_repository/tensorrt_llm/1/engine/model.safetensors"
CREATED = datetime(2026, 11, 22, tzinfo=UTC)


def a_build(name: str = "h100", **said: Any) -> Manifest:
    """The manifest of a build with TensorRT-LLM 1.2.1 for an H100.

    Args:
        name: the target's name.
        said: fields of the target, or `model`, `build_id`, `created`, `passed`, and `size` of each rank in bytes.
    """
    more: dict[str, Any] = {field: said.pop(field) for field in ("model", "build_id", "created") if field in said}
    size, passed = said.pop("size", 1000), said.pop("passed", True)
    target = BuildTarget(**{**_FACTS, "name": name, **said})
    known = {"build_id": f"{name}-0123456789ab", "target": target, "files": _files(target, size)}
    judged = {"validation": a_report(ANSWERS, passed=passed), "engine": engine_facts(target.gpu, _base().steps)}
    return _base().model_copy(update={**known, **judged, **more})


_FACTS = {"gpu": "H100-SXM5-80GB", "backend": "tensorrt", "release": "1.2.1", "precision": "bfloat16"}


@cache
def _base() -> Manifest:
    return Manifest(
        model="llama",
        build_id="h100-0123456789ab",
        created=CREATED,
        target=BuildTarget(name="h100", **_FACTS),
        enginery="0.1.0",
        registry="s3://engines/prod",
        channel="candidate",
        files=(),
        steps=a_chain(),
        validation=a_report(ANSWERS),
    )


def _files(target: BuildTarget, size: int) -> tuple[FileRecord, ...]:
    if target.backend == "tensorrt":
        paths = [(ENGINE.format(rank), size) for rank in range(target.world_size)]
    else:
        paths = [(WEIGHTS, size * target.world_size)]
    return tuple(FileRecord(path=path, sha256="0" * 64, size=size) for path, size in paths)


def put(registry: Registry, *manifests: Manifest) -> None:
    """Put manifests into a registry without files: only manifests are read to find a build."""
    for manifest in manifests:
        registry.prefix.put_bytes(manifest_path(manifest.model, manifest.build_id), manifest.to_json())
