"""The last lines of a build name the gates that only warn."""

import pytest

from enginery.cli.output import print_summary
from enginery.pipeline.run import BuildSummary, Outcome
from enginery.store.steps import Stage


def outcome(warnings: list[str] | None, target: str = "a") -> Outcome:
    facts = {} if warnings is None else {"warnings": warnings}
    about = {"id": f"gates/{target}", "key": "0" * 64, "label": f"gates {target}", "stage": Stage.GATES}
    return Outcome.model_validate({**about, "ran": False, "seconds": 0.0, "size": 0, "facts": facts})


def test_each_warning_is_one_line_with_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    long = "speed: inconclusive: " + "first tokens took [longer] " * 20 + "(accepted by ada: a demo)"
    steps = (outcome([long, "size: fail"]), outcome([], "b"), outcome(None, "c"))
    print_summary(BuildSummary(name="tiny", steps=steps, seconds=1.0))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert lines == [f"warning gates a: {long}", "warning gates a: size: fail"]
