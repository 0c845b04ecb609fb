"""A stand-in for TensorRT-LLM's C++ backend, which cannot be installed here: a Python model with its tensors.

It needs the same inputs as the real one, refuses what the real one would refuse, and answers with recorded tokens. It
tests no engine. It only tests that the other four models fit to the model `tensorrt_llm`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from enginery.core.files import write_atomic

MODEL = """
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

TYPES = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32, "TYPE_INT64": np.int64, "TYPE_UINT8": np.uint8}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        engine = Path(config["parameters"]["gpt_model_path"]["string_value"]) / "config.json"
        if not engine.is_file():
            raise RuntimeError(f"Cannot find engine config file {engine}")
        self.outputs = {output["name"]: output for output in config["output"]}
        self.decoupled = config["model_transaction_policy"]["decoupled"]
        self.answers = json.loads((Path(__file__).parent / "answers.json").read_text())

    def execute(self, requests):
        if not self.decoupled:
            return [self.respond(request) for request in requests]
        for request in requests:
            self.stream(request)

    def read(self, request):
        found = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name in ("input_ids", "input_lengths", "request_output_len", "end_id", "pad_id"):
            assert name in found, f"no {name} in {sorted(found)}"
        assert found["stop_words_list"].shape[-2] == found["bad_words_list"].shape[-2] == 2
        length = int(found["input_lengths"].reshape(-1)[0])
        prompt = [int(token) for token in found["input_ids"].reshape(-1)[:length]]
        answer = self.answers[" ".join(map(str, prompt))]
        beams = int(found["beam_width"].reshape(-1)[0]) if "beam_width" in found else 1
        streaming = "streaming" in found and bool(found["streaming"].reshape(-1)[0])
        return prompt, answer[: int(found["request_output_len"].reshape(-1)[0])], beams, streaming

    def respond(self, request):
        if any(tensor.name() == "input_ids" and len(tensor.as_numpy()) > 1 for tensor in request.inputs()):
            error = "Batch size > 1 requires the tensorrt_llm backend to be using decoupled transaction policy"
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(error))
        _, answer, beams, streaming = self.read(request)
        if streaming:
            error = "Streaming is only supported if model is deployed using decoupled mode."
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(error))
        return self.response(request, answer, beams)

    def stream(self, request):
        _, answer, beams, streaming = self.read(request)
        sender = request.get_response_sender()
        pieces = [[token] for token in answer] if streaming else [answer]
        for index, piece in enumerate(pieces):
            last = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if index == len(pieces) - 1 else 0
            sender.send(self.response(request, piece, beams), flags=last)

    def response(self, request, tokens, beams):
        rows = [tokens[: len(tokens) - beam] for beam in range(beams)]
        padded = np.asarray([[row + [0] * (len(tokens) - len(row)) for row in rows]], dtype=np.int32)
        made = {
            "output_ids": padded,
            "sequence_length": np.asarray([[len(row) for row in rows]], dtype=np.int32),
            "cum_log_probs": np.asarray([[-0.5 - beam for beam in range(beams)]], dtype=np.float32),
            "output_log_probs": np.full((1, beams, len(tokens)), -0.25, dtype=np.float32),
        }
        wanted = request.requested_output_names()
        found = {name: made.get(name, self.nothing(name)) for name in wanted}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in found.items()])

    def nothing(self, name):
        output = self.outputs[name]
        return np.zeros((1, *(1 for _ in output["dims"])), dtype=TYPES[output["data_type"]])
"""


def put_stand_in(repository: Path, answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """Make the stand-in the model `tensorrt_llm` of a repository. `answers`: the tokens of prompts and answers."""
    model = repository / "tensorrt_llm"
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.backend == "tensorrtllm"
    config.backend = "python"
    write_atomic(model / "config.pbtxt", text_format.MessageToString(config))
    write_atomic(model / "1" / "model.py", MODEL)
    by_prompt = {" ".join(map(str, prompt)): list(answer) for prompt, answer in answers}
    write_atomic(model / "1" / "answers.json", json.dumps(by_prompt))


def write_engine(
    directory: Path, *, ranks: int = 1, max_beam_width: int | None = 1, leave_out: int | None = None
) -> Path:
    """Write the files of `trtllm-build` without a real engine: the configuration, and a file for each rank."""
    directory.mkdir(parents=True)
    built = {"max_batch_size": 1, **({"max_beam_width": max_beam_width} if max_beam_width else {})}
    content = {"version": "0", "pretrained_config": {"mapping": {"world_size": ranks}}, "build_config": built}
    (directory / "config.json").write_text(json.dumps(content))
    for rank in range(ranks):
        if rank != leave_out:
            (directory / f"rank{rank}.engine").write_bytes(b"no engine, rank %d" % rank)
    return directory
