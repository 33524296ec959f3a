"""TrainClip: heads over frozen towers' features, fitted with the contrastive loss on the training split."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from infra.journal import Journal
from infra.store import Artifact, Rows
from models.config import ClipHeadsConfig
from pipelines.aligned import (
    ENCODER_FILE,
    encoder_identity,
    read_embeddings,
    read_metadata,
    read_table,
    require_same_keys,
    require_same_shards,
)
from pipelines.encoders.lit import HEADS_CONFIG, HEADS_FILE
from pipelines.forget.rows import refuse_forgotten
from pipelines.step import Context, Resources, Step, StepConfig, input_of

if TYPE_CHECKING:
    from models.clip_heads import ClipHeads

SPLITS = ("train", "validation", "test")
RANKS = (1, 5, 10)
CHECKPOINT_EVERY = 10


class TrainClipConfig(StepConfig):
    """Size of the heads and how they are fitted.

    The defaults suit a thousand pairs: linear heads, strong dropout and weight decay, and the step with the
    lowest validation loss.  Fitted in one process, in memory, on one thread (the sum's order is part of the
    result).
    """

    annotation: str = input_of("annotation")
    verdict: str = input_of("verdict")
    dim: int = Field(default=256, ge=1)
    hidden: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    steps: int = Field(default=120, ge=1)
    batch: int = Field(default=512, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.5, ge=0)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Features:
    """Tower features of one split's kept samples, row i of both belonging together.

    `weight`: the verdict's, scaled to mean 1; None where all are alike.
    """

    image: Float[np.ndarray, "n d"]
    text: Float[np.ndarray, "n e"]
    weight: Float[np.ndarray, " n"] | None = None


class TrainClip(Step[TrainClipConfig, Resources]):
    """Writes `heads.safetensors` and `config.json`, the encoder that `lit` becomes, and `retrieval.json`.

    Figures are of the test split, which neither the weights nor the choice of the step have seen; chance and
    the number of pairs stand beside them.
    """

    kind = "train_clip"
    produces = "clip_heads"
    version = 2
    Config = TrainClipConfig

    def run(self, context: Context[TrainClipConfig, Resources]) -> dict[str, Any]:
        import torch
        from safetensors.torch import save

        annotation = context.inputs["annotation"]
        features = read_features(annotation, context.inputs["verdict"])
        config, draft = context.config, context.draft
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            context.progress.start(config.steps, unit="steps")
            heads, best_step = fit_heads(features, config, context.journal)
            figures = retrieval(heads, features["test"])
        finally:
            torch.set_num_threads(threads)
        draft.write_bytes(HEADS_FILE, save({k: v.contiguous() for k, v in heads.state_dict().items()}))
        for name, data in (
            (HEADS_CONFIG, heads.config.to_dict()),
            (ENCODER_FILE, encoder_identity(annotation)),
            ("retrieval.json", figures),
        ):
            draft.write_bytes(name, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())
        counts = {f"pairs_{split}": len(features[split].image) for split in SPLITS}
        context.fixed_rows.append(Rows(total=sum(counts.values()), kept=sum(counts.values())))
        return counts | figures | {"best_step": best_step}


def read_features(annotation: Artifact, verdict: Artifact) -> dict[str, Features]:
    """Features of the kept samples by split.

    Raises MisalignedError naming shard and key where the verdict is not of this annotation's samples,
    ForgottenError where it keeps what was forgotten since, and
    ValueError where a split has fewer than two pairs, of which no contrast can be made.
    """
    refuse_forgotten(verdict)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {split: [] for split in SPLITS}
    for shard in require_same_shards(annotation, verdict):
        keys = read_metadata(annotation, shard, ["key"])["key"].to_pylist()
        judged = read_table(verdict, shard, ["key", "keep", "split", "weight"]).to_pylist()
        row_of = {key: row for row, key in enumerate(keys)}
        kept = [row for row in judged if row["keep"]]
        known = [row["key"] for row in kept if row["key"] in row_of]
        require_same_keys(shard, [row["key"] for row in kept], known, "annotation, among the kept samples")
        image, text = read_embeddings(annotation, "img", shard), read_embeddings(annotation, "text", shard)
        for split in SPLITS:
            chosen = [row for row in kept if row["split"] == split]
            rows = [row_of[row["key"]] for row in chosen]
            weight = np.array([row["weight"] for row in chosen], np.float64)
            parts[split].append((image[rows].astype(np.float32), text[rows].astype(np.float32), weight))
    features = {
        split: Features(
            image=np.concatenate([image for image, _, _ in of_split]),
            text=np.concatenate([text for _, text, _ in of_split]),
            weight=_uneven(np.concatenate([weight for _, _, weight in of_split])),
        )
        for split, of_split in parts.items()
    }
    if small := [split for split, of in features.items() if len(of.image) < 2]:
        raise ValueError(f"train_clip needs at least two kept pairs in each split; too few in {small}")
    return features


def _uneven(weight: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """The weights scaled to mean 1, or None where they are all alike and leave the loss as it is."""
    if len(np.unique(weight)) < 2:
        return None
    return (weight / weight.mean()).astype(np.float32)


def fit_heads(
    features: dict[str, Features], config: TrainClipConfig, journal: Journal
) -> tuple[ClipHeads, int]:
    """Heads at the step of the lowest validation loss, and that step."""
    import torch

    from models.clip_heads import clip_loss

    tensors = {
        split: (torch.from_numpy(of.image), torch.from_numpy(of.text)) for split, of in features.items()
    }
    images, texts = tensors["train"]
    weight = features["train"].weight
    weights = None if weight is None else torch.from_numpy(weight)
    order = np.random.default_rng(config.seed)
    best, best_loss, best_step = dict[str, torch.Tensor](), float("inf"), 0
    # Forked: initial weights and dropout draw from the seed, and the process's own generator stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = ClipHeadsConfig(
            image_dim=images.shape[1],
            text_dim=texts.shape[1],
            dim=config.dim,
            hidden=config.hidden,
            dropout=config.dropout,
        ).build()
        optimizer = torch.optim.AdamW(
            heads.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
        )
        for step in range(1, config.steps + 1):
            batch = torch.from_numpy(order.permutation(len(images))[: config.batch])
            heads.train()
            loss = clip_loss(
                heads.encode_image(images[batch]),
                heads.encode_text(texts[batch]),
                heads.logit_scale,
                None if weights is None else weights[batch],
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % CHECKPOINT_EVERY == 0 or step == config.steps:
                held_out = _loss(heads, *tensors["validation"])
                journal.metrics({"loss": float(loss.detach()), "validation_loss": held_out}, step=step)
                if held_out < best_loss:
                    best_loss, best_step = held_out, step
                    best = {name: value.clone() for name, value in heads.state_dict().items()}
    if not best:
        raise ValueError("train_clip: the validation loss was never finite; lower learning_rate")
    heads.load_state_dict(best)
    return heads.eval(), best_step


def retrieval(heads: ClipHeads, pairs: Features) -> dict[str, float]:
    """R@1, 5 and 10 in both directions with their chance values, cosines of matched and of all other pairs.

    A query counts as found at k when fewer than k other candidates score at least as high as its match: ties
    count against the encoder.
    """
    import torch

    with torch.inference_mode():
        image = heads.encode_image(torch.from_numpy(pairs.image))
        text = heads.encode_text(torch.from_numpy(pairs.text))
        cosines = (text @ image.T).numpy()
    count, matched = len(cosines), np.diag(cosines)
    figures: dict[str, float] = {"test_pairs": count}
    for name, scores in (("text_to_image", cosines), ("image_to_text", cosines.T)):
        rivals = (scores >= matched[:, None]).sum(axis=1) - 1
        for k in RANKS:
            figures[f"{name}_recall_at_{k}"] = round(float((rivals < k).mean()), 6)
    figures |= {f"chance_recall_at_{k}": round(min(k / count, 1.0), 6) for k in RANKS}
    others = (cosines.sum() - matched.sum()) / (count * (count - 1))
    return figures | {
        "cosine_matched": round(float(matched.mean()), 6),
        "cosine_random": round(float(others), 6),
    }


def _loss(heads: ClipHeads, images: Any, texts: Any) -> float:
    import torch

    from models.clip_heads import clip_loss

    heads.eval()
    with torch.inference_mode():
        return float(clip_loss(heads.encode_image(images), heads.encode_text(texts), heads.logit_scale))
