"""An option as the flag of the same name: its value in the release's words, or why the release cannot follow it."""

from typing import Any

from packaging.version import Version

from enginery.backends.tensorrt.build_absent import absent, present
from enginery.backends.tensorrt.build_terms import NOTHING, Asked, Piece, refused, written
from enginery.releases.flags import Flag
from enginery.releases.replacements import replacement


def as_flag(asked: Asked, field: str, value: Any) -> Piece:
    """The flag with its value; nothing where that is what the release does without."""
    flag = asked.flag(field)
    if flag is None:
        return _without_flag(asked, field, value)
    if flag.is_switch:
        return Piece((flag.name,)) if value else NOTHING
    words = _words(value)
    if words == ("auto",) and not flag.accepts("auto"):
        words = (asked.dtype,)
    return Piece((flag.name, *words)) if flag.accepts(words) else _not_a_choice(asked, field, value, flag)


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("enable" if value else "disable",)
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _not_a_choice(asked: Asked, field: str, value: Any, flag: Flag) -> Piece:
    many = value if isinstance(value, tuple) else (value,)
    wrong = ", ".join(written(one) for one in many if not flag.accepts(one))
    choices = ", ".join(map(str, dict.fromkeys(flag.choices)))
    problem = f"{asked.release} does not take {wrong} for {flag.name}, only {choices}"
    return refused("E161", field, problem, "use one of these, or leave it out for this release")


def _without_flag(asked: Asked, field: str, value: Any) -> Piece:
    """Left out where the release does so anyway; else it is refused."""
    does = absent(field, asked.release)
    if does == value:
        return NOTHING
    name = f"--{field}"
    first, last = present(name)
    when = f"came with {first}" if Version(asked.release) < Version(first) else f"went after {last}"
    otherwise = "" if does is None else f", and does as with {written(does)}"
    instead = replacement(asked.release, name).value
    how = f" ({instead.how})" if instead else ""
    problem = f"{asked.release} has no {name}, which {when}{otherwise}{how}"
    remedy = f"leave it out for this release, or build with one from {first} to {last}"
    return refused("E160", field, problem, remedy)
