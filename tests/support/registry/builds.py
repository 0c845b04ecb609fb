"""Small builds to publish and to roll out: five models with the real names. They take their answers from a list.

They are real model repositories, and a real Triton loads them in a second. Only the engine is not real.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import JsonValue

from enginery.builds.gates import GateReport
from enginery.builds.manifest import Manifest
from enginery.builds.validation import PromptResult, ValidationReport
from enginery.builds.verdicts.evaluation import EvaluationResult
from enginery.registry import Registry, publish
from enginery.store.context import StepContext
from tests.support.store.records import a_chain

QUESTION = "How do I count to nine in French?"
ANSWERS = {QUESTION: "un deux trois quatre cinq six sept huit neuf"}

MODEL = """
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        answers = Path(__file__).parent / "answers.json"
        self.answers = json.loads(answers.read_text()) if answers.exists() else None

    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        texts = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        said = [self.say(text.decode()).encode() for text in texts.reshape(-1)]
        output = pb_utils.Tensor("OUT", np.array(said, dtype=object).reshape(texts.shape))
        return pb_utils.InferenceResponse([output])

    def say(self, text):
        return text if self.answers is None else self.answers.get(text, "I do not know")
"""

LEAF_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input {{ name: "IN" data_type: TYPE_STRING dims: [1] }}
{more}
output {{ name: "OUT" data_type: TYPE_STRING dims: [1] }}
instance_group {{ count: 1 kind: KIND_CPU }}
"""

OPTIONS = {"max_tokens": "TYPE_INT32", "bad_words": "TYPE_STRING", "stop_words": "TYPE_STRING"}
OPTION_INPUTS = "\n".join(
    f'input {{ name: "{name}" data_type: {kind} dims: [-1] optional: true }}' for name, kind in OPTIONS.items()
)
OPTION_MAPS = " ".join(f'input_map {{ key: "{name}" value: "{name}" }}' for name in OPTIONS)

ENSEMBLE_CONFIG = f"""
name: "ensemble"
platform: "ensemble"
max_batch_size: 8
input {{ name: "text_input" data_type: TYPE_STRING dims: [1] }}
{OPTION_INPUTS}
output {{ name: "text_output" data_type: TYPE_STRING dims: [1] }}
ensemble_scheduling {{
  step {{
    model_name: "preprocessing" model_version: -1
    input_map {{ key: "IN" value: "text_input" }} {OPTION_MAPS}
    output_map {{ key: "OUT" value: "prompt" }}
  }}
  step {{
    model_name: "tensorrt_llm" model_version: -1
    input_map {{ key: "IN" value: "prompt" }} output_map {{ key: "OUT" value: "answer" }}
  }}
  step {{
    model_name: "postprocessing" model_version: -1
    input_map {{ key: "IN" value: "answer" }} output_map {{ key: "OUT" value: "text_output" }}
  }}
}}
"""


def write_repository(directory: Path, answers: Mapping[str, str], *, broken: str | None = None) -> None:
    """Write five models that answer with `answers`. The model named `broken` fails to load."""
    for name in ("preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls"):
        files = directory / name / "1"
        files.mkdir(parents=True)
        more = OPTION_INPUTS if name == "preprocessing" else ""
        (files.parent / "config.pbtxt").write_text(LEAF_CONFIG.format(name=name, more=more))
        (files / "model.py").write_text("raise RuntimeError('no such engine')\n" if name == broken else MODEL)
    (directory / "tensorrt_llm" / "1" / "answers.json").write_text(json.dumps(answers))
    (directory / "ensemble").mkdir()
    (directory / "ensemble" / "config.pbtxt").write_text(ENSEMBLE_CONFIG)


def a_report(answers: Mapping[str, str], *, passed: bool = True) -> ValidationReport:
    """The report of a validation with these answers."""
    results = tuple(
        PromptResult(
            prompt=prompt,
            expected={"contains": answer if passed else "something else"},
            got=answer,
            passed=passed,
            reason="" if passed else "not: contains 'something else'",
            tokens=9,
            token_ids=tuple(range(9)),
            finish="eos",
            seconds_to_first_token=0.1,
            seconds=0.5,
        )
        for prompt, answer in answers.items()
    )
    return ValidationReport(passed=passed, results=results, driver_sha256="0" * 64)


@dataclass
class Build:
    """A build that can be published.

    Attributes:
        recorded: the answers in its validation report, if they differ from those of its models.
        broken: the name of a model that does not load.
        gates: the results of its gates; None for a plan that has no gates step.
        evaluations: the results of its evaluations, in the output of its gates step.
    """

    build_id: str = "cpu-int4-111111111111"
    model: str = "tiny-llama"
    target: str = "cpu-int4"
    answers: Mapping[str, str] = field(default_factory=lambda: ANSWERS)
    recorded: Mapping[str, str] | None = None
    broken: str | None = None
    passed: bool = True
    gates: GateReport | None = None
    evaluations: tuple[EvaluationResult, ...] = ()

    def parameters(self, to: str, **more: JsonValue) -> dict[str, JsonValue]:
        """The parameters of its publish step."""
        facts = {"gpu": "cpu", "backend": "onnxruntime", "release": "0.18.0", "precision": "int4"}
        target: dict[str, JsonValue] = {"name": self.target, **facts, "tensor_parallel": 1, "pipeline_parallel": 1}
        ids: dict[str, JsonValue] = {"model": self.model, "build_id": self.build_id, "target": target}
        return ids | {"to": to, "channel": "candidate", "allow_unconditional_writes": False} | more

    def write(self, directory: Path) -> dict[str, Path]:
        """Write the build's files like the steps before publish. Returns input names -> directories."""
        inputs = {name: directory / name for name in ("model_repository", "report", "weights")}
        for path in inputs.values():
            path.mkdir(parents=True)
        write_repository(inputs["model_repository"], self.answers, broken=self.broken)
        report = a_report(self.answers if self.recorded is None else self.recorded, passed=self.passed)
        (inputs["report"] / "report.json").write_text(report.model_dump_json())
        if self.gates is not None:
            inputs["gates"] = directory / "gates"
            (inputs["gates"] / "reference").mkdir(parents=True)
            (inputs["gates"] / "gates.json").write_text(self.gates.model_dump_json())
            (inputs["gates"] / "reference" / "reference.json").write_text("{}")
            (inputs["gates"] / "evaluations").mkdir()
            for one in self.evaluations:
                (inputs["gates"] / "evaluations" / f"{one.name}.json").write_text(one.model_dump_json())
        (inputs["weights"] / "LICENSE").write_text("Do as you like.")
        (inputs["weights"] / "model.safetensors").write_bytes(b"weights")
        return inputs

    def context(self, directory: Path, to: str, **more: JsonValue) -> StepContext:
        """The context of the build's publish step, with its files written."""
        inputs = self.write(directory / "inputs")
        output = directory / "output"
        output.mkdir()
        return StepContext(
            key="0" * 64,
            parameters=self.parameters(to, **more),
            inputs=inputs,
            output=output,
            chain=a_chain(),
            toolchain=None,
            log=lambda _: None,
        )

    def publish(self, to: str) -> Manifest:
        """Publish it and return its manifest."""
        with TemporaryDirectory() as directory:
            publish(self.context(Path(directory), to))
        return Registry(to).manifest(self.model, self.build_id)
