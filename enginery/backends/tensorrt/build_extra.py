"""`extra_args`: more arguments for `trtllm-build`, each checked against the flags of the release."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from enginery.backends.tensorrt.build_terms import Asked
from enginery.findings import Finding
from enginery.releases.flags import Flag
from enginery.spec import BuildOptions

FIELDS: Mapping[str, str] = {
    **{f"--{field}": field for field in BuildOptions.model_fields},
    "--paged_kv_cache": "kv_cache_type",
    "--max_multimodal_len": "max_prompt_embedding_table_size",
    "--max_decoder_seq_len": "max_seq_len",
}
"""Flag -> the field to write in its place."""

OWN: Mapping[str, str] = {
    **dict.fromkeys(
        ("--checkpoint_dir", "--output_dir", "--model_config", "--build_config"), "Enginery sets what is built"
    ),
    **dict.fromkeys(
        ("--timing_cache", "--input_timing_cache", "--output_timing_cache"), "Enginery keeps timing caches"
    ),
    **dict.fromkeys(
        ("--tp_size", "--pp_size", "--auto_parallel"), "the target's tensor_parallel and pipeline_parallel say so"
    ),
    "--dry_run": "it makes no engine",
}
"""Flag -> why it cannot be given."""

NUMBER = re.compile(r"-\d+|-\d*\.\d+")
CASTS = {"int": int, "float": float}


class Group(NamedTuple):
    """One flag of the extra arguments with the values after it."""

    name: str
    values: tuple[str, ...]


def extra_findings(asked: Asked) -> tuple[Finding, ...]:
    """What is wrong with the extra arguments."""
    problems = [problem for group in _groups(asked.options.extra_args) for problem in _problems(asked, group)]
    return tuple(Finding("E163", "build.extra_args", problem, remedy) for problem, remedy in problems)


def _groups(arguments: Sequence[str]) -> Iterator[Group]:
    """The arguments by flag; values before the first flag have an empty name."""
    name, values = "", list[str]()
    for argument in arguments:
        if not argument.startswith("-") or NUMBER.fullmatch(argument):
            values.append(argument)
            continue
        if name or values:
            yield Group(name, tuple(values))
        name, equals, value = argument.partition("=")
        values = [value] if equals else []
    if name or values:
        yield Group(name, tuple(values))


def _problems(asked: Asked, group: Group) -> Iterator[tuple[str, str]]:
    flag = asked.flags.get(group.name)
    if group.name in FIELDS:
        yield f"{group.name} has a field of its own", f"write build.{FIELDS[group.name]} in its place"
    elif group.name in OWN:
        yield f"{group.name} cannot be given: {OWN[group.name]}", "leave it out"
    elif not group.name:
        yield f"{' '.join(group.values)!r} follows no flag", "begin with a flag such as --log_level"
    elif flag is None:
        yield f"{asked.release} has no {group.name}", "leave it out; see `enginery releases diff`"
    else:
        yield from _value_problems(asked.release, flag, group)


def _value_problems(release: str, flag: Flag, group: Group) -> Iterator[tuple[str, str]]:
    """A flag without a field takes no value or one."""
    wanted, found = int(not flag.is_switch), len(group.values)
    if found != wanted:
        yield f"{flag.name} of {release} takes {wanted or 'no'} value, found {found}", "give as many as it takes"
        return
    for value in group.values:
        if not _fits(flag, value):
            kind = f"one of {', '.join(map(str, dict.fromkeys(flag.choices)))}" if flag.choices else flag.type
            yield f"{flag.name} of {release} does not take {value!r}, only {kind}", "give such a value"


def _fits(flag: Flag, value: str) -> bool:
    if flag.type in CASTS:
        try:
            CASTS[flag.type](value)
        except ValueError:
            return False
    return flag.accepts(value)
