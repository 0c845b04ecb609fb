"""What users write: the spec, its types, and the messages about its mistakes.

A spec is checked before anything runs. One `SpecError` lists all its mistakes, each with its field and a remedy:

    spec = read_spec(Path("infra/models/tiny-llama.yaml"), overrides=())
    for target in spec.targets: ...
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.spec import gpus
    from enginery.spec.build import BuildOptions
    from enginery.spec.findings import Finding, code_of, sentences, stopping, warning
    from enginery.spec.gpus import CPU, FIRST_CAPABILITY, Gpu
    from enginery.spec.read import accepting, read_spec, read_yaml
    from enginery.spec.serving import DEFAULT_BATCH, ServingOptions
    from enginery.spec.spec import (
        Calibration,
        ConvertOptions,
        Publish,
        Releases,
        Rollout,
        Source,
        Spec,
        Target,
        parse_spec,
    )
    from enginery.spec.types import (
        FLOATS,
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
    from enginery.spec.validation import (
        Accepted,
        AnswersGate,
        ChannelGate,
        DistributionGate,
        Evaluation,
        EvaluationGate,
        Gate,
        GateName,
        Gates,
        Message,
        Mode,
        Prompt,
        ReferenceOptions,
        SizeGate,
        SpeedGate,
        ValidationOptions,
    )
else:
    __getattr__ = door(__name__, __file__)
