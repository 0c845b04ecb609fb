"""What the files of a step's output are, without reading them where the step's record says it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from enginery.digests import file_digest
from enginery.files import list_files
from enginery.parallel import side_by_side
from enginery.records import FileRecord, StepRecord
from enginery.steps import Stage


def known_files(
    root: Path, chain: Sequence[StepRecord], stage: Stage, wanted: Callable[[str], bool] = lambda _: True
) -> tuple[FileRecord, ...]:
    """The files of `root`, the output of a step of this stage, sorted by path; only those whose path is `wanted`.

    Digests come from the record of that step when it names these very files, else the files are read.

    Raises:
        StoreError: for symbolic links and special files.
    """
    sizes = {path.as_posix(): (root / path).stat().st_size for path in list_files(root)}
    for record in chain:
        if record.step.stage is stage and {file.path: file.size for file in record.files} == sizes:
            return tuple(file for file in record.files if wanted(file.path))

    def read(path: str) -> FileRecord:
        return FileRecord(path=path, sha256=file_digest(root / path), size=sizes[path])

    return tuple(side_by_side(read, sorted(path for path in sizes if wanted(path))))
