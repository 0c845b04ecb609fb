"""Writes the directory that Triton loads: five models around one engine.

It holds no path of its own: Triton tells each model where its files are, so the directory can be moved, copied and
loaded straight from S3.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from enginery import files
from enginery.context import Facts, StepContext
from enginery.errors import SourceError
from enginery.spec import ServingOptions
from enginery.triton.config import MODELS, model_config, relabel, to_text
from enginery.triton.served import served_archive, write_code

__all__ = ["MODELS", "RepositoryOptions", "package", "relabel", "write_model_repository"]

TOKENIZER_FILE = "tokenizer.json"
WITH_TOKENIZER = {"preprocessing", "tensorrt_llm", "postprocessing"}
KEEP = ".keep"


class RepositoryOptions(BaseModel):
    """How the engine is to be served.

    Attributes:
        serving: what the spec says of it.
        provider: what the engine runs on.
        labels: written into every model's configuration as parameters.
        version: the models' version in Triton.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    serving: ServingOptions = ServingOptions()
    provider: Literal["cpu", "cuda"] = "cpu"
    labels: Mapping[str, str] = Field(default_factory=dict)
    version: int = 1


def write_model_repository(destination: Path, *, engine: Path, weights: Path, options: RepositoryOptions) -> None:
    """Write a model repository into `destination`; files of the engine are linked where that is possible.

    Args:
        destination: an empty or missing directory.
        engine: an ONNX Runtime GenAI engine.
        weights: the model it was made from, for its tokenizer.
        options: how it is to be served.

    Raises:
        SourceError: when the model has no tokenizer in the `tokenizer.json` format.
        StoreError: when something cannot be written.
    """
    tokenizer, archive = _tokenizer(weights, engine), served_archive()
    for name in MODELS:
        config = model_config(name, options.serving, options.provider, options.labels)
        files.write_atomic(destination / name / "config.pbtxt", to_text(config))
        directory = destination / name / str(options.version)
        if name == "ensemble":
            files.write_atomic(directory / KEEP, "S3 has no empty directories, and Triton wants this one.\n")
            continue
        write_code(directory, name, archive)
        if name in WITH_TOKENIZER:
            files.link_or_copy(tokenizer, directory / TOKENIZER_FILE)
    for path in files.list_files(engine):
        files.link_or_copy(engine / path, destination / "tensorrt_llm" / str(options.version) / "engine" / path)


def _tokenizer(weights: Path, engine: Path) -> Path:
    for directory in (weights, engine):
        if (directory / TOKENIZER_FILE).is_file():
            return directory / TOKENIZER_FILE
    raise SourceError(
        f"the model has no {TOKENIZER_FILE}",
        subject=str(weights),
        remedy="save its fast tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
    )


def package(context: StepContext) -> Facts:
    """Make the model repository of a target; the step function of stage `package`.

    Parameters of the step: `model`, `target`, `serving`, `provider`. Inputs: `engine`, `weights`.
    """
    parameters = context.parameters
    options = RepositoryOptions.model_validate(
        {
            "serving": parameters["serving"],
            "provider": parameters["provider"],
            "labels": {
                "enginery_model": parameters["model"],
                "enginery_target": parameters["target"],
            },
        }
    )
    write_model_repository(
        context.output, engine=context.inputs["engine"], weights=context.inputs["weights"], options=options
    )
    context.log(f"model repository with {', '.join(MODELS)}")
    return {"models": list(MODELS), "decoupled": options.serving.decoupled}
