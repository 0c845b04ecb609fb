"""Compares two builds of one model by their manifests: their origin, answers, speed, size and build time."""

from collections.abc import Iterable, Mapping
from typing import Literal

from enginery.builds.manifest import BuildTarget, Manifest
from enginery.builds.speed import SpeedReport, speed_differences
from enginery.builds.validation import PromptResult
from enginery.core.model import Frozen
from enginery.store import Command, Stage, StepRecord

MAKING = (Stage.CONVERT, Stage.BUILD)
"""The stages that make the checkpoint and the engine. Their time is compared."""

Said = Literal["same", "different", "only before", "only after"]


class Change(Frozen):
    """A fact that differs between the builds; `before` or `after` is empty if that build does not have it."""

    name: str
    before: str
    after: str


class AnswerChange(Frozen):
    """One prompt and the answers of both builds.

    Attributes:
        prompt: the prompt.
        said: whether the answers are the same, or which build alone has one.
        before: the answer of the first build.
        after: the answer of the second build.
        was_right: whether the first build's answer is as its spec expects; None when it has no answer.
        is_right: the same for the second build.
    """

    prompt: str
    said: Said
    before: str = ""
    after: str = ""
    was_right: bool | None = None
    is_right: bool | None = None

    @property
    def is_worse(self) -> bool:
        """Whether the answer was right and is wrong now."""
        return bool(self.was_right) and self.is_right is False


class Figure(Frozen):
    """A number for each build; None when it is not recorded."""

    before: float | None
    after: float | None

    @property
    def percent(self) -> float | None:
        """The change from the first number to the second in percent; None when it cannot be computed."""
        if not self.before or self.after is None:
            return None
        return 100.0 * (self.after - self.before) / self.before


class SpeedFigures(Frozen):
    """The speed of both builds with one number of sequences at once; see `LoadSpeed`."""

    concurrency: int
    first_ms: Figure
    gap_ms: Figure
    tokens_per_second: Figure


class Comparison(Frozen):
    """The differences between two builds.

    Attributes:
        model: the model of the second build.
        before: the id of the first build.
        after: the id of the second build.
        changes: facts that differ: the target, the source, toolchains and commands.
        answers: every prompt to which at least one of them has an answer.
        speed: the figures of the bench steps, for each number of sequences that both were measured with; empty if one
            was not measured.
        engine_bytes: the size of what the backend runs.
        build_bytes: the size of all published files.
        making_seconds: the time of the convert and build steps.
        notes: reasons why the numbers may not be comparable, in words.
    """

    model: str
    before: str
    after: str
    changes: tuple[Change, ...]
    answers: tuple[AnswerChange, ...]
    speed: tuple[SpeedFigures, ...] = ()
    engine_bytes: Figure
    build_bytes: Figure
    making_seconds: Figure
    notes: tuple[str, ...] = ()

    @property
    def different_answers(self) -> tuple[AnswerChange, ...]:
        """The prompts whose answers differ, or to which only one build has an answer."""
        return tuple(answer for answer in self.answers if answer.said != "same")

    @property
    def worse_answers(self) -> tuple[AnswerChange, ...]:
        """The prompts whose answers were right and are wrong now."""
        return tuple(answer for answer in self.answers if answer.is_worse)


def compare_builds(before: Manifest, after: Manifest) -> Comparison:
    """Compare two builds; nothing is read from the registry."""
    answers = tuple(_answers(before, after))
    seconds = [round(sum(record.seconds for record in _making_steps(one)), 3) for one in (before, after)]
    return Comparison(
        model=after.model,
        before=before.build_id,
        after=after.build_id,
        changes=_changes(_described(before), _described(after)),
        answers=answers,
        speed=tuple(_speed(before.speed, after.speed)),
        engine_bytes=Figure(before=engine_bytes(before), after=engine_bytes(after)),
        build_bytes=Figure(before=before.size, after=after.size),
        making_seconds=Figure(before=seconds[0], after=seconds[1]),
        notes=tuple(_notes(before, after, answers)),
    )


def _speed(before: SpeedReport | None, after: SpeedReport | None) -> Iterable[SpeedFigures]:
    for new in after.loads if before and after else ():
        old = before.load(new.concurrency) if before else None
        if old is not None:
            names = ("first_ms", "gap_ms", "tokens_per_second")
            medians = {name: (getattr(old, name).median, getattr(new, name).median) for name in names}
            figures = {name: Figure(before=first, after=second) for name, (first, second) in medians.items()}
            yield SpeedFigures(concurrency=new.concurrency, **figures)


def engine_bytes(manifest: Manifest) -> int:
    """The size of what the backend runs: the engine, else the checkpoint, else the model repository."""
    made = [record.size for record in _making_steps(manifest) if record.files]
    return made[-1] if made else sum(file.size for file in manifest.model_files)


def _making_steps(manifest: Manifest) -> list[StepRecord]:
    return [record for stage in MAKING if (record := manifest.step(stage)) is not None]


def _described(manifest: Manifest) -> dict[str, str]:
    """The facts of a build that are compared, by name."""
    target = manifest.target
    described = {"model": manifest.model, **{name: str(getattr(target, name)) for name in BuildTarget.model_fields}}
    download = manifest.step(Stage.DOWNLOAD)
    if download is not None:
        origin = download.step.recipe.parameters
        described |= {f"source {name}": str(origin[name]) for name in ("location", "commit") if name in origin}
    for record in _making_steps(manifest):
        described |= {f"{record.step.stage.value} with {name}": value for name, value in record.toolchain.items()}
        if isinstance(record.step.recipe, Command):  # as one line, so that changed flags are seen
            described[f"{record.step.stage.value} command"] = " ".join(record.step.recipe.argv)
    return described | {"enginery": manifest.enginery}


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(
        Change(name=name, before=before.get(name, ""), after=after.get(name, ""))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def _answers(before: Manifest, after: Manifest) -> Iterable[AnswerChange]:
    old = {result.text_sent: result for result in before.validation.results}
    new = {result.text_sent: result for result in after.validation.results}
    for sent in dict.fromkeys([*old, *new]):
        yield _answer((new.get(sent) or old[sent]).question, old.get(sent), new.get(sent))


def _answer(prompt: str, old: PromptResult | None, new: PromptResult | None) -> AnswerChange:
    if old is None or new is None:
        said: Said = "only before" if new is None else "only after"
    else:
        said = "same" if old.got == new.got else "different"
    return AnswerChange(
        prompt=prompt,
        said=said,
        before=old.got if old else "",
        after=new.got if new else "",
        was_right=old.passed if old else None,
        is_right=new.passed if new else None,
    )


def _notes(before: Manifest, after: Manifest, answers: Iterable[AnswerChange]) -> Iterable[str]:
    if any(answer.said.startswith("only") for answer in answers):
        yield "they were not asked the same prompts, so only a part of speeds and answers can be compared"
    yield from _speed_notes(before.speed, after.speed)


def _speed_notes(before: SpeedReport | None, after: SpeedReport | None) -> Iterable[str]:
    if before is None or after is None:
        unmeasured = [name for name, report in (("first", before), ("second", after)) if report is None]
        yield f"the speed of the {' and the '.join(unmeasured)} build was not measured"
        return
    if different := "; ".join(speed_differences(after, before)):
        yield f"their speeds cannot be compared: {different}"
    if before.disturbed or after.disturbed:
        yield "other programs slowed down the machine while the speed was measured"
