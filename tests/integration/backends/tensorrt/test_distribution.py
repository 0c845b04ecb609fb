"""Tests of the comparison of TensorRT-LLM's engines and checkpoints with a reference, with the stand-in."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.backends import validate
from enginery.backends.gates.distribution import judge_distribution
from enginery.backends.runtimes import Kind
from enginery.builds import (
    GateResult,
    Reference,
    ReferenceSequence,
    ValidationReport,
    Verdict,
    read_distribution,
    read_report,
)
from enginery.spec import DistributionGate, Mode, Precision
from enginery.spec.validation import Prompt, ValidationOptions
from enginery.store.context import StepContext
from tests.support.engines.tensorrt import Site, make_site, toolchain_of
from tests.support.faulty.models import write_faulty
from tests.support.paths import TINY_LLAMA
from tests.support.references import text, write_reference
from tests.support.trtllm.modules.forward import llama

QUESTION = "How do I count to nine in French?"
LENGTH = 100


def written_reference(directory: Path) -> Reference:
    """What the example model predicts for some random tokens."""
    model = llama(TINY_LLAMA)
    assert model is not None
    tokens = np.random.default_rng(4).integers(3, 448, (8, LENGTH)).tolist()
    sequences: list[ReferenceSequence] = [text(f"random-{number}", ids) for number, ids in enumerate(tokens)]
    logits = np.concatenate([model.logits(ids)[:-1] for ids in tokens]).astype(np.float32)
    return write_reference(directory, sequences, logits, vocabulary=448)


def compared(
    site: Site, reference: Reference, inputs: Mapping[str, Path], kind: Kind = "tensorrt", **more: Any
) -> tuple[ValidationReport, GateResult]:
    """Run the validation with a reference, and judge what it measured."""
    output = site.directory / "report"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    options = ValidationOptions(prompts=(Prompt(prompt=QUESTION),), max_tokens=8)
    context = StepContext(
        key="0" * 64,
        parameters=validate.validate_call(options, kind, site.stand_in.release, **more).parameters,
        inputs={"weights": TINY_LLAMA, "reference": reference.directory, **inputs},
        output=output,
        chain=(),
        toolchain=toolchain_of(site.stand_in, site.tensorrt),
        log=site.lines.append,
        timeout=60,
        places={"examples": str(site.stand_in.examples)},
    )
    validate.validate(context)
    report = read_report(output)
    assert report.distribution is not None
    measured = read_distribution(output, reference.facts)
    result = judge_distribution(
        reference,
        measured,
        Precision.FLOAT16,
        DistributionGate(),
        Mode.BLOCK,
        met=True,
        why=report.distribution.why,
    )
    return report, result


def engine(site: Site, *flags: str, tensor_parallel: int = 1) -> Path:
    context = site.context(tensor_parallel=tensor_parallel)
    site.build("--max_batch_size", "4", "--max_input_len", "128", *flags, context=context)
    return context.output


@pytest.mark.parametrize("release", ["0.8.0", "0.16.0"])
def test_an_engine_without_logits_is_compared_by_its_most_likely_tokens(tmp_path: Path, release: str) -> None:
    site = make_site(tmp_path, release)
    report, result = compared(site, written_reference(tmp_path / "reference"), {"engine": engine(site)})
    assert report.distribution is not None
    assert report.distribution.method == "prefixes"
    assert "gather_context_logits" in report.distribution.why
    assert "280 of 792 predictions were not measured" in report.distribution.why
    assert report.distribution.rows == 512
    agreement = next(measure for measure in result.measures if measure.name == "top1_agreement")
    assert agreement.value == 1.0
    assert result.verdict is Verdict.PASS, result.told


def test_ranks_of_mpirun_compare_together_and_the_first_one_writes(tmp_path: Path) -> None:
    site = make_site(tmp_path, "0.12.0", tensor_parallel=2)
    built = engine(site, tensor_parallel=2)
    report, result = compared(site, written_reference(tmp_path / "reference"), {"engine": built}, world_size=2)
    assert report.distribution is not None
    assert report.distribution.rows == 512
    assert result.verdict is Verdict.PASS, result.told


@pytest.mark.parametrize("release", ["0.12.0", "0.16.0"])
def test_an_engine_built_to_gather_logits_is_compared_by_them(tmp_path: Path, release: str) -> None:
    site = make_site(tmp_path, release)
    built = engine(site, "--gather_context_logits")
    report, result = compared(site, written_reference(tmp_path / "reference"), {"engine": built})
    assert report.distribution is not None
    assert report.distribution.method == "logits"
    assert not report.distribution.why
    divergence = next(measure for measure in result.measures if measure.name == "mean_kl")
    assert divergence.value is not None
    assert divergence.value < 1e-6
    assert result.verdict is Verdict.PASS, result.told


@pytest.mark.parametrize(("release", "method"), [("0.19.0", "prefixes"), ("1.2.1", "logits")])
def test_a_checkpoint_is_compared_by_what_its_release_gives(tmp_path: Path, release: str, method: str) -> None:
    site = make_site(tmp_path, release)
    report, result = compared(site, written_reference(tmp_path / "reference"), {}, kind="pytorch")
    assert report.distribution is not None
    assert report.distribution.method == method
    assert result.verdict is Verdict.PASS, result.told


@pytest.mark.parametrize(("release", "method"), [("0.19.0", "prefixes"), ("1.2.1", "logits")])
def test_a_checkpoint_with_a_lost_tensor_fails_either_way(tmp_path: Path, release: str, method: str) -> None:
    site = make_site(tmp_path, release)
    broken = write_faulty(TINY_LLAMA, tmp_path / "broken", "tensor zeroed")
    inputs = {"checkpoint": broken}
    report, result = compared(site, written_reference(tmp_path / "reference"), inputs, kind="pytorch")
    assert report.distribution is not None
    assert report.distribution.method == method
    assert result.verdict is Verdict.FAIL
    assert "agreement on the most likely token" in result.reason


def test_sequences_longer_than_the_model_takes_are_measured_up_to_there(tmp_path: Path) -> None:
    site = make_site(tmp_path, "1.2.1")
    arguments = {"max_seq_len": 51}
    report, _ = compared(site, written_reference(tmp_path / "reference"), {}, kind="pytorch", arguments=arguments)
    assert report.distribution is not None
    assert report.distribution.rows == 8 * 50
