"""Tests of what kind of model an architecture is."""

import pytest

from enginery.models.facts import ModelFacts
from enginery.models.kinds import ModelKind, architecture_named, kind_of, reads_more_than_text

KINDS = {
    ModelKind.GENERATOR: (
        "LlamaForCausalLM", "GPT2LMHeadModel", "QWenLMHeadModel", "JAISLMHeadModel", "ChatGLMModel", "GLMModel",
        "MambaForCausalLM", "RWForCausalLM", "BartForCausalLM", "T5GemmaForCausalLM", "BertLMHeadModel",
        "LlavaForConditionalGeneration", "Qwen2VLForConditionalGeneration", "Gemma3ForConditionalGeneration",
        "MllamaForConditionalGeneration", "InternVLChatModel", "Eagle2_5_VLForConditionalGeneration",
        "DiffLlamaForCausalLM", "Dots1ForCausalLM", "NemotronH_Nano_VL_V2", "LlavaLlamaModel",
    ),
    ModelKind.ENCODER_DECODER: (
        "T5ForConditionalGeneration", "MT5ForConditionalGeneration", "BartForConditionalGeneration", "MarianMTModel",
        "PegasusForConditionalGeneration", "M2M100ForConditionalGeneration", "EncoderDecoderModel", "DecoderModel",
        "Florence2ForConditionalGeneration", "VisionEncoderDecoderModel", "SwitchTransformersForConditionalGeneration",
    ),
    ModelKind.MASKED: ("BertForMaskedLM", "RobertaForMaskedLM", "ModernBertForMaskedLM", "ElectraForPreTraining"),
    ModelKind.CLASSIFIER: (
        "LlamaForSequenceClassification", "BertForTokenClassification", "RobertaForQuestionAnswering",
        "BartForSequenceClassification", "BertForMultipleChoice", "BertForNextSentencePrediction",
    ),
    ModelKind.REWARD: ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel", "InternLM2ForRewardModel", "LlamaForScore"),
    ModelKind.EMBEDDING: (
        "BertModel", "XLMRobertaModel", "MistralModel", "Qwen3Model", "T5EncoderModel", "LlamaForTextEmbedding",
        "NomicBertModel", "Gemma3TextModel", "ColPaliForRetrieval",
    ),
    ModelKind.VISION: ("ViTForImageClassification", "CLIPVisionModel", "Dinov2Model", "DetrForObjectDetection"),
    ModelKind.SPEECH: ("WhisperForConditionalGeneration", "Wav2Vec2ForCTC", "SpeechT5ForTextToSpeech"),
    ModelKind.PICTURES: ("DiT", "STDiT3", "SD3Transformer2DModel", "UNet2DConditionModel"),
    ModelKind.DRAFT: (
        "EagleForCausalLM", "MedusaForCausalLM", "ReDrafterForLLaMALM", "LlamaForCausalLMEagle3",
        "EAGLE3LlamaForCausalLM", "MTPDraftModelForCausalLM",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_the_name_of_an_architecture_says_its_kind(kind: ModelKind, name: str) -> None:
    assert kind_of(name) is kind


def test_a_configuration_says_that_an_unknown_architecture_has_an_encoder() -> None:
    config = {"architectures": ["NobodyForConditionalGeneration"], "is_encoder_decoder": True}
    assert ModelFacts.from_config(config).kind is ModelKind.ENCODER_DECODER
    assert ModelFacts.from_config({**config, "is_encoder_decoder": False}).kind is ModelKind.GENERATOR
    assert ModelFacts.from_config({"model_type": "t5", "is_encoder_decoder": True}).kind is ModelKind.ENCODER_DECODER


def test_the_decoder_of_such_a_model_alone_continues_texts() -> None:
    assert kind_of("BartForCausalLM", encoder_decoder=True) is ModelKind.GENERATOR


def test_the_first_architecture_counts() -> None:
    config = {"architectures": ["BertForMaskedLM", "LlamaForCausalLM"]}
    assert ModelFacts.from_config(config).kind is ModelKind.MASKED


@pytest.mark.parametrize("name", ["LlavaForConditionalGeneration", "Phi3VForCausalLM", "FuyuForCausalLM"])
def test_models_that_also_see_are_known_by_their_names(name: str) -> None:
    assert reads_more_than_text(name)
    assert not reads_more_than_text("LlamaForCausalLM")


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [("llama", "LlamaForCausalLM"), ("qwen2_moe", "Qwen2MoeForCausalLM"), ("gpt2", "GPT2LMHeadModel"), ("nobody", ""),
     ("", "")],
)  # fmt: skip
def test_a_type_names_its_architecture_where_that_is_clear(model_type: str, architecture: str) -> None:
    known = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "GPT2LMHeadModel"})
    assert architecture_named(model_type, known) == architecture
