"""A tiny cascade: real encoder embeddings of the tiny corpus, and networks of random weights beside them.

Sizes: embeddings of 32 dimensions, decoder 16 px, upsamplers to 32 and 64 px.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save, save_file

from infra.shards import read_tar, write_parquet
from infra.store import Artifact, Rows, Store, finish
from models.ar_prior import AutoregressivePrior
from models.config import (
    ARPriorConfig,
    ClipHeadsConfig,
    DecoderConfig,
    DiffusionConfig,
    NetworkConfig,
    PriorConfig,
    UpsamplerConfig,
    tagged,
)
from models.embedding_codec import EmbeddingCodec
from models.pca import Pca
from models.sampling import CascadeSampling, StageSampling
from pipelines.aligned import (
    ENCODER_FILE,
    embedding_file,
    encoder_identity,
    metadata_file,
    read_metadata,
)

DIM, CONTEXT, VOCAB = 32, 32, 600
SAMPLING = CascadeSampling(
    prior=StageSampling(sampler="ddpm", steps=4),
    decoder=StageSampling(sampler="ddim", steps=2, guidance=2.0),
    upsamplers=(StageSampling(steps=2), StageSampling(steps=2)),
)
EPSILON = DiffusionConfig(steps=50, prediction="epsilon", variance="learned_range")
X0 = DiffusionConfig(steps=50, prediction="x0", variance="fixed_small")
PRIOR = PriorConfig(embedding_dim=DIM, context=CONTEXT, width=32, layers=1, heads=2, vocab_size=VOCAB)
AR_PRIOR = ARPriorConfig(
    embedding_dim=DIM,
    components=10,
    vocab_size=VOCAB,
    text_context=CONTEXT,
    text_width=16,
    text_layers=1,
    text_heads=2,
    context=16,
    width=32,
    layers=1,
    heads=2,
    buckets=32,
)
DECODER = DecoderConfig(
    embedding_dim=DIM,
    image_size=16,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(8,),
    num_head_channels=8,
    norm_groups=4,
    vocab_size=VOCAB,
    text_context=CONTEXT,
    text_width=16,
    text_layers=1,
    text_heads=2,
)


def upsampler_config(size: int) -> UpsamplerConfig:
    return UpsamplerConfig(
        image_size=size,
        low_res_size=size // 2,
        model_channels=8,
        channel_mult=(1, 1),
        num_res_blocks=1,
        norm_groups=4,
        learned_variance=False,
        interpolation="bicubic",
        residual=True,
    )


def _artifact(
    root: Path, kind: str, name: str, files: dict[str, bytes], inputs: dict[str, Artifact]
) -> Artifact:
    draft = Store(root).draft(kind, hashlib.sha256(f"{kind}{name}".encode()).hexdigest())
    for file, data in files.items():
        draft.write_bytes(file, data)
    step = {"kind": f"tiny_{kind}", "version": 1, "config": {}}
    return finish(draft, step=step, inputs=inputs, summary={}, seconds=0.0, rows=Rows(total=1, kept=1))


def _weights(network: torch.nn.Module, path: Path) -> bytes:
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path.read_bytes()


def tiny_stage(
    root: Path,
    kind: str,
    config: NetworkConfig,
    diffusion: DiffusionConfig | None,
    encoder: dict[str, Any],
    *,
    noise_powers: dict[str, torch.Tensor] | None = None,
    **objective: Any,
) -> Artifact:
    """A stage as training leaves it; every parameter random, the last layers too, so that outputs differ."""
    torch.manual_seed(1)
    network = config.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    if isinstance(network, AutoregressivePrior):
        images = torch.nn.functional.normalize(torch.randn(100, DIM), dim=1)
        pca = Pca.fit([images], network.config.components)
        network.codec = EmbeddingCodec.fit(pca, [(images, images.flip(0))], buckets=network.config.buckets)
    process = diffusion.to_dict() if diffusion is not None else None
    described = {"network": tagged(config), "diffusion": process, "objective": objective}
    described |= {"encoder": encoder}
    files = {
        "config.json": json.dumps(described).encode(),
        "ema.safetensors": _weights(network, root / "weights.tmp"),
    }
    if noise_powers is not None:
        files["noise_powers.safetensors"] = save(noise_powers)
    return _artifact(root, kind, json.dumps([described, sorted(noise_powers or {})]), files, {})


def tiny_heads(root: Path) -> Artifact:
    torch.manual_seed(2)
    config = ClipHeadsConfig(image_dim=1280, text_dim=384, dim=DIM)
    files = {
        "config.json": json.dumps(config.to_dict()).encode(),
        "heads.safetensors": _weights(config.build(), root / "heads.tmp"),
    }
    return _artifact(root, "clip_heads", "heads", files, {})


def lit_embeddings(root: Path, corpus: Artifact, annotation: Artifact, heads: Artifact) -> Artifact:
    """What `lit` with these heads makes of the corpus."""
    from pipelines.encoders.lit import lit_identity
    from pipelines.encoders.registry import load_encoder

    encoder = load_encoder("lit", heads=heads.path)
    draft = Store(root).draft("embeddings", hashlib.sha256(corpus.content.encode()).hexdigest())
    draft.write_bytes(ENCODER_FILE, json.dumps(lit_identity(heads.path)).encode())
    for record in corpus.shards:
        samples = list(read_tar(corpus.path / f"{record.name}.tar"))
        pixels = [np.asarray(Image.open(io.BytesIO(s.image)).convert("RGB")) for s in samples]
        arrays = {
            "img": encoder.encode_images(pixels),
            "text": encoder.encode_texts([s.caption for s in samples]),
        }
        files = {}
        for which, values in arrays.items():
            name = embedding_file(which, record.name)  # type: ignore[arg-type]
            files[name] = draft.temporary(name)
            with files[name].open("wb") as stream:
                np.save(stream, values.astype(np.float16))
        name = metadata_file(record.name)
        files[name] = draft.temporary(name)
        write_parquet(files[name], read_metadata(annotation, record.name))
        draft.commit_shard(record.name, files, Rows(total=len(samples), kept=len(samples)))
    step = {"kind": "tiny_embeddings", "version": 1, "config": {}}
    return finish(draft, step=step, inputs={"corpus": corpus}, summary={}, seconds=0.0)


def tiny_cascade(root: Path, corpus: Artifact, annotation: Artifact) -> dict[str, Artifact]:
    """Heads, embeddings and the four stages, by the input names of `evaluate` and `register`."""
    heads = tiny_heads(root)
    embeddings = lit_embeddings(root, corpus, annotation, heads)
    encoder = encoder_identity(embeddings)
    return {
        "corpus": corpus,
        "clip_heads": heads,
        "embeddings": embeddings,
        "prior": tiny_stage(root, "prior", PRIOR, X0, encoder),
        "decoder": tiny_stage(root, "decoder", DECODER, EPSILON, encoder),
        "upsampler_256": tiny_stage(root, "upsampler", upsampler_config(32), X0, encoder, degradation="blur"),
        "upsampler_1024": tiny_stage(root, "upsampler", upsampler_config(64), X0, encoder, degradation="bsr"),
    }


def tiny_model(root: Path) -> Path:
    """A model folder without an evaluation: what generation and the model registry need of one."""
    from infra.model_registry import EXAMPLE_FILE, LOADER_FILE
    from models.config import UnCLIPConfig
    from pipelines.cascade_io import write_cascade
    from pipelines.encoders.lit import lit_identity
    from pipelines.register import LOADER

    heads, folder = tiny_heads(root).path, root / "model"
    torch.manual_seed(3)
    config = UnCLIPConfig(
        prior=PRIOR,
        prior_diffusion=X0,
        decoder=DECODER,
        decoder_diffusion=EPSILON,
        upsamplers=(upsampler_config(32),),
        upsampler_diffusions=(X0,),
    )
    write_cascade(
        folder,
        config.build(),
        sampling=SAMPLING,
        encoder="lit",
        encoder_identity=lit_identity(heads),
        heads=heads,
    )
    (folder / LOADER_FILE).write_bytes(LOADER.read_bytes())
    (folder / EXAMPLE_FILE).write_text(json.dumps({"prompt": ["a red heart"]}))
    return folder
