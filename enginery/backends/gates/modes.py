"""What each gate of a target does with a verdict other than pass, and which measurements the gates need.

The mode of a gate is what the spec says. When it says nothing, a gate blocks; `speed` and `channel` warn, because they
depend on earlier builds. A gate that cannot be judged for this target, as the plan can tell, warns, and the plan has a
note that says why.
"""

from collections.abc import Iterator, Mapping

from enginery.spec import Gate, GateName, Gates, Mode, ValidationOptions

WARNING = frozenset({GateName.SPEED, GateName.CHANNEL})
"""The gates that warn when the spec says nothing."""


def gate_of(gates: Gates, name: GateName) -> Gate:
    """The spec's settings of a gate."""
    found = getattr(gates, name.value)
    assert isinstance(found, Gate)  # noqa: S101  each name is a field of `Gates`
    return found


def wants_reference(options: ValidationOptions) -> bool:
    """Whether a gate compares with the reference, and the spec does not switch it off."""
    gates = (gate_of(options.gates, name) for name in (GateName.DISTRIBUTION, GateName.ANSWERS))
    return options.reference.use != "off" and any(gate.mode is not Mode.OFF for gate in gates)


def modes_of(options: ValidationOptions, without: Mapping[GateName, str]) -> dict[GateName, Mode]:
    """The mode of each gate of a target.

    Args:
        options: the spec's `validation` for this target.
        without: gate -> why it cannot be judged for this target, as far as the plan can tell.
    """
    modes = {name: gate_of(options.gates, name).mode or _default(name, without) for name in GateName}
    if not options.gates.evaluation.run:
        modes[GateName.EVALUATION] = Mode.OFF
    return modes


def mode_notes(
    options: ValidationOptions, modes: Mapping[GateName, Mode], without: Mapping[GateName, str]
) -> Iterator[str]:
    """Sentences for the reader of a plan: what is not checked, and why, and what was accepted beforehand."""
    off = [name for name in GateName if gate_of(options.gates, name).mode is Mode.OFF]
    if off:
        yield f"gates that are off: {', '.join(off)}"
    for name, why in without.items():
        if modes[name] is Mode.BLOCK:
            yield f"gate {name}: {why}; the spec lets it block, so this build will stop there"
        elif modes[name] is Mode.WARN:
            yield f"gate {name}: {why}; it only warns"
    for name in GateName:
        accepted = gate_of(options.gates, name).accept
        if accepted is not None and modes[name] is not Mode.OFF:
            yield f"gate {name} lets this build pass whatever it finds: {accepted.by}: {accepted.why}"
    if not any(prompt.equals or prompt.contains or prompt.matches for prompt in options.prompts):
        judged = ", ".join(name for name in GateName if modes[name] is not Mode.OFF)
        what = f"only what the gates measure is checked ({judged})" if judged else "nothing checks this engine"
        yield f"no prompt says what its answer must be: {what}"


def _default(name: GateName, without: Mapping[GateName, str]) -> Mode:
    return Mode.WARN if name in WARNING or name in without else Mode.BLOCK
