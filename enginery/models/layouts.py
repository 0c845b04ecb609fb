"""Which tensors the weight files of an architecture have, by their names in Hugging Face's format.

A line is a tensor: its name, the sizes of its dimensions, and maybe a condition after `?`.

- `{e}` in a name stands for the number of each expert, `{n}` for that of each attention head, `{g}` for each key-value
  head.
- Sizes are the letters of `SIZES`, or settings of `config.json`. `*` is any size.
- A condition is a setting of `config.json` that must be true, or false after `!`. `moe` and `dense` are kinds of
  layers, and `untied` means that the output embedding has weights of its own. `?` alone: it may be there or not.

The tables were compared with what transformers 5.23 saves for each architecture; a test does the same again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

SIZES = """
V vocab_size   H hidden_size   I intermediate_size   M expert's intermediate size   S shared expert's intermediate size
Q query heads together   K key heads together   D one head   N query heads   G key heads   E experts   P positions
"""
"""The letters for sizes. `tensors.py` computes them; also `Q+2K`, `2I`, `3H`, `4H`, `2M`."""


@dataclass(frozen=True)
class Line:
    """A tensor of a layout.

    Attributes:
        name: its name inside its layer or inside the model.
        sizes: one word for each dimension.
        condition: when it must be there; None for always, empty if it may be there or not.
    """

    name: str
    sizes: tuple[str, ...]
    condition: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Line":
        """Read a line of a table."""
        about, mark, condition = text.partition("?")
        name, *sizes = about.split()
        return cls(name, tuple(sizes), condition.strip() if mark else None)


@dataclass(frozen=True)
class Layout:
    """The tensors of an architecture.

    Attributes:
        layer: the tensors of each layer.
        inner: the other tensors of the model without its output embedding.
        head: the tensors of the output embedding.
        layers: the name of the list of layers.
        base: transformers' prefix of all but the output embedding. Files may leave it out.
    """

    layer: str
    inner: str = "embed_tokens.weight V H\nnorm.weight H"
    head: str = "lm_head.weight V H ?untied"
    layers: str = "layers"
    base: str = "model."

    @cached_property
    def layer_lines(self) -> tuple[Line, ...]:
        """The tensors of each layer."""
        return _lines(self.layer)

    @cached_property
    def inner_lines(self) -> tuple[Line, ...]:
        """The tensors beside the layers."""
        return _lines(self.inner)

    @cached_property
    def head_lines(self) -> tuple[Line, ...]:
        """The tensors of the output embedding."""
        return _lines(self.head)


def _lines(text: str) -> tuple[Line, ...]:
    return tuple(Line.parse(line) for line in text.splitlines() if line.strip())


def _with_bias(names: str, condition: str = "") -> str:
    """Lines for the biases of matrices. Each word is a matrix and the size of its bias, such as `q_proj=Q`."""
    pairs = (word.split("=") for word in names.split())
    return "\n".join(f"{name}.bias {size}{condition}" for name, size in pairs)


def _text(*blocks: str) -> str:
    return "\n".join(blocks)


QKV = """
self_attn.q_proj.weight Q H
self_attn.k_proj.weight K H
self_attn.v_proj.weight K H
"""
ATTENTION = _text(QKV, "self_attn.o_proj.weight H Q")
QKV_BIASES = "self_attn.q_proj=Q self_attn.k_proj=K self_attn.v_proj=K"
BIASES = f"{QKV_BIASES} self_attn.o_proj=H"
ATTENTION_BIAS = _with_bias(BIASES, " ?attention_bias")
GATED = """
mlp.gate_proj.weight I H
mlp.up_proj.weight I H
mlp.down_proj.weight H I
"""
GATED_BIASES = "mlp.gate_proj=I mlp.up_proj=I mlp.down_proj=H"
GATED_BIAS = _with_bias(GATED_BIASES, " ?mlp_bias")
PLAIN_BIAS = _with_bias("mlp.up_proj=I mlp.down_proj=H", " ?mlp_bias")
FUSED_GATED = """
mlp.gate_up_proj.weight 2I H
mlp.down_proj.weight H I
"""
PLAIN = """
mlp.up_proj.weight I H
mlp.down_proj.weight H I
"""
INPUT_NORM = "input_layernorm.weight H"
POST_NORM = "post_attention_layernorm.weight H"
NORMS = _text(INPUT_NORM, POST_NORM)
NORM_BIASES = "input_layernorm.bias H\npost_attention_layernorm.bias H"
FEED_FORWARD_NORMS = "pre_feedforward_layernorm.weight H\npost_feedforward_layernorm.weight H"
HEAD_NORMS = "self_attn.q_norm.weight D\nself_attn.k_norm.weight D"
WIDE_NORMS = "self_attn.q_norm.weight Q\nself_attn.k_norm.weight K"
BIASED_NORM = "embed_tokens.weight V H\nnorm.weight H\nnorm.bias H"

LLAMA = _text(ATTENTION, ATTENTION_BIAS, GATED, GATED_BIAS, NORMS)
PLAIN_LLAMA = _text(ATTENTION, GATED, NORMS)
QWEN2_ATTENTION = _text(ATTENTION, _with_bias(QKV_BIASES))
QWEN3_ATTENTION = _text(ATTENTION, ATTENTION_BIAS, HEAD_NORMS)

ROUTER = "mlp.gate.weight E H ?moe"
EXPERTS = """
mlp.experts.{e}.gate_proj.weight M H ?moe
mlp.experts.{e}.up_proj.weight M H ?moe
mlp.experts.{e}.down_proj.weight H M ?moe
"""
FUSED_EXPERTS = """
mlp.experts.gate_up_proj E 2M H ?moe
mlp.experts.down_proj E H M ?moe
"""
SPARSE_EXPERTS = """
block_sparse_moe.experts.{e}.w1.weight M H
block_sparse_moe.experts.{e}.w2.weight H M
block_sparse_moe.experts.{e}.w3.weight M H
block_sparse_moe.gate.weight E H
"""
DENSE = """
mlp.gate_proj.weight I H ?dense
mlp.up_proj.weight I H ?dense
mlp.down_proj.weight H I ?dense
"""
SHARED_EXPERT = """
mlp.shared_expert.gate_proj.weight S H ?moe
mlp.shared_expert.up_proj.weight S H ?moe
mlp.shared_expert.down_proj.weight H S ?moe
mlp.shared_expert_gate.weight 1 H ?moe
"""
LATENT_ATTENTION = """
self_attn.q_proj.weight * H ?!q_lora_rank
self_attn.q_a_proj.weight q_lora_rank H ?q_lora_rank
self_attn.q_a_layernorm.weight q_lora_rank ?q_lora_rank
self_attn.q_b_proj.weight * q_lora_rank ?q_lora_rank
self_attn.kv_a_proj_with_mqa.weight * H
self_attn.kv_a_layernorm.weight kv_lora_rank
self_attn.kv_b_proj.weight * kv_lora_rank
self_attn.o_proj.weight H *
self_attn.q_a_proj.bias q_lora_rank ?
self_attn.kv_a_proj_with_mqa.bias * ?attention_bias
self_attn.o_proj.bias H ?attention_bias
"""
SHARED_EXPERTS = """
mlp.shared_experts.gate_proj.weight S H ?moe
mlp.shared_experts.up_proj.weight S H ?moe
mlp.shared_experts.down_proj.weight H S ?moe
"""
DEEPSEEK = _text(LATENT_ATTENTION, DENSE, ROUTER, SHARED_EXPERTS, NORMS)
DEEPSEEK_V3 = _text(DEEPSEEK, "mlp.gate.e_score_correction_bias E ?moe")


def _moe(rest: str, split: str = EXPERTS, fused: str = FUSED_EXPERTS) -> tuple[Layout, ...]:
    """The two ways to write experts: each with tensors of its own, or all in one tensor as transformers 5 has them."""
    return Layout(_text(rest, split)), Layout(_text(rest, fused))


GPT2 = """
ln_1.weight H
ln_1.bias H
attn.c_attn.weight H 3H
attn.c_attn.bias 3H
attn.c_proj.weight H H
attn.c_proj.bias H
ln_2.weight H
ln_2.bias H
mlp.c_fc.weight H I
mlp.c_fc.bias I
mlp.c_proj.weight I H
mlp.c_proj.bias H
ln_cross_attn.weight H ?
ln_cross_attn.bias H ?
crossattention.c_attn.weight H * ?
crossattention.c_attn.bias * ?
crossattention.q_attn.weight H H ?
crossattention.q_attn.bias H ?
crossattention.c_proj.weight H H ?
crossattention.c_proj.bias H ?
"""
GPT2_INNER = "wte.weight V H\nwpe.weight P H\nln_f.weight H\nln_f.bias H"
GPT_BIGCODE = """
ln_1.weight H
ln_1.bias H
attn.c_attn.weight * H
attn.c_attn.bias *
attn.c_proj.weight H H
attn.c_proj.bias H
ln_2.weight H
ln_2.bias H
mlp.c_fc.weight I H
mlp.c_fc.bias I
mlp.c_proj.weight H I
mlp.c_proj.bias H
"""
GPT_NEO = """
ln_1.weight H
ln_1.bias H
attn.attention.q_proj.weight H H
attn.attention.k_proj.weight H H
attn.attention.v_proj.weight H H
attn.attention.out_proj.weight H H
attn.attention.out_proj.bias H
ln_2.weight H
ln_2.bias H
mlp.c_fc.weight * H
mlp.c_fc.bias *
mlp.c_proj.weight H *
mlp.c_proj.bias H
"""
GPTJ_MLP = """
ln_1.weight H
ln_1.bias H
attn.out_proj.weight H H
mlp.fc_in.weight I H
mlp.fc_in.bias I
mlp.fc_out.weight H I
mlp.fc_out.bias H
"""
GPTJ = _text(GPTJ_MLP, "attn.q_proj.weight H H\nattn.k_proj.weight H H\nattn.v_proj.weight H H")
GPTJ_INNER = "wte.weight V H\nln_f.weight H\nln_f.bias H"
GPTJ_HEAD = "lm_head.weight V H ?untied\nlm_head.bias V"
GPT_NEOX = """
input_layernorm.weight H
input_layernorm.bias H
post_attention_layernorm.weight H
post_attention_layernorm.bias H
attention.query_key_value.weight 3H H
attention.query_key_value.bias 3H ?attention_bias
attention.dense.weight H H
attention.dense.bias H ?attention_bias
mlp.dense_h_to_4h.weight I H
mlp.dense_h_to_4h.bias I
mlp.dense_4h_to_h.weight H I
mlp.dense_4h_to_h.bias H
"""
GPT_NEOX_INNER = "embed_in.weight V H\nfinal_layer_norm.weight H\nfinal_layer_norm.bias H"
BLOOM = """
input_layernorm.weight H
input_layernorm.bias H
post_attention_layernorm.weight H
post_attention_layernorm.bias H
self_attention.query_key_value.weight 3H H
self_attention.query_key_value.bias 3H
self_attention.dense.weight H H
self_attention.dense.bias H
mlp.dense_h_to_4h.weight 4H H
mlp.dense_h_to_4h.bias 4H
mlp.dense_4h_to_h.weight H 4H
mlp.dense_4h_to_h.bias H
"""
BLOOM_INNER = """
word_embeddings.weight V H
word_embeddings_layernorm.weight H
word_embeddings_layernorm.bias H
ln_f.weight H
ln_f.bias H
"""
FALCON = """
self_attention.query_key_value.weight * H
self_attention.query_key_value.bias * ?bias
self_attention.dense.weight H H
self_attention.dense.bias H ?bias
mlp.dense_h_to_4h.weight * H
mlp.dense_h_to_4h.bias * ?bias
mlp.dense_4h_to_h.weight H *
mlp.dense_4h_to_h.bias H ?bias
input_layernorm.weight H ?
input_layernorm.bias H ?
post_attention_layernorm.weight H ?
post_attention_layernorm.bias H ?
ln_attn.weight H ?
ln_attn.bias H ?
ln_mlp.weight H ?
ln_mlp.bias H ?
"""
OPT = """
self_attn.q_proj.weight H H
self_attn.k_proj.weight H H
self_attn.v_proj.weight H H
self_attn.out_proj.weight H H
self_attn.q_proj.bias H ?
self_attn.k_proj.bias H ?
self_attn.v_proj.bias H ?
self_attn.out_proj.bias H ?
self_attn_layer_norm.weight H ?
self_attn_layer_norm.bias H ?
fc1.weight I H
fc1.bias I ?
fc2.weight H I
fc2.bias H ?
final_layer_norm.weight H ?
final_layer_norm.bias H ?
"""
OPT_INNER = """
decoder.embed_tokens.weight V *
decoder.embed_positions.weight * H
decoder.final_layer_norm.weight H ?
decoder.final_layer_norm.bias H ?
decoder.project_in.weight H * ?
decoder.project_out.weight * H ?
"""
MPT = """
norm_1.weight H
norm_2.weight H
norm_1.bias H ?
norm_2.bias H ?
attn.Wqkv.weight * H
attn.Wqkv.bias * ?
attn.out_proj.weight H H
attn.out_proj.bias H ?
attn.q_ln.weight * ?
attn.q_ln.bias * ?
attn.k_ln.weight * ?
attn.k_ln.bias * ?
ffn.up_proj.weight * H
ffn.up_proj.bias * ?
ffn.down_proj.weight H *
ffn.down_proj.bias H ?
"""
PHI = _text(
    QKV,
    "self_attn.dense.weight H Q\nmlp.fc1.weight I H\nmlp.fc2.weight H I",
    _with_bias(f"{QKV_BIASES} self_attn.dense=H mlp.fc1=I mlp.fc2=H"),
    INPUT_NORM,
    "input_layernorm.bias H",
    "self_attn.q_layernorm.weight D ?qk_layernorm\nself_attn.q_layernorm.bias D ?qk_layernorm",
    "self_attn.k_layernorm.weight D ?qk_layernorm\nself_attn.k_layernorm.bias D ?qk_layernorm",
)
STARCODER2 = _text(
    ATTENTION,
    "mlp.c_fc.weight I H\nmlp.c_proj.weight H I",
    _with_bias(f"{BIASES} mlp.c_fc=I mlp.c_proj=H", " ?use_bias"),
    NORMS,
    NORM_BIASES,
)
STABLELM = _text(
    ATTENTION,
    _with_bias(QKV_BIASES, " ?use_qkv_bias"),
    GATED,
    INPUT_NORM,
    "input_layernorm.bias H",
    "post_attention_layernorm.weight H ?!use_parallel_residual",
    "post_attention_layernorm.bias H ?!use_parallel_residual",
    "self_attn.q_layernorm.norms.{n}.weight D ?qk_layernorm",
    "self_attn.k_layernorm.norms.{g}.weight D ?qk_layernorm",
)
COHERE = _text(
    ATTENTION,
    ATTENTION_BIAS,
    GATED,
    INPUT_NORM,
    "self_attn.q_norm.weight N D ?use_qk_norm\nself_attn.k_norm.weight G D ?use_qk_norm",
)
GLM = _text(ATTENTION, _with_bias(QKV_BIASES, " ?attention_bias"), FUSED_GATED, NORMS)
OLMO2 = _text(ATTENTION, ATTENTION_BIAS, WIDE_NORMS, GATED, POST_NORM, "post_feedforward_layernorm.weight H")
GPT_OSS = _text(
    ATTENTION,
    ATTENTION_BIAS,
    "self_attn.sinks N",
    NORMS,
    "mlp.router.weight E H\nmlp.router.bias E",
    "mlp.experts.gate_up_proj E H 2I\nmlp.experts.gate_up_proj_bias E 2I",
    "mlp.experts.down_proj E I H\nmlp.experts.down_proj_bias E H",
)
GRANITE_MOE = _text(ATTENTION, ATTENTION_BIAS, NORMS)
PHI_MOE = _text(ATTENTION, ATTENTION_BIAS, NORMS, NORM_BIASES)
PHI_MOE_HEAD = "lm_head.weight V H ?untied\nlm_head.bias V ?lm_head_bias"
ERNIE = _text(
    ATTENTION,
    _with_bias(BIASES, " ?use_bias"),
    GATED,
    _with_bias(GATED_BIASES, " ?use_bias"),
    NORMS,
)
HELIUM = _text(QKV, "self_attn.o_proj.weight H *", ATTENTION_BIAS, GATED, GATED_BIAS, NORMS)
SEED_OSS = _text(
    ATTENTION,
    _with_bias(QKV_BIASES, " ?attention_bias"),
    "self_attn.o_proj.bias H ?attention_out_bias",
    GATED,
    GATED_BIAS,
    NORMS,
)
APERTUS = _text(
    ATTENTION,
    ATTENTION_BIAS,
    HEAD_NORMS,
    PLAIN,
    PLAIN_BIAS,
    "attention_layernorm.weight H\nfeedforward_layernorm.weight H",
    "mlp.act_fn.alpha_n *\nmlp.act_fn.alpha_p *\nmlp.act_fn.beta ?\nmlp.act_fn.eps ?",
)

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {
    "LlamaForCausalLM": (Layout(LLAMA),),
    "MistralForCausalLM": (Layout(PLAIN_LLAMA),),
    "MixtralForCausalLM": (
        Layout(_text(ATTENTION, NORMS, SPARSE_EXPERTS)),
        Layout(_text(ATTENTION, NORMS, "mlp.gate.weight E H", FUSED_EXPERTS)),
    ),
    "Qwen2ForCausalLM": (Layout(_text(QWEN2_ATTENTION, GATED, NORMS)),),
    "Qwen3ForCausalLM": (Layout(_text(QWEN3_ATTENTION, GATED, NORMS)),),
    "Qwen2MoeForCausalLM": _moe(
        _text(ATTENTION, _with_bias(QKV_BIASES, " ?qkv_bias"), NORMS, DENSE, ROUTER, SHARED_EXPERT)
    ),
    "Qwen3MoeForCausalLM": _moe(_text(QWEN3_ATTENTION, NORMS, DENSE, ROUTER)),
    "GemmaForCausalLM": (Layout(_text(ATTENTION, ATTENTION_BIAS, GATED, NORMS)),),
    "Gemma2ForCausalLM": (Layout(_text(ATTENTION, ATTENTION_BIAS, GATED, NORMS, FEED_FORWARD_NORMS)),),
    "Gemma3ForCausalLM": (Layout(_text(QWEN3_ATTENTION, GATED, NORMS, FEED_FORWARD_NORMS)),),
    "PhiForCausalLM": (
        Layout(
            PHI,
            "embed_tokens.weight V H\nfinal_layernorm.weight H\nfinal_layernorm.bias H",
            "lm_head.weight V H ?untied\nlm_head.bias V",
        ),
    ),
    "Phi3ForCausalLM": (
        Layout(_text("self_attn.qkv_proj.weight Q+2K H\nself_attn.o_proj.weight H Q", FUSED_GATED, NORMS)),
    ),
    "PhimoeForCausalLM": (
        Layout(_text(PHI_MOE, SPARSE_EXPERTS), BIASED_NORM, PHI_MOE_HEAD),
        Layout(_text(PHI_MOE, "mlp.router.weight E H", FUSED_EXPERTS), BIASED_NORM, PHI_MOE_HEAD),
    ),
    "Starcoder2ForCausalLM": (Layout(STARCODER2, BIASED_NORM),),
    "StableLmForCausalLM": (Layout(STABLELM, BIASED_NORM),),
    "OlmoForCausalLM": (Layout(_text(ATTENTION, ATTENTION_BIAS, GATED), "embed_tokens.weight V H"),),
    "Olmo2ForCausalLM": (Layout(OLMO2),),
    "Olmo3ForCausalLM": (Layout(OLMO2),),
    "OlmoeForCausalLM": _moe(
        _text(ATTENTION, ATTENTION_BIAS, WIDE_NORMS, NORMS, "mlp.gate.weight E H"),
    ),
    "GraniteForCausalLM": (Layout(LLAMA),),
    "GraniteMoeForCausalLM": (
        Layout(
            _text(
                GRANITE_MOE,
                "block_sparse_moe.router.layer.weight E H",
                "block_sparse_moe.input_linear.weight E 2I H\nblock_sparse_moe.output_linear.weight E H I",
            )
        ),
        Layout(
            _text(
                GRANITE_MOE,
                "block_sparse_moe.router.weight E H",
                "block_sparse_moe.experts.gate_up_proj E 2I H\nblock_sparse_moe.experts.down_proj E H I",
            )
        ),
    ),
    "CohereForCausalLM": (Layout(COHERE),),
    "Cohere2ForCausalLM": (Layout(_text(ATTENTION, ATTENTION_BIAS, GATED, INPUT_NORM)),),
    "GlmForCausalLM": (Layout(GLM),),
    "Glm4ForCausalLM": (Layout(_text(GLM, "post_self_attn_layernorm.weight H\npost_mlp_layernorm.weight H")),),
    "NemotronForCausalLM": (
        Layout(_text(ATTENTION, ATTENTION_BIAS, PLAIN, PLAIN_BIAS, NORMS, NORM_BIASES), BIASED_NORM),
    ),
    "ArceeForCausalLM": (Layout(_text(ATTENTION, ATTENTION_BIAS, PLAIN, PLAIN_BIAS, NORMS)),),
    "SmolLM3ForCausalLM": (Layout(LLAMA),),
    "Ernie4_5ForCausalLM": (Layout(ERNIE),),
    "HeliumForCausalLM": (Layout(HELIUM),),
    "SeedOssForCausalLM": (Layout(SEED_OSS),),
    "ApertusForCausalLM": (Layout(APERTUS),),
    "Exaone4ForCausalLM": (
        Layout(_text(ATTENTION, HEAD_NORMS, GATED, POST_NORM, "post_feedforward_layernorm.weight H")),
    ),
    "DeepseekV2ForCausalLM": _moe(DEEPSEEK),
    "DeepseekV3ForCausalLM": _moe(DEEPSEEK_V3),
    "GptOssForCausalLM": (Layout(GPT_OSS),),
    "GPT2LMHeadModel": (Layout(GPT2, GPT2_INNER, layers="h", base="transformer."),),
    "GPTBigCodeForCausalLM": (Layout(GPT_BIGCODE, GPT2_INNER, layers="h", base="transformer."),),
    "GPTNeoForCausalLM": (Layout(GPT_NEO, GPT2_INNER, layers="h", base="transformer."),),
    "GPTJForCausalLM": (Layout(GPTJ, GPTJ_INNER, GPTJ_HEAD, "h", "transformer."),),
    "CodeGenForCausalLM": (
        Layout(_text(GPTJ_MLP, "attn.qkv_proj.weight 3H H"), GPTJ_INNER, GPTJ_HEAD, "h", "transformer."),
    ),
    "GPTNeoXForCausalLM": (
        Layout(GPT_NEOX, GPT_NEOX_INNER, "embed_out.weight V H ?untied", base="gpt_neox."),
        Layout(GPT_NEOX, GPT_NEOX_INNER, base="gpt_neox."),
    ),
    "BloomForCausalLM": (Layout(BLOOM, BLOOM_INNER, layers="h", base="transformer."),),
    "FalconForCausalLM": (
        Layout(FALCON, "word_embeddings.weight V H\nln_f.weight H\nln_f.bias H", layers="h", base="transformer."),
    ),
    "OPTForCausalLM": (Layout(OPT, OPT_INNER, "lm_head.weight V * ?untied", "decoder.layers"),),
    "MptForCausalLM": (
        Layout(
            MPT,
            "wte.weight V H\nnorm_f.weight H\nnorm_f.bias H ?\nwpe.weight * H ?",
            layers="blocks",
            base="transformer.",
        ),
    ),
}
"""Architecture -> the ways in which its weight files are written."""
