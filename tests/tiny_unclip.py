"""A tiny unCLIP as diffusers' pipeline is made, in a model folder with a CLIP text encoder of its own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from models.cascade import UnCLIP
from models.config import UnCLIPConfig
from models.text_features import TextFeatures
from tests.parity.unclip_parts import CASCADE, CONTEXT, DIM, randomise


def tiny_text_encoder(folder: Path) -> None:
    """`text_encoder/` and `tokenizer/` of a random CLIP over single characters, saved by transformers."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    characters = [chr(code) for code in range(33, 127)]
    names = [*characters, *(f"{c}</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    files = folder / "tokenizer"
    files.mkdir(parents=True)
    (files / "vocab.json").write_text(json.dumps(vocabulary))
    (files / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(files, pad_token="!", model_max_length=CONTEXT)
    tokenizer.save_pretrained(files)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIM,
        intermediate_size=32,
        projection_dim=DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=0,
    )
    network = randomise(CLIPTextModelWithProjection(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.save_pretrained(folder / "text_encoder")


def random_unclip(config: UnCLIPConfig = CASCADE) -> UnCLIP:
    model = config.build()
    assert model.prior is not None
    for seed, part in enumerate((model.prior, model.decoder, *model.upsamplers)):
        randomise(part, seed)
    return model.eval().requires_grad_(False)


def tiny_unclip(root: Path, config: UnCLIPConfig = CASCADE) -> Path:
    """The model's folder, as `unclip import` leaves it."""
    import torch

    from pipelines.cascade_io import write_cascade
    from pipelines.encoders.clip_text import ClipText
    from pipelines.interop.imports import KARLO_SAMPLING

    tiny_text_encoder(root / "clip")
    encoder = ClipText(root / "clip")
    model = random_unclip(config)
    (features, mask), pooled = encoder.features([""]), torch.from_numpy(encoder.encode_texts([""]))
    assert isinstance(model.decoder.text, TextFeatures) and model.prior is not None
    model.prior.set_null(features, mask, pooled)
    model.decoder.text.set_null(features, mask, pooled)
    write_cascade(
        root / "model",
        model,
        sampling=KARLO_SAMPLING,
        encoder="clip_text",
        encoder_identity=encoder.identity,
        heads=None,
        text_encoder=root / "clip",
    )
    return root / "model"
