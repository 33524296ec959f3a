"""`open_clip:<model>/<pretrained or path>`: any CLIP that open_clip knows, or a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from infra.digests import sha256_of_file
from pipelines.encoders.base import Device, Precision, in_passes

if TYPE_CHECKING:
    import torch


def open_clip_identity(spec: str, precision: Precision = "fp32") -> dict[str, Any]:
    """What is known without loading: model, and the checkpoint's sha256 or the name of its pretrained tag."""
    model, source = split_spec(spec)
    weights = {"sha256": sha256_of_file(source)} if isinstance(source, Path) else {"pretrained": source}
    return {"name": f"open_clip:{model}", "unit_norm": True, "weights": weights, "precision": precision}


def split_spec(spec: str) -> tuple[str, str | Path]:
    """`ViT-B-32/openai` to model and tag, `ViT-B-32//data/b32.pt` to model and path.

    Raises ValueError where a part is missing, FileNotFoundError for a path without a file.
    """
    model, slash, source = spec.partition("/")
    if not (model and slash and source):
        raise ValueError(
            f"encoder 'open_clip:{spec}': expected open_clip:<model>/<pretrained or path>, "
            "for example open_clip:ViT-B-32/openai or open_clip:ViT-B-32//data/b32.safetensors"
        )
    path = Path(source)
    if not (path.is_absolute() or path.suffix in (".pt", ".pth", ".safetensors")):
        return model, source
    if not path.is_file():
        raise FileNotFoundError(f"encoder 'open_clip:{spec}': no checkpoint at {path}")
    return model, path


class OpenClip:
    """A CLIP model with unit-norm embeddings; see `pipelines.encoders.base.Encoder`.

    A tag is downloaded by open_clip on first use; a path is read with `weights_only`, so that a checkpoint
    from outside runs no code.
    """

    def __init__(
        self,
        spec: str,
        *,
        threads: int = 1,
        device: Device = "cpu",
        precision: Precision = "fp32",
        batch: int = 32,
    ) -> None:
        import open_clip
        import torch

        torch.set_num_threads(threads)
        model, source = split_spec(spec)
        known = open_clip.list_models()
        if model not in known:
            raise ValueError(f"encoder 'open_clip:{spec}': open_clip knows no model {model!r}")
        self.device, self.precision = device, precision
        self.batch = 1 if device == "cpu" else batch
        self._network, _, self._preprocess = open_clip.create_model_and_transforms(
            model, pretrained=str(source), device=device
        )
        self._network.eval()
        self._tokenizer = open_clip.get_tokenizer(model)
        self._dimension = _dimension(self._network)
        self.identity = open_clip_identity(spec, precision) | {
            "dimension": self._dimension,
            "image_dimension": self._dimension,
            "text_dimension": self._dimension,
            "preprocessing": " ".join(str(self._preprocess).split()),
            "tokenizer": {"name": type(self._tokenizer).__name__, "context": self._tokenizer.context_length},
            "state_sha256": _state_digest(self._network),
        }

    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], *, batch: int | None = None
    ) -> Float[np.ndarray, "n d"]:
        return in_passes(images, self._rows(batch), self._dimension, self._encode_images)

    def encode_texts(self, captions: Sequence[str], *, batch: int | None = None) -> Float[np.ndarray, "n e"]:
        return in_passes(captions, self._rows(batch), self._dimension, self._encode_texts)

    def _rows(self, batch: int | None) -> int:
        return self.batch if batch is None or self.device == "cpu" else batch

    def _encode_images(self, images: list[UInt8[np.ndarray, "h w 3"]]) -> Float[np.ndarray, "rows d"]:
        import torch
        from PIL import Image

        x = torch.stack([self._preprocess(Image.fromarray(image)) for image in images]).to(self.device)
        with torch.inference_mode(), self._autocast():
            return self._network.encode_image(x, normalize=True).float().cpu().numpy()

    def _encode_texts(self, captions: list[str]) -> Float[np.ndarray, "rows e"]:
        import torch

        tokens = self._tokenizer(captions).to(self.device)
        with torch.inference_mode(), self._autocast():
            return self._network.encode_text(tokens, normalize=True).float().cpu().numpy()

    def _autocast(self) -> torch.autocast:
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def _dimension(network: Any) -> int:
    import torch

    context = network.context_length
    with torch.inference_mode():
        tokens = torch.zeros((1, context), dtype=torch.long, device=next(network.parameters()).device)
        return int(network.encode_text(tokens).shape[-1])


def _state_digest(network: Any) -> str:
    """sha256 over names and bytes of the weights in use: a tag may one day name other weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    return digest.hexdigest()
