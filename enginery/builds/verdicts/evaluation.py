"""The result of an evaluation: the score that a command of the user's choice gave to an engine."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from enginery.builds.manifest import PUBLISH_AGAIN, Manifest
from enginery.builds.provenance import published_file
from enginery.core.errors import RegistryError, StoreError
from enginery.core.model import Frozen
from enginery.core.s3 import Prefix

EVALUATION_SCHEMA = 1
EVALUATION_FILE = "evaluation.json"
EVALUATIONS = "evaluations"
"""The folder in a build, and in the output of its gates step, with the result of each evaluation: `NAME.json`."""


class EvaluationResult(Frozen):
    """The score of one engine in one evaluation.

    Attributes:
        name: the evaluation's name in the spec.
        digest: the digest of the command and of everything in the spec that decides what is measured. The scores of
            two builds can be compared if their digests are equal.
        score: from 0 to 1.
        samples: the number of samples.
        items: item -> its score, from 0 to 1; empty if the evaluator does not say them.
        source: the path of the evaluator's own file in the step's output.
        seconds: how long the command took.
    """

    schema_version: int = EVALUATION_SCHEMA
    name: str
    digest: str
    score: float
    samples: int
    items: Mapping[str, float] = Field(default_factory=dict)
    source: str
    seconds: float


def published_evaluations(manifest: Manifest, prefix: Prefix) -> list[EvaluationResult]:
    """The results of the evaluations of a published build.

    Raises:
        RegistryError: when one of them was removed or altered, or is not valid.
    """
    paths = [file.path for file in manifest.files if file.path.startswith(f"{EVALUATIONS}/")]
    return [_parsed(published_file(manifest, prefix, path) or b"", prefix.where(path)) for path in paths]


def _parsed(data: bytes, subject: str) -> EvaluationResult:
    try:
        return EvaluationResult.model_validate_json(data)
    except ValueError as error:
        problem = f"is not the result of an evaluation: {error}"
        raise RegistryError(problem, subject=subject, remedy=PUBLISH_AGAIN) from error


def read_evaluation(directory: Path) -> EvaluationResult:
    """The result in the output of an evaluate step.

    Raises:
        StoreError: when there is no result, or it is not valid.
    """
    path = directory / EVALUATION_FILE
    try:
        return EvaluationResult.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "remove the step from the store and run the build again"
        raise StoreError(f"is not the result of an evaluation: {error}", subject=str(path), remedy=remedy) from error
