"""Our configurations as diffusers writes them in `config.json`, and back.

Reading takes the fields that say what the network is, makes our configuration of them, and compares what that
would be written as with what was read: an option that has no counterpart here cannot pass unseen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.config import DecoderConfig, DiffusionConfig, PriorConfig, UpsamplerConfig
from models.weights.names import StateDictError

Values = Mapping[str, Any]

NEUTRAL: dict[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type_num_heads": 64,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
    "upsample_type": "conv",
}
"""What diffusers' U-Nets are at unless told otherwise, beside null and false, and what ours are."""

UNET_FIELDS = ("image_size", "model_channels", "channel_mult", "num_res_blocks", "dropout", "norm_groups")
DECODER_FIELDS = (
    *("embedding_dim", "attention_resolutions", "num_head_channels"),
    *("image_tokens", "text_context", "text_width"),
)
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0"}
VARIANCES = {"learned_range": "learned_range", "fixed_small_log": "fixed_small"}


def prior_values(config: PriorConfig) -> dict[str, Any]:
    """Of `PriorTransformer`.  Raises `StateDictError` naming a field that it cannot express."""
    _require(
        config,
        ("embedding_dim", "context", "width", "layers", "heads", "dropout"),
        {
            "text_features_dim": config.embedding_dim,
            "null_text": "given",
            "normalisation": "standardised",
        },
    )
    return {
        "_class_name": "PriorTransformer",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_layers": config.layers,
        "embedding_dim": config.embedding_dim,
        "num_embeddings": config.context,
        "additional_embeddings": 4,
        "dropout": config.dropout,
        "time_embed_act_fn": "silu",
        "encoder_hid_proj_type": "linear",
        "added_emb_type": "prd",
    }


def read_prior(values: Values, where: str) -> PriorConfig:
    _present(values, where, "num_attention_heads", "attention_head_dim", "num_layers", "embedding_dim")
    config = PriorConfig(
        embedding_dim=values["embedding_dim"],
        context=values.get("num_embeddings", 77),
        width=values["num_attention_heads"] * values["attention_head_dim"],
        layers=values["num_layers"],
        heads=values["num_attention_heads"],
        text_features_dim=values["embedding_dim"],
        null_text="given",
        normalisation="standardised",
        dropout=values.get("dropout", 0.0),
    )
    _agree(prior_values(config), values, where)
    return config


def decoder_values(config: DecoderConfig) -> dict[str, Any]:
    """Of `UNet2DConditionModel`.  Raises `StateDictError` naming a field that it cannot express."""
    width = config.embedding_dim
    _require(
        config,
        (*UNET_FIELDS, *DECODER_FIELDS),
        {
            "text_features_dim": width,
            "text_pooled_dim": width,
            "null_text": "given",
            "embedding_scale": 1.0,
        },
    )
    attends = [side in config.attention_resolutions for side in config.unet.level_sides]
    kinds = ["SimpleCrossAttn" if attention else "Resnet" for attention in attends]
    names = {"SimpleCrossAttn": "SimpleCrossAttn{}Block2D", "Resnet": "Resnet{}sampleBlock2D"}
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": config.image_size,
        "in_channels": 3,
        "out_channels": 6,
        "layers_per_block": config.num_res_blocks,
        "block_out_channels": [config.model_channels * mult for mult in config.channel_mult],
        "down_block_types": [names[kind].format("Down") for kind in kinds],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": [names[kind].format("Up") for kind in reversed(kinds)],
        "attention_head_dim": config.num_head_channels,
        "cross_attention_dim": config.text_width,
        "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": config.norm_groups,
        "dropout": config.dropout,
    }


def text_proj_values(config: DecoderConfig) -> dict[str, Any]:
    """Of `UnCLIPTextProjModel`."""
    return {
        "_class_name": "UnCLIPTextProjModel",
        "clip_extra_context_tokens": config.image_tokens,
        "clip_embeddings_dim": config.embedding_dim,
        "time_embed_dim": 4 * config.model_channels,
        "cross_attention_dim": config.text_width,
    }


def read_decoder(unet: Values, text_proj: Values, context: int, where: str) -> DecoderConfig:
    """`context`: positions of the text encoder, which diffusers' decoder does not know."""
    _present(unet, f"{where}/decoder", "sample_size", "layers_per_block", "block_out_channels")
    _present(unet, f"{where}/decoder", "down_block_types", "attention_head_dim", "cross_attention_dim")
    _present(text_proj, f"{where}/text_proj", "clip_embeddings_dim", "clip_extra_context_tokens")
    channels, width = unet["block_out_channels"], text_proj["clip_embeddings_dim"]
    size = unet["sample_size"]
    config = DecoderConfig(
        embedding_dim=width,
        image_size=size,
        model_channels=channels[0],
        channel_mult=_multiples(channels, f"{where}/decoder"),
        num_res_blocks=unet["layers_per_block"],
        attention_resolutions=tuple(
            size // 2**level for level, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind
        ),
        num_head_channels=unet["attention_head_dim"],
        image_tokens=text_proj["clip_extra_context_tokens"],
        text_context=context,
        text_width=unet["cross_attention_dim"],
        text_features_dim=width,
        text_pooled_dim=width,
        null_text="given",
        embedding_scale=1.0,
        dropout=unet.get("dropout", 0.0),
        norm_groups=unet.get("norm_num_groups", 32),
    )
    _agree(decoder_values(config), unet, f"{where}/decoder")
    _agree(text_proj_values(config), text_proj, f"{where}/text_proj")
    return config


def upsampler_values(config: UpsamplerConfig) -> dict[str, Any]:
    """Of both `UNet2DModel`.  Raises `StateDictError` naming a field that they cannot express."""
    _require(
        config,
        (*UNET_FIELDS, "low_res_size", "use_scale_shift_norm", "last_step_unet"),
        {"interpolation": "bicubic_antialias", "learned_variance": False},
    )
    levels = len(config.channel_mult)
    return {
        "_class_name": "UNet2DModel",
        "sample_size": config.image_size,
        "in_channels": 6,
        "out_channels": 3,
        "layers_per_block": config.num_res_blocks,
        "block_out_channels": [config.model_channels * mult for mult in config.channel_mult],
        "down_block_types": ["ResnetDownsampleBlock2D"] * levels,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ["ResnetUpsampleBlock2D"] * levels,
        "add_attention": False,
        "attention_head_dim": 8,
        "resnet_time_scale_shift": "scale_shift" if config.use_scale_shift_norm else "default",
        "norm_num_groups": config.norm_groups,
        "dropout": config.dropout,
    }


def read_upsampler(values: Values, low_res_size: int, where: str) -> UpsamplerConfig:
    """`low_res_size`: the side of the decoder's images, which diffusers' upsampler does not know."""
    _present(values, where, "sample_size", "layers_per_block", "block_out_channels")
    channels = values["block_out_channels"]
    config = UpsamplerConfig(
        image_size=values["sample_size"],
        low_res_size=low_res_size,
        model_channels=channels[0],
        channel_mult=_multiples(channels, where),
        num_res_blocks=values["layers_per_block"],
        dropout=values.get("dropout", 0.0),
        learned_variance=False,
        use_scale_shift_norm=values.get("resnet_time_scale_shift") == "scale_shift",
        last_step_unet=True,
        interpolation="bicubic_antialias",
        norm_groups=values.get("norm_num_groups", 32),
    )
    # The head size of an attention that is not there says nothing.
    _agree(upsampler_values(config), {**values, "attention_head_dim": 8}, where)
    return config


def scheduler_values(config: DiffusionConfig) -> dict[str, Any]:
    """Of `UnCLIPScheduler`.  Raises `StateDictError` naming a field that it cannot express."""
    _require(config, ("steps", "prediction", "variance", "clip_range"), {"schedule": "cosine"})
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    variances = {ours: theirs for theirs, ours in VARIANCES.items()}
    for field, known in (("prediction", predictions), ("variance", variances)):
        if getattr(config, field) not in known:
            raise StateDictError(
                f"DiffusionConfig.{field}: diffusers' unCLIP knows {sorted(known)}, got "
                f"{getattr(config, field)!r}"
            )
    return {
        "_class_name": "UnCLIPScheduler",
        "num_train_timesteps": config.steps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": predictions[config.prediction],
        "variance_type": variances[config.variance],
        "clip_sample": True,
        "clip_sample_range": config.clip_range,
    }


def read_scheduler(values: Values, where: str) -> DiffusionConfig:
    _present(values, where, "num_train_timesteps", "prediction_type", "variance_type")
    config = DiffusionConfig(
        steps=values["num_train_timesteps"],
        prediction=PREDICTIONS.get(values["prediction_type"], "v"),  # type: ignore[arg-type]
        variance=VARIANCES.get(values["variance_type"], "fixed_large"),  # type: ignore[arg-type]
        clip_range=values.get("clip_sample_range", 1.0),
    )
    try:
        _agree(scheduler_values(config), values, where)
    except StateDictError as error:
        raise StateDictError(f"{where}: {error}") from None
    return config


def _require(config: Any, written: tuple[str, ...], fields: Mapping[str, Any]) -> None:
    """Raises unless diffusers' unCLIP can express the configuration: besides the fields that are `written`,
    each is as `fields` says, or at its default."""
    for field in dataclasses.fields(config):
        wanted = fields.get(field.name, field.default)
        if field.name not in written and (got := getattr(config, field.name)) != wanted:
            raise StateDictError(
                f"{type(config).__name__}.{field.name}: diffusers' unCLIP has no counterpart for {got!r}, "
                f"only for {wanted!r}"
            )
    if not isinstance(getattr(config, "num_res_blocks", 1), int):
        raise StateDictError(
            f"{type(config).__name__}.num_res_blocks: diffusers' unCLIP has one number for all levels, got "
            f"{config.num_res_blocks}"
        )


def _agree(ours: Values, theirs: Values, where: str) -> None:
    """Raises unless `theirs` says what `ours` does, or nothing."""
    for key, got in theirs.items():
        if key.startswith("_") and key != "_class_name":
            continue
        expected = ours.get(key, NEUTRAL.get(key))
        if got != expected and not (key not in ours and got in (None, False)):
            raise StateDictError(
                f"{where}: {key} is {got!r}, here only {expected!r} has a counterpart; is this an unCLIP "
                f"pipeline?"
            )


def _present(values: Values, where: str, *names: str) -> None:
    if missing := [name for name in names if values.get(name) is None]:
        raise StateDictError(f"{where}: {', '.join(missing)} missing from its config.json")


def _multiples(channels: list[int], where: str) -> tuple[int, ...]:
    if any(c % channels[0] for c in channels):
        raise StateDictError(f"{where}: block_out_channels {channels} must be multiples of the first")
    return tuple(c // channels[0] for c in channels)
