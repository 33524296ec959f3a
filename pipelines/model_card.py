"""The model card: what a model is, what it was trained on, what was measured, and what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.store import Artifact
from models.config import parameter_count

if TYPE_CHECKING:
    from models.cascade import UnCLIP

HEADLINES = {
    "prior": (
        "cosine_posterior_mean",
        "cosine_text_embedding",
        "cosine_mean_image_embedding",
        "cosine_ridge",
        "bits_trained",
        "bits_marginal",
    ),
    "decoder": ("loss_trained", "loss_untrained", "loss_constant"),
    "upsampler": ("psnr_db", "psnr_db_bicubic", "psnr_db_gain"),
    "cascade": ("kid_generated", "kid_floor", "score_generated", "score_shuffled", "score_real"),
}
"""Figures of the evaluation that the card shows, by the beginning of their section's name."""


def model_card(
    model: UnCLIP, digest: str, inputs: Mapping[str, Artifact], *, attribution: str, licence: str
) -> str:
    """Markdown, the same for the same inputs."""
    evaluation = json.loads((inputs["evaluation"].path / "evaluation.json").read_bytes())
    parts = [
        "# unCLIP cascade",
        f"A caption goes through {_kind(model)} prior to an image embedding, and from there through a "
        "decoder and upsamplers to an image (unCLIP, arXiv 2204.06125).",
        f"Model digest: `{digest}`",
        "## Networks",
        _networks(model),
        "## Data",
        _data(inputs, attribution),
        "## Evaluation",
        f"On the held-out {evaluation['split']} split, with 95 % intervals; KID is on "
        f"{evaluation['features']} features and is not FID, scores are cosines of the encoder "
        f"`{evaluation['encoder']}`. All figures: `evaluation.json`.",
        _figures(evaluation["sections"]),
        "## Limits",
        _limits(),
        "## Use",
        '`unclip generate "a red heart" --model DIR -n 4 --out out/`, or '
        "`mlflow.pyfunc.load_model(...)` with a column `prompt`.",
    ]
    if licence:
        parts += ["## Licence", licence]
    return "\n\n".join(parts) + "\n"


def _kind(model: UnCLIP) -> str:
    return "an autoregressive" if model.config.prior_diffusion is None else "a diffusion"


def _networks(model: UnCLIP) -> str:
    config = model.config
    rows = [
        ("decoder", model.decoder, f"{config.decoder.image_size} px"),
        *(
            (f"upsampler {i}", network, f"{c.low_res_size} to {c.image_size} px")
            for i, (network, c) in enumerate(zip(model.upsamplers, config.upsamplers, strict=True))
        ),
    ]
    if model.prior is not None:
        rows.insert(0, ("prior", model.prior, f"{model.prior.config.embedding_dim}-d embedding"))
    lines = [f"| {name} | {parameter_count(network):,} | {makes} |" for name, network, makes in rows]
    return "\n".join(["| network | parameters | makes |", "|---|---|---|", *lines])


def _data(inputs: Mapping[str, Artifact], attribution: str) -> str:
    lines = [
        f"- {name}: `{inputs[name].content}`"
        for name in ("corpus", "embeddings", "evaluation")
        if name in inputs
    ]
    lines.append(f"- {inputs['corpus'].rows.kept} images fetched of {inputs['corpus'].rows.total} listed")
    if attribution:
        lines.append(f"- {attribution}")
    return "\n".join(lines)


def _figures(sections: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    lines = ["| figure | value | 95 % interval | n |", "|---|---|---|---|"]
    shown = [
        (section, name)
        for beginning, names in HEADLINES.items()
        for section in sorted(sections)
        if section.startswith(beginning)
        for name in names
        if name in sections[section]
    ]
    for section, name in shown:
        f = sections[section][name]
        interval = f"{f['low']:.4g} to {f['high']:.4g}"
        lines.append(f"| {section} {name} | {f['value']:.4g} | {interval} | {f['n']} |".replace("_", " "))
    return "\n".join(lines)


def _limits() -> str:
    return (
        "- It knows what its corpus shows and little else; prompts unlike its captions give arbitrary "
        "images.\n"
        "- Scores come from the encoder it was conditioned on: they say whether the cascade keeps what it "
        "was told, not how people would judge it.\n"
        "- Content filters ran on the training data, none runs on what is generated.\n"
        "- A corpus of few images invites memorisation: see the nearest training images in `grid.png`."
    )
