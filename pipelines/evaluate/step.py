"""The step `evaluate`: each stage and the cascade on the held-out split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.store import Artifact, Rows
from pipelines.evaluate.config import UPSAMPLERS, EvaluateConfig
from pipelines.step import Context, Estimate, Resources, Step

if TYPE_CHECKING:
    from pipelines.evaluate.bench import Bench
    from pipelines.evaluate.sections import Section


class Evaluate(Step[EvaluateConfig, Resources]):
    """Figures with intervals, grids and a report; `pipelines/evaluate/sections.py` says what is measured."""

    kind = "evaluate"
    produces = "evaluation"
    version = 1
    Config = EvaluateConfig

    def check(self, config: EvaluateConfig) -> list[str]:
        """A prompt may not be empty, and every upsampler needs sampling settings."""
        problems = [f"prompts[{i}] is empty" for i, prompt in enumerate(config.prompts) if not prompt.strip()]
        wired = sum(upsampler is not None for upsampler in (config.upsampler_256, config.upsampler_1024))
        if wired > len(config.sampling.upsamplers):
            problems.append(
                f"sampling.upsamplers: {len(config.sampling.upsamplers)} settings for {wired} upsamplers"
            )
        return problems

    def check_inputs(self, config: EvaluateConfig, inputs: Mapping[str, Artifact]) -> list[str]:
        """The stages must make a cascade that can be sampled as asked; analytic variance of its prior must
        have been estimated for these steps."""
        from models.sampling import check_cascade
        from pipelines.cascade_io import cascade_config, open_stage

        names = [name for name in ("prior", "decoder", *UPSAMPLERS) if name in inputs]
        try:
            prior, decoder, *upsamplers = (open_stage(inputs[name].path) for name in names)
            cascade = cascade_config(prior, decoder, upsamplers)
            check_cascade(config.sampling, cascade)
        except ValueError as error:
            return [str(error)]
        settings, known = config.sampling.prior, cascade.prior_noise_powers
        if settings.variance != "analytic" or cascade.prior_diffusion is None or str(settings.steps) in known:
            return []
        return [
            f"sampling.prior: no analytic variance was estimated for {settings.steps!r} steps, only for "
            f"{', '.join(known) or 'none'}; sample with those or with variance 'model', or train the prior "
            f"with analytic_steps [{settings.steps}]"
        ]

    def estimate(self, config: EvaluateConfig, inputs: Mapping[str, Estimate]) -> Estimate:  # noqa: ARG002
        """Dominated by sampling and by encoding what was sampled."""
        images = config.generated + 4 * config.reference + len(config.prompts) * config.samples_per_prompt
        return Estimate(rows=config.generated, disk_bytes=5_000_000, seconds=10 + images * 0.15)

    def run(self, context: Context[EvaluateConfig, Resources]) -> dict[str, Any]:
        """Measure every section, write `evaluation.json`, `evaluation.html` and the pictures."""
        from pipelines.evaluate import report
        from pipelines.evaluate.bench import Bench

        config = context.config
        bench = Bench.open(config, context.inputs, context.draft.work)
        sections = _measure(bench, context)
        figures = {name: section.figures for name, section in sections.items()}
        pictures = {
            name: report.png_bytes(sheet)
            for section in sections.values()
            for name, sheet in section.sheets.items()
        }
        pictures[report.OVERVIEW_FILE] = report.overview(
            figures["prior"], "cosine_", "Mean cosine to the true image embedding, held-out captions"
        )
        facts = {
            "split": "test",
            "seed": config.seed,
            "encoder": bench.eyes.embedding_name,
            "features": bench.eyes.feature_name,
            "corpus": context.inputs["corpus"].content,
        }
        page = report.evaluation_html(figures, pictures, facts, config.attribution)
        files = pictures | {
            report.JSON_FILE: report.evaluation_json(figures, facts),
            report.HTML_FILE: page,
        }
        for name, data in sorted(files.items()):
            context.draft.write_bytes(name, data)
            context.journal.artifact(context.draft.path / name, "evaluation")
        summary = report.flat(figures)
        context.journal.metrics(summary)
        n = figures["prior"]["cosine_posterior_mean"].n
        context.fixed_rows.append(Rows(total=n, kept=n))
        return {"test_samples": n, **summary}


def _measure(bench: Bench, context: Context[EvaluateConfig, Resources]) -> dict[str, Section]:
    from pipelines.evaluate import sections

    upsamplers = list(bench.stages)[2:]
    measures = {
        "prior": lambda: sections.prior_section(bench),
        "decoder": lambda: sections.decoder_section(bench),
        **{name: _upsampler(bench, index) for index, name in enumerate(upsamplers)},
        "cascade": lambda: sections.cascade_section(bench),
        "grid": lambda: sections.grid_section(bench),
    }
    context.progress.start(len(measures), unit="sections")
    results = {}
    for name, measure in measures.items():
        results[name] = measure()
        context.progress.advance(note=name)
    return results


def _upsampler(bench: Bench, index: int) -> Any:
    from pipelines.evaluate import sections

    return lambda: sections.upsampler_section(bench, index)
