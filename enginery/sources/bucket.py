"""Weights from a prefix in S3, identified by the names, sizes and ETags of the needed objects."""

from pathlib import Path

from enginery.core.digests import json_digest
from enginery.core.errors import SourceError
from enginery.core.progress import Progress
from enginery.core.s3 import Address, Prefix, download_file
from enginery.sources.model_files import ResolvedSource, SourceFile, raise_findings, select
from enginery.sources.staging import size_of
from enginery.spec import Source


def open_prefix(address: str) -> Prefix:
    """The prefix at an address such as `s3://bucket/models/llama`."""
    return Prefix(Address.parse(address, empty_parts=True), SourceError)


def resolve(source: Source) -> ResolvedSource:
    """List the prefix and check that it holds a model that can be built.

    Raises:
        SourceError: when S3 cannot be reached or refuses access, or when the model has problems; it lists all of them.
    """
    prefix = open_prefix(str(source.s3))
    found = {info.path: info for info in prefix.list()}
    if not found:
        remedy = "set source.s3 to a prefix with the model's files"
        raise SourceError("there is nothing under this prefix", subject=str(source.s3), remedy=remedy)
    selection = select(found, source, lambda name: prefix.get_bytes(name) or b"")
    raise_findings(selection.findings, str(source.s3), selection.config)
    infos = [found[name] for name in sorted(selection.names)]
    files = tuple(
        SourceFile(name=info.path, size=info.size, sha256=source.sha256.get(info.path), etag=info.etag)
        for info in infos
    )
    return ResolvedSource(
        kind="s3",
        location=str(prefix.address),
        commit=json_digest([[file.name, file.etag, file.size] for file in files]),
        files=files,
        config=selection.config,
        chat_template=selection.chat_template,
    )


def check_unchanged(prefix: Prefix, files: tuple[SourceFile, ...]) -> None:
    """Check that no object has changed since the plan was made.

    Raises:
        SourceError: for the first object that was changed or is gone.
    """
    now = {info.path: info.etag for info in prefix.list()}
    for file in files:
        if now.get(file.name) != file.etag:
            how = "was changed" if file.name in now else "is gone"
            raise SourceError(f"{how} since the plan was made", subject=prefix.where(file.name), remedy="plan again")


def fetch(prefix: Prefix, file: SourceFile, part: Path, progress: Progress) -> None:
    """Download an object to `part`.

    Raises:
        SourceError: when the download fails, or the object has changed since the plan was made.
    """
    assert file.size is not None  # noqa: S101  a list of objects has all sizes
    progress.add(-size_of(part))  # the download starts again from the first byte
    # If there is no SHA-256, only the ETag shows that the object was changed, even during the download.
    download_file(prefix, file.name, part, size=file.size, sha256=file.sha256, etag=file.etag, progress=progress)
