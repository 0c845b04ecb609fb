"""The download step: finds the files of a source for the plan, and downloads them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.core.errors import SourceError
from enginery.core.late import late
from enginery.core.progress import Facts, Log, no_log
from enginery.models import WeightsFault, whole_weights_faults
from enginery.sources.documents import read_object
from enginery.sources.model_files import ResolvedSource, raise_findings
from enginery.spec import Source
from enginery.store import StepContext

if TYPE_CHECKING:
    from enginery.sources import bucket, hub, local, staging
else:
    bucket, hub = late("enginery.sources.bucket"), late("enginery.sources.hub")
    local, staging = late("enginery.sources.local"), late("enginery.sources.staging")


def resolve(source: Source, log: Log = no_log) -> ResolvedSource:
    """Find out which files a source has now. No weights are downloaded.

    Args:
        source: the spec's source.
        log: takes a line when this takes longer, because the Hub asks to wait.

    Raises:
        SourceError: when it cannot be reached, or when the model has problems; it lists all of them.
    """
    if source.huggingface is not None:
        return hub.resolve(source, log)
    if source.path is not None:
        return local.resolve(source)
    return bucket.resolve(source)


def parameters(resolved: ResolvedSource, source: Source) -> dict[str, JsonValue]:
    """The parameters of the download step's recipe: all that determines which bytes it downloads.

    Args:
        resolved: the source's files. Of local files, the directory is left out: equal files are the same weights.
        source: the spec's source. The digests that it expects are part of the parameters, and so is the name that it
            gives to a repository on the Hub: a repository that is renamed there is not built again.
    """
    files = [file.model_copy(update={"sha256": source.sha256.get(file.name, file.sha256)}) for file in resolved.files]
    fields = (
        {"kind", "commit", "files"} if resolved.kind == "path" else {"kind", "location", "commit", "revision", "files"}
    )
    location = source.huggingface or resolved.location
    planned = resolved.model_copy(update={"files": tuple(files), "location": location})
    return planned.model_dump(mode="json", include=fields, exclude_none=True)


def download(context: StepContext) -> Facts:
    """The step function of stage `download`: download the files to the output directory, and check each one.

    Raises:
        SourceError: when a file cannot be downloaded, is damaged or differs from the plan, or when the weights are not
            complete.
        StoreError: when the disk is full or cannot be written.
    """
    planned = ResolvedSource.model_validate(context.parameters)
    _fetch_files(planned, context)
    _check_documents(context.output)
    require_whole(context.output, planned.location or "the weights")
    return {
        "source": planned.kind,
        "repository": planned.location or None,
        "commit": planned.commit,
        "files": len(planned.files),
        "bytes": sum((context.output / file.name).stat().st_size for file in planned.files),
        "license_files": [*planned.license_files],
    }


def require_whole(directory: Path, subject: str) -> None:
    """Check that the weights are complete, and those that their configuration describes. No weights are read.

    Raises:
        SourceError: with everything that is wrong, and the tensors' names.
    """
    raise_findings(whole_weights_faults(directory), subject)


def _check_documents(directory: Path) -> None:
    """Check that later steps can read the small files. The plan has not read the large ones of another machine."""
    for path in sorted(directory.glob("*.json")):
        document = read_object(path.name, path.read_bytes())
        if isinstance(document, WeightsFault):
            raise SourceError(document.problem, subject=path.name, remedy=f"{document.remedy}, then plan again")


def _fetch_files(planned: ResolvedSource, context: StepContext) -> None:
    if planned.kind == "path":
        local.copy(planned.commit, planned.files, context.output)
        return
    if planned.kind == "huggingface":
        fetch: staging.Fetch = partial(hub.fetch, planned.location, planned.revision or planned.commit)
    else:
        prefix = bucket.open_prefix(planned.location)
        bucket.check_unchanged(prefix, planned.files)
        fetch = partial(bucket.fetch, prefix)
    staging.stage(planned.commit, planned.files, fetch, context.output, context.log)
