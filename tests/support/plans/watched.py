"""Specs and manifests for tests of the release watch: the example model for any GPU, and builds with chosen figures."""

from collections.abc import Mapping
from typing import Any

from enginery.builds.gates import GateReport
from enginery.builds.manifest import Manifest
from enginery.builds.speed import SpeedReport
from enginery.releases.index import ListedFile, Listing, listing
from enginery.spec.spec import Spec, parse_spec
from enginery.store.steps import FileRecord, Stage, StepRecord
from tests.support.paths import TINY_LLAMA
from tests.support.registry.builds import Build, a_report
from tests.support.speeds import a_speed
from tests.support.store.records import a_chain

WHEEL = "tensorrt_llm-{}-cp312-cp312-linux_x86_64.whl"
SOURCE = "tensorrt_llm-{}.tar.gz"
TRTLLM = {"gpu": "H100-SXM5-80GB", "backend": "tensorrt", "precision": "bfloat16"}
SPEED = a_speed()
CPU = {"name": "cpu", "gpu": "cpu", "backend": "onnxruntime", "precision": "int4"}


def watched_spec(*targets: Mapping[str, Any], to: str | None = None, name: str = "tiny", **releases: Any) -> Spec:
    """A spec of the example model with `releases.watch`. By default its targets are for TensorRT-LLM."""
    data: dict[str, Any] = {
        "name": name,
        "source": {"path": str(TINY_LLAMA)},
        "targets": [{"name": f"target-{number}", **TRTLLM, **target} for number, target in enumerate(targets)],
        "releases": {"watch": True, "rebuild": to is not None, **releases},
    }
    return parse_spec(data | ({"publish": {"to": to}} if to else {}))


def listed(*names: str, yanked: tuple[str, ...] = (), silent: tuple[str, ...] = ()) -> Listing:
    """The listing of TensorRT-LLM in an index. `names` are files, or releases with a wheel; `yanked` are releases."""
    files = [
        ListedFile(
            name=name if "-" in name else WHEEL.format(name),
            release=name.removeprefix("tensorrt_llm-").removesuffix(".tar.gz").split("-")[0],
            is_wheel=not name.endswith(".gz"),
            size=12_000,
            yanked=name in yanked,
        )
        for name in names
    ]
    return listing("tensorrt-llm", files, ["https://index.invalid/simple"], silent)


def a_manifest(  # noqa: PLR0913  each is a figure
    build_id: str = "cpu-int4-111111111111",
    *,
    release: str = "0.17.1",
    answers: Mapping[str, str] | None = None,
    passed: bool = True,
    speed: SpeedReport | None = SPEED,
    engine: int = 1000,
    seconds: float = 10.0,
    host: str = "builder-1",
    toolchain: Mapping[str, str] | None = None,
    gates: GateReport | None = None,
    gpu: str = "cpu",
) -> Manifest:
    """The manifest of a build with these figures."""
    build = Build(build_id=build_id, answers=answers or {"Hi": "there"}, passed=passed)
    order = build.parameters("s3://engines/test")
    target = order["target"]
    assert isinstance(target, dict)
    report = a_report(build.answers, passed=passed)
    more = {"seconds": seconds, "host": host, "toolchain": dict(toolchain or {})}
    return Manifest.model_validate(
        {
            "model": build.model,
            "build_id": build_id,
            "target": target | {"release": release, "gpu": gpu},
            "created": "2026-11-28T00:00:00Z",
            "enginery": "0.1.0",
            "registry": "s3://engines/test",
            "channel": "candidate",
            "files": [FileRecord(path="model_repository/engine", sha256="0" * 64, size=engine + 10)],
            "steps": [_with_figures(record, engine, more) for record in a_chain()],
            "validation": report,
            "gates": gates,
            "speed": speed,
        }
    )


def _with_figures(record: StepRecord, engine: int, more: Mapping[str, Any]) -> StepRecord:
    if record.step.stage is Stage.BUILD:
        return record.model_copy(update={**more, "files": (FileRecord(path="engine", sha256="0" * 64, size=engine),)})
    return record.model_copy(update={"host": more["host"]})
