"""Sampling and training beside diffusers and dalle2-pytorch, at equal size, both in turn in one process.

    python -m tests.benchmarks.sampling --json [--images 2] [--repeats 5] [--seconds 2]
    python -m tests.benchmarks.sampling --device cuda --dtype bf16 --compile --channels-last --images 16

Ratios above 1 mean that ours is faster.  `vs_diffusers`: a step of each network (both branches of guidance in
one forward), and whole sampling loops against diffusers' `UnCLIPPipeline`.  `train_vs_dalle2_pytorch`: an
update of prior and decoder at equal parameter count, resolution and batch; dalle2-pytorch pins an older
open_clip, so it is in no lock of ours (docs/manipulations.md says how to put it beside); without it the ratio
is left out and the reason given.  Peak memory is what tensors of one call hold at most.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from models.cascade import UnCLIP
from models.sampling import CascadeSampling, StageSampling
from tests.benchmarks.alternating import Call, in_turn
from tests.benchmarks.equal_size import Size, diffusers_parts, diffusers_pipeline
from tests.benchmarks.result import print_result

AIM = {"vs_diffusers": 1.2, "train_vs_dalle2_pytorch": 1.5}
HEADLINES = {"vs_diffusers": "whole_loop", "train_vs_dalle2_pytorch": "decoder"}
"""Of each peer's comparisons the one that its ratio is: a prior has no resolution to be equal at."""

PRIOR_STEPS, DECODER_STEPS, UPSAMPLER_STEPS = 10, 10, 4
PRIOR_GUIDANCE, DECODER_GUIDANCE = 4.0, 8.0


def network_steps(
    model: UnCLIP, parts: dict[str, torch.nn.Module], size: Size, images: int, like: torch.Tensor
) -> dict[str, tuple[Call, Call]]:
    """One call of each network as a guided sampler makes it: conditions encoded before, both branches."""
    rows = 2 * images
    t = torch.full((rows,), 500, device=like.device)
    x, z = like.new_ones(rows, 3, size.image_size, size.image_size), like.new_ones(rows, size.embedding)
    tokens = torch.ones(rows, size.context, dtype=torch.long, device=like.device)
    mask = torch.ones(rows, size.context, dtype=torch.bool, device=like.device)
    with torch.no_grad():
        ours = model.decoder.condition(z, tokens, mask).as_kwargs()
        text = model.prior.condition(tokens, mask, z)
    theirs = {
        "encoder_hidden_states": ours["context"].transpose(1, 2).contiguous(),
        "class_labels": ours["time_shift"],
        "attention_mask": torch.ones(rows, ours["context"].shape[2], dtype=torch.bool, device=like.device),
    }
    features = like.new_ones(rows, size.context, size.embedding)
    large = like.new_ones(images, 3, size.upsampled, size.upsampled)
    low = torch.nn.functional.interpolate(large, size.image_size)
    upsampler = model.upsamplers[0]
    return {
        "prior": (
            lambda: model.prior.denoise(z, t, **text),
            lambda: parts["prior"](
                z, t, proj_embedding=z, encoder_hidden_states=features, attention_mask=mask
            ),
        ),
        "decoder": (
            lambda: model.decoder.denoise(x, t, **ours),
            lambda: parts["decoder"](x, t, **theirs).sample,
        ),
        "upsampler": (
            lambda: upsampler.denoise(large, t[:images], low_res=low),
            lambda: parts["upsampler"](torch.cat([large, large], dim=1), t[:images]).sample,
        ),
    }


def whole_loops(
    model: UnCLIP, parts: dict[str, torch.nn.Module], size: Size, images: int, like: torch.Tensor
) -> tuple[Call, Call]:
    """Captions to pictures: prior and decoder guided, the upsampler not, ancestral steps as theirs takes."""
    sampling = CascadeSampling(
        prior=StageSampling(sampler="ddpm", steps=PRIOR_STEPS, guidance=PRIOR_GUIDANCE),
        decoder=StageSampling(sampler="ddpm", steps=DECODER_STEPS, guidance=DECODER_GUIDANCE),
        upsamplers=(StageSampling(sampler="ddpm", steps=UPSAMPLER_STEPS),),
        prior_candidates=1,
    )
    tokens = torch.ones(images, size.context, dtype=torch.long, device=like.device)
    mask = torch.ones(images, size.context, dtype=torch.bool, device=like.device)
    embedding = torch.nn.functional.normalize(like.new_ones(images, size.embedding))
    features = like.new_ones(images, size.context, size.embedding)
    pipeline = diffusers_pipeline(parts, size).to(like.device, like.dtype)

    def theirs() -> Any:
        return pipeline(
            text_model_output=(embedding, features),
            text_attention_mask=mask,
            prior_num_inference_steps=PRIOR_STEPS,
            decoder_num_inference_steps=DECODER_STEPS,
            super_res_num_inference_steps=UPSAMPLER_STEPS,
            prior_guidance_scale=PRIOR_GUIDANCE,
            decoder_guidance_scale=DECODER_GUIDANCE,
            output_type="np",
        )

    return lambda: model.generate(tokens, mask, embedding, seed=0, sampling=sampling), theirs


def against_diffusers(arguments: argparse.Namespace, measure: Callable[[Call, Call], Any]) -> dict[str, Any]:
    size, device = Size(), torch.device(arguments.device)
    like = torch.empty(0, device=device, dtype=torch.bfloat16 if arguments.dtype == "bf16" else torch.float32)
    torch.manual_seed(0)
    model, parts = UnCLIP(size.config()).eval(), diffusers_parts(size)
    memory = torch.channels_last if arguments.channels_last else torch.contiguous_format
    for module in (model, *parts.values()):
        module.to(device, like.dtype, memory_format=memory).eval().requires_grad_(False)
    counts = {"prior": model.prior, "decoder": model.decoder.unet, "upsampler": model.upsamplers[0]}
    parameters = {
        name: [sum(p.numel() for p in side.parameters()) for side in (ours, parts[name])]
        for name, ours in counts.items()
    }
    if arguments.compile:
        for module in (*counts.values(), *parts.values()):
            module.compile()
    with torch.inference_mode():
        found = {
            name: measure(*calls)
            for name, calls in network_steps(model, parts, size, arguments.images, like).items()
        }
        found["whole_loop"] = measure(*whole_loops(model, parts, size, arguments.images, like))
    found["whole_loop"]["ours_images_per_s"] = arguments.images / found["whole_loop"]["ours_s"]
    found["whole_loop"]["theirs_images_per_s"] = arguments.images / found["whole_loop"]["theirs_s"]
    return {"parameters": parameters, **found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each side in a repeat, at least")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--only", choices=("diffusers", "dalle2-pytorch"))
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; the last line is JSON")
    arguments = parser.parse_args()

    def measure(ours: Call, theirs: Call) -> dict[str, Any]:
        device = torch.device(arguments.device)
        return in_turn(ours, theirs, repeats=arguments.repeats, seconds=arguments.seconds, device=device)

    found: dict[str, Any] = {}
    if arguments.only != "dalle2-pytorch":
        found["vs_diffusers"] = against_diffusers(arguments, measure)
    if arguments.only != "diffusers":
        from tests.benchmarks.training_peer import against_dalle2_pytorch

        found["train_vs_dalle2_pytorch"] = against_dalle2_pytorch(arguments.device, measure)
    report(found, arguments.repeats)


def report(found: dict[str, Any], repeats: int) -> None:
    measured = {
        f"{peer}_{name}": values
        for peer, parts in found.items()
        for name, values in parts.items()
        if isinstance(values, dict) and "ratio" in values
    }
    ratios = {name: round(values["ratio"], 3) for name, values in measured.items()}
    for peer, headline in HEADLINES.items():
        if f"{peer}_{headline}" in ratios:
            ratios[peer] = ratios[f"{peer}_{headline}"]
    spreads = {name: values.pop("spread") for name, values in measured.items()}
    sides = {
        side: {
            name: {k.removeprefix(f"{side}_"): v for k, v in values.items() if k.startswith(side)}
            for name, values in measured.items()
        }
        for side in ("ours", "theirs")
    }
    facts = {
        peer: {name: values for name, values in parts.items() if f"{peer}_{name}" not in measured}
        for peer, parts in found.items()
    }
    print_result(
        "sampling",
        ours={**sides["ours"], "facts": facts},
        peers=sides["theirs"],
        limit=AIM,
        ratios=ratios,
        repeats=repeats,
        spread=spreads,
    )


if __name__ == "__main__":
    main()
