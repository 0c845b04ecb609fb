"""The Python models that Triton serves: their archive in a model repository, and their digest in step keys."""

from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from enginery.core import files
from enginery.core.digests import file_digest, json_digest

PACKAGE = "enginery_models"
ARCHIVE = f"{PACKAGE}.zip"
KEEP = ".keep"

MODEL_CODE = """\
\"\"\"Served by Triton; the code is in the archive beside it.\"\"\"

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("{archive}")))

from {package}.{module} import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def served_models_dir() -> Path:
    """The directory of the served models' sources."""
    return Path(__file__).parent / "models"


@cache
def served_models_digest() -> str:
    """One SHA-256 of all sources: a changed model makes another model repository."""
    return json_digest({path.name: file_digest(path) for path in sorted(served_models_dir().glob("*.py"))})


def served_archive() -> bytes:
    """The archive of the served models, without the one of the LLM API."""
    return archive_of((path.name, path) for path in sorted(served_models_dir().glob("*.py")))


def archive_of(sources: Iterable[tuple[str, Path]]) -> bytes:
    """An archive that Python imports from, of sources with their paths in it. The same sources give the same bytes.

    One file, because Triton asks S3 several times for every file of a model: many small ones would take seconds.
    """
    content = BytesIO()
    with ZipFile(content, "w") as archive:
        for name, source in sources:
            archive.writestr(ZipInfo(f"{PACKAGE}/{name}"), source.read_bytes())
    return content.getvalue()


def write_code(directory: Path, module: str, archive: bytes) -> None:
    """Write the `model.py` of a served model, and the archive that it imports from, into its version directory.

    Args:
        directory: the version directory.
        module: where the model is in the archive, such as `preprocessing`.
        archive: made by `archive_of`.
    """
    files.write_atomic(directory / "model.py", MODEL_CODE.format(archive=ARCHIVE, package=PACKAGE, module=module))
    files.write_atomic(directory / ARCHIVE, archive)


def keep_directory(directory: Path) -> None:
    """Write a file into the version directory of a model without files: Triton wants it, S3 has no empty ones."""
    files.write_atomic(directory / KEEP, "S3 has no empty directories, and Triton wants this one.\n")
