"""`clip_text`: the frozen CLIP text tower of an imported unCLIP, kept in the model's own folder.

Prior and decoder see three things of it: its features of every position, the mask of the padding, and the
projected embedding, which is not brought to unit norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from infra.digests import sha256_of_file

if TYPE_CHECKING:
    from torch import Tensor


class ClipText:
    """See `pipelines.encoders.base.Encoder`; it has no image tower.

    folder: holds `text_encoder/` and `tokenizer/` as transformers saves them.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        self._network = CLIPTextModelWithProjection.from_pretrained(
            folder / "text_encoder", use_safetensors=True, local_files_only=True
        ).eval()
        self._tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        config = self._network.config
        self.context: int = min(self._tokenizer.model_max_length, config.max_position_embeddings)
        self.identity = {
            "name": "clip_text",
            "unit_norm": False,
            "weights": {"sha256": sha256_of_file(folder / "text_encoder" / "model.safetensors")},
            "text_dimension": config.projection_dim,
            "features_dimension": config.hidden_size,
            "tokenizer": {"name": "CLIPTokenizer", "context": self.context},
            "precision": "fp32",
        }

    def encode_images(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"]],  # noqa: ARG002
        *,
        batch: int | None = None,  # noqa: ARG002
    ) -> Float[np.ndarray, "n d"]:
        from pipelines.generate import GenerateError

        raise GenerateError("the model was imported with a text encoder alone: it draws from captions")

    def encode_texts(
        self,
        captions: Sequence[str],
        *,
        batch: int | None = None,  # noqa: ARG002
    ) -> Float[np.ndarray, "n e"]:
        return np.concatenate([self._run(self._tokens(caption)).text_embeds.numpy() for caption in captions])

    def features(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features [n, context, d] and the mask, False on padding.

        Raises ValueError on a prompt past the context: its end would not be seen.
        """
        import torch

        features, masks = [], []
        for prompt in prompts:
            length = len(self._tokenizer(prompt).input_ids)
            if length > self.context:
                raise ValueError(
                    f"the prompt is {length} tokens long, the model reads {self.context}; shorten it"
                )
            tokens = self._tokens(prompt)
            features.append(self._run(tokens).last_hidden_state)
            masks.append(tokens.attention_mask.bool())
        return torch.cat(features), torch.cat(masks)

    def _tokens(self, caption: str) -> Any:
        return self._tokenizer(
            caption, padding="max_length", max_length=self.context, truncation=True, return_tensors="pt"
        )

    def _run(self, tokens: Any) -> Any:
        import torch

        # As the pipeline it comes from does: the padding is masked by those who read it.
        with torch.no_grad():
            return self._network(tokens.input_ids)
