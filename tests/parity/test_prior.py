"""Our diffusion prior against `diffusers.PriorTransformer`: same weights, same inputs, with padding."""

import torch
from diffusers import PriorTransformer
from torch import Tensor

from models.config import PriorConfig
from models.prior import DiffusionPrior

WIDTH, HEADS, LAYERS, DIM, CONTEXT = 32, 4, 3, 16, 7


def to_diffusers(prior: DiffusionPrior) -> dict[str, Tensor]:
    """Our state dict under diffusers' names, but for the learned nulls, which they do not know."""
    renamed = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "text_enc_proj": "encoder_hidden_states_proj",
        "text_emb_proj": "embedding_proj",
        "clip_img_proj": "proj_in",
        "out_proj": "proj_to_clip_embeddings",
        "final_ln": "norm_out",
        "prd_emb": "prd_embedding",
        "transformer.resblocks": "transformer_blocks",
        "attn.c_proj": "attn1.to_out.0",
        "ln_1": "norm1",
        "ln_2": "norm3",
        "mlp.c_fc": "ff.net.0.proj",
        "mlp.c_proj": "ff.net.2",
    }
    state = {}
    for key, value in prior.state_dict().items():
        if key.startswith("null_"):
            continue
        if ".attn.c_qkv." in key:
            block, kind = key.split(".attn.c_qkv.")
            block = block.replace("transformer.resblocks", "transformer_blocks")
            per_head = value.reshape(HEADS, 3, WIDTH // HEADS, *value.shape[1:])
            for i, name in enumerate("qkv"):
                state[f"{block}.attn1.to_{name}.{kind}"] = per_head[:, i].reshape(WIDTH, *value.shape[1:])
            continue
        for ours, theirs in renamed.items():
            key = key.replace(ours, theirs)
        state[key] = value
    return state


def test_outputs_and_gradients_equal_diffusers() -> None:
    config = PriorConfig(
        embedding_dim=DIM, context=CONTEXT, width=WIDTH, layers=LAYERS, heads=HEADS, text_features_dim=DIM
    )
    torch.manual_seed(0)
    ours = config.build()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = PriorTransformer(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        num_layers=LAYERS,
        embedding_dim=DIM,
        num_embeddings=CONTEXT,
    )
    missing, unexpected = theirs.load_state_dict(to_diffusers(ours), strict=False)
    assert set(missing) <= {"clip_mean", "clip_std"} and not unexpected

    x_t, text = torch.randn(3, DIM), torch.randn(3, CONTEXT, DIM)
    embedding, t = torch.randn(3, DIM) * 0.1, torch.tensor([0, 400, 999])
    mask = torch.arange(CONTEXT)[None] < torch.tensor([7, 4, 1])[:, None]
    a = ours(x_t, t, text, mask, embedding)
    # Ours scales the text embedding itself.
    b = theirs(x_t, t, embedding * ours.scale, text, mask).predicted_image_embedding
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    (a**2).mean().backward()
    (b**2).mean().backward()
    torch.testing.assert_close(
        ours.clip_img_proj.weight.grad, theirs.proj_in.weight.grad, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(ours.time_embed[0].weight.grad, theirs.time_embedding.linear_1.weight.grad)
