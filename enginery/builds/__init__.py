"""What a finished build is: its manifest, the validation it passed, where it came from, and its signatures.

The manifest alone is enough to check every byte, to rebuild, and to decide whether an engine runs on a machine. This
room needs no network: it works with a manifest or a pulled directory.

    manifest = read_manifest(Path("manifest.json").read_bytes())
    print(lineage_tree(manifest))
"""

from enginery.builds.bundle import SignatureFile, make_bundle, require_trusted, signed_digests
from enginery.builds.compare import Comparison, Figure, compare_builds
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
from enginery.builds.provenance import PROVENANCE, provenance_statement, published_statement
from enginery.builds.report import html_report
from enginery.builds.validation import (
    REPORT_FILE,
    PromptResult,
    ValidationReport,
    described_miss,
    read_report,
    require_passed,
)

__all__ = [
    "BUILDS",
    "BUILD_ID_DIGITS",
    "BUILD_LABEL",
    "CONFIG",
    "CURRENT",
    "ENGINE_BACKEND",
    "LAUNCH_NOTE",
    "LICENSES",
    "LINKS",
    "MANIFEST",
    "MODELS",
    "MODEL_REPOSITORY",
    "NOTE",
    "PACKAGED_VERSION",
    "PROVENANCE",
    "PUBLISH_AGAIN",
    "REPORT_FILE",
    "BuildTarget",
    "Comparison",
    "Figure",
    "LocalBuild",
    "Manifest",
    "Policy",
    "PromptResult",
    "PullDirectory",
    "PulledNote",
    "Rewritten",
    "SafeName",
    "SignatureFile",
    "SigningKey",
    "ValidationReport",
    "backend_of",
    "build_id",
    "build_path",
    "compare_builds",
    "described_miss",
    "engine_facts",
    "html_report",
    "is_config",
    "lineage_json",
    "lineage_tree",
    "make_bundle",
    "mounted_at",
    "provenance_statement",
    "published_statement",
    "read_license",
    "read_manifest",
    "read_report",
    "require_free_space",
    "require_passed",
    "require_trusted",
    "serve_as",
    "served_version",
    "short",
    "signed_digests",
    "writing",
]
