"""The fleet of example specs: public models with their real dimensions, each with usual build options.

The golden files of commands are made from them for every release, and the plan's checks are tested with them. The
models and the specs are in `examples.yaml`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from enginery.models.facts import ModelFacts
from enginery.models.size import parameter_count
from enginery.spec.spec import Spec, parse_spec


@dataclass(frozen=True)
class Example:
    """One example of the fleet.

    Attributes:
        name: names its spec and its golden files.
        config: the fields of the model's `config.json` that matter for a build.
        spec: the spec as plain data, with one target that has no release yet.
        family: the directory of the release's converter, such as `llama`.
    """

    name: str
    config: dict[str, Any]
    spec: dict[str, Any]
    family: str

    @property
    def model(self) -> ModelFacts:
        """The model's facts. The size of its files follows from its shape."""
        shape = ModelFacts.from_config(self.config)
        width = 4 if shape.dtype == "float32" else 2
        return ModelFacts.from_config(self.config, weight_bytes=width * parameter_count(shape))

    @property
    def dtype(self) -> str:
        """The number format of the activations: the precision if that is a float format, else the model's format."""
        precision = self.spec["targets"][0]["precision"]
        return str(precision if "float" in precision else self.config["torch_dtype"])

    def spec_for(self, release: str) -> Spec:
        """The spec with its one target for a release."""
        targets = [{**target, "release": release} for target in self.spec["targets"]]
        return parse_spec({**self.spec, "targets": targets})


def _example(name: str, about: dict[str, Any], build: dict[str, Any]) -> Example:
    config, repository, family = _MODELS[about.pop("model")], about.pop("source"), about.pop("family", "llama")
    own = {key: about.pop(key) for key in list(about) if key in {"precision", "gpu", *ONE_GPU}}
    target = {"name": "engine", "gpu": "H100-SXM5-80GB", "backend": "tensorrt", **ONE_GPU, **own}
    prompts = [{"prompt": "How do I count to nine in French?", "contains": "neuf"}]
    spec = {"name": name, "source": {"huggingface": repository}, "targets": [target], "build": build}
    return Example(name, config, {**spec, "validation": {"prompts": prompts}, **about}, family)


ONE_GPU = {"tensor_parallel": 1, "pipeline_parallel": 1}
_READ = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_MODELS: dict[str, dict[str, Any]] = _READ["models"]
LLAMA_3_8B, LLAMA_3_70B, LLAMA_3_1_8B = (_MODELS[name] for name in ("LLAMA_3_8B", "LLAMA_3_70B", "LLAMA_3_1_8B"))
LLAMA_2_7B, MISTRAL_7B, MIXTRAL_8X7B = (_MODELS[name] for name in ("LLAMA_2_7B", "MISTRAL_7B", "MIXTRAL_8X7B"))
QWEN2_7B, GEMMA_7B, PHI_2 = (_MODELS[name] for name in ("QWEN2_7B", "GEMMA_7B", "PHI_2"))
FLEET = tuple(_example(name, **parts) for name, parts in _READ["specs"].items())
"""Sixteen examples, the tutorial's first."""
