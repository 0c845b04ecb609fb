"""Tests of the model repository for a TensorRT-LLM engine."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2

from enginery.core.errors import EngineryError, SourceError, StoreError, UsageError
from enginery.core.files import list_files
from enginery.pipeline.functions import find_function
from enginery.releases.models import MODELS
from enginery.spec.serving import ServingOptions
from enginery.store.context import StepContext
from enginery.triton.inflight import InflightOptions, write_inflight_repository
from enginery.triton.launch import launch_of_engine, note_of_engine
from enginery.triton.models.wiring import steps_beside
from enginery.triton.served import served_models_digest
from tests.support.triton.inflight import write_engine

TOKENIZER = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    directory = tmp_path / "weights"
    directory.mkdir()
    for name in (*TOKENIZER, "model.safetensors", "LICENSE"):
        (directory / name).write_text("{}")
    return directory


def write(tmp_path: Path, weights: Path, release: str = "0.8.0", **engine: Any) -> Path:
    options = InflightOptions(release=release, model="llama", world_size=engine.get("ranks"))
    built = write_engine(tmp_path / "engine", **engine)
    write_inflight_repository(tmp_path / "models", engine=built, weights=weights, options=options)
    return tmp_path / "models"


def test_files_are_where_the_article_and_our_models_want_them(tmp_path: Path, weights: Path) -> None:
    models = write(tmp_path, weights)
    tokenizer = [f"1/tokenizer/{name}" for name in TOKENIZER]
    ours = ["1/enginery_models.zip", "1/model.py", "config.pbtxt"]
    assert [str(path) for path in list_files(models / "tensorrt_llm")] == [
        "1/config.json",
        "1/rank0.engine",
        "config.pbtxt",
    ]
    for model in ("preprocessing", "postprocessing"):
        assert {str(path) for path in list_files(models / model)} == {*ours, *tokenizer}
    assert {str(path) for path in list_files(models / "tensorrt_llm_bls")} == {*ours, "1/wiring.json"}
    assert {str(path) for path in list_files(models / "ensemble")} == {"1/.keep", "config.pbtxt"}
    assert {path.name for path in models.iterdir()} == {*MODELS, "launch.md"}


def test_the_chat_template_travels_beside_the_tokenizer(tmp_path: Path, weights: Path) -> None:
    (weights / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        (weights / name).write_text(name)
    models = write(tmp_path, weights)
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        assert (models / "preprocessing/1/tokenizer" / name).read_text() == name


def test_large_files_are_linked_not_copied(tmp_path: Path, weights: Path) -> None:
    models = write(tmp_path, weights)
    assert (models / "tensorrt_llm" / "1" / "rank0.engine").samefile(tmp_path / "engine" / "rank0.engine")


def test_the_same_engine_gives_the_same_repository_anywhere(tmp_path: Path, weights: Path) -> None:
    first, second = (write(tmp_path / name, weights, "0.16.0") for name in "ab")
    assert list_files(first) == list_files(second)
    for path in list_files(first):
        assert (first / path).read_bytes() == (second / path).read_bytes()
        assert str(tmp_path).encode() not in (first / path).read_bytes()


@pytest.mark.parametrize("release", ["0.8.0", "0.12.0", "0.16.0", "1.2.1"])
def test_the_script_asks_as_the_ensemble_does(tmp_path: Path, weights: Path, release: str) -> None:
    models = write(tmp_path, weights, release)
    config = text_format.Parse((models / "ensemble" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    steps = steps_beside(models / "tensorrt_llm_bls" / "1")
    calls = [(step.model_name, dict(step.input_map), dict(step.output_map)) for step in config.ensemble_scheduling.step]
    assert [(step.model, step.takes, step.gives) for step in steps] == calls


def test_an_engine_without_all_its_ranks_is_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(StoreError, match=r"4 ranks, but rank2\.engine is not there"):
        write(tmp_path, weights, ranks=4, leave_out=2)


@pytest.mark.parametrize("content", ["", "[]", '{"builder_config": {}}'])
def test_what_is_no_engine_is_refused(tmp_path: Path, weights: Path, content: str) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "config.json").write_text(content)
    options = InflightOptions(release="0.8.0")
    with pytest.raises(StoreError, match="not an engine of trtllm-build"):
        write_inflight_repository(tmp_path / "m", engine=tmp_path / "engine", weights=weights, options=options)


def test_an_engine_for_another_number_of_gpus_is_refused(tmp_path: Path, weights: Path) -> None:
    options = InflightOptions(release="0.8.0", world_size=4)
    engine = write_engine(tmp_path / "engine", ranks=2)
    with pytest.raises(UsageError, match="has 2 ranks, but the target asks for 4"):
        write_inflight_repository(tmp_path / "m", engine=engine, weights=weights, options=options)


def test_more_beams_than_the_engine_was_built_for_are_refused(tmp_path: Path, weights: Path) -> None:
    engine = write_engine(tmp_path / "engine", max_beam_width=2)
    options = InflightOptions(release="0.8.0", serving=ServingOptions(max_beam_width=3))
    with pytest.raises(UsageError, match="max_beam_width is 3, but the engine was built for 2"):
        write_inflight_repository(tmp_path / "m", engine=engine, weights=weights, options=options)


def test_a_model_without_a_fast_tokenizer_is_refused(tmp_path: Path, weights: Path) -> None:
    (weights / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"no tokenizer\.json"):
        write(tmp_path, weights)


def test_a_release_without_engines_is_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UsageError, match="no Triton templates for engines any more"):
        write(tmp_path, weights, "1.3.0rc21")


def test_one_gpu_is_served_by_one_process_that_builds_can_be_rolled_out_to() -> None:
    argv = shlex.split(launch_of_engine("0.8.0", 1, "/models").command)
    assert argv[:5] == ["mpirun", "--allow-run-as-root", "-n", "1", "/opt/tritonserver/bin/tritonserver"]
    assert "--model-repository=/models" in argv
    assert "--model-control-mode=explicit" in argv
    assert "--load-model=*" in argv
    assert ":" not in argv


def test_each_rank_has_a_process_and_only_the_first_loads_every_model() -> None:
    launch = launch_of_engine("0.16.0", 3, "/srv/models")
    argv = shlex.split(launch.command)
    ranks = " ".join(argv[2:]).split(" : ")
    assert [rank.startswith("-n 1 /opt/tritonserver/bin/tritonserver") for rank in ranks] == [True] * 3
    assert ["--load-model=tensorrt_llm" in rank for rank in ranks] == [False, True, True]
    assert ["--model-control-mode=explicit" in rank for rank in ranks] == [False, True, True]
    assert [f"prefix{number}_" in rank for number, rank in enumerate(ranks)] == [True] * 3
    assert all("--disable-auto-complete-config" in rank for rank in ranks)
    assert (launch.world_size, launch.mount, launch.shared_memory) == (3, "/srv/models", "3g")


@pytest.mark.parametrize(("release", "image"), [("0.8.0", "24.02"), ("0.16.0", "24.12"), ("1.2.1", "26.07")])
def test_the_container_has_the_release_inside(release: str, image: str) -> None:
    launch = launch_of_engine(release, 1, "/models")
    assert launch.image == f"nvidia/tritonserver:{image}-trtllm-python-py3"
    assert f"-v DIRECTORY:/models {launch.image} mpirun" in launch.docker


def test_a_release_without_a_container_says_so() -> None:
    launch = launch_of_engine("1.3.0rc3", 1, "/models")
    assert launch.image == ""
    assert "none is known with 1.3.0rc3 inside" in note_of_engine(launch, "1.3.0rc3", "llama")


@pytest.mark.parametrize(
    ("release", "ranks", "explained"), [("0.9.0", 2, True), ("0.8.0", 2, False), ("0.9.0", 1, False)]
)
def test_the_note_says_how_engines_of_several_gpus_are_rolled_out(release: str, ranks: int, *, explained: bool) -> None:
    note = note_of_engine(launch_of_engine(release, ranks, "/models"), release, "llama")
    assert ("TRTLLM_ORCHESTRATOR=1" in note) is explained
    assert ("restart them" in note) is (ranks > 1)


def context(tmp_path: Path, engine: Path, weights: Path, **more: Any) -> StepContext:
    output = tmp_path / "output"
    output.mkdir()
    parameters = {
        "model": "llama",
        "target": "h100",
        "release": "1.2.1",
        "serving": ServingOptions(max_batch_size=3, mount="/srv/models").model_dump(mode="json"),
        "served_models_sha256": served_models_digest(),
    }
    return StepContext(
        key="0" * 64,
        parameters=parameters | more,
        inputs={"engine": engine, "weights": weights},
        output=output,
        chain=(),
        toolchain=None,
        log=lambda _: None,
    )


def test_the_step_tells_how_to_launch_and_whose_templates_it_filled(tmp_path: Path, weights: Path) -> None:
    step = context(
        tmp_path, write_engine(tmp_path / "engine", ranks=4), weights, tensor_parallel=2, pipeline_parallel=2
    )
    facts: Any = find_function("package_inflight")(step)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["launch"]["world_size"] == 4
    assert facts["launch"]["mount"] == "/srv/models"
    assert facts["launch"]["command"] in (step.output / "launch.md").read_text()
    assert facts["templates"]["release"] == "1.3.0rc3"
    assert facts["templates"]["certainty"] == "nearest"
    assert "not of 1.2.1" in facts["templates"]["note"]
    assert facts["models"] == list(MODELS)
    assert "max_batch_size: 3" in (step.output / "ensemble" / "config.pbtxt").read_text()


def test_the_step_checks_the_targets_parallelism(tmp_path: Path, weights: Path) -> None:
    step = context(tmp_path, write_engine(tmp_path / "engine"), weights, tensor_parallel=2)
    with pytest.raises(EngineryError, match="has 1 ranks, but the target asks for 2"):
        find_function("package_inflight")(step)


def test_the_step_takes_no_parameters_it_does_not_know(tmp_path: Path, weights: Path) -> None:
    step = context(tmp_path, write_engine(tmp_path / "engine"), weights, provider="cuda")
    with pytest.raises(ValidationError, match="provider"):
        find_function("package_inflight")(step)
