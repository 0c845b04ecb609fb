"""What a release watch shows in the Prefect UI: the verdicts, the builds started, and each finished build compared."""

from prefect.artifacts import Artifact, MarkdownArtifact, TableArtifact

from enginery.watch.report import WatchReport
from enginery.watch.shown import promotion_markdown, verdict_rows
from tasks.artifact_key import artifact_key

VERDICTS_KEY = "release-verdicts"
REBUILDS_KEY = "release-rebuilds"


def watch_artifacts(report: WatchReport) -> list[Artifact]:
    """The artifacts of one run."""
    found: list[Artifact] = [
        TableArtifact(
            key=VERDICTS_KEY, table=verdict_rows(report.verdicts), description="What new releases mean for each target"
        )
    ]
    if report.rebuilds:
        rows = [run.model_dump(mode="json", exclude={"key"}) for run in report.rebuilds]
        found.append(TableArtifact(key=REBUILDS_KEY, table=rows, description="The builds that the verdicts call for"))
    return found + [
        MarkdownArtifact(key=artifact_key("comparison", one.spec, one.target), markdown=promotion_markdown(one))
        for one in report.promotions
    ]
