"""Our prior, decoder and upsampler against the parts of diffusers' unCLIP pipeline: same weights through the
export's tables, same inputs, outputs and gradients of every weight."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from torch import Tensor, nn

from models.weights.diffusers_config import decoder_values, prior_values, text_proj_values, upsampler_values
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
