"""The script from `enginery plan --commands` runs to its end when it is pasted into a shell."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.plans.light import LIGHT

PROMPT = "What is the capital of France?"


def spec_file(directory: Path, weights: Path) -> Path:
    path = directory / "spec.yaml"
    spec = {
        "name": "by-hand",
        "source": {"path": str(weights)},
        "targets": [{"name": "cpu-int4", "gpu": "cpu", "backend": "onnxruntime", "precision": "float32"}],
        "validation": {"prompts": [{"prompt": PROMPT, "equals": "Paris"}], **LIGHT},
    }
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    return path


def pasted(text: str, directory: Path) -> str:
    """Paste lines into a shell that has `enginery` on its PATH. Returns its output."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"], input=text, cwd=directory, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_of_a_plan_runs_to_its_end(shared_toolchains: Path, tiny_weights: Path, tmp_path: Path) -> None:
    assert shared_toolchains.is_dir()
    path = spec_file(tmp_path, tiny_weights)
    script = pasted(f"enginery plan {path} --set targets.0.precision=int4 --commands", tmp_path)
    output = pasted(script, tmp_path)
    assert output.splitlines()[-1] == "gates cpu-int4: done"
    steps = tmp_path / "by-hand-steps"
    assert (steps / "build" / "cpu-int4" / "genai_config.json").is_file()
    assert PROMPT in (steps / "validate" / "cpu-int4" / "report.json").read_text(encoding="utf-8")
    assert (steps / "package" / "cpu-int4" / "ensemble" / "config.pbtxt").is_file()
    assert "gates cpu-int4: was already done" in pasted(script, tmp_path)
