"""U-Nets under OpenAI's names (guided-diffusion, GLIDE) and networks under Karlo's, which are ours as well.

The shapes of a state dict tell most of its configuration.  What they do not tell is asked for: `image_size`
(attention is configured by the side of the feature map), `num_head_channels` and the heads of a transformer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.config import KNOWN_CHANNELS, DecoderConfig, PriorConfig, UNetConfig, UpsamplerConfig
from models.weights.names import Row, Same, StateDictError, Transposed, below, layer

State = Mapping[str, Tensor]


def infer_unet(state: State, where: str, *, image_size: int, num_head_channels: int) -> UNetConfig:
    """The configuration of a U-Net's state dict.  Raises `StateDictError` where it is none of ours."""
    if "label_emb.weight" in state:
        raise StateDictError(f"{where}: label_emb.weight is of a class-conditional network; none is here")
    first, second = "input_blocks.1.0.emb_layers.1.weight", "input_blocks.1.0.out_layers.3.weight"
    _need(state, where, "input_blocks.0.0.weight", "time_embed.0.weight", first, second, "out.2.weight")
    width = state["time_embed.0.weight"].shape[1]
    depth = _count(state, "output_blocks")
    # Only the last block of a level has a second block that changes the side.
    resamplers = [i for i in range(depth) if _position_of_resampler(state, i) is not None]
    blocks = resamplers[0] + 1 if resamplers else depth
    levels = len(resamplers) + 1
    if depth != blocks * levels:
        raise StateDictError(f"{where}: {depth} output blocks in {levels} levels; not a U-Net of OpenAI's")
    lasts = [blocks * (level + 1) - 1 for level in reversed(range(levels))]
    outputs = [f"output_blocks.{last}.0.out_layers.3.weight" for last in lasts]
    _need(state, where, *outputs)
    sides = [image_size // 2**level for level in range(levels)]
    encoder = next((v.shape[1] for k, v in state.items() if k.endswith("encoder_kv.weight")), None)
    return UNetConfig(
        image_size=image_size,
        model_channels=width,
        channel_mult=tuple(state[name].shape[0] // width for name in outputs),
        num_res_blocks=blocks - 1,
        in_channels=state["input_blocks.0.0.weight"].shape[1],
        out_channels=state["out.2.weight"].shape[0],
        attention_resolutions=tuple(
            side
            for side, last in zip(sides, lasts, strict=True)
            if f"output_blocks.{last}.1.qkv.weight" in state
        ),
        num_head_channels=num_head_channels,
        middle_attention="middle_block.1.qkv.weight" in state,
        encoder_channels=encoder,
        use_scale_shift_norm=state[first].shape[0] == 2 * state[second].shape[0],
        resblock_updown=not any(k.endswith((".op.weight", ".conv.weight")) for k in state),
    )


def infer_glide(
    state: State, where: str, *, image_size: int, num_head_channels: int, text_heads: int
) -> DecoderConfig:
    """Of GLIDE's text-conditional model: a decoder without image embeddings.  Its inpainting model sees x_t,
    known pixels and mask in the order of ours."""
    names = ("positional_embedding", "token_embedding.weight", "transformer_proj.weight")
    _need(state, where, *names, "padding_embedding", "final_ln.weight")
    unet = infer_unet(state, where, image_size=image_size, num_head_channels=num_head_channels)
    context, width = state["positional_embedding"].shape
    config = DecoderConfig(
        embedding_dim=None,
        **_shared(unet),
        vocab_size=state["token_embedding.weight"].shape[0],
        text_context=context,
        text_width=width,
        text_layers=_count(state, "transformer.resblocks"),
        text_heads=text_heads,
        inpainting=unet.in_channels == 3 + KNOWN_CHANNELS,
    )
    _same_unet(config.unet, unet, where)
    return config


def infer_karlo_decoder(
    state: State, where: str, *, image_size: int, num_head_channels: int, context: int
) -> DecoderConfig:
    """`context`: positions of the text encoder, which Karlo's decoder does not know."""
    _need(
        state,
        where,
        "text_seq_proj.0.weight",
        "text_feat_proj.weight",
        "clip_tok_proj.weight",
        "clip_emb.weight",
    )
    unet = infer_unet(state, where, image_size=image_size, num_head_channels=num_head_channels)
    width, features = state["text_seq_proj.0.weight"].shape
    config = DecoderConfig(
        embedding_dim=state["clip_emb.weight"].shape[1],
        **_shared(unet),
        image_tokens=state["clip_tok_proj.weight"].shape[0] // width,
        text_context=context,
        text_width=width,
        text_features_dim=features,
        text_pooled_dim=state["text_feat_proj.weight"].shape[1],
        null_text="given",
        embedding_scale=1.0,
    )
    _same_unet(config.unet, unet, where)
    return config


def infer_karlo_prior(state: State, where: str, *, heads: int | None) -> PriorConfig:
    """`heads`: None for heads of 64 channels, as Karlo's."""
    _need(state, where, "clip_img_proj.weight", "positional_embedding", "text_enc_proj.weight")
    width, dim = state["clip_img_proj.weight"].shape
    return PriorConfig(
        embedding_dim=dim,
        context=state["positional_embedding"].shape[1] - 4,
        width=width,
        layers=_count(state, "transformer.resblocks"),
        heads=heads or max(1, width // 64),
        text_features_dim=state["text_enc_proj.weight"].shape[1],
        null_text="given",
        normalisation="standardised",
    )


def infer_upsampler(
    state: State, where: str, *, image_size: int, low_res_size: int, num_head_channels: int
) -> UpsamplerConfig:
    """Of guided-diffusion's super-resolution network, which reads no text."""
    unet = infer_unet(state, where, image_size=image_size, num_head_channels=num_head_channels)
    config = UpsamplerConfig(
        **_shared(unet),
        low_res_size=low_res_size,
        middle_attention=unet.middle_attention,
        learned_variance=unet.out_channels == 6,
        use_scale_shift_norm=unet.use_scale_shift_norm,
    )
    _same_unet(config.unet, unet, where)
    return config


def infer_karlo_upsampler(state: State, where: str, *, image_size: int, low_res_size: int) -> UpsamplerConfig:
    """`state`: of its first steps."""
    sizes = {"image_size": image_size, "low_res_size": low_res_size}
    config = infer_upsampler(state, where, **sizes, num_head_channels=64)
    return dataclasses.replace(config, last_step_unet=True, interpolation="bicubic_antialias")


def unet_rows(network: State, prefix: str = "", ours: str = "") -> list[Row]:
    """Our names are OpenAI's."""
    return [Row(k, (prefix + k.removeprefix(ours),)) for k in network if k.startswith(ours)]


def upsampler_rows(network: State) -> list[Row]:
    return unet_rows(network, ours="unet.")


def glide_rows(network: State) -> list[Row]:
    rows = unet_rows(network, ours="unet.") + unet_rows(network, ours="text.")
    return rows + layer("text_to_time", "transformer_proj")


def karlo_decoder_rows(network: State, config: DecoderConfig) -> list[Row]:
    width = config.embedding_dim or 0
    rows = [
        *unet_rows(network, ours="unet."),
        *layer("text.proj", "text_seq_proj.0"),
        *layer("text.norm", "text_seq_proj.1"),
        *layer("text.pooled_to_time", "text_feat_proj"),
        *layer("image_to_time", "clip_emb"),
        *layer("image_to_context", "clip_tok_proj", form=Transposed(config.image_tokens)),
        Row("null_image", ("cf_param",), Same(theirs=(width,), ours=(1, width))),
    ]
    return below(rows, "", "model.")


def karlo_prior_rows(network: State) -> list[Row]:
    """The statistics of the embeddings come in a file of their own, below "stats."."""
    statistics = {"embedding_mean": "stats.clip_mean", "embedding_std": "stats.clip_std"}
    width = network["embedding_mean"].shape[1]
    rows = [Row(k, (v,), Same(theirs=(width,), ours=(1, width))) for k, v in statistics.items()]
    return rows + [
        Row(k, (f"model.{k}",)) for k in network if k not in statistics and not k.startswith("given_null.")
    ]


def karlo_upsampler_rows(network: State) -> list[Row]:
    return [
        *unet_rows(network, "model_first_steps.", "unet."),
        *unet_rows(network, "model_last_step.", "last_unet."),
    ]


def _shared(unet: UNetConfig) -> dict[str, Any]:
    """What a decoder's or an upsampler's configuration says of its U-Net."""
    names = ("image_size", "model_channels", "channel_mult", "num_res_blocks", "attention_resolutions")
    return {name: getattr(unet, name) for name in (*names, "num_head_channels")}


def _same_unet(ours: UNetConfig, inferred: UNetConfig, where: str) -> None:
    a, b = ours.to_dict(), inferred.to_dict()
    if different := [name for name in a if a[name] != b[name]]:
        raise StateDictError(
            f"{where}: "
            + ", ".join(f"{name} is {b[name]!r}, here always {a[name]!r}" for name in different)
            + "; it cannot be imported"
        )


def _position_of_resampler(state: State, block: int) -> int | None:
    for position in (1, 2):
        prefix = f"output_blocks.{block}.{position}"
        if f"{prefix}.in_layers.0.weight" in state or f"{prefix}.conv.weight" in state:
            return position
    return None


def _count(state: State, prefix: str) -> int:
    numbers = {int(k[len(prefix) + 1 :].split(".")[0]) for k in state if k.startswith(f"{prefix}.")}
    return max(numbers, default=-1) + 1


def _need(state: State, where: str, *names: str) -> None:
    if missing := [name for name in names if name not in state]:
        raise StateDictError(f"{where}: {', '.join(missing)} missing; is it whole?")
