"""Runs ModelOpt's export, and takes the checkpoint only when it is what was asked for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from enginery.backends.modelopt import DRIVER
from enginery.backends.pytorch.quantization_files import QUANT_CONFIG
from enginery.checkpoints import HF_ALGORITHMS, KV_CACHE_ALGORITHMS, HfExpectation, verify_hf_checkpoint
from enginery.context import Facts, StepContext
from enginery.digests import file_digest
from enginery.drivers import driver_sha256
from enginery.errors import SourceError, UsageError
from enginery.steps import Frozen


class Order(Frozen):
    """The parameters of the step.

    Attributes:
        precision: what the weights are to be quantized to.
        kv_cache: what the KV cache is to be quantized to; `auto` for not at all.
        dtype: the number format of the rest.
        driver_sha256: digest of the driver that the plan was made with.
        dataset_sha256: digest of the user's own texts to calibrate with; empty for built-in ones.
    """

    precision: str
    kv_cache: str
    dtype: str
    driver_sha256: str
    dataset_sha256: str = ""

    @property
    def expectation(self) -> HfExpectation:
        """The checkpoint that is to come out."""
        return HfExpectation(self.dtype, HF_ALGORITHMS[self.precision], KV_CACHE_ALGORITHMS[self.kv_cache])


def export_checkpoint(context: StepContext, argv: tuple[str, ...], environment: Mapping[str, str]) -> Facts:
    """Quantize the weights and check what came out. The command runner `export_checkpoint`.

    Raises:
        UsageError: when the plan was made with another driver.
        SourceError: when the texts are not those of the plan, or the weights are quantized already.
        CommandError: when ModelOpt fails.
        CheckpointError: when the checkpoint is not whole, not what was asked for, or not the model any more.
    """
    order = Order.model_validate(dict(context.parameters))
    _require_as_planned(context, order)
    done = context.run(argv, environment)
    found = verify_hf_checkpoint(context.output, context.inputs["weights"], order.expectation)
    return {**_own_facts(done.last_lines), **found}


def _require_as_planned(context: StepContext, order: Order) -> None:
    if order.driver_sha256 != driver_sha256(DRIVER):
        problem = "the plan was made with another version of Enginery's driver"
        raise UsageError(problem, remedy="make the plan again with this version")
    if order.dataset_sha256:
        _require_same_texts(Path(context.places.get("dataset", "")), order.dataset_sha256)
    if (context.inputs["weights"] / QUANT_CONFIG).is_file():
        problem = f"the weights are quantized already: they have a {QUANT_CONFIG}"
        raise SourceError(problem, subject="source", remedy="use the model they were made from")


def _require_same_texts(texts: Path, expected: str) -> None:
    """The key says which texts the plan meant; where they lie now is not part of it."""
    try:
        found = file_digest(texts)
    except OSError as error:
        remedy = "put the data set where the spec says on this machine, too"
        raise SourceError(f"cannot be read to calibrate with: {error}", subject=str(texts), remedy=remedy) from error
    if found != expected:
        problem = "these are not the texts that the plan was made for"
        raise SourceError(problem, subject=str(texts), remedy="plan again, or put the same texts there")


def _own_facts(last_lines: Sequence[str]) -> dict[str, JsonValue]:
    """What the driver says of its work in its last line."""
    try:
        said = json.loads(last_lines[-1]) if last_lines else {}
    except ValueError:  # a driver may end with a warning of a library's
        return {}
    return said if isinstance(said, dict) else {}
