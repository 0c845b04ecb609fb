"""Specs and plans for tests that need no network: the source is resolved without one."""

from typing import Any

from enginery.pipeline.plan import Plan, make_plan
from enginery.sources import ResolvedSource, SourceFile, SourceKind
from enginery.spec.spec import Source, Spec, parse_spec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def spec_data(**changes: Any) -> dict[str, Any]:
    """A spec for two CPU targets that publishes and rolls out."""
    return {
        "name": "tiny",
        "source": {"huggingface": "owner/tiny"},
        "targets": [
            {"name": "cpu-fp32", "gpu": "cpu", "precision": "float32"},
            {"name": "cpu-int4", "gpu": "cpu", "precision": "int4"},
        ],
        "validation": {"prompts": [{"prompt": "Hi", "contains": "there"}]},
        "publish": {"to": "s3://engines/test"},
        "rollout": {"endpoints": ["http://127.0.0.1:8000"], "target": "cpu-int4"},
    } | changes


def resolved(source: Source, commit: str = COMMIT) -> ResolvedSource:
    """The resolved source, with this commit."""
    location = source.huggingface or source.path or source.s3 or ""
    kind: SourceKind = "huggingface" if source.huggingface else "path" if source.path else "s3"
    files = (SourceFile(name="config.json", size=2), SourceFile(name="model.safetensors", size=10))
    return ResolvedSource(kind=kind, location=location, commit=commit, files=files)


def planned(data: dict[str, Any] | None = None, commit: str = COMMIT) -> Plan:
    spec: Spec = parse_spec(data or spec_data())
    return make_plan(spec, resolver=lambda source: resolved(source, commit))
