"""The gate `size`: whether an engine has the bits per parameter that its precision promises.

An engine of four bits that is really one of eight is too large. One that lacks a part of the model is too small. The
bounds come from the model's shape: matrices have the bits of the precision with scales; embeddings, the last layer and
norms may stay in floating point, and the last layer may have a copy of embeddings that the model uses twice.
"""

from enginery.backends.gates.limits import FLOAT_BITS, MATRIX_BITS
from enginery.builds import Estimate, GateResult, Measure, Verdict, gate_result, verdict_of
from enginery.models import Weights
from enginery.spec import GateName, Mode, Precision, SizeGate

FIXED_BYTES = 32 * 2**20
"""What an engine has besides weights: graph, kernels, tokenizer, settings. Of a small engine it is the most."""
SHAPE_ERROR = 0.05
"""The number of weights is an estimate from the model's shape."""
BITS_OF_A_BYTE = 8
REMEDY = (
    "see in the log of the build whether it quantized the model; to publish the engine as it is, set"
    " validation.gates.size.accept"
)


def judge_size(  # noqa: PLR0913  all of it is data to judge
    engine_bytes: int,
    weights: Weights,
    precision: Precision,
    options: SizeGate,
    mode: Mode,
    *,
    float_bits: int = 32,
    ranks: int = 1,
    why: str = "",
) -> GateResult:
    """Judge the size of an engine or a checkpoint.

    Args:
        engine_bytes: the size of what is run, on all ranks together.
        weights: the number of the model's weights; all 0 if its shape is not known.
        precision: what the spec asks for.
        options: the spec's limit.
        mode: what follows from the verdict.
        float_bits: the bits of weights that are not quantized: 32 for ONNX Runtime on a CPU and for files that were not
            converted, else 16.
        ranks: how many files the engine is in; each has embeddings and kernels of its own.
        why: why the number of weights is not known.
    """
    total = weights.total
    if not total or not engine_bytes:
        what = "the engine's size" if total else f"the number of the model's parameters ({why or 'unknown shape'})"
        measure = Measure(
            name="bits_per_parameter",
            value=None,
            unit="bits",
            verdict=Verdict.INCONCLUSIVE,
            told=f"the bits per parameter were not judged: {what} is not known",
        )
        return gate_result(
            GateName.SIZE, mode, options.accept, (measure,), "set validation.gates.size: warn for such a model"
        )
    most = options.bits_per_parameter or most_bits(weights, precision, float_bits, ranks)
    fewest = fewest_bits(weights, precision, float_bits)
    bits = engine_bytes * BITS_OF_A_BYTE / total
    what = f"{engine_bytes / 1e6:,.1f} MB for {total:,} parameters: {bits:.2f} bits per parameter"
    measures = (
        Measure(
            name="bits_per_parameter",
            value=bits,
            unit="bits",
            limit=most,
            verdict=verdict_of(Estimate.exact(bits), most),
            told=f"{what}, at most {most:.2f} for {precision}",
        ),
        Measure(
            name="fewest_bits_per_parameter",
            value=bits,
            unit="bits",
            limit=fewest,
            at_least=True,
            verdict=verdict_of(Estimate.exact(bits), fewest, at_least=True),
            told=f"{what}, at least {fewest:.2f} for {precision}: with fewer a part of the model is missing",
        ),
    )
    return gate_result(GateName.SIZE, mode, options.accept, measures, REMEDY)


def most_bits(weights: Weights, precision: Precision, float_bits: int, ranks: int = 1) -> float:
    """The most bits per parameter that an engine of this precision has, with all that is not weights."""
    wide = max(float_bits, FLOAT_BITS.get(precision, 0))
    matrix = wide if precision in FLOAT_BITS else MATRIX_BITS[precision].most
    copy = 0 if weights.head else weights.embeddings
    bits = (weights.matrices + weights.experts) * matrix + (weights.kept + copy) * wide * ranks
    return (bits * (1 + SHAPE_ERROR) + FIXED_BYTES * ranks * BITS_OF_A_BYTE) / weights.total


def fewest_bits(weights: Weights, precision: Precision, float_bits: int = 32) -> float:
    """The fewest bits per parameter: everything is quantized, and nothing is there twice."""
    bits = weights.total * min(MATRIX_BITS[precision].fewest, float_bits) * (1 - SHAPE_ERROR)
    return max(0.0, (bits - FIXED_BYTES * BITS_OF_A_BYTE) / weights.total)
