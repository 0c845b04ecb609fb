"""The layouts of models that are built like Llama, and of mixtures of experts."""

from collections.abc import Mapping

from enginery.models.layouts.lines import Layout, text, with_bias

QKV = """
self_attn.q_proj.weight Q H
self_attn.k_proj.weight K H
self_attn.v_proj.weight K H
"""
ATTENTION = text(QKV, "self_attn.o_proj.weight H Q")
QKV_BIASES = "self_attn.q_proj=Q self_attn.k_proj=K self_attn.v_proj=K"
BIASES = f"{QKV_BIASES} self_attn.o_proj=H"
ATTENTION_BIAS = with_bias(BIASES, " ?attention_bias")
GATED = """
mlp.gate_proj.weight I H
mlp.up_proj.weight I H
mlp.down_proj.weight H I
"""
GATED_BIASES = "mlp.gate_proj=I mlp.up_proj=I mlp.down_proj=H"
GATED_BIAS = with_bias(GATED_BIASES, " ?mlp_bias")
PLAIN_BIAS = with_bias("mlp.up_proj=I mlp.down_proj=H", " ?mlp_bias")
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
NORMS = text(INPUT_NORM, POST_NORM)
NORM_BIASES = "input_layernorm.bias H\npost_attention_layernorm.bias H"
FEED_FORWARD_NORMS = "pre_feedforward_layernorm.weight H\npost_feedforward_layernorm.weight H"
HEAD_NORMS = "self_attn.q_norm.weight D\nself_attn.k_norm.weight D"
WIDE_NORMS = "self_attn.q_norm.weight Q\nself_attn.k_norm.weight K"
BIASED_NORM = "embed_tokens.weight V H\nnorm.weight H\nnorm.bias H"

LLAMA = text(ATTENTION, ATTENTION_BIAS, GATED, GATED_BIAS, NORMS)
PLAIN_LLAMA = text(ATTENTION, GATED, NORMS)
QWEN2_ATTENTION = text(ATTENTION, with_bias(QKV_BIASES))
QWEN3_ATTENTION = text(ATTENTION, ATTENTION_BIAS, HEAD_NORMS)

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
DEEPSEEK = text(LATENT_ATTENTION, DENSE, ROUTER, SHARED_EXPERTS, NORMS)
DEEPSEEK_V3 = text(DEEPSEEK, "mlp.gate.e_score_correction_bias E ?moe")


def mixture(rest: str, split: str = EXPERTS, fused: str = FUSED_EXPERTS) -> tuple[Layout, ...]:
    """The two ways to write experts: each with tensors of its own, or all in one tensor as transformers 5 has them."""
    return Layout(text(rest, split)), Layout(text(rest, fused))


PHI = text(
    QKV,
    "self_attn.dense.weight H Q\nmlp.fc1.weight I H\nmlp.fc2.weight H I",
    with_bias(f"{QKV_BIASES} self_attn.dense=H mlp.fc1=I mlp.fc2=H"),
    INPUT_NORM,
    "input_layernorm.bias H",
    "self_attn.q_layernorm.weight D ?qk_layernorm\nself_attn.q_layernorm.bias D ?qk_layernorm",
    "self_attn.k_layernorm.weight D ?qk_layernorm\nself_attn.k_layernorm.bias D ?qk_layernorm",
)
STARCODER2 = text(
    ATTENTION,
    "mlp.c_fc.weight I H\nmlp.c_proj.weight H I",
    with_bias(f"{BIASES} mlp.c_fc=I mlp.c_proj=H", " ?use_bias"),
    NORMS,
    NORM_BIASES,
)
STABLELM = text(
    ATTENTION,
    with_bias(QKV_BIASES, " ?use_qkv_bias"),
    GATED,
    INPUT_NORM,
    "input_layernorm.bias H",
    "post_attention_layernorm.weight H ?!use_parallel_residual",
    "post_attention_layernorm.bias H ?!use_parallel_residual",
    "self_attn.q_layernorm.norms.{n}.weight D ?qk_layernorm",
    "self_attn.k_layernorm.norms.{g}.weight D ?qk_layernorm",
)
COHERE = text(
    ATTENTION,
    ATTENTION_BIAS,
    GATED,
    INPUT_NORM,
    "self_attn.q_norm.weight N D ?use_qk_norm\nself_attn.k_norm.weight G D ?use_qk_norm",
)
GLM = text(ATTENTION, with_bias(QKV_BIASES, " ?attention_bias"), FUSED_GATED, NORMS)
OLMO2 = text(ATTENTION, ATTENTION_BIAS, WIDE_NORMS, GATED, POST_NORM, "post_feedforward_layernorm.weight H")
GPT_OSS = text(
    ATTENTION,
    ATTENTION_BIAS,
    "self_attn.sinks N",
    NORMS,
    "mlp.router.weight E H\nmlp.router.bias E",
    "mlp.experts.gate_up_proj E H 2I\nmlp.experts.gate_up_proj_bias E 2I",
    "mlp.experts.down_proj E I H\nmlp.experts.down_proj_bias E H",
)
GRANITE_MOE = text(ATTENTION, ATTENTION_BIAS, NORMS)
PHI_MOE = text(ATTENTION, ATTENTION_BIAS, NORMS, NORM_BIASES)
PHI_MOE_HEAD = "lm_head.weight V H ?untied\nlm_head.bias V ?lm_head_bias"
ERNIE = text(
    ATTENTION,
    with_bias(BIASES, " ?use_bias"),
    GATED,
    with_bias(GATED_BIASES, " ?use_bias"),
    NORMS,
)
HELIUM = text(QKV, "self_attn.o_proj.weight H *", ATTENTION_BIAS, GATED, GATED_BIAS, NORMS)
SEED_OSS = text(
    ATTENTION,
    with_bias(QKV_BIASES, " ?attention_bias"),
    "self_attn.o_proj.bias H ?attention_out_bias",
    GATED,
    GATED_BIAS,
    NORMS,
)
APERTUS = text(
    ATTENTION,
    ATTENTION_BIAS,
    HEAD_NORMS,
    PLAIN,
    PLAIN_BIAS,
    "attention_layernorm.weight H\nfeedforward_layernorm.weight H",
    "mlp.act_fn.alpha_n *\nmlp.act_fn.alpha_p *\nmlp.act_fn.beta ?\nmlp.act_fn.eps ?",
)


LIKE_LLAMA: Mapping[str, tuple[Layout, ...]] = {
    "LlamaForCausalLM": (Layout(LLAMA),),
    "MistralForCausalLM": (Layout(PLAIN_LLAMA),),
    "MixtralForCausalLM": (
        Layout(text(ATTENTION, NORMS, SPARSE_EXPERTS)),
        Layout(text(ATTENTION, NORMS, "mlp.gate.weight E H", FUSED_EXPERTS)),
    ),
    "Qwen2ForCausalLM": (Layout(text(QWEN2_ATTENTION, GATED, NORMS)),),
    "Qwen3ForCausalLM": (Layout(text(QWEN3_ATTENTION, GATED, NORMS)),),
    "Qwen2MoeForCausalLM": mixture(
        text(ATTENTION, with_bias(QKV_BIASES, " ?qkv_bias"), NORMS, DENSE, ROUTER, SHARED_EXPERT)
    ),
    "Qwen3MoeForCausalLM": mixture(text(QWEN3_ATTENTION, NORMS, DENSE, ROUTER)),
    "GemmaForCausalLM": (Layout(text(ATTENTION, ATTENTION_BIAS, GATED, NORMS)),),
    "Gemma2ForCausalLM": (Layout(text(ATTENTION, ATTENTION_BIAS, GATED, NORMS, FEED_FORWARD_NORMS)),),
    "Gemma3ForCausalLM": (Layout(text(QWEN3_ATTENTION, GATED, NORMS, FEED_FORWARD_NORMS)),),
    "PhiForCausalLM": (
        Layout(
            PHI,
            "embed_tokens.weight V H\nfinal_layernorm.weight H\nfinal_layernorm.bias H",
            "lm_head.weight V H ?untied\nlm_head.bias V",
        ),
    ),
    "Phi3ForCausalLM": (
        Layout(text("self_attn.qkv_proj.weight Q+2K H\nself_attn.o_proj.weight H Q", FUSED_GATED, NORMS)),
    ),
    "PhimoeForCausalLM": (
        Layout(text(PHI_MOE, SPARSE_EXPERTS), BIASED_NORM, PHI_MOE_HEAD),
        Layout(text(PHI_MOE, "mlp.router.weight E H", FUSED_EXPERTS), BIASED_NORM, PHI_MOE_HEAD),
    ),
    "Starcoder2ForCausalLM": (Layout(STARCODER2, BIASED_NORM),),
    "StableLmForCausalLM": (Layout(STABLELM, BIASED_NORM),),
    "OlmoForCausalLM": (Layout(text(ATTENTION, ATTENTION_BIAS, GATED), "embed_tokens.weight V H"),),
    "Olmo2ForCausalLM": (Layout(OLMO2),),
    "Olmo3ForCausalLM": (Layout(OLMO2),),
    "OlmoeForCausalLM": mixture(
        text(ATTENTION, ATTENTION_BIAS, WIDE_NORMS, NORMS, "mlp.gate.weight E H"),
    ),
    "GraniteForCausalLM": (Layout(LLAMA),),
    "GraniteMoeForCausalLM": (
        Layout(
            text(
                GRANITE_MOE,
                "block_sparse_moe.router.layer.weight E H",
                "block_sparse_moe.input_linear.weight E 2I H\nblock_sparse_moe.output_linear.weight E H I",
            )
        ),
        Layout(
            text(
                GRANITE_MOE,
                "block_sparse_moe.router.weight E H",
                "block_sparse_moe.experts.gate_up_proj E 2I H\nblock_sparse_moe.experts.down_proj E H I",
            )
        ),
    ),
    "CohereForCausalLM": (Layout(COHERE),),
    "Cohere2ForCausalLM": (Layout(text(ATTENTION, ATTENTION_BIAS, GATED, INPUT_NORM)),),
    "GlmForCausalLM": (Layout(GLM),),
    "Glm4ForCausalLM": (Layout(text(GLM, "post_self_attn_layernorm.weight H\npost_mlp_layernorm.weight H")),),
    "NemotronForCausalLM": (
        Layout(text(ATTENTION, ATTENTION_BIAS, PLAIN, PLAIN_BIAS, NORMS, NORM_BIASES), BIASED_NORM),
    ),
    "ArceeForCausalLM": (Layout(text(ATTENTION, ATTENTION_BIAS, PLAIN, PLAIN_BIAS, NORMS)),),
    "SmolLM3ForCausalLM": (Layout(LLAMA),),
    "Ernie4_5ForCausalLM": (Layout(ERNIE),),
    "HeliumForCausalLM": (Layout(HELIUM),),
    "SeedOssForCausalLM": (Layout(SEED_OSS),),
    "ApertusForCausalLM": (Layout(APERTUS),),
    "Exaone4ForCausalLM": (
        Layout(text(ATTENTION, HEAD_NORMS, GATED, POST_NORM, "post_feedforward_layernorm.weight H")),
    ),
    "DeepseekV2ForCausalLM": mixture(DEEPSEEK),
    "DeepseekV3ForCausalLM": mixture(DEEPSEEK_V3),
    "GptOssForCausalLM": (Layout(GPT_OSS),),
}
