"""Tests of the model repository for an ONNX Runtime engine."""

import ast
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from enginery.core.errors import SourceError
from enginery.core.files import list_files
from enginery.spec.serving import ServingOptions
from enginery.store.context import StepContext
from enginery.triton.repository import (
    INPUTS,
    MODELS,
    OUTPUTS,
    RepositoryOptions,
    package,
    write_model_repository,
)
from enginery.triton.served import SOURCES

OPTIONS = RepositoryOptions(labels={"enginery_model": "m", "enginery_target": "t"})
SERVING_ENVIRONMENT = {"numpy", "tokenizers", "onnxruntime_genai", "triton_python_backend_utils"}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    directory = tmp_path / "engine"
    (directory / "nested").mkdir(parents=True)
    (directory / "genai_config.json").write_text("{}")
    (directory / "nested" / "model.onnx.data").write_bytes(b"weights")
    return directory


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    directory = tmp_path / "weights"
    directory.mkdir()
    (directory / "tokenizer.json").write_text('{"from": "weights"}')
    (directory / "model.safetensors").write_bytes(b"large")
    return directory


def written(tmp_path: Path, engine: Path, weights: Path, options: RepositoryOptions = OPTIONS) -> dict[str, Any]:
    write_model_repository(tmp_path / "models", engine=engine, weights=weights, options=options)
    return {name: config(tmp_path / "models" / name / "config.pbtxt") for name in MODELS}


def config(path: Path) -> Any:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_five_models_are_written_and_nothing_is_left_to_fill_in(tmp_path: Path, engine: Path, weights: Path) -> None:
    configs = written(tmp_path, engine, weights)
    assert [config.name for config in configs.values()] == list(MODELS)
    assert len(MODELS) == 5
    for path in (tmp_path / "models").rglob("config.pbtxt"):
        assert "${" not in path.read_text()
        assert str(tmp_path) not in path.read_text()


def test_files_are_where_the_models_look_for_them(tmp_path: Path, engine: Path, weights: Path) -> None:
    written(tmp_path, engine, weights)
    models = tmp_path / "models"
    assert (models / "tensorrt_llm/1/engine/nested/model.onnx.data").read_bytes() == b"weights"
    for name in ("preprocessing", "tensorrt_llm", "postprocessing"):
        assert (models / name / "1/tokenizer.json").read_text() == '{"from": "weights"}'
    for name in MODELS[:-1]:
        assert (models / name / "1/model.py").is_file()
        with ZipFile(models / name / "1/enginery_models.zip") as archive:
            assert f"enginery_models/{name}.py" in archive.namelist()
    assert not list(models.rglob("*.safetensors"))


def test_the_chat_template_travels_beside_the_tokenizer(tmp_path: Path, engine: Path, weights: Path) -> None:
    (weights / "additional_chat_templates").mkdir()
    names = ("chat_template.jinja", "tokenizer_config.json", "additional_chat_templates/tool_use.jinja")
    for name in names:
        (weights / name).write_text(name)
    written(tmp_path, engine, weights)
    for name in names:
        assert (tmp_path / "models/preprocessing/1" / name).read_text() == name


def test_the_same_model_makes_the_same_bytes(tmp_path: Path, engine: Path, weights: Path) -> None:
    for place in ("one", "two"):
        written(tmp_path / place, engine, weights)
    first, second = (tmp_path / place / "models" for place in ("one", "two"))
    for path in list_files(first):
        assert (first / path).read_bytes() == (second / path).read_bytes()


def test_the_ensembles_version_directory_survives_in_s3(tmp_path: Path, engine: Path, weights: Path) -> None:
    written(tmp_path, engine, weights)
    assert [path for path in (tmp_path / "models/ensemble/1").iterdir() if path.is_file()]


def test_large_files_are_linked(tmp_path: Path, engine: Path, weights: Path) -> None:
    written(tmp_path, engine, weights)
    served = tmp_path / "models/tensorrt_llm/1/engine/nested/model.onnx.data"
    assert served.samefile(engine / "nested/model.onnx.data")


def test_the_engines_own_tokenizer_serves_where_the_weights_have_none(
    tmp_path: Path, engine: Path, weights: Path
) -> None:
    (weights / "tokenizer.json").rename(engine / "tokenizer.json")
    written(tmp_path, engine, weights)
    assert (tmp_path / "models/preprocessing/1/tokenizer.json").read_text() == '{"from": "weights"}'


def test_a_model_without_tokenizer_is_refused_before_anything_is_written(
    tmp_path: Path, engine: Path, weights: Path
) -> None:
    (weights / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"no tokenizer\.json"):
        written(tmp_path, engine, weights)
    assert not (tmp_path / "models").exists()


def test_serving_options_reach_the_models(tmp_path: Path, engine: Path, weights: Path) -> None:
    serving = ServingOptions(
        max_batch_size=64,
        max_queue_delay_microseconds=250,
        preprocessing_instance_count=2,
        postprocessing_instance_count=3,
        bls_instance_count=4,
        exclude_input_in_output=False,
    )
    configs = written(tmp_path, engine, weights, RepositoryOptions(serving=serving))
    assert {config.max_batch_size for config in configs.values()} == {64}
    assert configs["tensorrt_llm"].dynamic_batching.max_queue_delay_microseconds == 250
    assert configs["tensorrt_llm"].parameters["exclude_input_in_output"].string_value == "false"
    counts = {name: config.instance_group[0].count for name, config in configs.items() if config.instance_group}
    assert counts == {"preprocessing": 2, "tensorrt_llm": 1, "postprocessing": 3, "tensorrt_llm_bls": 4}


@pytest.mark.parametrize("decoupled", [True, False])
def test_only_the_models_that_stream_are_decoupled(
    tmp_path: Path, engine: Path, weights: Path, *, decoupled: bool
) -> None:
    serving = ServingOptions(decoupled=decoupled)
    configs = written(tmp_path, engine, weights, RepositoryOptions(serving=serving))
    found = {name for name, config in configs.items() if config.model_transaction_policy.decoupled}
    assert found == ({"tensorrt_llm", "tensorrt_llm_bls"} if decoupled else set())


def test_a_cuda_engine_asks_for_a_gpu(tmp_path: Path, engine: Path, weights: Path) -> None:
    configs = written(tmp_path, engine, weights, RepositoryOptions(provider="cuda"))
    kinds = {
        name: model_config_pb2.ModelInstanceGroup.Kind.Name(config.instance_group[0].kind)
        for name, config in configs.items()
        if config.instance_group
    }
    assert kinds.pop("tensorrt_llm") == "KIND_GPU"
    assert set(kinds.values()) == {"KIND_CPU"}
    assert configs["tensorrt_llm"].parameters["provider"].string_value == "cuda"


def test_labels_are_on_every_model(tmp_path: Path, engine: Path, weights: Path) -> None:
    for config in written(tmp_path, engine, weights).values():
        assert config.parameters["enginery_model"].string_value == "m"
        assert config.parameters["enginery_target"].string_value == "t"


def test_the_tutorials_tensors_are_there_with_their_types(tmp_path: Path, engine: Path, weights: Path) -> None:
    ensemble = written(tmp_path, engine, weights)["ensemble"]
    types = {each.name: model_config_pb2.DataType.Name(each.data_type) for each in ensemble.input}
    expected = {"text_input": "TYPE_STRING", "max_tokens": "TYPE_INT32", "bad_words": "TYPE_STRING"}
    assert expected.items() <= types.items()
    assert (types["random_seed"], types["temperature"], types["stream"]) == ("TYPE_UINT64", "TYPE_FP32", "TYPE_BOOL")
    assert {each.name for each in ensemble.input if not each.optional} == {"text_input", "max_tokens"}
    assert "text_output" in {each.name for each in ensemble.output}


def test_every_step_of_the_ensemble_is_wired_to_what_exists(tmp_path: Path, engine: Path, weights: Path) -> None:
    ensemble = written(tmp_path, engine, weights)["ensemble"]
    made = {each.name for each in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        assert set(step.input_map) <= {tensor.name for tensor in INPUTS[step.model_name]}
        needed = {tensor.name for tensor in INPUTS[step.model_name] if not tensor.optional}
        assert needed <= set(step.input_map)
        assert set(step.input_map.values()) <= made
        assert set(step.output_map) <= {tensor.name for tensor in OUTPUTS[step.model_name]}
        made |= set(step.output_map.values())
    assert {each.name for each in ensemble.output} <= made


def test_everything_a_client_may_say_reaches_a_model(tmp_path: Path, engine: Path, weights: Path) -> None:
    ensemble = written(tmp_path, engine, weights)["ensemble"]
    used = {value for step in ensemble.ensemble_scheduling.step for value in step.input_map.values()}
    assert {each.name for each in ensemble.input} <= used


def test_the_step_packages_its_inputs(tmp_path: Path, engine: Path, weights: Path) -> None:
    lines: list[str] = []
    context = StepContext(
        key="k",
        parameters={
            "model": "tiny",
            "target": "int4",
            "serving": ServingOptions(max_batch_size=3).model_dump(mode="json"),
            "provider": "cpu",
            "served_models_sha256": "unused here",
        },
        inputs={"engine": engine, "weights": weights},
        output=tmp_path / "out",
        chain=(),
        toolchain=None,
        log=lines.append,
    )
    facts = package(context)
    assert facts["models"] == list(MODELS)
    assert lines
    written_config = config(tmp_path / "out" / "tensorrt_llm" / "config.pbtxt")
    assert written_config.max_batch_size == 3
    assert written_config.parameters["enginery_target"].string_value == "int4"


def imported(source: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_served_models_need_nothing_but_their_own_environment() -> None:
    sources = list(SOURCES.glob("*.py"))
    assert sources
    outside = set().union(*map(imported, sources)) - set(sys.stdlib_module_names)
    assert outside <= SERVING_ENVIRONMENT
