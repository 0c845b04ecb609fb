"""Tests of which models each backend refuses before anything is downloaded, and with which words."""

from typing import Any

import pytest

from enginery.backends import Request, backend_for
from enginery.backends.choose import choose
from enginery.backends.onnx_models import ARCHITECTURES, BUILT, FAILING, NEEDING_CODE, OWN_SCALINGS, READ, SPEECH
from enginery.models import ModelFacts
from enginery.releases import pytorch_architectures, releases_read
from enginery.spec import BackendName, Finding, gpus
from enginery.spec.spec import parse_spec
from tests.support.plans.pytorch import identify

ONNX = {"gpu": "cpu", "backend": "onnxruntime", "precision": "float32"}
TENSORRT = {"gpu": "H100-SXM5-80GB", "backend": "tensorrt", "precision": "bfloat16", "release": "1.2.1"}
PYTORCH = {"gpu": "H100-SXM5-80GB", "backend": "pytorch", "precision": "bfloat16", "release": "1.3.0rc3"}
AUTO = {**TENSORRT, "backend": "auto"}
BACKENDS = {"onnxruntime": ONNX, "tensorrt": TENSORRT, "pytorch": PYTORCH, "auto": AUTO}
OF_MODELS = {"E130", "E131", "E195", "E196", "E307", "E308", "W195", "W196"}

NO_TEXT = {
    "BertForMaskedLM": "masked language model",
    "LlamaForSequenceClassification": "classifier",
    "Qwen2ForSequenceClassification": "classifier",
    "RobertaForQuestionAnswering": "classifier",
    "BertModel": "embeddings",
    "MistralModel": "embeddings",
    "Qwen2ForProcessRewardModel": "reward model",
    "CLIPVisionModel": "images alone",
    "WhisperForConditionalGeneration": "speech",
    "SD3Transformer2DModel": "makes images",
}
ENCODER_DECODERS = ("T5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel", "EncoderModel")


def request_of(target: dict[str, Any], **config: Any) -> Request:
    facts = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", **config}
    data = {"name": "one", **target}
    spec = parse_spec({"name": "tiny", "source": {"path": "model"}, "targets": [data]})
    model = ModelFacts.from_config({name: value for name, value in facts.items() if value is not None})
    return Request(spec, spec.targets[0], gpus.find(target["gpu"]), model)


def findings(target: dict[str, Any], **config: Any) -> list[Finding]:
    request = request_of(target, **config)
    return [one for one in backend_for(request, identify).findings(request) if one.code in OF_MODELS]


def notes(target: dict[str, Any], **config: Any) -> str:
    request = request_of(target, **config)
    return "\n".join(backend_for(request, identify).notes(request))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("architecture", NO_TEXT)
def test_a_model_that_generates_no_text_is_refused_with_its_kind(backend: str, architecture: str) -> None:
    (found,) = findings(BACKENDS[backend], architectures=[architecture])
    assert (found.code, found.level) == ("E195", "error")
    assert architecture in found.problem
    assert NO_TEXT[architecture] in found.problem


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_an_encoder_decoder_model_is_refused_with_the_reason_of_the_backend(backend: str, architecture: str) -> None:
    (found,) = findings(BACKENDS[backend], architectures=[architecture])
    assert found.code == "E195"
    assert "an encoder-decoder model" in found.problem
    assert found.problem.rpartition(": ")[2]


def test_a_masked_model_is_refused_whatever_release_of_pytorch_is_meant() -> None:
    for release in ("0.17.0", "1.0.0", "1.3.0rc20", ">=1.0"):
        assert [one.code for one in findings({**PYTORCH, "release": release}, architectures=["BertForMaskedLM"])] == [
            "E195"
        ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_language_model_is_accepted(backend: str) -> None:
    assert findings(BACKENDS[backend]) == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("named", [None, []])
def test_a_configuration_without_architectures_is_refused_with_what_to_add(backend: str, named: object) -> None:
    (found,) = findings(BACKENDS[backend], architectures=named)
    assert found.level == "error"
    assert "does not say its architecture" in found.problem
    assert found.remedy == 'add "architectures": ["LlamaForCausalLM"] to config.json'


def test_the_first_architecture_counts_as_for_the_builder() -> None:
    assert findings(ONNX, architectures=["LlamaForCausalLM", "X"]) == []
    assert [one.code for one in findings(ONNX, architectures=["X", "LlamaForCausalLM"])] == ["E307"]


@pytest.mark.parametrize("architecture", BUILT)
def test_onnxruntime_accepts_what_its_builder_builds(architecture: str) -> None:
    assert findings(ONNX, architectures=[architecture]) == []


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("GPT2LMHeadModel", "backend: tensorrt"),
        ("MambaForCausalLM", "backend: tensorrt"),
        ("MixtralForCausalLM", "backend: tensorrt or pytorch"),
        ("Qwen3NextForCausalLM", "backend: pytorch"),
        ("NobodyForCausalLM", "use another model"),
    ],
)
def test_onnxruntime_refuses_what_its_builder_does_not_know_and_names_who_does(architecture: str, words: str) -> None:
    (found,) = findings(ONNX, architectures=[architecture])
    assert (found.code, found.level) == ("E307", "error")
    assert f"the model builder of {READ} does not know {architecture}" in found.problem
    assert found.remedy.endswith(words)


def test_onnxruntime_names_similar_architectures() -> None:
    (found,) = findings(ONNX, architectures=["Qwen2VLForConditionalGeneration"])
    assert "similar architectures are Qwen3VLForConditionalGeneration" in found.problem
    assert "similar" not in findings(ONNX, architectures=["MambaForCausalLM"])[0].problem


@pytest.mark.parametrize("architecture", [*NEEDING_CODE, *FAILING])
def test_onnxruntime_refuses_what_its_builder_knows_but_fails_on(architecture: str) -> None:
    (found,) = findings(ONNX, architectures=[architecture])
    assert (found.code, found.level) == ("E308", "error")
    assert "does not build" in found.problem
    assert found.remedy.startswith("use another model")


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_a_model_that_fails_only_where_it_is_quantized_is_refused_only_there(precision: str) -> None:
    (found,) = findings({**ONNX, "precision": precision}, architectures=["GptOssForCausalLM"])
    assert found.code == "E308"
    assert findings(ONNX, architectures=["GptOssForCausalLM"]) == []


@pytest.mark.parametrize("architecture", ["GPT2LMHeadModel", *FAILING])
def test_a_toolchain_that_was_not_read_gets_a_warning(architecture: str) -> None:
    (found,) = findings({**ONNX, "toolchain": "host"}, architectures=[architecture])
    assert (found.code, found.level) == ("W196", "warning")


def test_onnxruntime_needs_a_model_type() -> None:
    (found,) = findings(ONNX, model_type=None)
    assert found.code == "E307"
    assert "no model_type" in found.problem


@pytest.mark.parametrize(
    ("architecture", "scaling", "verb"),
    [
        ("LlamaForCausalLM", "yarn", "leaves out"),
        ("LlamaForCausalLM", "linear", "leaves out"),
        ("LlamaForCausalLM", "dynamic", "leaves out"),
        ("SmolLM3ForCausalLM", "yarn", "leaves out"),
        ("Qwen2ForCausalLM", "dynamic", "does not know"),
        ("MistralForCausalLM", "llama3", "does not know"),
    ],
)
def test_onnxruntime_refuses_a_rotary_scaling_that_its_builder_loses(
    architecture: str, scaling: str, verb: str
) -> None:
    rope = {"rope_type": scaling, "factor": 4.0, "rope_theta": 10000.0}
    (found,) = findings(ONNX, architectures=[architecture], rope_scaling=rope)
    assert found.code == "E308"
    assert f"{verb} the rotary scaling {scaling} of {architecture}" in found.problem


@pytest.mark.parametrize(
    ("architecture", "scaling"),
    [
        ("LlamaForCausalLM", "llama3"),
        ("LlamaForCausalLM", "default"),
        ("Qwen2ForCausalLM", "yarn"),
        ("MistralForCausalLM", "linear"),
        ("Phi3ForCausalLM", "longrope"),
        ("Qwen2_5_VLForConditionalGeneration", "mrope"),
    ],
)
def test_onnxruntime_accepts_a_rotary_scaling_that_its_builder_computes(architecture: str, scaling: str) -> None:
    rope = {"rope_type": scaling, "factor": 4.0, "rope_theta": 10000.0}
    assert findings(ONNX, architectures=[architecture], rope_scaling=rope) == []


def test_the_tables_of_onnxruntime_agree_with_each_other() -> None:
    assert len(ARCHITECTURES) == len(BUILT) + len(FAILING) + len(NEEDING_CODE) + len(SPEECH)
    assert set(OWN_SCALINGS) <= set(BUILT)


def test_pytorch_accepts_what_its_release_runs() -> None:
    for architecture in ("LlamaForCausalLM", "Qwen3NextForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"):
        assert findings(PYTORCH, architectures=[architecture]) == []


def test_pytorch_refuses_what_its_release_does_not_run() -> None:
    (found,) = findings(PYTORCH, architectures=["GPT2LMHeadModel"])
    assert (found.code, found.level) == ("E196", "error")
    assert "1.3.0rc3 does not run GPT2LMHeadModel" in found.problem


@pytest.mark.parametrize("release", ["0.17.0", "1.2.1", "1.3.0rc20"])
def test_pytorch_warns_where_it_is_not_known_whether_a_release_runs_a_model(release: str) -> None:
    (found,) = findings({**PYTORCH, "release": release}, architectures=["GPT2LMHeadModel"])
    assert (found.code, found.level) == ("W195", "warning")


def test_a_later_pytorch_runs_an_encoder_decoder_model_untried() -> None:
    (found,) = findings({**PYTORCH, "release": "1.3.0rc20"}, architectures=["T5ForConditionalGeneration"])
    assert (found.code, found.level) == ("W195", "warning")


def test_pytorch_refuses_a_draft_model_that_it_only_runs_beside_another() -> None:
    (found,) = findings(PYTORCH, architectures=["EAGLE3LlamaForCausalLM"])
    assert found.code == "E195"
    assert "draft model" in found.problem


def test_the_facts_of_pytorch_say_which_releases_were_read() -> None:
    assert releases_read("pytorch", "architectures") == ("1.3.0rc3", "1.3.0rc20+main")
    known = pytorch_architectures("1.3.0rc3")
    assert str(known.provenance) == "parsed"
    assert "LlavaLlamaModel" in known.value


@pytest.mark.parametrize("architecture", ["Qwen2VLForConditionalGeneration", "Qwen2VLModel", "LlavaLlamaModel"])
def test_tensorrt_refuses_what_its_converter_makes_no_engine_of_for_texts(architecture: str) -> None:
    (found,) = findings({**TENSORRT, "release": "1.3.0rc3"}, architectures=[architecture])
    assert found.code == "E131"
    assert f"its converter {'llama' if 'Llama' in architecture else 'qwen'}: " in found.problem


@pytest.mark.parametrize(
    ("architecture", "chosen"),
    [("GPT2LMHeadModel", "tensorrt"), ("GptOssForCausalLM", "pytorch"), ("BertForMaskedLM", "tensorrt")],
)
def test_auto_chooses_a_backend_that_knows_the_model_or_refuses(architecture: str, chosen: str) -> None:
    assert choose(request_of(AUTO, architectures=[architecture])).backend is BackendName(chosen)


@pytest.mark.parametrize(
    ("backend", "architecture"),
    [
        ("onnxruntime", "Qwen2_5_VLForConditionalGeneration"),
        ("pytorch", "Qwen2VLForConditionalGeneration"),
        ("tensorrt", "FuyuForCausalLM"),
    ],
)
def test_a_model_that_also_sees_is_built_for_text_and_the_plan_says_so(backend: str, architecture: str) -> None:
    assert findings(BACKENDS[backend], architectures=[architecture]) == []
    assert "text alone" in notes(BACKENDS[backend], architectures=[architecture])
    assert "text alone" not in notes(BACKENDS[backend])
