"""The registry: published builds in an S3 bucket. It needs no server besides S3.

The manifest is written last. A build without a manifest does not exist, so nobody sees a part of a build. Channels are
movable names that point at builds.

    registry = Registry("s3://engines/prod")
    build = registry.resolve("llama-3-8b-instruct", channel="stable", gpu="auto")
    pull(registry, build.manifest, Path("/models"))

`layout` says where objects lie, `reading` reads them, `channels` and `registry` move channels, `publishing` and
`sending` write builds under a claim (`claims`), `signatures` signs and checks them, `resolving/` finds the build that
fits a machine, `pulling` brings it there, `upkeep/` verifies, audits and prunes, and `iam` writes policies for AWS.
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.registry.channels import ChannelPointer, Move
    from enginery.registry.iam import policy
    from enginery.registry.layout import channel_reference
    from enginery.registry.publishing import is_published, publish, require_publishable
    from enginery.registry.pulling import pull
    from enginery.registry.reading import PublishedBuild
    from enginery.registry.registry import Registry
    from enginery.registry.resolving.query import BuildOptions, BuildQuery
    from enginery.registry.resolving.resolve import Miss, NothingFits, Resolved, SeveralFit, choose_build
    from enginery.registry.signatures import require_signed, sign_build, trusted_manifest
    from enginery.registry.upkeep.auditing import Audit, audit
    from enginery.registry.upkeep.pruning import Pruning, Retention, prune
    from enginery.registry.upkeep.verifying import local_build, verify_build, verify_directory
else:
    __getattr__ = door(__name__, __file__)
