"""Which of our weights is which of diffusers', for the parts of its unCLIP pipeline."""

from __future__ import annotations

from models.config import DecoderConfig, PriorConfig, UNetConfig, UpsamplerConfig
from models.weights.names import Heads, Pointwise, Row, Same, Transposed, below, layer

RES_BLOCK = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
PRIOR = (
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("text_enc_proj", "encoder_hidden_states_proj"),
    ("text_emb_proj", "embedding_proj"),
    ("clip_img_proj", "proj_in"),
    ("out_proj", "proj_to_clip_embeddings"),
    ("final_ln", "norm_out"),
)
PRIOR_BLOCK = (
    ("ln_1", "norm1"),
    ("attn.c_proj", "attn1.to_out.0"),
    ("ln_2", "norm3"),
    ("mlp.c_fc", "ff.net.0.proj"),
    ("mlp.c_proj", "ff.net.2"),
)
TEXT_PROJ = (
    ("text.proj", "encoder_hidden_states_proj"),
    ("text.norm", "text_encoder_hidden_states_norm"),
    ("text.pooled_to_time", "embedding_proj"),
    ("image_to_time", "clip_image_embeddings_project_to_time_embeddings"),
)


def prior_rows(config: PriorConfig) -> list[Row]:
    """`PriorTransformer`.  The nulls are not among them: diffusers encodes the empty prompt anew."""
    rows = [
        Row("prd_emb", ("prd_embedding",)),
        Row("positional_embedding", ("positional_embedding",)),
        Row("embedding_mean", ("clip_mean",)),
        Row("embedding_std", ("clip_std",)),
    ]
    for ours, theirs in PRIOR:
        rows += layer(ours, theirs)
    for i in range(config.layers):
        block = layer("attn.c_qkv", *(f"attn1.to_{x}" for x in "qkv"), form=Heads(config.heads, 3))
        for ours, theirs in PRIOR_BLOCK:
            block += layer(ours, theirs)
        rows += below(block, f"transformer.resblocks.{i}.", f"transformer_blocks.{i}.")
    return rows


def decoder_rows(config: DecoderConfig) -> list[Row]:
    """`UNet2DConditionModel` below "decoder.", `UnCLIPTextProjModel` below "text_proj."."""
    rows = below(unet_rows(config.unet), "unet.", "decoder.")
    width = config.embedding_dim or 0
    null = Same(theirs=(width,), ours=(1, width))
    text = [Row("null_image", ("learned_classifier_free_guidance_embeddings",), null)]
    text += layer("image_to_context", "clip_extra_context_tokens_proj", form=Transposed(config.image_tokens))
    for ours, theirs in TEXT_PROJ:
        text += layer(ours, theirs)
    return rows + below(text, "", "text_proj.")


def upsampler_rows(config: UpsamplerConfig) -> list[Row]:
    """The two `UNet2DModel`, below "super_res_first." and "super_res_last."."""
    rows = unet_rows(config.unet)
    return below(rows, "unet.", "super_res_first.") + below(rows, "last_unet.", "super_res_last.")


def unet_rows(config: UNetConfig) -> list[Row]:
    """OpenAI counts its blocks through the levels, diffusers within each."""
    rows = [
        *layer("time_embed.0", "time_embedding.linear_1"),
        *layer("time_embed.2", "time_embedding.linear_2"),
        *layer("input_blocks.0.0", "conv_in"),
        *layer("out.0", "conv_norm_out"),
        *layer("out.2", "conv_out"),
    ]
    last = len(config.channel_mult) - 1
    number = 1
    for level in range(last + 1):
        for i in range(config.level_blocks[level]):
            rows += _block(config, level, f"input_blocks.{number}", f"down_blocks.{level}", i)
            number += 1
        if level < last:
            rows += _res_block(f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0")
            number += 1
    rows += _res_block("middle_block.0", "mid_block.resnets.0")
    if config.middle_attention:
        heads = _heads(config, last)
        rows += _attention("middle_block.1", "mid_block.attentions.0", heads)
    rows += _res_block(f"middle_block.{2 if config.middle_attention else 1}", "mid_block.resnets.1")
    number = 0
    for level in reversed(range(last + 1)):
        up = f"up_blocks.{last - level}"
        blocks = config.level_blocks[level] + 1
        for i in range(blocks):
            rows += _block(config, level, f"output_blocks.{number}", up, i)
            if level > 0 and i == blocks - 1:
                position = 2 if _attends(config, level) else 1
                rows += _res_block(f"output_blocks.{number}.{position}", f"{up}.upsamplers.0")
            number += 1
    return rows


def _block(config: UNetConfig, level: int, ours: str, theirs: str, i: int) -> list[Row]:
    rows = _res_block(f"{ours}.0", f"{theirs}.resnets.{i}")
    if _attends(config, level):
        rows += _attention(f"{ours}.1", f"{theirs}.attentions.{i}", _heads(config, level))
    return rows


def _res_block(ours: str, theirs: str) -> list[Row]:
    rows = [row for a, b in RES_BLOCK for row in layer(a, b)]
    return below(rows, f"{ours}.", f"{theirs}.")


def _attention(ours: str, theirs: str, heads: int) -> list[Row]:
    rows = [
        *layer("norm", "group_norm"),
        *layer("qkv", "to_q", "to_k", "to_v", form=Heads(heads, 3, Pointwise())),
        *layer("encoder_kv", "add_k_proj", "add_v_proj", form=Heads(heads, 2, Pointwise())),
        *layer("proj_out", "to_out.0", form=Pointwise()),
    ]
    return below(rows, f"{ours}.", f"{theirs}.")


def _attends(config: UNetConfig, level: int) -> bool:
    return config.level_sides[level] in config.attention_resolutions


def _heads(config: UNetConfig, level: int) -> int:
    return config.model_channels * config.channel_mult[level] // config.num_head_channels
