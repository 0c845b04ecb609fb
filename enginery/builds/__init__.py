"""The parts of a finished build: its manifest, the validation that it passed, its lineage, and its signatures.

The manifest alone is enough to check every byte, to build again, and to decide whether an engine runs on a machine.
This room needs no network: it works with a manifest or a pulled directory.

    manifest = read_manifest(Path("manifest.json").read_bytes())
    print(lineage_tree(manifest))
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.builds.bundle import SignatureFile, make_bundle, require_trusted, signed_digests
    from enginery.builds.compare import Comparison, Figure, SpeedFigures, compare_builds
    from enginery.builds.gates import (
        GATES_FILE,
        Forced,
        GateReport,
        GateResult,
        Measure,
        Verdict,
        described_gate,
        gate_rows,
        read_gates,
        require_gates_passed,
        worst,
    )
    from enginery.builds.keys import Policy, SigningKey, short
    from enginery.builds.lineage import lineage_json, lineage_tree
    from enginery.builds.local import (
        BUILDS,
        CURRENT,
        LINKS,
        NOTE,
        LocalBuild,
        PullDirectory,
        PulledNote,
        Rewritten,
        is_config,
        require_free_space,
        writing,
    )
    from enginery.builds.manifest import (
        BUILD_ID_DIGITS,
        LICENSES,
        MANIFEST,
        MODEL_REPOSITORY,
        MODELS,
        PUBLISH_AGAIN,
        BuildTarget,
        Manifest,
        SafeName,
        build_id,
        build_path,
        engine_facts,
        read_license,
        read_manifest,
    )
    from enginery.builds.model_config import (
        BUILD_LABEL,
        CONFIG,
        ENGINE_BACKEND,
        LAUNCH_NOTE,
        PACKAGED_VERSION,
        backend_of,
        mounted_at,
        serve_as,
        served_version,
    )
    from enginery.builds.provenance import PROVENANCE, provenance_statement, published_file, published_statement
    from enginery.builds.report import html_report
    from enginery.builds.speed import (
        SPEED_COLUMNS,
        SPEED_FILE,
        LoadSpeed,
        Machine,
        Series,
        SpeedReport,
        SpeedSettings,
        interval,
        measured_on,
        read_speed,
        speed_differences,
        speed_rows,
        t_quantile,
    )
    from enginery.builds.validation import (
        REPORT_FILE,
        PromptResult,
        ValidationReport,
        described_miss,
        read_report,
        require_passed,
    )
    from enginery.builds.verdicts.attestation import ATTESTATION, test_result_statement
    from enginery.builds.verdicts.channel import judge_channel
    from enginery.builds.verdicts.distribution import (
        DISTRIBUTION_FILE,
        Distribution,
        DistributionFacts,
        read_distribution,
    )
    from enginery.builds.verdicts.evaluation import (
        EVALUATION_FILE,
        EVALUATIONS,
        EvaluationResult,
        published_evaluations,
        read_evaluation,
    )
    from enginery.builds.verdicts.judging import Estimate, gate_result, verdict_of
    from enginery.builds.verdicts.reference import (
        LOGPROBS_FILE,
        MOST_KEPT,
        REFERENCE_DIRECTORY,
        REFERENCE_FILE,
        LogProbs,
        Reference,
        ReferenceFacts,
        ReferenceSequence,
        read_reference,
    )
    from enginery.builds.verdicts.sampling import (
        paired,
        quantile,
        samples_needed,
        score_interval,
        share_interval,
        standard_error,
    )
    from enginery.builds.verdicts.speed import judge_speed
else:
    __getattr__ = door(__name__, __file__)
