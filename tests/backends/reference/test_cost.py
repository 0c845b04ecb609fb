import dataclasses
import json
from typing import Any

import pytest

from enginery.backends.reference import cost
from enginery.backends.request import Request
from enginery.models import ModelFacts, parameter_count
from enginery.spec import Gpu, gpus
from enginery.spec.spec import parse_spec
from tests.support.paths import CHECKOUT
from tests.support.plans.plan import spec_data

TINY = ModelFacts.from_config(json.loads((CHECKOUT / "examples/tiny-llama/model/config.json").read_text()))
LARGE = ModelFacts(
    model_type="llama",
    dtype="bfloat16",
    layers=80,
    heads=64,
    kv_heads=8,
    head_size=128,
    hidden_size=8192,
    intermediate_size=28672,
    vocab_size=128256,
)


def request(model: ModelFacts | None, gpu: Gpu = gpus.CPU, **reference: Any) -> Request:
    spec = parse_spec(spec_data(validation={"prompts": [{"prompt": "Hi"}], "reference": reference}))
    return Request(spec, spec.targets[0], gpu, model)


def test_the_cost_is_told_in_one_sentence() -> None:
    told = cost.reference_cost(request(TINY))
    assert told.startswith(
        "reference: up to 8,192 tokens of texts and 64 of answers through 410k parameters in float32"
    )
    assert "on a CPU with" in told
    assert told.endswith(" s")


def test_without_a_reference_or_a_known_shape_nothing_is_told() -> None:
    assert cost.reference_cost(request(TINY, use="off")) == ""
    assert cost.reference_cost(request(ModelFacts())) == ""
    assert cost.reference_cost(request(None)) == ""


def test_a_gpu_runs_the_models_own_format_and_takes_less_time() -> None:
    h100 = gpus.find("H100-SXM5-80GB")
    small = dataclasses.replace(LARGE, layers=8)
    on_gpu, on_cpu = cost.estimate(request(small, h100), small), cost.estimate(request(small), small, 1e12)
    assert (on_gpu.device, on_gpu.dtype) == ("GPU", "bfloat16")
    assert (on_cpu.device, on_cpu.dtype) == ("CPU", "float32")
    assert on_gpu.seconds < on_cpu.seconds
    assert on_gpu.memory < on_cpu.memory


def test_a_model_that_fits_nowhere_is_read_from_disk_with_less_memory() -> None:
    whole, read = (cost.estimate(request(LARGE), LARGE, memory) for memory in (1e12, 64e9))
    assert (whole.offloaded, read.offloaded) == (False, True)
    assert read.memory < 64e9 < whole.memory


def test_a_gpu_that_is_too_small_is_used_only_if_nothing_else_holds_the_model_or_the_spec_says_so() -> None:
    h100 = gpus.find("H100-SXM5-80GB")
    assert cost.estimate(request(LARGE, h100), LARGE, 1e12).device == "CPU"
    small = cost.estimate(request(LARGE, h100), LARGE, 64e9)
    assert (small.device, small.offloaded) == ("GPU", True)
    forced = cost.estimate(request(LARGE, h100, device="cuda"), LARGE, 1e12)
    assert (forced.device, forced.offloaded) == ("GPU", True)


@pytest.mark.parametrize(("count", "told"), [(410_240, "410k"), (134_515_008, "135M"), (70_553_706_496, "70.6B")])
def test_numbers_of_parameters_are_short(count: int, told: str) -> None:
    assert cost.short_count(count) == told


def test_of_a_mixture_of_experts_only_the_chosen_ones_count() -> None:
    experts: dict[str, Any] = {"experts": 8, "experts_per_token": 2, "moe_intermediate_size": 28672}
    mixture = dataclasses.replace(LARGE, **experts, expert_layers=tuple(range(80)))
    assert cost.active_parameters(LARGE) == pytest.approx(70e9, rel=0.02)
    assert cost.active_parameters(mixture) < 0.4 * parameter_count(mixture)
