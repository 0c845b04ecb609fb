"""The layouts of models that are older than Llama, such as GPT-2, or built in another way."""

from collections.abc import Mapping

from enginery.models.layouts.lines import Layout, text

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
GPTJ = text(GPTJ_MLP, "attn.q_proj.weight H H\nattn.k_proj.weight H H\nattn.v_proj.weight H H")
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

LIKE_GPT: Mapping[str, tuple[Layout, ...]] = {
    "GPT2LMHeadModel": (Layout(GPT2, GPT2_INNER, layers="h", base="transformer."),),
    "GPTBigCodeForCausalLM": (Layout(GPT_BIGCODE, GPT2_INNER, layers="h", base="transformer."),),
    "GPTNeoForCausalLM": (Layout(GPT_NEO, GPT2_INNER, layers="h", base="transformer."),),
    "GPTJForCausalLM": (Layout(GPTJ, GPTJ_INNER, GPTJ_HEAD, "h", "transformer."),),
    "CodeGenForCausalLM": (
        Layout(text(GPTJ_MLP, "attn.qkv_proj.weight 3H H"), GPTJ_INNER, GPTJ_HEAD, "h", "transformer."),
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
