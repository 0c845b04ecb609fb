# ruff: noqa: F811  fixtures are imported
"""Tests of rollouts of engines whose configurations have absolute paths, with a fake Triton."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import text_format
from pydantic import JsonValue
from tritonclient.grpc import model_config_pb2

from enginery.builds.manifest import Manifest
from enginery.builds.model_config import PATH_PARAMETERS, moved, serve_as
from enginery.core.errors import RolloutError
from enginery.triton.placement import arrange
from enginery.triton.rollout import roll_out_build
from tests.support.registry.builds import ANSWERS, LEAF_CONFIG, QUESTION, Build
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.fake import FakeTriton
from tests.support.triton.rollouts import FIRST, SECOND, THIRD, Site, address, site, triton  # noqa: F401

PATHS = {
    "preprocessing": {
        "tokenizer_dir": "/mnt/models/preprocessing/1/tokenizer",
        "gpt_model_path": "/mnt/models/tensorrt_llm/1",
    },
    "postprocessing": {"tokenizer_dir": "/mnt/models/postprocessing/1/tokenizer"},
    "tensorrt_llm": {"gpt_model_path": "/mnt/models/tensorrt_llm/1", "encoder_model_path": ""},
}


@dataclass
class EngineBuild(Build):
    """A build of the backend `tensorrt`: its configurations have absolute paths, and it has a launch note."""

    def parameters(self, to: str, **more: JsonValue) -> dict[str, JsonValue]:
        found = super().parameters(to, **more)
        target = found["target"]
        assert isinstance(target, dict)
        return found | {"target": {**target, "backend": "tensorrt", "release": "0.16.0", "precision": "bfloat16"}}

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        models = inputs["model_repository"]
        for model, paths in PATHS.items():
            backend = "tensorrtllm" if model == "tensorrt_llm" else "python"
            config = text_format.Parse(LEAF_CONFIG.format(name=model, more=""), model_config_pb2.ModelConfig())
            config.backend = backend
            for name, value in paths.items():
                config.parameters[name].string_value = value
            (models / model / "config.pbtxt").write_text(text_format.MessageToString(config))
        (models / "launch.md").write_text("# Launching\n")
        return inputs


def published(site: Site, build_id: str, answer: str = "") -> Manifest:
    return EngineBuild(build_id=build_id, answers={QUESTION: answer} if answer else ANSWERS).publish(site.address)


def paths_of(triton: FakeTriton) -> dict[str, dict[str, str]]:
    found = {}
    for model in PATHS:
        written = (triton.repository / model / "config.pbtxt").read_text()
        parameters = text_format.Parse(written, model_config_pb2.ModelConfig()).parameters
        found[model] = {name: parameters[name].string_value for name in sorted(PATH_PARAMETERS & set(parameters))}
    return found


def expected(version: int) -> dict[str, dict[str, str]]:
    return {
        model: {name: path.replace("/1", f"/{version}") for name, path in sorted(paths.items())}
        for model, paths in PATHS.items()
    }


def test_each_version_gets_its_own_paths(site: Site) -> None:
    site.roll_out(published(site, FIRST))
    assert paths_of(site.triton) == expected(1)
    site.roll_out(published(site, SECOND))
    assert paths_of(site.triton) == expected(2)
    assert (site.triton.repository / "tensorrt_llm" / "2" / "answers.json").is_file()


def test_a_rollback_gives_the_engine_its_previous_paths(site: Site) -> None:
    first = published(site, FIRST)
    site.roll_out(first)
    site.roll_out(published(site, SECOND))
    site.roll_out(first)
    assert paths_of(site.triton) == expected(3)
    assert (site.triton.repository / "tensorrt_llm" / "3" / "answers.json").is_file()


def test_a_failed_rollout_puts_the_previous_place_back(site: Site) -> None:
    site.roll_out(published(site, FIRST))
    site.roll_out(published(site, SECOND))
    site.triton.refuses, site.triton.refuses_build = {"tensorrt_llm": "out of memory"}, THIRD
    with pytest.raises(RolloutError, match=f"{SECOND} serves again"):
        site.roll_out(published(site, THIRD))
    assert paths_of(site.triton) == expected(2)


def test_the_launch_note_is_published_but_not_placed(site: Site) -> None:
    manifest = published(site, FIRST)
    assert "model_repository/launch.md" in [file.path for file in manifest.files]
    assert "launch.md" not in [path for _, path in arrange(manifest, 1).files]
    site.roll_out(manifest)
    assert not (site.triton.repository / "launch.md").exists()


def test_an_engine_is_not_rolled_out_to_s3_and_nothing_is_changed(site: Site) -> None:
    manifest = published(site, FIRST)
    before = {info.path for info in site.registry.prefix.list()}
    with pytest.raises(
        RolloutError, match=r"cannot be served from S3.*needs the engine's path.*nothing was changed"
    ) as met:
        roll_out_build(manifest, site.registry, [site.triton.url], f"{site.address}/serving/llama", site.lines.append)
    assert "mounts at serving.mount" in met.value.remedy
    assert {info.path for info in site.registry.prefix.list()} == before
    assert not site.triton.calls


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/models/tensorrt_llm/1", "/models/tensorrt_llm/7"),
        ("/models/preprocessing/1/tokenizer", "/models/preprocessing/7/tokenizer"),
        ("/a/tensorrt_llm/1/postprocessing/1/tokenizer", "/a/tensorrt_llm/1/postprocessing/7/tokenizer"),
        ("/models/tensorrt_llm/12", "/models/tensorrt_llm/12"),
        ("/data/llama", "/data/llama"),
        ("/models/other/1/x", "/models/other/1/x"),
        ("tensorrt_llm/1", "tensorrt_llm/1"),
        ("", ""),
    ],
)
def test_only_paths_into_a_packaged_version_are_moved(path: str, there: str) -> None:
    assert moved(path, 7) == there


def test_parameters_that_are_no_places_stay() -> None:
    text = (
        LEAF_CONFIG.format(name="x", more="") + 'parameters { key: "note" value { string_value: "/m/tensorrt_llm/1" } }'
    )
    served = text_format.Parse(serve_as(text, 4, "b"), model_config_pb2.ModelConfig())
    assert served.parameters["note"].string_value == "/m/tensorrt_llm/1"
