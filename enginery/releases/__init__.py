"""What is known of TensorRT-LLM's releases: flags, versions, precisions, model families, and how sure each fact is.

The facts were read from NVIDIA's sources and documentation. They are in `data/`, one JSON file for each topic, made by
`infra/releases/compact.py`. `toolchains.release_probe` finds out what a toolchain can really do. This room also lists
the releases on the user's own package indexes.

    flags_of("1.2.1").value["--max_batch_size"].default
    changes_between("0.20.0", "1.0.0", BUILD)
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.releases import facts, models
    from enginery.releases.changes import Changes, changes_between, shown
    from enginery.releases.facts import (
        ENGINES_UNTIL,
        Certainty,
        Known,
        Provenance,
        builds_engines,
        containers,
        pin,
        pins,
        releases,
        releases_read,
        stable_releases,
        version,
        was_never_made,
    )
    from enginery.releases.flags import (
        BUILD,
        PYTORCH,
        QUANTIZE,
        Argument,
        Flag,
        arguments,
        classes,
        flag,
        flags_of,
        replacement,
        script,
    )
    from enginery.releases.index import ListedRelease, Listing, listed_releases
    from enginery.releases.models import (
        MODELS,
        STEPS,
        Family,
        Template,
        capabilities,
        families,
        model_formats,
        precisions,
        pytorch_architectures,
        template,
    )
    from enginery.releases.refusals import LLM_API, Effect, Refusal, recorded, refusal, refusal_ids
else:
    __getattr__ = door(__name__, __file__)
