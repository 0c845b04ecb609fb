"""Builds engines with the stand-in as a build step does: with a checkpoint, a toolchain and the step's context."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from enginery.backends.tensorrt.build import build_engine
from enginery.core.progress import Facts
from enginery.store.context import StepContext
from enginery.store.local import LocalStore
from enginery.toolchains.host import Host
from enginery.toolchains.identity import Toolchain, ToolchainIdentity
from tests.support.trtllm import StandIn, make_release
from tests.support.trtllm.using import convert

GPU = "H100-SXM5-80GB"


def toolchain_of(stand_in: StandIn, tensorrt: str | None = None) -> Toolchain:
    """The toolchain of a stand-in, as if it was found on PATH."""
    pins = (f"tensorrt=={tensorrt}",) if tensorrt else ()
    identity = ToolchainIdentity(name=f"stand-in-{stand_in.release}", kind="host", pins=pins, python="3.11")
    return Host(identity, stand_in.directory, stand_in.python, stand_in.environment())


@dataclass
class Site:
    """Where builds run: a release's stand-in, a checkpoint for it, and a store. `lines` are the last build's log."""

    stand_in: StandIn
    checkpoint: Path
    directory: Path
    tensorrt: str
    timeout: float = 60.0
    lines: list[str] = field(default_factory=list)
    builds: int = 0

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.directory / "store")

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def context(self, **parameters: JsonValue) -> StepContext:
        """A new step's context."""
        self.lines.clear()
        self.builds += 1
        output = self.directory / f"step{self.builds}" / "output"
        output.mkdir(parents=True)
        return StepContext(
            key="0" * 64,
            parameters={"release": self.stand_in.release, "gpu": GPU, **parameters},
            inputs={"checkpoint": self.checkpoint},
            output=output,
            chain=(),
            toolchain=toolchain_of(self.stand_in, self.tensorrt),
            log=self.lines.append,
            timeout=self.timeout,
            shelf=self.store.shelf(),
        )

    def argv(self, context: StepContext, *more: str) -> tuple[str, ...]:
        """The command of the recipe, with `more` arguments."""
        places = ("--checkpoint_dir", str(self.checkpoint), "--output_dir", str(context.output))
        return ("trtllm-build", *places, "--gpt_attention_plugin", "bfloat16", *more)

    def build(
        self,
        *more: str,
        context: StepContext | None = None,
        environment: Mapping[str, str] | None = None,
        **parameters: JsonValue,
    ) -> Facts:
        """Build, with `more` flags in addition to the usual ones."""
        used = context or self.context(**parameters)
        return build_engine(used, self.argv(used, *more), environment or {})


def make_site(
    directory: Path,
    release: str,
    *,
    tensor_parallel: int = 1,
    tensorrt: str = "10.7.0",
    checkpoint: Path | None = None,
) -> Site:
    """A site for a release. Engines from a given `checkpoint` can only be built, and not asked for answers."""
    stand_in = make_release(directory / "release", release, tensorrt=tensorrt)
    if checkpoint is None:
        convert(stand_in, checkpoint := directory / "checkpoint", "--tp_size", tensor_parallel)
    return Site(stand_in, checkpoint, directory, tensorrt)
