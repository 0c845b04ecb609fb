"""Tests of the facts about an engine that the manifest takes from its steps."""

import pytest
from pydantic import JsonValue

from enginery.builds.manifest import engine_facts, license_id
from enginery.store.steps import Call, Command, Stage, StepRecord
from tests.support.store.records import a_chain, a_record


def built(limits: JsonValue, **toolchain: str) -> StepRecord:
    record = a_record(Stage.BUILD, recipe=Command(argv=("trtllm-build",)), facts={"limits": limits})
    return record.model_copy(update={"toolchain": toolchain})


def packaged(**parameters: JsonValue) -> StepRecord:
    return a_record(Stage.PACKAGE, recipe=Call(function="package", version=1, parameters=parameters))


@pytest.mark.parametrize(("gpu", "capability"), [("H100-SXM5-80GB", "9.0"), ("cpu", ""), ("H900-Sample", "")])
def test_the_compute_capability_is_that_of_the_gpu_where_it_is_known(gpu: str, capability: str) -> None:
    assert engine_facts(gpu, a_chain()).compute_capability == capability


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-cu12", "tensorrt-cu13"])
def test_the_version_of_tensorrt_is_that_of_the_build(package: str) -> None:
    assert engine_facts("cpu", [built({}, **{package: "10.7.0"})]).tensorrt == "10.7.0"
    assert engine_facts("cpu", a_chain()).tensorrt == ""


def test_the_limits_are_those_of_the_engine_as_far_as_serving_does_not_lower_them() -> None:
    engine = built({"max_batch_size": 2048, "max_seq_len": 8192, "max_input_len": None, "opt_num_tokens": 8})
    assert engine_facts("cpu", [engine]).limits == {"max_batch_size": 2048, "max_seq_len": 8192}
    served = packaged(serving={"max_batch_size": 64, "max_queue_size": 5})
    assert engine_facts("cpu", [engine, served]).limits == {"max_batch_size": 64, "max_seq_len": 8192}


def test_the_limits_of_a_checkpoint_are_the_arguments_it_is_loaded_with() -> None:
    served = packaged(arguments={"max_seq_len": 4096, "max_num_tokens": 8192}, serving={"max_batch_size": 0})
    assert engine_facts("cpu", [served]).limits == {"max_seq_len": 4096, "max_num_tokens": 8192}


@pytest.mark.parametrize("limits", [None, 3, "many", [], {"max_seq_len": True}, {"max_seq_len": "8192"}])
def test_what_is_no_limit_is_not_taken_for_one(limits: JsonValue) -> None:
    assert engine_facts("cpu", [built(limits)]).limits == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "                                 Apache License\n                           Version 2.0, January 2004",
            "Apache-2.0",
        ),
        ("MIT License\n\nCopyright (c) 2026", "MIT"),
        ("META LLAMA 3 COMMUNITY LICENSE AGREEMENT\nMeta Llama 3 Version Release Date", "llama3"),
        ("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\nLlama 3.1 Version Release Date", "llama3.1"),
        ("LLAMA 2 COMMUNITY LICENSE AGREEMENT", "llama2"),
        ("Do as you like.", ""),
        ("", ""),
    ],
)
def test_a_licence_is_known_by_its_title(text: str, name: str) -> None:
    assert license_id(text) == name
