"""A target planned for another release, as if the spec had named it."""

from collections.abc import Callable
from typing import NamedTuple

from enginery.errors import SourceError
from enginery.plan import Plan, PlannedTarget, Resolver, make_plan
from enginery.sources import ResolvedSource
from enginery.spec import Source, Spec, Target
from enginery.spec_releases import Releases
from enginery.steps import Stage
from enginery.toolchains import ToolchainIdentity


class Trial(NamedTuple):
    """A plan for one target and one release."""

    plan: Plan
    target: PlannedTarget

    @property
    def toolchain(self) -> ToolchainIdentity | None:
        """The environment of the release's own commands: the one that asks the engine its prompts."""
        asking = (step for step in self.plan.steps if step.step.stage is Stage.VALIDATE)
        return next((step.toolchain for step in asking), None)


def rebuild_spec(spec: Spec, targets: dict[str, str]) -> Spec:
    """The spec of a rebuild: some targets, each for another release, published where nothing serves from.

    Nothing is rolled out, and no channel but `releases.build_channel` is moved. The step keys are those that the spec
    itself would have with these releases, up to publishing.

    Args:
        spec: the spec.
        targets: the targets to keep -> the release for each.
    """
    chosen = tuple(
        target.model_copy(update={"release": targets[target.name]}) for target in spec.targets if target.name in targets
    )
    publish = spec.publish and spec.publish.model_copy(update={"channel": spec.releases.build_channel})
    changes = {"targets": chosen, "publish": publish, "rollout": None, "releases": Releases()}
    return spec.model_copy(update=changes)


def tried(spec: Spec, target: Target, release: str, resolver: Resolver) -> Trial:
    """Plan a target for a release.

    Raises:
        PlanError: with what the release cannot do.
        SourceError: when the model cannot be asked for.
    """
    plan = make_plan(rebuild_spec(spec, {target.name: release}), resolver)
    return Trial(plan, plan.targets[0])


def once(resolver: Resolver) -> Resolver:
    """The resolver for one source, asked once: its answer, or its error, is given again."""
    answers: list[Callable[[], ResolvedSource]] = []

    def remembered(source: Source) -> ResolvedSource:
        if not answers:
            answers.append(_answer(resolver, source))
        return answers[0]()

    return remembered


def _answer(resolver: Resolver, source: Source) -> Callable[[], ResolvedSource]:
    try:
        found = resolver(source)
    except SourceError as error:
        kept = error

        def again() -> ResolvedSource:
            raise kept

        return again
    return lambda: found
