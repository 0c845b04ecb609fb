"""Writes the directory that Triton loads: five models around one engine.

It holds no path of its own: Triton tells each model where its files are, so the directory can be moved, copied and
loaded straight from S3.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal
from zipfile import ZipFile, ZipInfo

from pydantic import BaseModel, ConfigDict, Field

from enginery import files
from enginery.context import Facts, StepContext
from enginery.errors import SourceError
from enginery.spec import ServingOptions
from enginery.triton.config import MODELS, model_config, relabel, to_text
from enginery.triton.served import served_models_dir

__all__ = ["MODELS", "RepositoryOptions", "package", "relabel", "write_model_repository"]

SERVED_PACKAGE = "enginery_models"
SERVED_ARCHIVE = f"{SERVED_PACKAGE}.zip"
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
    tokenizer, archive = _tokenizer(weights, engine), _archive()
    for name in MODELS:
        config = model_config(name, options.serving, options.provider, options.labels)
        files.write_atomic(destination / name / "config.pbtxt", to_text(config))
        directory = destination / name / str(options.version)
        if name == "ensemble":
            files.write_atomic(directory / KEEP, "S3 has no empty directories, and Triton wants this one.\n")
            continue
        _write_code(directory, name, archive)
        if name in WITH_TOKENIZER:
            files.link_or_copy(tokenizer, directory / TOKENIZER_FILE)
    for path in files.list_files(engine):
        files.link_or_copy(engine / path, destination / "tensorrt_llm" / str(options.version) / "engine" / path)


MODEL_CODE = """\
\"\"\"Served by Triton; the code is in the archive beside it.\"\"\"

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("{archive}")))

from {package}.{model} import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def _write_code(directory: Path, name: str, archive: bytes) -> None:
    code = MODEL_CODE.format(archive=SERVED_ARCHIVE, package=SERVED_PACKAGE, model=name)
    files.write_atomic(directory / "model.py", code)
    files.write_atomic(directory / SERVED_ARCHIVE, archive)


def _archive() -> bytes:
    """The served models as one archive that Python imports from; the same sources give the same bytes.

    Triton asks S3 several times for every file of a model, so twenty small files would cost seconds at each load.
    """
    content = BytesIO()
    with ZipFile(content, "w") as archive:
        for source in sorted(served_models_dir().glob("*.py")):
            archive.writestr(ZipInfo(f"{SERVED_PACKAGE}/{source.name}"), source.read_bytes())
    return content.getvalue()


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
