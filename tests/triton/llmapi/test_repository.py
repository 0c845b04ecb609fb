"""Tests of the files of the `llmapi` repository: contents, tensors, and no placeholders."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from enginery.backends.package import package_llmapi
from enginery.builds.model_config import LAUNCH_NOTE
from enginery.core.errors import SourceError
from enginery.core.files import list_files
from enginery.pipeline.functions import find_function
from enginery.spec import ServingOptions
from enginery.store.context import StepContext
from enginery.store.steps import Call
from enginery.triton.launch import launch_of_llmapi, note_of_llmapi
from enginery.triton.llmapi import MODELS, NVIDIA_INPUTS, OUR_INPUTS, LlmApiOptions, write_llmapi_repository
from enginery.triton.repository import INPUTS
from enginery.triton.served import SOURCES, served_archive, served_models_digest
from tests.support.models.directories import exported_checkpoint
from tests.support.plans.pytorch import BACKEND, WEIGHTS, request_of

FACTS = Path(__file__).parents[2] / "golden" / "llmapi_tensors.json"
SERVING_ENVIRONMENT = {"numpy"}
DECOUPLED = LlmApiOptions(release="1.2.1", serving=ServingOptions(decoupled=True), labels={"enginery_model": "m"})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return exported_checkpoint(tmp_path / "checkpoint")


def config(path: Path) -> Any:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def written(tmp_path: Path, checkpoint: Path, options: LlmApiOptions = DECOUPLED) -> dict[str, Any]:
    write_llmapi_repository(tmp_path / "models", checkpoint=checkpoint, weights=checkpoint, options=options)
    return {name: config(tmp_path / "models" / name / "config.pbtxt") for name in MODELS}


def tensors(kind: Any) -> dict[str, tuple[str, list[int]]]:
    return {each.name: (model_config_pb2.DataType.Name(each.data_type), list(each.dims)) for each in kind}


def test_both_models_are_written_and_nothing_is_left_to_fill_in(tmp_path: Path, checkpoint: Path) -> None:
    configs = written(tmp_path, checkpoint)
    assert [found.name for found in configs.values()] == ["tensorrt_llm", "ensemble"]
    for path in (tmp_path / "models").rglob("*"):
        if path.suffix in {".pbtxt", ".yaml", ".py", ".md"}:
            assert "${" not in path.read_text()
            assert str(tmp_path) not in path.read_text()


def test_the_files_are_where_a_rollout_and_the_model_look_for_them(tmp_path: Path, checkpoint: Path) -> None:
    written(tmp_path, checkpoint)
    assert [str(path) for path in list_files(tmp_path / "models")] == [
        "ensemble/1/.keep",
        "ensemble/config.pbtxt",
        "launch.md",
        "tensorrt_llm/1/checkpoint/config.json",
        "tensorrt_llm/1/checkpoint/model.safetensors",
        "tensorrt_llm/1/checkpoint/tokenizer.json",
        "tensorrt_llm/1/enginery_models.zip",
        "tensorrt_llm/1/model.py",
        "tensorrt_llm/1/model.yaml",
        "tensorrt_llm/config.pbtxt",
    ]


def test_large_files_are_linked(tmp_path: Path, checkpoint: Path) -> None:
    written(tmp_path, checkpoint)
    copy = tmp_path / "models/tensorrt_llm/1/checkpoint/model.safetensors"
    assert copy.samefile(checkpoint / "model.safetensors")


def test_the_model_is_run_as_nvidias(tmp_path: Path, checkpoint: Path) -> None:
    found = written(tmp_path, checkpoint)["tensorrt_llm"]
    (group,) = found.instance_group
    assert (found.backend, found.max_batch_size) == ("python", 0)
    assert (group.count, model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)) == (1, "KIND_CPU")
    assert found.model_transaction_policy.decoupled


def test_its_tensors_are_nvidias_and_a_few_of_ours(tmp_path: Path, checkpoint: Path) -> None:
    facts = json.loads(FACTS.read_text())
    found = written(tmp_path, checkpoint)["tensorrt_llm"]
    ours = {tensor.name for tensor in OUR_INPUTS}
    inputs, outputs = tensors(found.input), tensors(found.output)
    for name, (kind, dims) in inputs.items():
        if name not in ours:
            their_kind, their_dims = facts["inputs"][name]
            assert kind == their_kind
            assert dims in (their_dims, [-1])  # ours may also have a value for each text
    assert set(inputs) == ours | {tensor.name for tensor in NVIDIA_INPUTS}
    assert {name: list(known) for name, known in outputs.items()} == {name: facts["outputs"][name] for name in outputs}
    assert not ours & set(facts["inputs"])
    assert {each.name for each in found.input if not each.optional} == {"text_input"}


def test_the_ensemble_takes_what_the_other_backends_ensembles_take(tmp_path: Path, checkpoint: Path) -> None:
    found = written(tmp_path, checkpoint)["ensemble"]
    others = {tensor.name: tensor.kind for tensor in INPUTS["ensemble"]}
    for name, (kind, _) in tensors(found.input).items():
        assert others[name] == kind
    assert {each.name for each in found.input if not each.optional} == {"text_input", "max_tokens"}
    assert {"text_output", "cum_log_probs"} <= set(tensors(found.output))


def test_the_ensemble_is_wired_to_tensors_that_exist(tmp_path: Path, checkpoint: Path) -> None:
    configs = written(tmp_path, checkpoint)
    (step,) = configs["ensemble"].ensemble_scheduling.step
    assert step.model_name == "tensorrt_llm"
    left_out = {"sampling_param_best_of", "return_finish_reason", "return_stop_reason"}
    assert set(step.input_map) == set(tensors(configs["tensorrt_llm"].input)) - left_out
    assert set(step.input_map.values()) == set(tensors(configs["ensemble"].input))
    assert set(step.output_map) == set(tensors(configs["tensorrt_llm"].output))
    assert set(step.output_map.values()) == set(tensors(configs["ensemble"].output))


def test_labels_are_on_both_models(tmp_path: Path, checkpoint: Path) -> None:
    for found in written(tmp_path, checkpoint).values():
        assert found.parameters["enginery_model"].string_value == "m"


def test_model_yaml_is_one_that_nvidias_model_reads_too(tmp_path: Path, checkpoint: Path) -> None:
    options = LlmApiOptions(release="1.2.1", arguments={"max_batch_size": 4}, warm_up=(1, 2))
    written(tmp_path, checkpoint, options)
    content = yaml.safe_load((tmp_path / "models/tensorrt_llm/1/model.yaml").read_text())
    assert content["model"] == "checkpoint"
    assert content["max_batch_size"] == 4
    assert {"max_batch_size": 0, "decoupled": False, "warm_up": [1, 2]}.items() <= content["triton_config"].items()


def test_a_tokenizer_that_the_checkpoint_lacks_comes_from_the_weights(tmp_path: Path, checkpoint: Path) -> None:
    weights = exported_checkpoint(tmp_path / "weights")
    (checkpoint / "tokenizer.json").unlink()
    (weights / "tokenizer.json").write_text('{"of": "weights"}')
    write_llmapi_repository(tmp_path / "models", checkpoint=checkpoint, weights=weights, options=DECOUPLED)
    copied = tmp_path / "models/tensorrt_llm/1/checkpoint/tokenizer.json"
    assert copied.read_text() == '{"of": "weights"}'


def test_a_chat_template_that_the_checkpoint_lacks_comes_from_the_weights(tmp_path: Path, checkpoint: Path) -> None:
    weights = exported_checkpoint(tmp_path / "weights")
    (weights / "chat_template.jinja").write_text("of the weights")
    (weights / "tokenizer_config.json").write_text('{"of": "weights"}')
    (checkpoint / "tokenizer_config.json").write_text('{"of": "checkpoint"}')
    write_llmapi_repository(tmp_path / "models", checkpoint=checkpoint, weights=weights, options=DECOUPLED)
    copied = tmp_path / "models/tensorrt_llm/1/checkpoint"
    assert (copied / "chat_template.jinja").read_text() == "of the weights"
    assert (copied / "tokenizer_config.json").read_text() == '{"of": "checkpoint"}'


def test_a_model_without_a_tokenizer_is_refused_before_anything_is_written(tmp_path: Path, checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match="no tokenizer"):
        written(tmp_path, checkpoint)
    assert not (tmp_path / "models").exists()


def test_the_served_code_can_be_imported_from_its_archive_alone(tmp_path: Path, checkpoint: Path) -> None:
    written(tmp_path, checkpoint)
    directory = tmp_path / "models/tensorrt_llm/1"
    code = "import model; print(model.TritonPythonModel.__module__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "enginery_models.llm.tensorrt_llm"


def test_the_served_code_imports_only_what_the_serving_environment_has() -> None:
    for source in (SOURCES / "llm").glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            else:
                continue
            outside = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert outside <= SERVING_ENVIRONMENT


def test_the_archive_has_all_that_the_model_imports_and_is_always_the_same(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(served_archive(llm=True))
    with ZipFile(path) as archive:
        assert "enginery_models/llm/tensorrt_llm.py" in archive.namelist()
    assert served_archive(llm=True) == path.read_bytes()
    assert len(served_models_digest(llm=True)) == 64


def packaged(tmp_path: Path, checkpoint: Path, **target: Any) -> Any:
    recipe = BACKEND.chain(request_of(target, serving={"decoupled": True}), WEIGHTS).package.step.recipe
    assert isinstance(recipe, Call)
    context = StepContext(
        key="k",
        parameters=recipe.parameters,
        inputs={"engine": checkpoint, "weights": checkpoint},
        output=tmp_path / "models",
        chain=(),
        toolchain=None,
        log=lambda _line: None,
    )
    return find_function(recipe.function)(context)


def test_the_step_makes_the_repository_that_the_plan_asks_for(tmp_path: Path, checkpoint: Path) -> None:
    facts = packaged(tmp_path, checkpoint, tensor_parallel=2)
    assert facts["models"] == ["tensorrt_llm", "ensemble"]
    assert facts["decoupled"] is True
    assert facts["launch"]["world_size"] == 2
    content = yaml.safe_load((tmp_path / "models/tensorrt_llm/1/model.yaml").read_text())
    assert content["tensor_parallel_size"] == 2
    assert config(tmp_path / "models/ensemble/config.pbtxt").parameters["enginery_target"].string_value == "h100"
    assert find_function("package_llmapi") is package_llmapi


@pytest.mark.parametrize(
    ("precision", "quantization", "problem"),
    [
        ("bfloat16", {"quant_algo": "FP8"}, "the checkpoint is FP8; the target's precision is bfloat16"),
        ("fp8", None, "the checkpoint is not quantized; the target's precision is fp8"),
        ("fp8", {"quant_algo": "W4A16_AWQ"}, "the checkpoint is W4A16_AWQ"),
    ],
)
def test_a_checkpoint_that_is_not_what_the_target_says_is_not_packaged(
    tmp_path: Path, precision: str, quantization: dict[str, Any] | None, problem: str
) -> None:
    checkpoint = exported_checkpoint(tmp_path / "quantized", quantization)
    with pytest.raises(SourceError, match=problem):
        packaged(tmp_path, checkpoint, precision=precision)
    assert not (tmp_path / "models").exists()


def test_the_launch_note_says_how_and_with_how_many_gpus(tmp_path: Path, checkpoint: Path) -> None:
    written(tmp_path, checkpoint, LlmApiOptions(release="1.2.1", model="llama", world_size=4))
    note = (tmp_path / "models" / LAUNCH_NOTE).read_text()
    assert "# Launching llama" in note
    assert "| GPUs (world size) | 4 |" in note
    assert "nvidia/tritonserver" in note
    assert "--model-control-mode=explicit" in note


@pytest.mark.parametrize(
    ("release", "arguments", "kept"),
    [
        ("1.2.1", {}, True),
        ("1.3.0rc3", {"enable_autotuner": True}, True),
        ("1.2.1", {"enable_autotuner": False}, False),
        ("1.1.0", {}, False),
        ("0.20.0", {}, False),
    ],
)
def test_the_launch_note_says_how_to_keep_what_the_autotuner_measured_where_the_release_can(
    tmp_path: Path, checkpoint: Path, release: str, arguments: dict[str, Any], *, kept: bool
) -> None:
    written(tmp_path, checkpoint, LlmApiOptions(release=release, model="llama", arguments=arguments))
    note = (tmp_path / "models" / LAUNCH_NOTE).read_text()
    options = f"-v CACHE:/autotuner -e TLLM_AUTOTUNER_CACHE_PATH=/autotuner/llama-{release}.json"
    assert (options in note) == kept
    assert ("autotuner" in note) == kept
    assert LAUNCH_NOTE == "launch.md", "a plan calls it so"


def test_a_release_without_a_known_container_is_launched_all_the_same() -> None:
    launch = launch_of_llmapi("1.4.0", 1)
    assert launch.image == ""
    assert "none is known with 1.4.0 inside" in note_of_llmapi(launch, "1.4.0", "m")
