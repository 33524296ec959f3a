"""What the shapes of a state dict tell, and what is said of one that does not fit."""

import dataclasses
from functools import cache

import pytest
import torch

from models.config import DecoderConfig, UNetConfig
from models.weights import openai
from models.weights.names import StateDictError, check, to_ours, to_theirs
from tests.models.tiny import randomised

BASE = UNetConfig(
    image_size=16, model_channels=32, channel_mult=(1, 2, 3), num_res_blocks=2, num_head_channels=16
)
UNETS = {
    "plain": BASE,
    "attention at some levels": dataclasses.replace(
        BASE, attention_resolutions=(8, 4), num_head_channels=16, num_res_blocks=3
    ),
    "attention everywhere": dataclasses.replace(BASE, attention_resolutions=(16, 8, 4), num_head_channels=32),
    "learned resampling": dataclasses.replace(BASE, attention_resolutions=(8,), resblock_updown=False),
    "additive, three channels": dataclasses.replace(BASE, use_scale_shift_norm=False, out_channels=3),
    "super-resolution": dataclasses.replace(BASE, in_channels=6, middle_attention=False),
    "text": dataclasses.replace(BASE, attention_resolutions=(8,), encoder_channels=24),
    "one level, wide stem": dataclasses.replace(BASE, channel_mult=(2,), num_res_blocks=1),
}
GLIDE = DecoderConfig(
    embedding_dim=None,
    image_size=16,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    num_head_channels=16,
    vocab_size=50,
    text_context=6,
    text_width=16,
    text_layers=2,
    text_heads=4,
)


@pytest.mark.parametrize("name", UNETS)
def test_shapes_tell_the_configuration(name: str) -> None:
    config = UNETS[name]
    with torch.device("meta"):
        state = config.build().state_dict()
    got = openai.infer_unet(
        state, name, image_size=config.image_size, num_head_channels=config.num_head_channels
    )
    assert got == config


@pytest.mark.parametrize("inpainting", [False, True])
def test_glides_model_is_a_decoder_without_an_image_embedding(inpainting: bool) -> None:
    config = dataclasses.replace(GLIDE, inpainting=inpainting)
    network = randomised(config.build())
    rows = openai.glide_rows(network.state_dict())
    theirs = to_theirs(rows, network.state_dict())
    assert {"transformer.resblocks.1.attn.c_qkv.weight", "transformer_proj.bias", "padding_embedding"} <= set(
        theirs
    )
    assert {"input_blocks.1.0.in_layers.0.weight", "final_ln.weight", "positional_embedding"} <= set(theirs)
    assert openai.infer_glide(theirs, "x", image_size=16, num_head_channels=16, text_heads=4) == config
    back = to_ours(rows, theirs, network.state_dict(), "x")
    assert back.keys() == network.state_dict().keys()


def test_a_state_dict_that_does_not_fit_says_which_expected_got_and_where() -> None:
    network = BASE.build().state_dict()
    state = dict(network)
    del state["out.2.bias"], state["time_embed.0.bias"]
    state["label_emb.weight"] = torch.zeros(3)
    state["out.0.weight"] = torch.zeros(7)
    with pytest.raises(StateDictError) as caught:
        check(network, state, "adm.safetensors")
    assert str(caught.value) == (
        "adm.safetensors does not fit its configuration: 2 missing: out.2.bias, time_embed.0.bias; "
        "1 that the network does not have: label_emb.weight; 1 of another shape: out.0.weight expected "
        "(32,), got (7,); give the configuration these weights were trained with"
    )


@cache
def shapes(config: UNetConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return config.build().state_dict()


@pytest.mark.parametrize("name", ["plain", "attention at some levels", "learned resampling", "text"])
def test_a_unet_that_lacks_any_one_tensor_is_refused(name: str) -> None:
    config, whole = UNETS[name], shapes(UNETS[name])
    for dropped in whole:
        state = {key: value for key, value in whole.items() if key != dropped}
        with pytest.raises(ValueError, match=r"missing|not a U-Net|does not fit"):
            got = openai.infer_unet(
                state, "x", image_size=config.image_size, num_head_channels=config.num_head_channels
            )
            check(shapes(got), state, "x")


def test_networks_of_other_kinds_are_told_apart() -> None:
    state = BASE.build().state_dict()
    with pytest.raises(StateDictError, match="class-conditional"):
        openai.infer_unet(
            {**state, "label_emb.weight": torch.zeros(3)}, "x", image_size=16, num_head_channels=16
        )
    with pytest.raises(StateDictError, match=r"out\.2\.weight missing; is it whole"):
        openai.infer_unet(
            {k: v for k, v in state.items() if "out.2" not in k}, "x", image_size=16, num_head_channels=16
        )
    upsampler = dataclasses.replace(GLIDE.unet, in_channels=6).build().state_dict()
    text = {
        k: v
        for k, v in to_theirs(
            openai.glide_rows(GLIDE.build().state_dict()), GLIDE.build().state_dict()
        ).items()
        if "blocks." not in k or k.startswith("transformer.")
    }
    with pytest.raises(StateDictError, match="in_channels is 6, here always 3; it cannot be imported"):
        openai.infer_glide({**text, **upsampler}, "x", image_size=16, num_head_channels=16, text_heads=4)
