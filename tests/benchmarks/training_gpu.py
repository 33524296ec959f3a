"""How much of a GPU the networks of Table 3 use: an update of each at the paper's size, in bf16.

    python -m tests.benchmarks.training_gpu --json [--compile] [--repeats 5] [--batch 16] [--peak-tflops 989]

Needs torch, numpy, pyarrow and jaxtyping alone.  MFU is three times the forward pass's operations, over
seconds and the card's dense bf16 peak.  What does not fit is tried at half the batch, then left out by name.
Without a GPU, or with `--toy`, the networks are tiny: that shows that this file works, and measures nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from models.config import DecoderConfig, PriorConfig, UpsamplerConfig
from pipelines.train.cost import cost_of
from pipelines.train.job import TrainedConfig
from tests.benchmarks.result import print_result, spread

H100_TFLOPS = 989.0
VOCABULARY = 50_257


def networks(*, toy: bool) -> dict[str, tuple[TrainedConfig, int]]:
    """Of the paper's Table 3, with the side they are trained at; `toy`: the same shapes, tiny."""
    width, layers, heads, context = (64, 1, 2, 8) if toy else (2048, 24, 32, 256)
    return {
        "prior": (
            PriorConfig(
                embedding_dim=64 if toy else 1024,
                context=context,
                width=width,
                layers=layers,
                heads=heads,
                vocab_size=VOCABULARY,
            ),
            0,
        ),
        "decoder": (
            DecoderConfig(
                embedding_dim=64 if toy else 1024,
                model_channels=32 if toy else 512,
                channel_mult=(1, 2, 3, 4),
                num_res_blocks=1 if toy else 3,
                attention_resolutions=(32, 16, 8),
                num_head_channels=32 if toy else 64,
                vocab_size=VOCABULARY,
                text_context=context,
                text_width=width,
                text_layers=layers,
                text_heads=heads,
                dropout=0.1,
            ),
            64,
        ),
        "upsampler_256": (_upsampler(256, 64, 32 if toy else 320, (1, 2, 3, 4), 1 if toy else 3, 0.1), 64),
        "upsampler_1024": (
            _upsampler(1024, 256, 32 if toy else 192, (1, 1, 2, 2, 4, 4), 1 if toy else 2, 0.0),
            64 if toy else 256,
        ),
    }


def _upsampler(
    size: int, low: int, channels: int, multiples: tuple[int, ...], blocks: int, dropout: float
) -> UpsamplerConfig:
    return UpsamplerConfig(
        image_size=size,
        low_res_size=low,
        model_channels=channels,
        channel_mult=multiples,
        num_res_blocks=blocks,
        dropout=dropout,
    )


def inputs(config: TrainedConfig, side: int, batch: int, device: torch.device) -> tuple[Any, ...]:
    t = torch.full((batch,), 500, device=device)
    if isinstance(config, UpsamplerConfig):
        low = side // config.scale
        return (
            torch.randn(batch, 3, side, side, device=device),
            t,
            torch.randn(batch, 3, low, low, device=device),
        )
    z = torch.randn(batch, config.embedding_dim or 1, device=device)
    length = config.context if isinstance(config, PriorConfig) else config.text_context
    tokens = torch.ones(batch, length, dtype=torch.long, device=device)
    if isinstance(config, DecoderConfig):
        return torch.randn(batch, 3, side, side, device=device), t, z, tokens, tokens > 0
    return z, t, tokens, tokens > 0, z


def measured(config: TrainedConfig, side: int, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an update, MFU and peak memory at the largest batch up to `batch` that fits."""
    device = torch.device(arguments.device)
    while batch >= 1:
        try:
            seconds, peak = _updates(config, side, batch, arguments.repeats, arguments.compile, device)
        except torch.OutOfMemoryError:
            seconds = []
        if not seconds:  # past the handler, which holds the tensors that did not fit
            torch.cuda.empty_cache()
            batch //= 2
            continue
        cost = cost_of(config, side or None)
        achieved = 3 * cost.forward_flop * batch / statistics.median(seconds)
        return {
            "parameters": cost.parameters,
            "batch": batch,
            "seconds": spread(seconds),
            "mfu": achieved / (arguments.peak_tflops * 1e12),
            "peak_gb": peak / 1e9,
        }
    return {"left_out": f"does not fit into {device} at batch 1"}


def _updates(
    config: TrainedConfig, side: int, batch: int, repeats: int, compiled: bool, device: torch.device
) -> tuple[list[float], int]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with device:
        network = config.build()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=device.type == "cuda")
    if compiled:
        network.compile()
    example, seconds = inputs(config, side, batch, device), []
    for repeat in range(repeats + 2):  # two to warm up and compile
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            output = network(*example)
        output.float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= 2:
            seconds.append(time.perf_counter() - began)
    return seconds, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=H100_TFLOPS, help="of the card, dense bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()
    toy = arguments.toy or arguments.device == "cpu"
    found = {
        name: measured(config, side, 2 if toy else arguments.batch, arguments)
        for name, (config, side) in networks(toy=toy).items()
    }
    print_result(
        "training_gpu",
        ours={"toy": toy, "device": arguments.device, **found},
        repeats=arguments.repeats,
        spread={name: values.get("seconds") for name, values in found.items()},
    )


if __name__ == "__main__":
    main()
