"""Weights from a directory on this machine, identified by their digests.

The plan notes the directory's path in Enginery's home, under the digest of its files. The download step reads it there.
"""

import json
import os
import shutil
import socket
from functools import partial
from pathlib import Path

from enginery.core.digests import json_digest, remembered_digest
from enginery.core.errors import SourceError
from enginery.core.files import write_atomic, writing
from enginery.core.home import home
from enginery.models import WeightFiles
from enginery.sources.model_files import (
    LARGE,
    ResolvedSource,
    Selection,
    SourceFile,
    check_expected_digests,
    is_lfs_pointer,
    raise_findings,
    select,
)
from enginery.sources.staging import mismatch
from enginery.spec import Source

STAND_IN = "the weights in the directory are far too few for this config.json: a build will refuse them"


def resolve(source: Source) -> ResolvedSource:
    """Digest the needed files of the directory, and note the directory's path for the download step.

    Raises:
        SourceError: when there is no such directory, or when the model has problems; it lists all of them.
    """
    directory = Path(str(source.path)).expanduser().absolute()
    names = _names(directory)
    selection = select(names, source, lambda name: _read(directory / name))
    _check_content(directory, selection)
    expected = selection.names.intersection(source.sha256)
    check_expected_digests({name: remembered_digest(directory / name) for name in expected}, source, selection)
    raise_findings(selection.findings, str(directory), selection.config)
    paths = {name: directory / name for name in sorted(selection.names)}
    files = tuple(
        SourceFile(name=name, size=path.stat().st_size, sha256=remembered_digest(path)) for name, path in paths.items()
    )
    commit = json_digest([[file.name, file.sha256] for file in files])
    write_atomic(_note(commit), json.dumps({"path": str(directory)}))
    return ResolvedSource(
        kind="path",
        location=str(directory),
        commit=commit,
        files=files,
        config=selection.config,
        chat_template=selection.chat_template,
        notes=tuple(selection.notes),
    )


def _names(directory: Path) -> list[str]:
    try:
        inside = [path for path in directory.iterdir() if path.is_dir()]
        nested = [f"{path.name}/{name}" for path in inside for name in _files_in(path)]
        return [*_files_in(directory), *nested]
    except OSError as error:
        remedy = "set source.path to a directory with the model's files; for workers on other machines, use source.s3"
        problem = f"is not a directory that can be read on this machine, {socket.gethostname()}: {error.strerror}"
        raise SourceError(problem, subject=str(directory), remedy=remedy) from error


def _files_in(directory: Path) -> list[str]:
    """The names of the files in a directory; none if it cannot be read."""
    readable = os.access(directory, os.R_OK | os.X_OK)
    return [path.name for path in directory.iterdir() if path.is_file()] if readable else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise SourceError(problem, subject=str(path), remedy="check its permissions") from error


def _check_content(directory: Path, selection: Selection) -> None:
    names = selection.names - selection.unreadable
    pointers = {name for name in names if is_lfs_pointer(directory / name)}
    for name in sorted(pointers):
        selection.report(f"{name} is a pointer of Git LFS, not the file itself", "run `git lfs pull` there")
    for name in sorted((names & LARGE) - pointers):
        selection.check_document(name, _read(directory / name))
    weights = WeightFiles.read(directory, names - pointers)
    selection.config = weights.settled(selection.config)
    stand_in = weights.only_stand_in(selection.config)
    if stand_in:
        selection.notes.append(STAND_IN)
    selection.findings += weights.damage() if stand_in or selection.findings else weights.faults(selection.config)


def _note(commit: str) -> Path:
    """The file that names the directory of the files with this digest. The directory's path is in no step's key."""
    return home() / "sources" / f"{commit}.json"


def _noted_directory(commit: str) -> Path:
    try:
        return Path(json.loads(_note(commit).read_text(encoding="utf-8"))["path"])
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            "it is not known on this machine where these local files are",
            subject=f"source.path, digest {commit[:12]}",
            remedy="plan on the machine that has them, or use source.s3 or source.huggingface",
        ) from error


def copy(commit: str, files: tuple[SourceFile, ...], output: Path) -> None:
    """Copy the files to `output`, and check that they have not changed since the plan was made.

    The files are not linked: their owner may change them in place, but the store's copy must not change.

    Raises:
        SourceError: when this machine has no note of the directory, or when a file is gone or was changed.
        StoreError: when the copy cannot be written.
    """
    directory = _noted_directory(commit)
    for file in files:
        changed = partial(SourceError, subject=str(directory / file.name), remedy="make the plan again")
        if not (directory / file.name).is_file():
            raise changed("is gone since the plan was made")
        with writing(output / file.name):
            (output / file.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / file.name, output / file.name)
        if wrong := mismatch(output / file.name, file):
            raise changed(f"was changed since the plan was made: it {wrong}")
