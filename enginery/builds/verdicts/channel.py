"""The gate `channel`: whether a build is worse than the one that the channel points to.

Both builds have the figures of their own gates in their manifests. Figures that measure the same thing are compared.
A build is worse if a figure is worse by more than its tolerance, also at the better end of the 95% confidence interval.
If it seems to be worse, but the interval is too wide to be sure, the verdict is inconclusive. Figures that cannot be
compared, such as times on different GPUs, are inconclusive too, and the reason is said.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from enginery.builds.compare import compare_builds
from enginery.builds.gates import GateResult, Measure, Verdict, worst
from enginery.builds.manifest import Manifest
from enginery.builds.verdicts.judging import gate_result
from enginery.builds.verdicts.speed import judge_speed
from enginery.core.text import first_of, human_bytes
from enginery.spec import ChannelGate, GateName, Mode, SpeedGate
from enginery.store import Stage

SHOWN = 3
"""The largest number of answers that a sentence names."""
FLOOR = 0.02
"""A difference below this part of the gate's own limit does not matter, however large it is in percent. A float32
engine has a divergence of almost nothing, and twice that is still almost nothing."""
ROUNDING = 1e-9
"""Decimal fractions are not exact: 0.7 - 0.69 is a little more than 0.01."""
AGAINST_OTHERS = ("_change", "_percent")
"""The ends of names of measures that compare with another build themselves."""
OWN = frozenset({GateName.CHANNEL, GateName.SIZE, GateName.SPEED})
"""Gates whose figures are not compared one by one: the engine's size and the measured speeds are compared instead."""
COUNTS_OF_PROMPTS = frozenset({"expected", "degenerate"})
"""Measures of the gate `answers` that depend on how many prompts there are. Answers are compared prompt by prompt."""
REMEDY = "see what changed with enginery diff {before} {after}, or accept it with validation.gates.channel.accept"


class Pair(NamedTuple):
    """The same measure of both builds."""

    gate: str
    before: Measure
    after: Measure

    @property
    def limit(self) -> float | None:
        """The limit in the gate itself."""
        return self.before.limit if self.after.limit is None else self.after.limit

    @property
    def higher_is_better(self) -> bool | None:
        """Whether a higher value is better; None for a figure that is only recorded, and is neither good nor bad."""
        return self.after.at_least if self.limit is not None else None

    @property
    def is_share(self) -> bool:
        """Whether it is a share or a score, of which the difference counts and not its percentage."""
        values = (self.before.value, self.after.value, self.limit)
        return bool(self.higher_is_better) and all(one is not None and 0 <= one <= 1 for one in values)


def judge_channel(
    before: Manifest | None,
    after: Manifest,
    options: ChannelGate,
    mode: Mode,
    judged: Sequence[GateResult] = (),
) -> GateResult:
    """The gate's result.

    Args:
        before: the build that the channel points to; None if it points to none.
        after: the build to be published or promoted.
        options: the spec's `validation.gates.channel`.
        mode: what follows from a verdict other than pass.
        judged: results of gates that have compared the two builds themselves. They know more of the measurements than
            the figures in the gates' results, such as the scores of single items, and count in place of them.
    """
    if before is None:
        reason = "nothing to compare with: the channel has no build"
        return gate_result(GateName.CHANNEL, mode, options.accept, (), reason=reason)
    measures = (
        _answers(before, after),
        _size(before, after, options),
        *_speed(before, after, options),
        *_figures(before, after, options, judged),
    )
    verdict = worst(measure.verdict for measure in measures)
    passed = verdict is Verdict.PASS
    told = [measure.told for measure in measures if measure.verdict is verdict]
    reason = "" if passed else f"compared with {before.build_id}: {'; '.join(told)}"
    remedy = REMEDY.format(before=before.reference, after=after.reference)
    return gate_result(GateName.CHANNEL, mode, options.accept, measures, remedy, reason=reason)


def _answers(before: Manifest, after: Manifest) -> Measure:
    """How many answers were right and are wrong now."""
    worse = compare_builds(before, after).worse_answers
    listed = first_of([f"{one.prompt!r} was right and is now wrong: {one.after!r}" for one in worse], SHOWN)
    return Measure(
        name="answers_now_wrong",
        value=float(len(worse)),
        limit=0.0,
        verdict=Verdict.FAIL if worse else Verdict.PASS,
        told=listed or "no right answer became wrong",
    )


def _size(before: Manifest, after: Manifest, options: ChannelGate) -> Measure:
    """By how many percent the engine is larger."""
    figure = compare_builds(before, after).engine_bytes
    limit = options.larger_percent
    if figure.percent is None or figure.before is None or figure.after is None:
        told = "the size of the engine is not known for both builds"
        return Measure(name="engine_bytes", value=None, unit="%", verdict=Verdict.INCONCLUSIVE, told=told)
    sizes = f"size: {human_bytes(figure.before)} -> {human_bytes(figure.after)}"
    return Measure(
        name="engine_bytes",
        value=figure.percent,
        unit="%",
        limit=limit,
        verdict=Verdict.PASS if figure.percent <= limit else Verdict.FAIL,
        told=f"{sizes} ({figure.percent:+.1f}%, at most {limit:+g}%)",
    )


def _speed(before: Manifest, after: Manifest, options: ChannelGate) -> Iterator[Measure]:
    """The measured speeds, as the gate `speed` compares them; nothing if one of the builds was not measured."""
    if before.speed is None or after.speed is None:
        return
    given = options.slower_percent
    gate = SpeedGate() if given is None else SpeedGate(slower_percent=given)
    yield from _as_judged(judge_speed(after.speed, before.speed, gate, Mode.BLOCK), options)


def _figures(
    before: Manifest, after: Manifest, options: ChannelGate, judged: Sequence[GateResult]
) -> Iterator[Measure]:
    """The figures of the gates of both builds. A build that is older than the gates has none to compare."""
    for old in before.gates.results if before.gates else ():
        new = after.gates.find(old.gate) if after.gates else None
        if new is None or old.gate in OWN:
            continue  # the spec does not want this gate any more
        if own := [one for result in judged if result.gate == old.gate for one in _as_judged(result, options)]:
            yield from own
            continue
        pairs = list(_pairs(old, new))
        why_not = _OBSTACLES.get(old.gate, _no_obstacle)(before, after) if pairs else ""
        if why_not:
            told = f"{old.gate} cannot be compared: {why_not}"
            yield Measure(name=old.gate, value=None, verdict=Verdict.INCONCLUSIVE, told=told)
            continue
        yield from (_compared(pair, options) for pair in pairs)


def _as_judged(result: GateResult, options: ChannelGate) -> Iterator[Measure]:
    """The measures by which a gate has compared both builds; its reason if it has none, and did not pass.

    With many items an evaluation proves even the smallest loss. Here a loss up to the tolerance of scores passes.
    """
    limited = [one for one in result.measures if one.limit is not None]
    changes = [one for one in limited if one.name.endswith(AGAINST_OTHERS)]
    for one in changes:
        small = result.gate == GateName.EVALUATION and -(one.value or 0.0) <= options.worse_share
        verdict = Verdict.PASS if small and one.verdict is Verdict.FAIL else one.verdict
        yield one.model_copy(update={"name": f"{result.gate}.{one.name}", "verdict": verdict})
    if not limited and result.verdict is not Verdict.PASS:
        told = f"{result.gate} cannot be compared: {result.reason}"
        yield Measure(name=result.gate, value=None, verdict=result.verdict, told=told)


def _pairs(old: GateResult, new: GateResult) -> Iterator[Pair]:
    now = {measure.name: measure for measure in new.measures}
    for measure in old.measures:
        if measure.value is None or measure.name not in now or measure.name.endswith(AGAINST_OTHERS):
            continue
        if measure.name in COUNTS_OF_PROMPTS:
            continue
        pair = Pair(old.gate, measure, now[measure.name])
        if pair.higher_is_better is not None:
            yield pair


def _no_obstacle(_: Manifest, __: Manifest) -> str:
    return ""


def _another_reference(before: Manifest, after: Manifest) -> str:
    """Why divergences of two builds do not compare: they are from different references. Empty if they compare."""
    old, new = before.step(Stage.REFERENCE), after.step(Stage.REFERENCE)
    if _weights(before) != _weights(after):
        return "the builds are of other weights"
    if old is not None and new is not None and old.step.recipe != new.step.recipe:
        return "their references have other texts or prompts, or were made in another way"
    return ""


def _weights(manifest: Manifest) -> frozenset[tuple[str, str]]:
    """What the weights are: their files with digests."""
    downloaded = manifest.step(Stage.DOWNLOAD)
    return frozenset((file.path, file.sha256) for file in downloaded.files) if downloaded else frozenset()


def _another_evaluation(before: Manifest, after: Manifest) -> str:
    """Why scores do not compare: the evaluations of one name are not the same."""
    old, new = _evaluations(before), _evaluations(after)
    other = [name for name in old.keys() & new.keys() if old[name] != new[name]]
    return f"{', '.join(sorted(other))} became another evaluation" if other else ""


def _evaluations(manifest: Manifest) -> dict[str, object]:
    steps = (record.step.recipe for record in manifest.steps if record.step.stage is Stage.EVALUATE)
    return {str(recipe.parameters.get("name")): recipe for recipe in steps}


_OBSTACLES: dict[str, Callable[[Manifest, Manifest], str]] = {
    GateName.DISTRIBUTION: _another_reference,
    GateName.ANSWERS: _another_reference,
    GateName.EVALUATION: _another_evaluation,
}
"""What keeps the figures of a gate from being compared; an empty text for nothing."""


def _compared(pair: Pair, options: ChannelGate) -> Measure:
    """The measure of a change, above zero if the new build is worse."""
    old, new = pair.before, pair.after
    name = f"{pair.gate}.{new.name}"
    if old.value is None or new.value is None or not math.isfinite(new.value):
        told = f"{name} was {old.value:g} before, and is not known now"
        return Measure(name=name, value=None, unit=new.unit, verdict=Verdict.INCONCLUSIVE, told=told)
    sign = -1.0 if pair.higher_is_better else 1.0
    loss, allowed = sign * (new.value - old.value), _allowed(pair, old.value, options)
    error, most = _error(pair), allowed * (1 + ROUNDING)
    verdict = Verdict.PASS if loss <= most else Verdict.FAIL if loss - error > most else Verdict.INCONCLUSIVE
    unit = f" {new.unit}" if new.unit else ""
    told = f"{name}: {old.value:.4g} -> {new.value:.4g}{unit}, may be worse by {allowed:.3g}"
    if verdict is Verdict.INCONCLUSIVE:
        told = f"{told}; its interval is too wide to tell"
    between = {"low": loss - error, "high": loss + error} if error else {}
    return Measure(name=name, value=loss, unit=new.unit, limit=allowed, verdict=verdict, told=told, **between)


def _allowed(pair: Pair, before: float, options: ChannelGate) -> float:
    """By how much the measure may be worse."""
    if pair.is_share:
        return options.worse_share
    return max(abs(before) * options.farther_percent / 100, FLOOR * abs(pair.limit or 0.0))


def _error(pair: Pair) -> float:
    """Half the 95% interval of the difference; 0 for figures without sampling error."""
    halves = [
        max(one.value - one.low, one.high - one.value)
        for one in (pair.before, pair.after)
        if one.value is not None and one.low is not None and one.high is not None
    ]
    return math.hypot(*halves)
