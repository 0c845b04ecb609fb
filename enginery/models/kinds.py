"""What kind of model an architecture is: whether it continues a text, and if not, what it does instead.

The names of transformers' classes say it, such as `BertForMaskedLM` or `LlamaForSequenceClassification`.
"""

import re
from enum import StrEnum


class ModelKind(StrEnum):
    """A kind of model. The values are words for messages."""

    GENERATOR = "a model that continues a text"
    ENCODER_DECODER = "an encoder-decoder model"
    MASKED = "a masked language model: it fills gaps in a text and does not continue it"
    CLASSIFIER = "a classifier: it gives labels and no text"
    REWARD = "a reward model: it gives scores and no text"
    EMBEDDING = "a model without an output layer, as for embeddings: it gives vectors and no text"
    VISION = "a model for images alone: it reads no text"
    SPEECH = "a model for speech or sound: a prompt of text alone means nothing to it"
    PICTURES = "a model that makes images or video, not text"
    DRAFT = "a draft model: it only proposes tokens to a larger model"


ANSWERS_NO_TEXT = frozenset(ModelKind) - {ModelKind.GENERATOR, ModelKind.ENCODER_DECODER}
"""Kinds that no backend can build an engine of that answers a prompt, whatever its release."""

GENERATORS = frozenset(
    {"ChatGLMModel", "GLMModel", "MLLaMAModel", "Qwen2VLModel", "LlavaLlamaModel", "LlavaQwenModel", "HCXVisionModel"}
)
"""Models with an output layer, though their names say otherwise."""

SEQ2SEQ = (
    "T5|MT5|UMT5|LongT5|SwitchTransformers|T5Gemma2?|Bart|MBart|BigBirdPegasus|Blenderbot(Small)?|FSMT|LED|M2M100|Mvp"
    "|NllbMoe|PegasusX?|PLBart|(XLM)?ProphetNet|Pix2Struct|Udop|Florence2"
)
"""Start of the names of encoder-decoder models, from transformers' table of sequence-to-sequence models."""
SPOKEN = "Whisper|Moonshine|Speech2Text|SpeechT5|Canary|CohereAsr|Dia(?=For)|Pop2Piano|Musicgen|Csm|KyutaiSpeechToText"

BY_NAME = (
    (ModelKind.DRAFT, r"(?i)medusa|eagle\w*ForCausalLM$|ForCausalLMEagle|redrafter|DraftModel|DFlash"),
    (ModelKind.DRAFT, r"AssistantForCausalLM$"),
    (ModelKind.REWARD, r"Reward|ForScore$|ValueHead"),
    (ModelKind.VISION, r"For(Image|Video|ZeroShotImage)Classification|Segmentation$|ObjectDetection$|Estimation$"),
    (
        ModelKind.VISION,
        r"ImageModeling$|Matting$|VisionModel(WithProjection)?$|^(ViT|Dino|Swin|Beit|DeiT|Sam)",
    ),
    (ModelKind.SPEECH, r"For(CTC|RNNT|TDT|XVector)$|Audio(Frame)?Classification$|^Speech\w+DecoderModel$"),
    (ModelKind.SPEECH, rf"^({SPOKEN})|^SeamlessM4T\w*(Speech|Model$)|^(Bark|Vits|Encodec)Model$|^(Wav2Vec|Hubert)"),
    (ModelKind.PICTURES, r"^(DiT|STDiT\w*)$|Transformer[23]DModel$|^UNet|^Autoencoder|^Flux"),
    (ModelKind.CLASSIFIER, r"Classification$|QuestionAnswering(Simple)?$|ForMultipleChoice$|NextSentencePrediction$"),
    (ModelKind.MASKED, r"ForMaskedLM$|ForPreTraining$|^(XLM|Flaubert)WithLMHeadModel$"),
    (ModelKind.EMBEDDING, r"ForTextEmbedding$|ForTextEncoding$|ForRetrieval$|^\w+EncoderModel$"),
    (ModelKind.ENCODER_DECODER, r"EncoderDecoderModel$|^MarianMTModel$|ForTextToText$|^(Encoder|Decoder)Model$"),
    (ModelKind.ENCODER_DECODER, rf"^({SEQ2SEQ})ForConditionalGeneration$"),
)
"""Kind -> what the names of its architectures contain. The first row that fits counts."""

HEADLESS = re.compile(r"(?<!LMHead)(?<!LMHeadCustom)(?<!Chat)(?<!DoubleHeads)(?<!ForCausalLM)Model$")
"""The end of a name of a model without an output layer."""
SEES_OR_HEARS = re.compile(r"ForConditionalGeneration$|V(ision|L)|Llava|Fuyu|Kosmos|Phi3VFor|Phi4MM|Multimodal|Omni")


def kind_of(architecture: str, *, encoder_decoder: bool = False) -> ModelKind:
    """The kind of a model.

    Args:
        architecture: the first of its `architectures`, such as `LlamaForCausalLM`; empty if it names none.
        encoder_decoder: what its `config.json` has as `is_encoder_decoder`.
    """
    if architecture in GENERATORS:
        return ModelKind.GENERATOR
    for kind, pattern in BY_NAME:
        if re.search(pattern, architecture):
            return kind
    if encoder_decoder and not architecture.endswith("ForCausalLM"):
        return ModelKind.ENCODER_DECODER
    return ModelKind.EMBEDDING if HEADLESS.search(architecture) else ModelKind.GENERATOR


def reads_more_than_text(architecture: str) -> bool:
    """Whether a model that continues texts also reads images, video or sound, to judge by its name."""
    return kind_of(architecture) is ModelKind.GENERATOR and bool(SEES_OR_HEARS.search(architecture))


def architecture_named(model_type: str, known: frozenset[str]) -> str:
    """The one architecture among `known` for a type of models, such as `llama`; empty if it is not clear."""
    wanted = _letters(model_type)
    found = [name for name in known if wanted and _letters(re.sub(r"(ForCausalLM|LMHeadModel)$", "", name)) == wanted]
    return found[0] if len(found) == 1 else ""


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
