"""Rolling a published build out to Triton servers, and rolling back, as Prefect flows.

The work is done in the flow's own thread. So when the run is cancelled, the rollout is undone before the run ends.
"""

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import TableArtifact
from pydantic import Field

from enginery.core.model import Frozen
from enginery.pipeline.flows.failures import announce_failure
from enginery.pipeline.tasks.cancellation import ends_when_cancelled
from enginery.pipeline.tasks.progress import artifact_key, run_log
from enginery.registry import Registry
from enginery.spec import HttpAddress, S3Address
from enginery.triton import EndpointResult, roll_out_build, rollout

Endpoints = Annotated[list[HttpAddress], Field(min_length=1)]


class RolloutSummary(Frozen):
    """The build that serves after a rollout.

    Attributes:
        before: the build that served before a rollback; None for a rollout.
    """

    model: str
    build_id: str
    before: str | None = None
    endpoints: tuple[EndpointResult, ...]


@flow(
    name="roll-out",
    description="Load a published build into Triton servers, one by one. On a failure the previous one serves.",
    flow_run_name="roll out {build}",
    persist_result=True,
    on_failure=[announce_failure],
)
@ends_when_cancelled
def roll_out(build: str, registry: S3Address, endpoints: Endpoints, model_repository: str) -> RolloutSummary:
    """Put a published build into service.

    Args:
        build: a build id, MODEL/BUILD, or MODEL@CHANNEL/TARGET such as tiny-llama@stable/cpu-int4.
        registry: where it is published: s3://bucket/prefix.
        endpoints: the servers' HTTP addresses, such as http://triton:8000; explicit model control must be on.
        model_repository: what those servers read: a directory that is also mounted here, or s3://bucket/prefix.

    Raises:
        RolloutError: when the rollout fails. Then the previous build serves again, or the message says what serves.
    """
    opened = Registry(registry)
    manifest = opened.find(build)
    results = roll_out_build(manifest, opened, tuple(endpoints), model_repository, run_log())
    return _shown(RolloutSummary(model=manifest.model, build_id=manifest.build_id, endpoints=tuple(results)))


@flow(
    name="roll-back",
    description="Load into Triton servers the build before the last rollout. A second run undoes the first.",
    flow_run_name="roll back {model_repository}",
    persist_result=True,
    on_failure=[announce_failure],
)
@ends_when_cancelled
def roll_back(registry: S3Address, model_repository: str, endpoints: list[HttpAddress] | None = None) -> RolloutSummary:
    """Put the previous build back into service.

    Args:
        registry: where the previous build is published: s3://bucket/prefix.
        model_repository: what the servers read: a directory that is also mounted here, or s3://bucket/prefix.
        endpoints: the servers' HTTP addresses; those of the last rollout when left out.

    Raises:
        RolloutError: when no build served before, or the rollback fails; the message says what serves.
    """
    back = rollout.roll_back(Registry(registry), model_repository, tuple(endpoints or ()), run_log())
    summary = RolloutSummary(
        model=back.manifest.model, build_id=back.manifest.build_id, before=back.replaced, endpoints=tuple(back.results)
    )
    return _shown(summary)


def _shown(summary: RolloutSummary) -> RolloutSummary:
    """Send a table of what serves where to the Prefect UI, and return the summary."""
    rows: list[dict[str, Any]] = [
        {
            "endpoint": result.endpoint,
            "build": result.build_id,
            "version": result.version,
            "seconds": result.seconds,
            "prompts answered as recorded": len(result.answers),
        }
        for result in summary.endpoints
    ]
    before = f"; before it was `{summary.before}`" if summary.before else ""
    text = f"**{summary.model}**: `{summary.build_id}` serves{before}"
    TableArtifact(key=artifact_key("rollout", summary.model), table=rows, description=text).create()
    return summary
