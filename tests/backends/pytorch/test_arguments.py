"""Tests of the arguments of the LLM API: the golden files `model.yaml`, values from the spec, and every release.

After an intended change, write the files again: `.venv/bin/python -m tests.backends.pytorch.test_arguments`
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from enginery.backends.package import LlmApiParameters
from enginery.backends.pytorch.arguments import NOT_IN_LLM, arguments_of
from enginery.backends.pytorch.keys import NESTED, NESTED_CLASS, Layout, class_keys, keys, layout
from enginery.backends.pytorch.schema import mistakes
from enginery.backends.request import Request
from enginery.core.files import write_atomic
from enginery.releases.facts import releases
from enginery.releases.flags import Argument, classes
from enginery.spec import gpus
from enginery.spec.types import FLOATS, BackendName
from enginery.store.steps import Call
from enginery.triton.llmapi import LlmApiOptions, model_yaml
from tests.support.models.examples import FLEET, Example
from tests.support.plans.pytorch import BACKEND, WEIGHTS, findings, request_of

GOLDEN = Path(__file__).parents[2] / "golden" / "pytorch"
RELEASES = [*(one for one in releases() if Version(one) >= Version("0.17.0")), "1.3.0rc22", "1.4.0"]
SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "served": {
        "target": {"tensor_parallel": 2, "pipeline_parallel": 2},
        "serving": {
            "max_batch_size": 6,
            "decoupled": True,
            "exclude_input_in_output": False,
            "kv_cache_free_gpu_mem_fraction": 0.5,
            "enable_kv_cache_reuse": False,
            "scheduler_policy": "max_utilization",
        },
    },
    "fp8": {"target": {"precision": "fp8"}, "convert": {"kv_cache": "fp8"}},
    "graphs": {
        "llm": {
            "cuda_graph_config": {"max_batch_size": 16, "enable_padding": True},
            "triton_config": {"warm_up": [1]},
            "disable_overlap_scheduler": True,
        },
    },
    "eager": {"llm": {"cuda_graph_config": None, "triton_config": {"warm_up": False}}},
}
GOLDEN_RELEASES = ("0.20.0", "0.21.0", "1.2.1", "1.3.0rc22")


def made(release: str, target: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    request = request_of({"release": release, **(target or {})}, **more)
    return arguments_of(request, release)


def written(release: str, name: str) -> str:
    spec = SPECS[name]
    request = request_of(
        {"release": release, **spec.get("target", {})}, **{k: v for k, v in spec.items() if k != "target"}
    )
    assert BACKEND.findings(request) == []
    recipe = BACKEND.chain(request, WEIGHTS).package.step.recipe
    assert isinstance(recipe, Call)
    parameters = LlmApiParameters.model_validate(dict(recipe.parameters))
    served = parameters.model_dump(include={"release", "arguments", "llm_class", "serving", "warm_up", "world_size"})
    return model_yaml(LlmApiOptions.model_validate(served))


@pytest.mark.parametrize("release", GOLDEN_RELEASES)
@pytest.mark.parametrize("name", SPECS)
def test_the_file_for_a_spec_and_a_release_is_the_golden_one(name: str, release: str) -> None:
    assert written(release, name) == (GOLDEN / f"{name}-{release}.yaml").read_text(encoding="utf-8")


def test_there_is_a_golden_file_for_each_and_no_other() -> None:
    expected = {f"{name}-{release}.yaml" for name in SPECS for release in GOLDEN_RELEASES}
    assert {path.name for path in GOLDEN.iterdir()} == expected


def test_the_same_spec_gives_the_same_bytes_whatever_the_order_of_its_keys() -> None:
    one = {"max_num_tokens": 5, "kv_cache_config": {"dtype": "fp8", "max_tokens": 9}}
    other = {"kv_cache_config": {"max_tokens": 9, "dtype": "fp8"}, "max_num_tokens": 5}
    texts = [model_yaml(LlmApiOptions(release="1.2.1", arguments=made("1.2.1", llm=llm))) for llm in (one, other)]
    assert texts[0] == texts[1]
    assert yaml.safe_load(texts[0])["model"] == "checkpoint"


@pytest.mark.parametrize(
    ("section", "field", "value", "path", "argument"),
    [
        ("build", "max_input_len", 9, ("max_input_len",), 9),
        ("build", "max_seq_len", 99, ("max_seq_len",), 99),
        ("build", "max_num_tokens", 9, ("max_num_tokens",), 9),
        ("build", "max_beam_width", 2, ("max_beam_width",), 2),
        ("build", "tokens_per_block", 64, ("kv_cache_config", "tokens_per_block"), 64),
        ("build", "max_batch_size", 3, ("max_batch_size",), 3),
        ("serving", "max_batch_size", 3, ("max_batch_size",), 3),
        ("serving", "kv_cache_free_gpu_mem_fraction", 0.5, ("kv_cache_config", "free_gpu_memory_fraction"), 0.5),
        ("serving", "enable_kv_cache_reuse", False, ("kv_cache_config", "enable_block_reuse"), False),
        ("serving", "kv_cache_host_memory_bytes", 5, ("kv_cache_config", "host_cache_size"), 5),
        ("serving", "max_attention_window_size", 7, ("kv_cache_config", "max_attention_window"), [7]),
        ("serving", "enable_chunked_context", True, ("enable_chunked_prefill",), True),
        (
            *("serving", "scheduler_policy", "guaranteed_no_evict"),
            *(("scheduler_config", "capacity_scheduler_policy"), "GUARANTEED_NO_EVICT"),
        ),
        ("convert", "kv_cache", "fp8", ("kv_cache_config", "dtype"), "fp8"),
    ],
)
def test_a_field_of_the_spec_becomes_its_argument(
    section: str, field: str, value: Any, path: tuple[str, ...], argument: Any
) -> None:
    there: Any = made("1.3.0rc3", **{section: {field: value}})
    assert findings({"release": "1.3.0rc3"}, **{section: {field: value}}) == []
    for name in path:
        there = there[name]
    assert there == argument


def test_the_length_of_prompt_and_answer_together_follows_from_both() -> None:
    assert made("1.2.1", build={"max_input_len": 10, "max_output_len": 5})["max_seq_len"] == 15


@pytest.mark.parametrize(("server", "engine"), [(3, 2048), (64, 3)])
def test_of_two_largest_batches_the_smaller_counts(server: int, engine: int) -> None:
    both = {"serving": {"max_batch_size": server}, "build": {"max_batch_size": engine}}
    assert made("1.2.1", **both)["max_batch_size"] == 3


def test_how_many_beams_a_request_may_have_is_said_by_serving() -> None:
    both = {"serving": {"max_beam_width": 2}, "build": {"max_beam_width": 4}}
    assert made("1.3.0rc3", **both)["max_beam_width"] == 2


def test_graphs_follow_from_the_largest_batch_wherever_that_is_said() -> None:
    for more in ({"llm": {"max_batch_size": 3}}, {"serving": {"max_batch_size": 3}}, {"build": {"max_batch_size": 3}}):
        assert made("1.2.1", **more)["cuda_graph_config"] == {"batch_sizes": [1, 2, 3], "enable_padding": True}


def test_what_the_user_says_of_graphs_stands() -> None:
    own = {"batch_sizes": [7], "enable_padding": False}
    assert made("1.2.1", llm={"cuda_graph_config": own})["cuda_graph_config"] == own
    assert made("1.2.1", llm={"cuda_graph_config": None})["cuda_graph_config"] is None


@pytest.mark.parametrize("release", ["0.18.0", "0.20.0", "0.21.0"])
def test_the_newest_names_are_translated_for_releases_before_1_0(release: str) -> None:
    llm = {
        "cuda_graph_config": {"batch_sizes": [1, 2], "enable_padding": True},
        "kv_cache_config": {"dtype": "fp8", "enable_block_reuse": True},
        "attn_backend": "TRTLLM",
    }
    found = made(release, llm=llm)
    own = found if layout(release) is Layout.FLAT else found[NESTED]
    assert own["use_cuda_graph"] is True
    assert own["cuda_graph_batch_sizes"] == [1, 2]
    assert own["cuda_graph_padding_enabled"] is True
    assert own["kv_cache_dtype"] == "fp8"
    assert own["attn_backend"] == "TRTLLM"
    assert found["kv_cache_config"] == {"enable_block_reuse": True}
    assert findings({"release": release}, llm=llm) == []


def test_graphs_are_left_off_where_the_release_has_them_off() -> None:
    assert NESTED not in made("0.20.0")
    assert "use_cuda_graph" not in made("0.21.0")
    assert made("0.21.0", llm={"cuda_graph_config": None})["use_cuda_graph"] is False


@pytest.mark.parametrize("release", RELEASES)
def test_what_follows_from_a_plain_spec_is_accepted_by_every_release(release: str) -> None:
    assert findings({"release": release}) == []
    assert mistakes(release, made(release)) == []
    assert made(release)["tensor_parallel_size"] == 1


@pytest.mark.parametrize("release", RELEASES)
def test_an_unknown_key_is_refused_in_every_release(release: str) -> None:
    found = findings({"release": release}, llm={"no_such_key": 1, "kv_cache_config": {"no_such_key": 1}})
    assert {(one.code, one.path) for one in found} == {
        ("E403", "llm.no_such_key"),
        ("E403", "llm.kv_cache_config.no_such_key"),
    }


@pytest.mark.parametrize("release", RELEASES)
def test_every_key_with_its_own_default_is_accepted(release: str) -> None:
    plain = (bool, int, float, str)
    for name, argument in keys(release).value.items():
        if name in NOT_IN_LLM or not isinstance(argument.default, plain) or str(argument.default).startswith("<"):
            continue
        assert findings({"release": release}, llm={name: argument.default}) == [], name


VALUES = st.one_of(
    st.booleans(), st.integers(-2, 9), st.floats(0, 1), st.sampled_from(["auto", "fp8", "x"]), st.none(), st.just([1])
)


def names_of(release: str) -> list[str]:
    return sorted({*keys(release).value, "max_num_token", "padding_enabled", *NOT_IN_LLM})


def inner_names(release: str, argument: Argument) -> list[str]:
    found = [name for name in (*classes(), NESTED_CLASS) if name in f"{argument.annotation} {argument.default_factory}"]
    return sorted({"no_such_key", *(key for name in found for key in class_keys(release, name))})


@st.composite
def specs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    release = draw(st.sampled_from(RELEASES))
    llm: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(names_of(release)), max_size=4, unique=True)):
        argument = keys(release).value.get(name)
        if argument is not None and draw(st.booleans()):
            llm[name] = draw(st.dictionaries(st.sampled_from(inner_names(release, argument)), VALUES, max_size=3))
        else:
            llm[name] = draw(VALUES)
    return release, llm


def paths_of(values: dict[str, Any]) -> list[tuple[str, ...]]:
    nested = [(name, inner) for name, value in values.items() if isinstance(value, dict) for inner in value]
    return [*((name,) for name in values), *nested]


def is_known(release: str, path: tuple[str, ...]) -> bool:
    """Whether the facts have this key. It is looked up without the schema."""
    argument = keys(release).value.get(path[0])
    if argument is None:
        return False
    inner = inner_names(release, argument)
    return len(path) == 1 or len(inner) == 1 or path[1] in set(inner) - {"no_such_key"}


@settings(max_examples=150)
@given(specs())
def test_arguments_are_accepted_by_the_facts_or_refused_with_a_reason(spec: tuple[str, dict[str, Any]]) -> None:
    release, llm = spec
    found = findings({"release": release}, llm=llm)
    assert all(one.problem and one.path for one in found)
    if found:
        assert {one.code for one in found} <= {
            "E153",
            "E403",
            "E404",
            "E405",
            "W169",
        }  # E153: a length that is too small
        return
    arguments = made(release, llm=llm)
    assert mistakes(release, arguments) == []
    assert [path for path in paths_of(arguments) if not is_known(release, path)] == []


@pytest.mark.parametrize("example", FLEET, ids=lambda example: example.name)
def test_every_example_is_planned_for_every_release_or_refused_with_a_reason(example: Example) -> None:
    for release in RELEASES:
        spec = example.spec_for(release)
        target = spec.targets[0].model_copy(update={"backend": BackendName.PYTORCH})
        request = Request(spec, target, gpus.find(target.gpu), example.model)
        found = BACKEND.findings(request)
        if found:
            assert all(one.problem and one.remedy for one in found)
            continue
        assert mistakes(release, arguments_of(request, release)) == []
        assert len(BACKEND.chain(request, WEIGHTS).making) == (target.precision not in FLOATS)


if __name__ == "__main__":
    for named in SPECS:
        for chosen in GOLDEN_RELEASES:
            write_atomic(GOLDEN / f"{named}-{chosen}.yaml", written(chosen, named))
