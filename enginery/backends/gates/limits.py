"""The default limits of the gates `distribution` and `size` for each precision.

All figures were measured with SmolLM2-135M-Instruct on 8,464 tokens of the texts that come with Enginery and of eight
answers, against its float32 weights. A larger model loses less when it is quantized, so these limits are wide for it.

| engine                                | mean KL | p99 KL | top-1 | perplexity ratio |
|---------------------------------------|---------|--------|-------|------------------|
| float32, CPU                          | 0.0000  | 0.000  | 1.000 | 1.000            |
| float16, H200                         | 0.0000  | 0.000  | 0.997 | 1.000            |
| bfloat16, H200                        | 0.0012  | 0.008  | 0.975 | 1.000            |
| int8, CPU (blocks of 32)              | 0.0045  | 0.033  | 0.964 | 1.005            |
| int8, CPU (blocks of 128)             | 0.0117  | 0.081  | 0.937 | 1.009            |
| int4, CPU, `k_quant_mixed`            | 0.184   | 1.23   | 0.787 | 1.163            |
| int4, CPU, the builder's own default  | 0.373   | 2.43   | 0.688 | 1.335            |
"""

from collections.abc import Mapping
from typing import NamedTuple

from enginery.spec import DistributionGate, Precision


class Limits(NamedTuple):
    """The limits of the gate `distribution`.

    Attributes:
        mean_kl: largest mean KL divergence, in nats.
        p99_kl: largest 99th percentile of it.
        top1_agreement: smallest share of tokens with the same most likely token.
        perplexity_ratio: largest ratio of the engine's perplexity to the reference's.
    """

    mean_kl: float
    p99_kl: float
    top1_agreement: float
    perplexity_ratio: float


FLOAT32 = Limits(0.001, 0.01, 0.99, 1.002)
"""The same numbers in another order of additions: near ties alone may fall differently."""
FLOAT16 = Limits(0.005, 0.05, 0.98, 1.01)
BFLOAT16 = Limits(0.01, 0.08, 0.95, 1.01)
EIGHT_BITS = Limits(0.02, 0.15, 0.92, 1.02)
"""Measured for weights of int8. Blocks of 128 pass, and so does everything finer."""
EIGHT_BITS_AND_ACTIVATIONS = Limits(0.05, 0.40, 0.88, 1.05)
"""Not measured: numbers of 8 bits also for activations, in fp8 with three bits of mantissa. Published losses of fp8 and
SmoothQuant are a few times those of int8 weights alone."""
FOUR_BITS = Limits(0.25, 1.65, 0.74, 1.22)
"""Between `k_quant_mixed`, which passes, and the builder's own default, which does not. For AWQ and NVFP4 not measured:
they are made to lose less than rounding, and larger models lose less than this one."""

LIMITS: Mapping[Precision, Limits] = {
    Precision.FLOAT32: FLOAT32,
    Precision.FLOAT16: FLOAT16,
    Precision.BFLOAT16: BFLOAT16,
    Precision.FP8: EIGHT_BITS_AND_ACTIVATIONS,
    Precision.INT8: EIGHT_BITS,
    Precision.INT8_WEIGHT_ONLY: EIGHT_BITS,
    Precision.INT8_SMOOTHQUANT: EIGHT_BITS_AND_ACTIVATIONS,
    Precision.INT4: FOUR_BITS,
    Precision.INT4_WEIGHT_ONLY: FOUR_BITS,
    Precision.INT4_AWQ: FOUR_BITS,
    Precision.W4A8_AWQ: FOUR_BITS,
    Precision.NVFP4: FOUR_BITS,
}

FLOAT_BITS: Mapping[Precision, int] = {Precision.FLOAT32: 32, Precision.FLOAT16: 16, Precision.BFLOAT16: 16}


class Bits(NamedTuple):
    """The bits of each weight of a matrix: the fewest and the most, with scales and with layers that are kept finer."""

    fewest: float
    most: float


MATRIX_BITS: Mapping[Precision, Bits] = {
    Precision.FLOAT32: Bits(32.0, 32.0),
    Precision.FLOAT16: Bits(16.0, 16.0),
    Precision.BFLOAT16: Bits(16.0, 16.0),
    Precision.FP8: Bits(8.0, 8.5),
    Precision.INT8_SMOOTHQUANT: Bits(8.0, 8.5),
    Precision.INT8_WEIGHT_ONLY: Bits(8.0, 8.5),
    # A scale of 32 bits for each 32 weights adds one bit; for each 16, two.
    Precision.INT8: Bits(8.0, 10.0),
    # Mixed placements keep a part of the layers in 8 bits.
    Precision.INT4: Bits(4.0, 7.0),
    Precision.INT4_WEIGHT_ONLY: Bits(4.0, 5.0),
    Precision.INT4_AWQ: Bits(4.0, 5.0),
    Precision.W4A8_AWQ: Bits(4.0, 5.0),
    # A scale of 8 bits for each 16 weights.
    Precision.NVFP4: Bits(4.0, 5.0),
}


def limits_for(precision: Precision, options: DistributionGate) -> Limits:
    """The limits of a precision, with those of the spec in their place."""
    given = {name: getattr(options, name) for name in Limits._fields}
    return LIMITS[precision]._replace(**{name: limit for name, limit in given.items() if limit is not None})
