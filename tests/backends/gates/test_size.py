import pytest

from enginery.backends.gates.size import judge_size
from enginery.builds import GateResult, Verdict
from enginery.models import Weights
from enginery.spec import Accepted, Mode, Precision, SizeGate

SMALL = Weights(embeddings=49152 * 576, matrices=106_168_320, others=35_136)
"""SmolLM2-135M: a fifth of it are embeddings, which it uses twice."""
LARGE = Weights(embeddings=152_064 * 3584, head=152_064 * 3584, matrices=6_500_000_000)
TINY = Weights(embeddings=448 * 128, head=448 * 128, matrices=295_000)
MB = 1_000_000


def judged(
    size: float, weights: Weights, precision: Precision, options: SizeGate | None = None, float_bits: int = 16
) -> GateResult:
    return judge_size(int(size), weights, precision, options or SizeGate(), Mode.BLOCK, float_bits=float_bits)


@pytest.mark.parametrize(
    ("megabytes", "precision", "float_bits"),
    [
        (540, Precision.FLOAT32, 32),
        (267, Precision.INT8, 32),
        (86.5, Precision.INT4, 32),
        (133, Precision.INT4, 32),
        (270, Precision.BFLOAT16, 16),
        (201, Precision.INT8, 16),
        (77, Precision.INT4, 16),
        (104, Precision.INT4, 16),
    ],
)
def test_real_engines_of_a_small_model_pass(megabytes: float, precision: Precision, float_bits: int) -> None:
    result = judged(megabytes * MB, SMALL, precision, float_bits=float_bits)
    assert result.verdict is Verdict.PASS, result.told


def size_of(bits: float) -> float:
    """Bytes of the large model with so many bits in each matrix and 16 elsewhere."""
    return LARGE.matrices * bits / 8 + LARGE.kept * 2


@pytest.mark.parametrize(
    ("promised", "bits"),
    [
        (Precision.NVFP4, 8),
        (Precision.NVFP4, 16),
        (Precision.INT4_AWQ, 8),
        (Precision.W4A8_AWQ, 8),
        (Precision.FP8, 16),
        (Precision.INT8_SMOOTHQUANT, 16),
        (Precision.FLOAT16, 32),
    ],
)
def test_an_engine_with_more_bits_than_promised_fails(promised: Precision, bits: float) -> None:
    result = judged(size_of(bits), LARGE, promised)
    assert result.verdict is Verdict.FAIL
    assert f"for {promised}" in result.reason
    assert "bits per parameter, at most" in result.reason
    assert result.stops


@pytest.mark.parametrize(
    ("promised", "bits"),
    [
        (Precision.NVFP4, 4.5),
        (Precision.INT4_AWQ, 4.25),
        (Precision.INT4_WEIGHT_ONLY, 4.0),
        (Precision.FP8, 8),
        (Precision.INT8_WEIGHT_ONLY, 8.1),
        (Precision.BFLOAT16, 16),
    ],
)
def test_an_engine_with_the_promised_bits_passes(promised: Precision, bits: float) -> None:
    assert judged(size_of(bits), LARGE, promised).verdict is Verdict.PASS


def test_an_engine_that_lacks_half_of_the_model_fails() -> None:
    result = judged(size_of(16) / 2, LARGE, Precision.FLOAT16)
    assert result.verdict is Verdict.FAIL
    assert "a part of the model is missing" in result.reason


@pytest.mark.parametrize("precision", list(Precision))
def test_a_tiny_engine_is_mostly_fixed_parts_and_passes(precision: Precision) -> None:
    assert judged(2 * MB, TINY, precision).verdict is Verdict.PASS


def test_an_unknown_number_of_parameters_is_inconclusive() -> None:
    result = judged(500 * MB, Weights(), Precision.INT4)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "parameters (unknown shape) is not known" in result.reason


def test_an_unknown_size_is_inconclusive() -> None:
    assert judged(0, SMALL, Precision.INT4).verdict is Verdict.INCONCLUSIVE


def test_a_limit_of_the_spec_takes_the_place_of_the_default() -> None:
    options = SizeGate(bits_per_parameter=5.0, accept=Accepted(by="Ada", why="a known exception"))
    result = judged(133 * MB, SMALL, Precision.INT4, options)
    assert result.verdict is Verdict.FAIL
    assert "at most 5.00" in result.reason
    assert result.forced is not None
    assert not result.stops


def test_each_rank_has_fixed_parts_of_its_own() -> None:
    size = size_of(4.5) + 3 * LARGE.kept * 2
    result = judge_size(int(size), LARGE, Precision.NVFP4, SizeGate(), Mode.BLOCK, float_bits=16, ranks=4)
    assert result.verdict is Verdict.PASS


def test_weights_that_are_served_as_they_are_may_keep_their_own_bits() -> None:
    own = size_of(16)
    assert judged(own, LARGE, Precision.FLOAT32, float_bits=16).verdict is Verdict.PASS
    assert judged(own, LARGE, Precision.FLOAT32, float_bits=32).verdict is Verdict.FAIL
    assert judged(own / 2, LARGE, Precision.FLOAT32, float_bits=16).verdict is Verdict.FAIL
