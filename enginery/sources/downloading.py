"""The download step: where the weights of a source are, and bringing them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.sources.model_files import is_license, safetensors_problem
from enginery.sources.resolved import ResolvedSource, SourceFile, SourceKind
from enginery.spec import Source
from enginery.store import StepContext

if TYPE_CHECKING:
    from enginery.sources import bucket, hub, local, staging
else:
    bucket, hub = late("enginery.sources.bucket"), late("enginery.sources.hub")
    local, staging = late("enginery.sources.local"), late("enginery.sources.staging")


class DownloadParameters(Frozen):
    """The parameters of the download step: what determines its bytes.

    Attributes:
        kind: the kind of source.
        location: the repository or S3 address; None for local files, which are the same in every directory.
        commit: identifies the content.
        files: what to download.
    """

    kind: SourceKind
    location: str | None = None
    commit: str
    files: tuple[SourceFile, ...]


def resolve(source: Source) -> ResolvedSource:
    """Find out which files a source has now. No weights are downloaded.

    Raises:
        SourceError: when it cannot be reached, or with everything that is wrong with the model.
    """
    if source.huggingface is not None:
        return hub.resolve(source)
    if source.path is not None:
        return local.resolve(source)
    return bucket.resolve(source)


def parameters(resolved: ResolvedSource, source: Source) -> dict[str, JsonValue]:
    """The parameters of the download step's recipe.

    Args:
        resolved: the source's files.
        source: the spec's source; the digests that it expects become part of the parameters.
    """
    files = tuple(
        file.model_copy(update={"sha256": source.sha256.get(file.name, file.sha256)}) for file in resolved.files
    )
    location = None if resolved.kind == "path" else resolved.location
    planned = DownloadParameters(kind=resolved.kind, location=location, commit=resolved.commit, files=files)
    return planned.model_dump(mode="json", exclude_none=True)


def download(context: StepContext) -> Facts:
    """The download step: fill the output with the files, each checked.

    Raises:
        SourceError: when a file cannot be downloaded, or is not the planned one.
        StoreError: when the disk is full or cannot be written.
    """
    planned = DownloadParameters.model_validate(context.parameters)
    _fetch_files(planned, context)
    for file in planned.files:
        if file.name.endswith(".safetensors"):
            _check_weights(context.output / file.name)
    return {
        "source": planned.kind,
        "repository": planned.location,
        "commit": planned.commit,
        "files": len(planned.files),
        "bytes": sum(file.size for file in planned.files),
        "license_files": [file.name for file in planned.files if is_license(file.name)],
    }


def _fetch_files(planned: DownloadParameters, context: StepContext) -> None:
    if planned.kind == "path":
        local.copy(planned.commit, planned.files, context.output)
        return
    if planned.kind == "huggingface":
        fetch: staging.Fetch = partial(hub.fetch, str(planned.location), planned.commit)
    else:
        prefix = bucket.open_prefix(str(planned.location))
        bucket.check_unchanged(prefix, planned.files)
        fetch = partial(bucket.fetch, prefix)
    staging.stage(planned.commit, planned.files, fetch, context.output, context.log)


def _check_weights(path: Path) -> None:
    if problem := safetensors_problem(path):
        remedy = "the source itself holds a damaged file: correct it there, then plan again"
        raise SourceError(f"is damaged: {problem}", subject=path.name, remedy=remedy)
