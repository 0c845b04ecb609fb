"""The Python models that Triton runs: writes their code into a model repository, and digests it for step keys."""

from functools import cache
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from enginery.core import files
from enginery.core.digests import file_digest, json_digest

SOURCES = Path(__file__).parent / "models"
OF_ENGINES = ("*.py",)
OF_LLM = ("__init__.py", "generation.py", "requests.py", "sampling.py", "text.py", "llm/*.py")
"""The model of the LLM API, and the modules outside `llm` that it needs."""
PACKAGE = "enginery_models"
ARCHIVE = f"{PACKAGE}.zip"
KEEP = ".keep"
"""A file in the version directory of a model without files: Triton needs the directory, but S3 has no empty ones."""

MODEL_CODE = """\
\"\"\"Served by Triton; the code is in the archive beside it.\"\"\"

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("{archive}")))

from {package}.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


@cache
def served_models_digest(*, llm: bool = False) -> str:
    """One SHA-256, for step keys, of the sources of the LLM API's model (`llm`) or of the other models."""
    return json_digest({name: file_digest(path) for name, path in _sources(llm=llm).items()})


def served_archive(*, llm: bool) -> bytes:
    """A zip archive of the sources that Python can import from. The same sources give the same bytes.

    It is one file because Triton sends S3 several requests for every file: many small files would take seconds.
    """
    content = BytesIO()
    with ZipFile(content, "w") as archive:
        for name, source in _sources(llm=llm).items():
            archive.writestr(ZipInfo(f"{PACKAGE}/{name}"), source.read_bytes())
    return content.getvalue()


def write_code(directory: Path, module: str) -> None:
    """Write the `model.py` of a served model, and the archive that it imports from, into its version directory.

    Args:
        directory: the version directory.
        module: the model's module in the archive, such as `preprocessing`.
    """
    files.write_atomic(directory / "model.py", MODEL_CODE.format(archive=ARCHIVE, package=PACKAGE, module=module))
    files.write_atomic(directory / ARCHIVE, served_archive(llm=module.startswith("llm.")))


def _sources(*, llm: bool) -> dict[str, Path]:
    """The sources by their paths in the archive."""
    found = sorted(path for pattern in (OF_LLM if llm else OF_ENGINES) for path in SOURCES.glob(pattern))
    return {path.relative_to(SOURCES).as_posix(): path for path in found}
