"""The verdict on one release for one target: planned, compared with the registry, its toolchain looked for."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from enginery.errors import EngineryError, PlanError, RegistryError, SourceError, UsageError
from enginery.findings import code_of
from enginery.plan import Resolver
from enginery.registry import Registry
from enginery.release_pins import PACKAGE
from enginery.releases.listing import ListedRelease, Listing
from enginery.spec import BackendName, Spec, Target
from enginery.units import human_bytes
from enginery.watch.trial import Trial, tried
from enginery.watch.verdicts import Kind, Verdict

BY_CODE: Mapping[str, Kind] = {
    "E103": Kind.CHECKPOINT_ONLY,
    **dict.fromkeys(("E122", "E160", "E161", "E163", "E403", "E404"), Kind.UNSUPPORTED_FLAG),
    **dict.fromkeys(("E180", "E301", "E302"), Kind.NO_TOOLCHAIN),
}
"""What a finding's code makes of a plan; any other one makes it unsupported."""
FIRST_OF = (Kind.CHECKPOINT_ONLY, Kind.UNSUPPORTED, Kind.UNSUPPORTED_FLAG, Kind.NO_TOOLCHAIN)
"""Which verdict counts where a plan is stopped by several things."""

NO_PINS = "E302"
PIN_IT = "write a pin file for the release, as infra/toolchains/README.md says"
OF_TARGET = re.compile(r"^targets\.0 \([^)]*\)\.")
"""How a trial's findings begin: it has one target, which is named beside the verdict."""


class Judged(NamedTuple):
    """A target to be judged.

    Attributes:
        spec: its spec.
        target: the target.
        present: the release it comes to now; empty for none.
        listing: what the package index lists of its backend.
        resolver: says what the spec's source is.
    """

    spec: Spec
    target: Target
    present: str
    listing: Listing
    resolver: Resolver


def judge(asked: Judged, release: ListedRelease) -> Verdict:
    """What a release means for a target."""
    blank = Verdict(
        spec=asked.spec.name,
        target=asked.target.name,
        present=asked.present,
        release=release.release,
        kind=Kind.UNDECIDED,
    )
    try:
        return blank.model_copy(update={"facts": _facts(asked, release.release), **_judge(asked, release)})
    except PlanError as error:
        return blank.model_copy(update={"facts": _facts(asked, release.release), **_refused(error.mistakes)})
    except UsageError as error:  # older than all that is known
        return blank.model_copy(update={"kind": Kind.UNSUPPORTED, **_said(error)})
    except (SourceError, RegistryError) as error:
        return blank.model_copy(update=_said(error))


def _said(error: EngineryError) -> dict[str, object]:
    reason = f"{error.subject}: {error.problem}" if error.subject else error.problem
    return {"reason": reason, "remedy": error.remedy}


def _judge(asked: Judged, release: ListedRelease) -> dict[str, object]:
    trial = tried(asked.spec, asked.target, release.release, asked.resolver)
    found: dict[str, object] = {"backend": trial.target.backend, "build_id": trial.target.build_id}
    if _is_published(asked.spec, trial):
        return found | {"kind": Kind.BUILT, "reason": f"{trial.target.build_id} is published"}
    if lacking := _lacking_wheel(trial, release, asked.listing):
        problem, remedy = lacking
        return found | {"kind": Kind.NO_TOOLCHAIN, "reason": problem, "remedy": remedy}
    return found | {"kind": Kind.REBUILD, "reason": f"it is listed, and the spec can be built for it{_where(trial)}"}


def _where(trial: Trial) -> str:
    """What the commands would run in, as far as that was looked at."""
    toolchain = trial.toolchain
    if toolchain is None:
        return ""
    image = f" {toolchain.image}" if toolchain.image else ""
    return f" in toolchain {toolchain.name} ({toolchain.kind}{image})"


def _is_published(spec: Spec, trial: Trial) -> bool:
    return spec.publish is not None and Registry(spec.publish.to).exists(spec.name, trial.target.build_id)


def _lacking_wheel(trial: Trial, release: ListedRelease, listing: Listing) -> tuple[str, str] | None:
    """Why a `venv` of TensorRT-LLM cannot be made, told by the names of the files alone: nothing is installed."""
    toolchain = trial.toolchain
    if toolchain is None or toolchain.kind != "venv" or not toolchain.version(PACKAGE):
        return None
    if release.has_wheel_for(toolchain.python):
        return None
    offered = ", ".join(f"{file.name} ({human_bytes(file.size)})" if file.size else file.name for file in release.files)
    silent = f"; not asked, as it did not answer: {'; '.join(listing.silent)}" if listing.silent else ""
    problem = (
        f"no wheel for Python {toolchain.python} is listed, only {offered}: NVIDIA's source packages are stubs{silent}"
    )
    remedy = "add NVIDIA's package index, or a mirror of it, to your pip configuration, or use toolchain: container"
    return problem, remedy


def _refused(mistakes: Sequence[str]) -> dict[str, object]:
    """The verdict for a plan that these findings stop; the model's source alone decides nothing."""
    of_source = [mistake for mistake in mistakes if not code_of(mistake)]
    kinds = {BY_CODE.get(code, Kind.UNSUPPORTED) for mistake in mistakes if (code := code_of(mistake))}
    kind = next((kind for kind in FIRST_OF if kind in kinds), Kind.UNDECIDED)
    told = [OF_TARGET.sub("", mistake) for mistake in mistakes if mistake not in of_source] or of_source
    remedy = PIN_IT if any(code_of(mistake) == NO_PINS for mistake in mistakes) else ""
    return {"kind": kind, "reason": "; ".join(told), "remedy": remedy}


def _facts(asked: Judged, release: str) -> str:
    """The release whose facts are taken for one that nothing is recorded of; empty where they are its own."""
    if asked.listing.project != PACKAGE:
        return ""
    from enginery.releases import known  # noqa: PLC0415  other backends have no recorded facts
    from enginery.releases.arguments import arguments  # noqa: PLC0415
    from enginery.releases.flags import flags  # noqa: PLC0415
    from enginery.releases.provenance import Certainty  # noqa: PLC0415

    engines = asked.target.backend != BackendName.PYTORCH and known.builds_engines(release)
    origin = (flags(release) if engines else arguments(release)).provenance
    return origin.release if origin.certainty is Certainty.NEAREST else ""
