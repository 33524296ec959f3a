"""Judge: a policy, the duplicates and the split become one verdict for every input row, with a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from filters.policy import Policy, PolicyError
from filters.terms import Terms, TermsError
from filters.weights import WeightsError
from infra.forget import ForgetList
from infra.shards import write_parquet
from infra.store import Artifact
from pipelines.judge.reweight import Reweight
from pipelines.step import Context, Resources, Step, StepConfig, file_beside_recipe, input_of, package_file

REPORT_JSON, REPORT_HTML = "report.json", "report.html"


class Fractions(StepConfig):
    """Shares of the splits; they must sum to 1."""

    train: float = Field(default=0.8, ge=0, le=1)
    validation: float = Field(default=0.08, ge=0, le=1)
    test: float = Field(default=0.12, ge=0, le=1)


class JudgeConfig(StepConfig):
    """Which policy decides, how what is kept is split, and what the report is compared with.

    `policy`: a file beside the recipe, in the current folder, or in the packages.  `truth`: a site's record
    of what is wrong with each URL; only the report reads it.  `notes` are printed in the report as they are.
    `terms`: a file of words whose shares the report compares before and after.  `examples`: so many samples
    of each reason are shown in the page, blurred.  `reweight`: weights that undo what filtering shifted; null
    leaves the policy's own.
    """

    corpus: str = input_of("corpus")
    annotation: str = input_of("annotation")
    clusters: str = input_of("clusters")
    truth: str | None = input_of("urls", optional=True)
    policy: str = file_beside_recipe("filters/policies/demo.yaml")
    split: Fractions = Fractions()
    seed: int = 0
    keep_duplicates: bool = False
    terms: str = file_beside_recipe("filters/terms.yaml")
    examples: int = Field(default=4, ge=0, le=50)
    reweight: Reweight | None = None
    notes: tuple[str, ...] = ()


class Judge(Step[JudgeConfig, Resources]):
    """Writes one row for every input row of the corpus, and `report.json` and `report.html`.

    Columns: `key, keep, reason, rule, category, score, weight, duplicate_of, split`.  A row fails (rule
    `acquire` or `annotate`), is dropped as forgotten, by a rule of the policy or as a duplicate, or is kept
    with a split.  Nothing is computed anew: a changed threshold is re-judged in seconds.
    """

    kind = "judge"
    produces = "verdict"
    version = 2
    forgets = "corpus"
    Config = JudgeConfig

    def identity(self, config: JudgeConfig) -> dict[str, Any]:
        """The content of policy and terms: the same file name may hold others tomorrow."""
        return {
            "policy": Policy.from_file(package_file(config.policy)).to_dict(),
            "terms": Terms.from_file(package_file(config.terms)).to_dict(),
        }

    def check(self, config: JudgeConfig) -> list[str]:
        problems = []
        for path, read in ((config.policy, Policy.from_file), (config.terms, Terms.from_file)):
            try:
                read(package_file(path))
            except (FileNotFoundError, PolicyError, TermsError) as error:
                problems.append(str(error))
        total = config.split.train + config.split.validation + config.split.test
        if abs(total - 1) > 1e-9:
            problems.append(f"split: expected shares that sum to 1, got {total:g}")
        return problems

    def check_inputs(self, config: JudgeConfig, inputs: Mapping[str, Artifact]) -> list[str]:
        """A score that the policy names and the annotation does not hold."""
        from pipelines.aligned import shard_names
        from pipelines.judge.verdict import score_columns

        annotation = inputs["annotation"]
        shards = shard_names(annotation)
        try:
            policy = Policy.from_file(package_file(config.policy))
            policy.refuse_unknown(score_columns(annotation, shards[0]) if shards else policy.score_names())
        except (FileNotFoundError, PolicyError) as error:
            return [str(error)]
        return []

    def check_makers(self, config: JudgeConfig, makers: Mapping[str, StepConfig]) -> list[str]:
        """A score that no configured scorer makes, or a bound that no value of it meets."""
        from pipelines.annotate.config import AnnotateConfig

        annotate = makers.get("annotation")
        if not isinstance(annotate, AnnotateConfig):
            return []
        try:
            specs = annotate.score_specs()
        except (ValueError, OSError, WeightsError):  # told by the step whose scorers they are
            return []
        try:
            Policy.from_file(package_file(config.policy)).check_specs(specs)
        except PolicyError as error:
            return [str(error)]
        return []

    def run(self, context: Context[JudgeConfig, Resources]) -> dict[str, Any]:
        from pipelines.judge.examples import example_keys
        from pipelines.judge.page import render
        from pipelines.judge.report import make_report, summary_of
        from pipelines.judge.reweight import reweight
        from pipelines.judge.verdict import account, judge_rows
        from pipelines.thumbnails import thumbnails

        config, inputs, draft = context.config, context.inputs, context.draft
        policy = Policy.from_file(package_file(config.policy))
        judged = judge_rows(
            inputs["corpus"],
            inputs["annotation"],
            inputs["clusters"],
            policy,
            keep_duplicates=config.keep_duplicates,
            fractions=config.split.model_dump(),
            seed=config.seed,
            forgotten=ForgetList.open(inputs["corpus"].path.parents[1]),
        )
        reweighting = None
        if config.reweight:
            judged, reweighting = reweight(judged, inputs["annotation"], config.reweight)
        context.progress.start(len(judged.verdict))
        ends = [*list(judged.starts.values())[1:], len(judged.verdict)]
        for (shard, start), end in zip(judged.starts.items(), ends, strict=True):
            part = judged.verdict.slice(start, end - start)
            temporary = draft.temporary(f"{shard}.parquet")
            write_parquet(temporary, part)
            draft.commit_shard(shard, {f"{shard}.parquet": temporary}, account(part))
            context.progress.advance(len(part))
        report = make_report(
            judged,
            policy,
            Terms.from_file(package_file(config.terms)),
            truth=inputs.get("truth"),
            notes=config.notes,
            examples=config.examples,
            reweighting=reweighting,
        )
        draft.write_bytes(REPORT_JSON, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
        pictures = thumbnails(inputs["corpus"], example_keys(report)) if config.examples else {}
        draft.write_bytes(REPORT_HTML, render(report, pictures).encode())
        if missed := report.get("planted", {}).get("sealed", {}).get("all", {}).get("missed"):
            context.progress.say(f"planted captions missed, sealed half: {'; '.join(missed)}")
        for name in (REPORT_JSON, REPORT_HTML):
            context.journal.artifact(draft.path / name, "filter_report")
        return summary_of(report)
