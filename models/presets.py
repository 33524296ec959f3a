"""Published relatives of unCLIP, as configurations of its parts.

GLIDE (2112.10741) and the base of Imagen (2205.11487) are the decoder without an image embedding; their
upsamplers are the upsampler with text.  Sizes against the published ones: `tests/models/test_presets.py`, and
`docs/relatives.md`, which also says what is our choice in them.
"""

from models.config import DecoderConfig, DiffusionConfig, UnCLIPConfig, UpsamplerConfig
from models.config_text import TextFeaturesConfig, TextTransformerConfig
from models.sampling import CascadeSampling, StageSampling

GPT2_VOCAB, T5_XXL_WIDTH = 50_257, 4_096


def glide(
    *, channels: int, upsampler_channels: int, width: int, upsampler_width: int, layers: int, heads: int
) -> UnCLIPConfig:
    """A GLIDE of these channels, text widths and text depth; heads of the text in proportion to its width."""
    return UnCLIPConfig(
        prior=None,
        prior_diffusion=None,
        decoder=DecoderConfig(
            embedding_dim=None,
            model_channels=channels,
            channel_mult=(1, 2, 3, 4),
            num_res_blocks=3,
            attention_resolutions=(32, 16, 8),
            vocab_size=GPT2_VOCAB,
            text_context=128,
            text_width=width,
            text_layers=layers,
            text_heads=heads,
            dropout=0.1,
        ),
        decoder_diffusion=DiffusionConfig(schedule="cosine"),
        upsamplers=(
            UpsamplerConfig(
                image_size=256,
                low_res_size=64,
                model_channels=upsampler_channels,
                channel_mult=(1, 1, 2, 2, 4, 4),
                num_res_blocks=2,
                attention_resolutions=(32, 16, 8),
                middle_attention=True,
                dropout=0.1,
                text=TextTransformerConfig(
                    vocab_size=GPT2_VOCAB,
                    context=128,
                    width=upsampler_width,
                    layers=layers,
                    heads=heads * upsampler_width // width,
                ),
            ),
        ),
        upsampler_diffusions=(DiffusionConfig(schedule="linear"),),
    )


def efficient_upsampler(image_size: int, low_res_size: int, *, self_attention: bool) -> UpsamplerConfig:
    """Imagen's super-resolution (section 2.5 and appendix B): Efficient U-Net, text by cross-attention, told
    how much noise its input carries.  Here it attends in the middle alone; the paper's figures are not
    followed to that detail."""
    channels = 128
    return UpsamplerConfig(
        image_size=image_size,
        low_res_size=low_res_size,
        model_channels=channels,
        channel_mult=(1, 2, 4, 8),
        num_res_blocks=(2, 4, 8, 8),
        middle_attention=True,
        self_attention=self_attention,
        efficient=True,
        noise_conditioning=True,
        text=TextFeaturesConfig(features_dim=T5_XXL_WIDTH, context=128, width=512, time_width=4 * channels),
    )


GLIDE = glide(channels=512, upsampler_channels=384, width=2048, upsampler_width=1024, layers=24, heads=32)
"""The 3.5 B model of the paper with its 1.5 B upsampler."""

GLIDE_SMALL = glide(channels=192, upsampler_channels=192, width=512, upsampler_width=512, layers=16, heads=8)
"""The model that was released, trained on filtered data."""

GLIDE_SAMPLING = CascadeSampling(
    decoder=StageSampling(sampler="ddpm", steps=150, guidance=3.0),
    upsamplers=(StageSampling(steps="10,10,3,2,2"),),
)
"""Scale 3.0 is what people preferred; by FID 1.5 is best (section 4)."""

IMAGEN = UnCLIPConfig(
    prior=None,
    prior_diffusion=None,
    decoder=DecoderConfig(
        embedding_dim=None,
        model_channels=512,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_resolutions=(32, 16, 8),
        text_features_dim=T5_XXL_WIDTH,
        text_context=128,
        text_width=512,
    ),
    decoder_diffusion=DiffusionConfig(schedule="cosine"),
    upsamplers=(
        efficient_upsampler(256, 64, self_attention=True),
        efficient_upsampler(1024, 256, self_attention=False),
    ),
    upsampler_diffusions=(DiffusionConfig(schedule="cosine"), DiffusionConfig(schedule="linear")),
)
"""Base and two super-resolution networks; the frozen T5-XXL, whose features come in, is not part of it."""

IMAGEN_SAMPLING = CascadeSampling(
    decoder=StageSampling(sampler="ddpm", steps=250, guidance=1.35, dynamic_threshold=0.995),
    upsamplers=(
        StageSampling(sampler="ddpm", steps=250, guidance=8.0, dynamic_threshold=0.995, noise_level=0.2),
        StageSampling(sampler="ddpm", steps=250, guidance=8.0, dynamic_threshold=0.995, noise_level=0.2),
    ),
)
"""Guidance as for the paper's best FID; the noise level lies in the middle of what it found best.  The steps
are unCLIP's."""
