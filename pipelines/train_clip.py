"""Fitting the heads of `lit` on the training split: locked-image tuning with the contrastive loss."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from infra.store import Artifact, Rows
from models.config import ClipHeadsConfig
from pipelines.aligned import (
    encoder_identity,
    read_embeddings,
    read_metadata,
    read_table,
    require_same_shards,
)
from pipelines.encoders.lit import HEADS_CONFIG, HEADS_FILE, IMAGE_WIDTH, TEXT_WIDTH
from pipelines.retrieval import recall_at
from pipelines.step import Context, Resources, Step, StepConfig, input_of

if TYPE_CHECKING:
    import torch

    from models.clip_heads import ClipHeads

Pairs = dict[str, tuple[Float[np.ndarray, "n image"], Float[np.ndarray, "n text"]]]


class TrainClipConfig(StepConfig):
    """How the heads are fitted.  The best epoch on the validation split is kept."""

    annotation: str = input_of("annotation")
    verdict: str = input_of("verdict")
    dimension: int = Field(256, ge=8, description="width of the joint space")
    hidden: int | None = Field(None, description="width of a hidden layer; none makes the heads linear")
    dropout: float = Field(0.5, ge=0, lt=1)
    epochs: int = Field(60, ge=1)
    batch: int = Field(256, ge=2, description="pairs a step; every other pair of the batch is a negative")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    seed: int = 0


class TrainClip(Step[TrainClipConfig, Resources]):
    """Image and text heads over frozen towers, with held-out recall against chance."""

    kind = "train_clip"
    produces = "clip_heads"
    version = 1
    Config = TrainClipConfig

    def run(self, context: Context[TrainClipConfig, Resources]) -> dict[str, Any]:
        """Writes `heads.safetensors` and `config.json`; returns recall on the test split, and chance."""
        import torch
        from safetensors.torch import save

        annotation = context.inputs["annotation"]
        if (name := encoder_identity(annotation)["name"]) != "lit-towers":
            raise ValueError(f"train_clip needs features of lit-towers, got embeddings of {name!r}")
        pairs = kept_pairs(annotation, context.inputs["verdict"])
        for split in ("train", "validation", "test"):
            if len(pairs[split][0]) < 2:
                raise ValueError(
                    f"train_clip needs at least 2 pairs in split {split!r}, got {len(pairs[split][0])}"
                )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in another order give other bits
        heads, best_epoch = fit(context, pairs)
        summary = held_out(heads, pairs["test"]) | {
            "best_epoch": best_epoch,
            "train_pairs": len(pairs["train"][0]),
        }
        torch.set_num_threads(threads)
        context.draft.write_bytes(
            HEADS_FILE, save({k: v.contiguous() for k, v in heads.state_dict().items()})
        )
        config = json.dumps(heads.config.to_dict(), indent=1, sort_keys=True)
        context.draft.write_bytes(HEADS_CONFIG, config.encode())
        used = sum(len(image) for image, _ in pairs.values())
        context.fixed_rows.append(Rows(total=used, kept=used))
        return summary


def kept_pairs(annotation: Artifact, verdict: Artifact) -> Pairs:
    """Tower features of the kept samples of each split, in key order."""
    parts: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {
        split: ([], []) for split in ("train", "validation", "test")
    }
    for name in require_same_shards(annotation, verdict):
        table = read_table(verdict, name, ["key", "keep", "split"]).to_pylist()
        split_of = {row["key"]: row["split"] for row in table if row["keep"]}
        image, text = (np.asarray(read_embeddings(annotation, w, name), np.float32) for w in ("img", "text"))
        splits = np.array(
            [split_of.get(k, "") for k in read_metadata(annotation, name, ["key"])["key"].to_pylist()]
        )
        for split, (images, texts) in parts.items():
            images.append(image[splits == split])
            texts.append(text[splits == split])
    return {
        split: (np.concatenate(images), np.concatenate(texts)) for split, (images, texts) in parts.items()
    }


def fit(context: Context[TrainClipConfig, Resources], pairs: Pairs) -> tuple[ClipHeads, int]:
    """The heads of the epoch with the lowest validation loss, and that epoch."""
    import torch

    from models.clip_heads import clip_loss

    config = context.config
    torch.manual_seed(config.seed)
    heads = ClipHeadsConfig(
        image_dim=IMAGE_WIDTH,
        text_dim=TEXT_WIDTH,
        dim=config.dimension,
        hidden=config.hidden,
        dropout=config.dropout,
    ).build()
    optimizer = torch.optim.AdamW(
        heads.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    image, text = (torch.from_numpy(side) for side in pairs["train"])
    best, best_epoch, best_loss = heads.state_dict(), 0, float("inf")
    context.progress.start(config.epochs, unit="epochs")
    for epoch in range(config.epochs):
        heads.train()
        losses = []
        for rows in torch.randperm(len(image)).split(config.batch):
            if len(rows) < 2:
                continue  # one pair has no negatives
            loss = clip_loss(
                heads.encode_image(image[rows]), heads.encode_text(text[rows]), heads.logit_scale
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        schedule.step()
        validation = validation_loss(heads, pairs["validation"])
        context.journal.metrics({"loss": float(np.mean(losses)), "validation_loss": validation}, step=epoch)
        context.progress.advance(1, f"validation loss {validation:.3f}")
        if validation < best_loss:
            best_loss, best_epoch = validation, epoch
            best = {k: v.clone() for k, v in heads.state_dict().items()}
    heads.load_state_dict(best)
    return heads.eval(), best_epoch


def embedded(heads: ClipHeads, pair: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-norm image and text embeddings of a split."""
    import torch

    heads.eval()
    with torch.inference_mode():
        return heads.encode_image(torch.from_numpy(pair[0])), heads.encode_text(torch.from_numpy(pair[1]))


def validation_loss(heads: ClipHeads, pair: tuple[np.ndarray, np.ndarray]) -> float:
    """Contrastive loss over the whole split as one batch, in nats."""
    from models.clip_heads import clip_loss

    image, text = embedded(heads, pair)
    return float(clip_loss(image, text, heads.logit_scale.detach()))


def held_out(heads: ClipHeads, pair: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Recall at 1, 5, 10 both ways on pairs no step has seen, beside chance; cosines matched and shuffled."""
    image, text = (side.numpy() for side in embedded(heads, pair))
    count = len(image)
    figures: dict[str, Any] = {"test_pairs": count}
    for k, share in recall_at(text, image).items():
        figures |= {f"text_to_image_r{k}": share, f"chance_r{k}": min(k / count, 1.0)}
    for k, share in recall_at(image, text).items():
        figures[f"image_to_text_r{k}"] = share
    figures["cosine_matched"] = float((image * text).sum(1).mean())
    figures["cosine_shuffled"] = float((image * np.roll(text, 1, axis=0)).sum(1).mean())
    return figures
