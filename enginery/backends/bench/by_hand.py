"""Measures an engine by hand: that of a pulled build, of a model repository, or an engine's own directory."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from packaging.version import Version
from pydantic import JsonValue

from enginery import toolchains
from enginery.backends.bench.step import ONNXRUNTIME, TENSORRT_LLM, bench_call, bench_step
from enginery.builds import BuildTarget, LocalBuild, Manifest, SpeedReport, read_speed
from enginery.core.errors import UsageError
from enginery.core.progress import Log
from enginery.spec import CPU, SpeedGate, gpus
from enginery.store import Stage, StepContext, Store
from enginery.toolchains import ToolchainIdentity, toolchain_name

Kind = Literal["venv", "host", "container"]

ENGINES = ("genai_config.json", "rank0.engine", "*.safetensors")
"""A file of this name shows an engine or a checkpoint, in this order."""
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
PACKAGES = {True: "onnxruntime-genai", False: "onnxruntime-genai-cuda"}
"""Whether an engine is for the CPU -> the package that runs it."""


def bench_directory(directory: Path, options: SpeedGate, store: Store, log: Log, *, kind: Kind = "venv") -> SpeedReport:
    """Measure the engine in a directory, alone on the machine.

    Args:
        directory: a pulled build, a model repository, or an engine of ONNX Runtime.
        options: how many tokens, and how many sequences at once.
        store: the store whose steps must not run at the same time on this machine.
        log: is called with the driver's lines.
        kind: where the release's commands run.

    Raises:
        UsageError: when there is no engine in it, or it is for another GPU, or nothing says how to run it.
        CommandError: when the engine cannot be loaded or fails.
    """
    manifest = _manifest(directory)
    engine = _only_engine(directory)
    tokenizer = next(_holding(directory, TOKENIZERS), engine)
    on_cpu = _is_for_cpu(engine, manifest)
    _require_gpu(manifest)
    parameters, identity = _how(directory, engine, manifest, options, kind, on_cpu=on_cpu)
    environment = toolchains.ensure(identity, log)
    with TemporaryDirectory(prefix="enginery-bench-") as scratch:
        output = Path(scratch) / "output"
        output.mkdir()
        context = StepContext(
            key="bench",
            parameters=parameters,
            inputs={"engine": engine.resolve(), "weights": tokenizer.resolve()},
            output=output,
            chain=(),
            toolchain=environment,
            log=log,
        )
        with store.working(f"bench {directory}", log, alone=True, gpu=not on_cpu) as context.neighbours:
            bench_step(context)
        return read_speed(output)


def _manifest(directory: Path) -> Manifest | None:
    """The manifest of a pulled build; None without one."""
    return LocalBuild.read(directory).manifest if (directory / "manifest.json").is_file() else None


def _only_engine(directory: Path) -> Path:
    """The directory of the engine in `directory`, at any depth."""
    for name in ENGINES:
        found = list(dict.fromkeys(_holding(directory, (name,))))
        if len(found) > 1:
            remedy = f"name one of them, such as {found[0]}"
            raise UsageError(f"has {len(found)} engines in it", subject=str(directory), remedy=remedy)
        if found:
            return found[0]
    remedy = "name a pulled build, a model repository, or an engine's directory"
    raise UsageError("has no engine in it", subject=str(directory), remedy=remedy)


def _holding(directory: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """The directories, at any depth, with a file of one of these names."""
    for name in names:
        for path in sorted(directory.rglob(name)):
            yield path.parent


def _is_for_cpu(engine: Path, manifest: Manifest | None) -> bool:
    if manifest is not None:
        return manifest.target.gpu == CPU.name
    described = engine / "genai_config.json"
    return described.is_file() and '"cuda"' not in described.read_text(encoding="utf-8")


def _require_gpu(manifest: Manifest | None) -> None:
    if manifest is None or manifest.target.gpu == CPU.name:
        return
    present = gpus.detect()
    if present is None or present.name != manifest.target.gpu:
        has = present.name if present else "no NVIDIA GPU"
        remedy = f"measure it on a machine with {manifest.target.gpu}"
        raise UsageError(
            f"is for {manifest.target.gpu}; this machine has {has}", subject=manifest.reference, remedy=remedy
        )


def _how(  # noqa: PLR0913  what decides how an engine is run
    directory: Path, engine: Path, manifest: Manifest | None, options: SpeedGate, kind: Kind, *, on_cpu: bool
) -> tuple[dict[str, JsonValue], ToolchainIdentity]:
    """The parameters of a bench step, and its toolchain."""
    if (engine / "genai_config.json").is_file():
        name = _onnxruntime(manifest.target if manifest else None, on_cpu=on_cpu)
        return dict(bench_call(options).parameters), toolchains.identify(name, kind)
    validated = manifest.step(Stage.VALIDATE) if manifest else None
    if manifest is None or validated is None:
        remedy = "name a pulled build, whose manifest says it"
        raise UsageError("nothing says which release runs this engine", subject=str(directory), remedy=remedy)
    known, target = validated.step.recipe.parameters, manifest.target
    if known.get("driver") == TENSORRT_LLM:
        names = ("driver", "release", "world_size", "runtime", "by_rank", "arguments")
        called = bench_call(options, "tensorrt" if target.backend == "tensorrt" else "pytorch", target.release)
        parameters = {**called.parameters, **{name: known[name] for name in names}}
    else:  # the release's own script ran the prompts
        parameters = dict(bench_call(options, "tensorrt", target.release, target.world_size).parameters)
    return parameters, toolchains.identify(toolchain_name(target.release), kind)


def _onnxruntime(target: BuildTarget | None, *, on_cpu: bool) -> str:
    """The toolchain of that release of ONNX Runtime; the newest if nothing says which.

    Raises:
        UsageError: when there is none.
    """
    found = {}
    for name in toolchains.names():
        pins = toolchains.describe(name)
        packages = {pin.partition("==")[0] for pin in pins.pins}
        fits = target is None or target.release == pins.release
        if pins.backend == ONNXRUNTIME and PACKAGES[on_cpu] in packages and fits:
            found[name] = Version(pins.release)
    if not found:
        wanted = f"release {target.release} of onnxruntime" if target else "onnxruntime"
        raise UsageError(f"there is no toolchain for {wanted}", remedy="see infra/toolchains/README.md")
    return max(found, key=lambda name: found[name])
