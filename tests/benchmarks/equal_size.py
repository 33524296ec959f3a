"""The same networks twice: ours, and as diffusers builds Karlo's unCLIP, at equal size.

B batch, L text length.  Weights are random: time does not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from models.config import DecoderConfig, DiffusionConfig, PriorConfig, UnCLIPConfig, UpsamplerConfig

MULTIPLES, HEAD = (1, 2, 3, 4), 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Of every network of the comparison."""

    channels: int = 64
    """Of decoder and upsampler at their first level."""
    blocks: int = 1
    embedding: int = 512
    width: int = 512
    """Of the prior."""
    layers: int = 6
    text_width: int = 256
    context: int = 32
    image_size: int = 64
    upsampled: int = 128

    def config(self) -> UnCLIPConfig:
        """Ours."""
        epsilon, x0 = DiffusionConfig(), DiffusionConfig(prediction="x0", variance="fixed_small")
        return UnCLIPConfig(
            prior=PriorConfig(
                embedding_dim=self.embedding,
                context=self.context,
                width=self.width,
                layers=self.layers,
                heads=self.width // HEAD,
                vocab_size=4096,
            ),
            prior_diffusion=x0,
            decoder=DecoderConfig(
                embedding_dim=self.embedding,
                image_size=self.image_size,
                model_channels=self.channels,
                channel_mult=MULTIPLES,
                num_res_blocks=self.blocks,
                attention_resolutions=tuple(self.image_size // 2**i for i in (1, 2, 3)),
                vocab_size=4096,
                text_context=self.context,
                text_width=self.text_width,
                text_layers=2,
                text_heads=4,
            ),
            decoder_diffusion=epsilon,
            upsamplers=(
                UpsamplerConfig(
                    image_size=self.upsampled,
                    low_res_size=self.image_size,
                    model_channels=self.channels,
                    channel_mult=MULTIPLES,
                    num_res_blocks=self.blocks,
                    learned_variance=False,
                ),
            ),
            upsampler_diffusions=(DiffusionConfig(variance="fixed_small"),),
        )


def diffusers_parts(size: Size) -> dict[str, torch.nn.Module]:
    """Prior, decoder and super-resolution of diffusers, with Karlo's block types."""
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel

    channels = tuple(size.channels * m for m in MULTIPLES)
    common: dict[str, Any] = {
        "block_out_channels": channels,
        "layers_per_block": size.blocks,
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 32,
    }
    return {
        "prior": PriorTransformer(
            num_attention_heads=size.width // HEAD,
            attention_head_dim=HEAD,
            num_layers=size.layers,
            embedding_dim=size.embedding,
            num_embeddings=size.context,
        ),
        "decoder": UNet2DConditionModel(
            sample_size=size.image_size,
            in_channels=3,
            out_channels=6,
            down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
            cross_attention_dim=size.text_width,
            attention_head_dim=HEAD,
            class_embed_type="identity",
            **common,
        ),
        "upsampler": UNet2DModel(
            sample_size=size.upsampled,
            in_channels=6,
            down_block_types=("ResnetDownsampleBlock2D",) * 4,
            up_block_types=("ResnetUpsampleBlock2D",) * 4,
            add_attention=False,
            **common,
        ),
    }


def diffusers_pipeline(parts: dict[str, torch.nn.Module], size: Size) -> Any:
    """Their `UnCLIPPipeline` over these parts, behind a text encoder so small that it costs nothing."""
    from diffusers import UnCLIPPipeline, UnCLIPScheduler
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    text = CLIPTextConfig(
        vocab_size=8,
        hidden_size=size.embedding,
        intermediate_size=8,
        projection_dim=size.embedding,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=size.context,
    )
    pipeline = UnCLIPPipeline(
        prior=parts["prior"],
        decoder=parts["decoder"],
        text_encoder=CLIPTextModelWithProjection(text).eval(),
        tokenizer=_NoWords(size.context),
        text_proj=UnCLIPTextProjModel(
            clip_embeddings_dim=size.embedding,
            time_embed_dim=4 * size.channels,
            cross_attention_dim=size.text_width,
        ),
        super_res_first=parts["upsampler"],
        super_res_last=parts["upsampler"],
        prior_scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range", prediction_type="epsilon"),
        super_res_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class _NoWords:
    """Stands for a tokenizer where only the null caption is tokenized."""

    def __init__(self, context: int) -> None:
        self.model_max_length = context

    def __call__(self, prompts: list[str], **_: Any) -> Any:
        from transformers import BatchEncoding

        ids = torch.zeros(len(prompts), self.model_max_length, dtype=torch.long)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
