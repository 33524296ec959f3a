"""Upsamplers: unCLIP's attention-free ADM (2204.06125, section 2.1), trained on crops and run at full size;
GLIDE's and Imagen's, which also read the text."""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.config import UpsamplerConfig
from models.inpainting import append_known
from models.layers import timestep_embedding
from models.text_conditioned import TextConditioned
from models.unet import UNet

LEVEL_STEPS = 1000
"""Sinusoids of a noise level in [0, 1] are those of a timestep: with a range of 1 all but a few would stand
still."""


@final
class Upsampler(TextConditioned):
    """U-Net over [x_t, resized low resolution image].

    Without attention it runs at any size the stride divides; with it, best at the size it was trained at.
    With `noise_conditioning` it is told how much noise was added to the low resolution image.
    """

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)
        self.last_unet = UNet(config.unet) if config.last_step_unet else None
        width, embedding = config.model_channels, self.unet.embedding_channels
        if config.text is not None:
            self.add_text(config.text, embedding)
        if config.noise_conditioning:
            self.noise_level_embed = nn.Sequential(
                nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
            )

    def forward(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        low_res: Float[Tensor, "B 3 h w"],
        noise_level: Float[Tensor, " B"] | None = None,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"] | None = None,
        text_mask: Bool[Tensor, "B L"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
        known: Float[Tensor, "B 4 H W"] | None = None,
    ) -> Float[Tensor, "B out H W"]:
        """Raw output of 3 channels, or 6 with a learned variance.  `low_res` is in [-1, 1], of any size whose
        shape is that of x_t divided by one number, already noised to `noise_level`.  `known`:
        `Known.channels()`, for a network with `config.inpainting`; without it nothing is known.

        Raises `ValueError` when the shapes do not match or are not divisible by the stride, and when a
        condition comes or lacks against the configuration.
        """
        conditions = self.condition(noise_level, text, text_mask, drop_text)
        return self.denoise(x_t, t, low_res=low_res, known=known, **conditions)

    def condition(
        self,
        noise_level: Float[Tensor, " B"] | None = None,
        text: Int[Tensor, "B L"] | Float[Tensor, "B L c"] | None = None,
        text_mask: Bool[Tensor, "B L"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
    ) -> dict[str, Tensor]:
        """What `denoise` takes beside the low resolution image; it does not change along a chain.

        `text_mask` is True on the text; None: everywhere.
        """
        self._check_given("text", text, self.config.text is not None)
        self._check_given("noise_level", noise_level, self.config.noise_conditioning)
        conditions: dict[str, Tensor] = {}
        if text is not None:
            everything = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
            mask = everything if text_mask is None else text_mask
            conditions = self.encode_text(text, mask, drop_text).as_kwargs()
        if noise_level is not None:
            level = timestep_embedding(noise_level * LEVEL_STEPS, self.config.model_channels)
            told = self.noise_level_embed(level.to(next(self.noise_level_embed.parameters()).dtype))
            conditions["time_shift"] = conditions.get("time_shift", 0) + told
        return conditions

    def denoise(
        self,
        x_t: Float[Tensor, "B 3 H W"],
        t: Int[Tensor, " B"],
        *,
        low_res: Float[Tensor, "B 3 h w"],
        known: Float[Tensor, "B 4 H W"] | None = None,
        **conditions: Tensor,
    ) -> Float[Tensor, "B out H W"]:
        """`forward` with the conditions of `condition`, by name, as the samplers want it."""
        height, width = x_t.shape[2:]
        low_height, low_width = low_res.shape[2:]
        if height * low_width != width * low_height:
            raise ValueError(
                f"Upsampler: {height}x{width} and the low resolution {low_height}x{low_width} differ in "
                f"shape; crop both alike"
            )
        resized = self.resize(low_res, (height, width))
        x = append_known(torch.cat([x_t, resized], dim=1), known, self.config.inpainting)
        output = self._unet_of(t)(x, t, **conditions)
        return output + resized if self.config.residual else output

    def resize(self, low_res: Float[Tensor, "B 3 h w"], size: tuple[int, int]) -> Float[Tensor, "B 3 H W"]:
        """The low resolution image at the output's size, as the network sees it."""
        mode, _, antialias = self.config.interpolation.partition("_")
        return F.interpolate(low_res, size, mode=mode, align_corners=False, antialias=bool(antialias))

    def _unet_of(self, t: Int[Tensor, " B"]) -> UNet:
        if self.last_unet is None or not bool((t == 0).any()):
            return self.unet
        if not bool((t == 0).all()):
            raise ValueError(
                "Upsampler: with last_step_unet all samples are at step 0 or none; it is not trained"
            )
        return self.last_unet

    def _check_given(self, name: str, value: Tensor | None, expected: bool) -> None:
        if (value is not None) != expected:
            wants = f"a {name}" if expected else f"no {name}"
            raise ValueError(
                f"Upsampler: expected {wants}, got {'none' if value is None else tuple(value.shape)}; its "
                f"configuration decides"
            )
