"""What users write: the spec, its types, and every mistake in it at once.

A spec is read before anything is spent, so each mistake names its field and the way out:

    spec = read_spec(Path("infra/models/tiny-llama.yaml"), overrides=())
    for target in spec.targets: ...

Spec errors come all together, as one `SpecError`.
"""

from enginery.spec import gpus
from enginery.spec.build import BuildOptions
from enginery.spec.findings import Finding, code_of, stopping, warning
from enginery.spec.gpus import CPU, FIRST_CAPABILITY, Gpu
from enginery.spec.mistakes import sentences, yaml_mistake
from enginery.spec.releases import Gates, Releases
from enginery.spec.serving import DEFAULT_BATCH, ServingOptions
from enginery.spec.spec import (
    SAFE_LOADER,
    Calibration,
    ConvertOptions,
    Prompt,
    Publish,
    Rollout,
    Source,
    Spec,
    Target,
    ValidationOptions,
    accepting,
    parse_spec,
    read_spec,
)
from enginery.spec.types import (
    IN_WORDS,
    NAME_PATTERN,
    SHA256_PATTERN,
    BackendName,
    HttpAddress,
    Name,
    Precision,
    S3Address,
    SpecModel,
)

__all__ = [
    "CPU",
    "DEFAULT_BATCH",
    "FIRST_CAPABILITY",
    "IN_WORDS",
    "NAME_PATTERN",
    "SAFE_LOADER",
    "SHA256_PATTERN",
    "BackendName",
    "BuildOptions",
    "Calibration",
    "ConvertOptions",
    "Finding",
    "Gates",
    "Gpu",
    "HttpAddress",
    "Name",
    "Precision",
    "Prompt",
    "Publish",
    "Releases",
    "Rollout",
    "S3Address",
    "ServingOptions",
    "Source",
    "Spec",
    "SpecModel",
    "Target",
    "ValidationOptions",
    "accepting",
    "code_of",
    "gpus",
    "parse_spec",
    "read_spec",
    "sentences",
    "stopping",
    "warning",
    "yaml_mistake",
]
