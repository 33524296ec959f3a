"""Our prior, decoder and upsampler against the parts of diffusers' unCLIP pipeline: same weights through the
export's tables, same inputs, outputs and gradients of every weight."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import Tensor, nn

from models.weights.diffusers_config import (
    decoder_values,
    prior_values,
    read_decoder,
    read_prior,
    read_upsampler,
    text_proj_values,
    upsampler_values,
)
from models.weights.diffusers_names import decoder_rows, prior_rows, upsampler_rows
from models.weights.names import Row, to_theirs
from tests.parity.unclip_parts import DECODER, DIM, PRIOR, UPSAMPLER, part, randomise, text_of, theirs

T = torch.tensor([0, 400, 999])
LARGEST = 1e-5
"""Largest difference of any output in float32; measured 3e-6, of the gradients 2e-7."""


def compare(
    rows: list[Row], ours: nn.Module, output: Tensor, networks: dict[str, nn.Module], other: Tensor
) -> None:
    """Outputs, then the gradient of every weight under its other name."""
    assert other.std() > 0.1
    torch.testing.assert_close(output, other, rtol=0, atol=LARGEST)
    (output**2).mean().backward()
    (other**2).mean().backward()
    grads = to_theirs(rows, {name: p.grad for name, p in ours.named_parameters() if p.grad is not None})
    expected = {
        f"{prefix}{name}": p.grad
        for prefix, network in networks.items()
        for name, p in network.named_parameters()
        if p.grad is not None
    }
    assert grads.keys() == expected.keys() and len(grads) > 20
    for name, grad in expected.items():
        torch.testing.assert_close(grads[name], grad, rtol=0, atol=1e-6, msg=name)


def test_prior_equals_prior_transformer() -> None:
    ours, rows = randomise(PRIOR.build()), prior_rows(PRIOR)
    other = theirs(PriorTransformer, prior_values(PRIOR), to_theirs(rows, ours.state_dict()))
    features, mask, pooled = text_of([7, 4, 1])
    x_t = torch.randn(3, DIM)
    a = ours(x_t, T, features, mask, pooled)
    b = other(x_t, T, pooled, features, mask).predicted_image_embedding
    torch.testing.assert_close(ours.to_embedding(x_t), other.post_process_latents(x_t))
    compare(rows, ours, a, {"": other}, b)


@pytest.mark.parametrize("resolutions", [(8, 4), (16,)], ids=["low", "first level alone"])
def test_decoder_equals_unet_and_text_projection(resolutions: tuple[int, ...]) -> None:
    config = dataclasses.replace(DECODER, attention_resolutions=resolutions)
    ours, rows = randomise(config.build()), decoder_rows(config)
    state = to_theirs(rows, ours.state_dict())
    unet = theirs(UNet2DConditionModel, decoder_values(config), part(state, "decoder"))
    text_proj = theirs(UnCLIPTextProjModel, text_proj_values(config), part(state, "text_proj"))
    features, mask, pooled = text_of([7, 4, 1])
    x_t, z = torch.randn(3, 3, 16, 16), torch.randn(3, DIM)
    context, shift = text_proj(
        image_embeddings=z,
        prompt_embeds=pooled,
        text_encoder_hidden_states=features,
        do_classifier_free_guidance=False,
    )
    padded = F.pad(mask, (4, 0), value=True)
    b = unet(x_t, T, context, class_labels=shift, attention_mask=padded).sample
    a = ours(x_t, T, z, features, mask, text_pooled=pooled)
    compare(rows, ours, a, {"decoder.": unet, "text_proj.": text_proj}, b)


def test_a_dropped_image_embedding_is_their_learned_one() -> None:
    ours, rows = randomise(DECODER.build()), decoder_rows(DECODER)
    text_proj = theirs(
        UnCLIPTextProjModel, text_proj_values(DECODER), part(to_theirs(rows, ours.state_dict()), "text_proj")
    )
    features, mask, pooled = text_of([7, 4])
    z = torch.randn(2, DIM)
    context, shift = text_proj(
        image_embeddings=z,
        prompt_embeds=pooled.repeat(2, 1),
        text_encoder_hidden_states=features.repeat(2, 1, 1),
        do_classifier_free_guidance=True,
    )
    for rows_of, drop in ((slice(2), True), (slice(2, 4), False)):
        mine = ours.condition(z, features, mask, drop_image=torch.tensor([drop, drop]), text_pooled=pooled)
        torch.testing.assert_close(mine.time_shift, shift[rows_of], rtol=0, atol=LARGEST)
        # Ours has the image tokens after the text, theirs before it; attention does not mind.
        theirs_last = context[rows_of].roll(-4, dims=1).transpose(1, 2)
        torch.testing.assert_close(mine.context, theirs_last, rtol=0, atol=LARGEST)


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(("t", "name"), [(0, "super_res_last"), (700, "super_res_first")])
def test_upsampler_equals_super_resolution(t: int, name: str, scale_shift: bool) -> None:
    config = dataclasses.replace(UPSAMPLER, use_scale_shift_norm=scale_shift)
    ours, rows = randomise(config.build()), upsampler_rows(config)
    other = theirs(UNet2DModel, upsampler_values(config), part(to_theirs(rows, ours.state_dict()), name))
    x_t, low_res, steps = torch.randn(2, 3, 32, 24), torch.rand(2, 3, 16, 12) * 2 - 1, torch.tensor([t, t])
    upscaled = F.interpolate(low_res, size=[32, 24], mode="bicubic", align_corners=False, antialias=True)
    a, b = ours(x_t, steps, low_res), other(torch.cat([x_t, upscaled], dim=1), steps).sample
    compare(rows, ours, a, {f"{name}.": other}, b)


KARLO_UNET = {
    "layers_per_block": 3,
    "block_out_channels": [320, 640, 960, 1280],
    "norm_num_groups": 32,
    "dropout": 0.0,
}
KARLO_DECODER = {
    **KARLO_UNET,
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 6,
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
    "cross_attention_dim": 1536,
    "class_embed_type": "identity",
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
}
KARLO_TEXT_PROJ = {
    "clip_extra_context_tokens": 4,
    "clip_embeddings_dim": 768,
    "time_embed_dim": 1280,
    "cross_attention_dim": 1536,
}
KARLO_SUPER_RES = {
    **KARLO_UNET,
    "sample_size": 256,
    "in_channels": 6,
    "out_channels": 3,
    "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
    "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
    "add_attention": False,
}


def test_karlos_published_configuration_is_read_and_every_weight_has_its_shape() -> None:
    """At full size on the meta device; the values are those of the published converter."""
    with torch.device("meta"):
        networks = {
            "prior": PriorTransformer(),
            "decoder": UNet2DConditionModel(**KARLO_DECODER),
            "text_proj": UnCLIPTextProjModel(**KARLO_TEXT_PROJ),
            "super_res_first": UNet2DModel(**KARLO_SUPER_RES),
            "super_res_last": UNet2DModel(**KARLO_SUPER_RES),
        }
        values = {name: json.loads(network.to_json_string()) for name, network in networks.items()}
        prior = read_prior(values["prior"], "prior")
        decoder = read_decoder(values["decoder"], values["text_proj"], prior.context, "karlo")
        upsampler = read_upsampler(values["super_res_first"], decoder.image_size, "super_res_first")
        states = {
            "prior.": to_theirs(prior_rows(prior), prior.build().state_dict()),
            "": to_theirs(decoder_rows(decoder), decoder.build().state_dict())
            | to_theirs(upsampler_rows(upsampler), upsampler.build().state_dict()),
        }
    ours = {prefix + key: v.shape for prefix, state in states.items() for key, v in state.items()}
    expected = {f"{name}.{key}": v.shape for name, n in networks.items() for key, v in n.state_dict().items()}
    assert ours == expected
    assert sum(shape.numel() for shape in ours.values()) == pytest.approx(3.31e9, rel=0.01)
