"""Runs a converter, and lets only a checkpoint count that is whole and faithful to its model."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from enginery.backends.checkpoints import CheckpointExpectation, verify_checkpoint
from enginery.backends.tensorrt.converters import dataset_digest
from enginery.core.digests import file_digest
from enginery.core.errors import CommandError, SourceError, UsageError
from enginery.core.files import write_atomic
from enginery.core.process import FailureCause
from enginery.core.progress import Facts
from enginery.store import StepContext

SCRIPT = 1
"""Where the script stands in a command, behind its interpreter."""


class ConvertParameters(BaseModel):
    """What the recipe says besides the command.

    Attributes:
        release: the TensorRT-LLM that the checkpoint is for.
        converter: the script, as `enginery.releases.flags` names it, or `modelopt`.
        dtype: number format of what is not quantized.
        quant_algo: TensorRT-LLM's name of how weights are quantized; None for not at all.
        kv_cache_quant_algo: the same of the KV cache.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: groups of GPUs that share the layers.
        dataset_sha256: digest of the user's own texts to calibrate with; empty for others.
        accepted_rope_theta: the rotary base it may have in place of the model's; None for only the model's.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    release: str
    converter: str
    dtype: str
    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    dataset_sha256: str = ""
    accepted_rope_theta: float | None = None

    @property
    def expectation(self) -> CheckpointExpectation:
        """The checkpoint that is to come out."""
        return CheckpointExpectation(
            dtype=self.dtype,
            quant_algo=self.quant_algo,
            kv_cache_quant_algo=self.kv_cache_quant_algo,
            tensor_parallel=self.tensor_parallel,
            pipeline_parallel=self.pipeline_parallel,
        )


def convert_checkpoint(context: StepContext, argv: tuple[str, ...], environment: Mapping[str, str]) -> Facts:
    """Convert the weights and check what came out. The command runner `convert_checkpoint`.

    Raises:
        UsageError: when the script is not where the release is known to have it.
        SourceError: when the texts to calibrate with are not those of the plan.
        CommandError: when the converter fails, or ends well and has written nothing.
        CheckpointError: when the checkpoint is not whole, or not what its model is.
    """
    order = ConvertParameters.model_validate(dict(context.parameters))
    _require_same_texts(context, order)
    found = located(argv, order.converter) if _is_here(context) else argv
    if found != argv:
        context.log(f"the script is not at {argv[SCRIPT]}, but at {found[SCRIPT]}")
    done = context.run(found, environment)
    if not any(context.output.iterdir()):
        raise _nothing_written(found, done.last_lines)
    facts = dict(_verified(context, order))
    script = Path(found[SCRIPT])
    facts["script_sha256"] = file_digest(script) if script.is_file() else None
    return {**facts, **_own_facts(done.last_lines)}


def located(argv: tuple[str, ...], converter: str) -> tuple[str, ...]:
    """The command with its script where it really is: between 0.17 and 1.3 the converters moved, nobody says when.

    Raises:
        UsageError: when it is nowhere, or there are several.
    """
    script = Path(argv[SCRIPT])
    if script.is_file():
        return argv
    parts = Path("quantization/quantize.py").parts if converter == "quantize.py" else (script.parent.name, script.name)
    examples = next((parent for parent in script.parents if parent.name == "examples"), script.parent)
    found = sorted(examples.rglob("/".join(parts)))
    if len(found) != 1:
        where = f"there are {', '.join(str(one) for one in found)}" if found else f"nor is it elsewhere in {examples}"
        remedy = "name the examples of a checkout of this very release in convert.examples"
        raise UsageError(f"the converter is not where it should be, and {where}", subject=str(script), remedy=remedy)
    return (*argv[:SCRIPT], str(found[0]), *argv[SCRIPT + 1 :])


def _is_here(context: StepContext) -> bool:
    """Whether the script is on this machine, not in a container's image."""
    return context.toolchain is None or context.toolchain.identity.kind != "container"


def _require_same_texts(context: StepContext, order: ConvertParameters) -> None:
    """The key says which texts the plan meant; where they lie now is not part of it."""
    if not order.dataset_sha256:
        return
    place = Path(context.places.get("dataset", ""))
    try:
        found = dataset_digest(place)
    except OSError as error:
        remedy = "put the data set where the spec says on this machine, too"
        raise SourceError(f"cannot be read to calibrate with: {error}", subject=str(place), remedy=remedy) from error
    if found != order.dataset_sha256:
        problem = "these are not the texts that the plan was made for"
        raise SourceError(problem, subject=str(place), remedy="plan again, or put the same texts there")


def _nothing_written(argv: tuple[str, ...], last_lines: tuple[str, ...]) -> CommandError:
    return CommandError(
        "the converter says that all is well, but it wrote nothing",
        subject=Path(argv[SCRIPT]).name,
        remedy="see its last lines; a checkout of another release may be the reason",
        cause=FailureCause.INCOMPLETE,
        last_lines=last_lines,
    )


def _verified(context: StepContext, order: ConvertParameters) -> Facts:
    weights = context.inputs["weights"]
    if order.accepted_rope_theta is None:
        return verify_checkpoint(context.output, weights, order.expectation)
    context.log(f"a rotary base of {order.accepted_rope_theta:g} is accepted, whatever the model's is")
    with TemporaryDirectory(prefix="accepted-", dir=context.scratch) as model:
        config = _with_base(
            json.loads((weights / "config.json").read_text(encoding="utf-8")), order.accepted_rope_theta
        )
        write_atomic(Path(model) / "config.json", json.dumps(config))
        found = verify_checkpoint(context.output, Path(model), order.expectation)
    return {**found, "accepted_rope_theta": order.accepted_rope_theta}


def _with_base(config: dict[str, Any], theta: float) -> dict[str, Any]:
    """A model's configuration with another rotary base, wherever it stands."""
    changed = {**config, "rope_theta": theta}
    if isinstance(config.get("rope_parameters"), dict):
        changed["rope_parameters"] = {**config["rope_parameters"], "rope_theta": theta}
    return changed


def _own_facts(last_lines: tuple[str, ...]) -> dict[str, JsonValue]:
    """What our ModelOpt driver says of its work in its last line; nothing for the releases' scripts."""
    if not last_lines or not last_lines[-1].startswith("{"):
        return {}
    try:
        said = json.loads(last_lines[-1])
    except ValueError:
        return {}
    return {"converter": said} if isinstance(said, dict) else {}
