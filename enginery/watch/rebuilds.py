"""The builds that verdicts call for, each with a key under which it is started once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from enginery.digests import json_digest
from enginery.spec import Spec
from enginery.watch.trial import rebuild_spec
from enginery.watch.verdicts import Kind, Verdict

KEY_DIGITS = 24


class Rebuild(NamedTuple):
    """One build: all targets of a spec that a release is to be built for.

    Attributes:
        spec: what to build; nothing of it is published where something serves from.
        release: the release.
        targets: the names of its targets.
        key: the digest of all that determines the builds, and of where they go: the same whenever it is asked for.
    """

    spec: Spec
    release: str
    targets: tuple[str, ...]
    key: str


def rebuilds(specs: Iterable[Spec], verdicts: Sequence[Verdict]) -> list[Rebuild]:
    """The builds to start: targets of a spec that go to the same release are built together."""
    found: list[Rebuild] = []
    for spec in specs:
        if not spec.releases.rebuild or spec.publish is None:
            continue
        mine = [one for one in verdicts if one.spec == spec.name and one.kind is Kind.REBUILD]
        by_release = {one.release: [other for other in mine if other.release == one.release] for one in mine}
        found += [_rebuild(spec, release, its) for release, its in by_release.items()]
    return found


def _rebuild(spec: Spec, release: str, verdicts: Sequence[Verdict]) -> Rebuild:
    chosen = rebuild_spec(spec, {one.target: release for one in verdicts})
    where = chosen.publish.model_dump(mode="json") if chosen.publish else None
    digest = json_digest([spec.name, where, sorted(one.build_id for one in verdicts)])
    key = f"rebuild {spec.name} {release} {digest[:KEY_DIGITS]}"
    return Rebuild(chosen, release, tuple(one.target for one in verdicts), key)
