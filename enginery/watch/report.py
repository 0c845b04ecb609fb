"""What one run of the release watch found and did."""

from enginery.steps import Frozen
from enginery.watch.promoting import Decision, Promotion
from enginery.watch.verdicts import Kind, Verdict


class RebuildRun(Frozen):
    """A build that a verdict called for.

    Attributes:
        spec: the spec's name.
        release: the release.
        targets: the targets that are built.
        key: the key under which it is started once; see `enginery.watch.rebuilds`.
        run_id: the run that builds; empty where none was started.
        state: how that run stands.
        url: its page.
        started_now: whether it was started by this watch, rather than by an earlier one.
        reason: why none was started.
        failed: whether one could not be started, or it is not known.
    """

    spec: str
    release: str
    targets: tuple[str, ...]
    key: str
    run_id: str = ""
    state: str = ""
    url: str = ""
    started_now: bool = False
    reason: str = ""
    failed: bool = False


class WatchReport(Frozen):
    """The end of a run of the watch.

    Attributes:
        verdicts: one for each target and release looked at.
        rebuilds: the builds that they called for.
        promotions: what became of the finished ones.
    """

    verdicts: tuple[Verdict, ...]
    rebuilds: tuple[RebuildRun, ...] = ()
    promotions: tuple[Promotion, ...] = ()

    @property
    def sentence(self) -> str:
        """One line for people."""
        started = sum(run.started_now for run in self.rebuilds)
        promoted = sum(one.decision is Decision.PROMOTED for one in self.promotions)
        return f"{len(self.verdicts)} verdicts; {started} builds started; {promoted} builds promoted"

    @property
    def troubles(self) -> tuple[str, ...]:
        """What could not be found out or done, a sentence each."""
        undecided = (one for one in self.verdicts if one.kind is Kind.UNDECIDED)
        failed = (one for one in self.promotions if one.decision is Decision.FAILED)
        told = [f"{one.spec}/{one.target}: {one.why}" for one in undecided]
        told += [f"{one.spec}/{one.build_id}: {one.reason}" for one in failed]
        told += [f"{run.spec} for {run.release}: {run.reason}" for run in self.rebuilds if run.failed]
        return tuple(told)
