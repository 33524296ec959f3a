"""Trying policies on the stored scores of a root; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.digests import digest_of
from infra.store import Artifact, Store, StoreError
from workflows.refusal import Refusal, did_you_mean
from workflows.report import table

if TYPE_CHECKING:
    from filters.policy import Policy
    from pipelines.judge.change import Change, Group
    from pipelines.judge.stored import StoredVerdict
    from pipelines.judge.sweep import Labelled, Sweep

VERDICT, JUDGE = "verdict", "judge"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A policy tried on a verdict's stored scores."""

    stored: StoredVerdict
    policy: Policy
    change: Change

    @property
    def notes(self) -> list[str]:
        """What whoever reads the figures must know."""
        before, after = self.stored.policy, self.policy
        named_alike = (before.name, before.version) == (after.name, after.version)
        if named_alike and before != after:
            return [
                f"policy {after.name!r} says version {after.version}, as the one before it did, with other "
                "rules: raise its version"
            ]
        return ["the policy is the one that this verdict was made with"] if before == after else []


def find_verdict(root: Path, address: str | None = None) -> Artifact:
    """The verdict whose address begins with `address`, or the root's newest; of judge steps alone.

    Raises `Refusal` where there is none, or several begin so.
    """
    known = [a for a in Store(root).artifacts() if a.kind == VERDICT and a.manifest["step"] == JUDGE]
    if not known:
        raise Refusal(
            f"no verdict in {root} yet: run a recipe with a judge step first (or give another --root)"
        )
    if address is None:
        return max(known, key=lambda artifact: float(artifact.host["finished_at"]))
    found = [artifact for artifact in known if artifact.address.startswith(address)]
    if len(found) != 1:
        names = ", ".join(artifact.address[:20] for artifact in known)
        raise Refusal(f"verdict {address}: {len(found)} match, expected one of: {names}")
    return found[0]


def open_verdict(root: Path, address: str | None = None) -> StoredVerdict:
    """`find_verdict` with its inputs; raises `Refusal` likewise, `StoreError` where one of them is gone."""
    from filters.policy import PolicyError
    from pipelines.judge.stored import StoredVerdict

    try:
        return StoredVerdict.of(find_verdict(root, address), Store(root))
    except PolicyError as error:  # written by a version with another form of policies
        raise Refusal(str(error).replace("\n", ";")) from None


def read_policy(path: str) -> Policy:
    """The policy in a file, of the package too; raises `Refusal` with a line for each problem."""
    from filters.policy import Policy, PolicyError
    from pipelines.step import package_file

    try:
        return Policy.from_file(package_file(path))
    except (FileNotFoundError, PolicyError) as error:
        raise Refusal(problem_lines(error)) from None


def try_policy(stored: StoredVerdict, policy: Policy) -> Trial:
    """What `policy` would change; raises `Refusal` where it names a score that was not computed, and
    `StoreError` where the stored artifacts are not of the same rows."""
    from filters.policy import PolicyError
    from pipelines.aligned import MisalignedError
    from pipelines.judge.change import compare

    try:
        judged = stored.judge(policy)
        stored.require_same_rows(judged)
    except PolicyError as error:
        raise Refusal(problem_lines(error)) from None
    except MisalignedError as error:
        raise StoreError(f"{stored.verdict.path}: {error}") from None
    return Trial(stored=stored, policy=policy, change=compare(stored.table(), judged.verdict))


def sweep_score(
    stored: StoredVerdict,
    policy: Policy,
    score: str,
    *,
    side: str | None,
    points: int,
    labels: Path | None = None,
    category: str | None = None,
) -> Sweep:
    """The curve of a stored score; raises `Refusal` where it, or one that the policy reads, is not there.

    `labels`: a file whose samples of `category` give recall and precision.
    """
    from filters.policy import PolicyError
    from pipelines.judge.sweep import sweep

    for name in (score, *policy.score_names()):
        require_score(stored, name)
    try:
        labelled = _labelled(stored, policy, score, labels, category) if labels else None
        return sweep(stored, policy, score, side, points, labelled)  # type: ignore[arg-type]
    except PolicyError as error:
        raise Refusal(problem_lines(error)) from None


def _labelled(
    stored: StoredVerdict, policy: Policy, score: str, path: Path, category: str | None
) -> Labelled:
    from filters.labels import LabelsError, read_labels
    from pipelines.judge.sweep import Labelled
    from pipelines.scores import read_scores
    from workflows.labelled import choose

    samples = read_scores(stored.annotation, [score])
    categories = {rule.category for rule in policy.rules}
    try:
        labels = read_labels(path, images=samples.images, categories=categories)
    except LabelsError as error:
        raise Refusal(str(error)) from error
    chosen = choose(labels, samples, category, path)
    return Labelled(
        category=chosen.category,
        scores=samples.score(score)[chosen.rows],
        positive=chosen.positive,
        picked=chosen.picked,
    )


def sweep_text(curve: Sweep) -> str:
    """The curve as a table, the policy's own thresholds marked."""
    from pipelines.judge.sweep import rate_text

    own: dict[float, list[str]] = {}
    for bound in curve.marks:
        if bound.side == curve.side:
            own.setdefault(bound.value, []).append(bound.rule)
    rates = ("recall", "precision") if curve.category else ()
    rows: list[tuple[str, ...]] = [
        ("drop " + curve.side, "rows kept", "alone", "with other rules", *rates, "")
    ]
    for point in curve.points:
        shares = (f"{100 * point.kept_share:.2f} %", f"{100 * point.kept_share_with_other_rules:.2f} %")
        rules = own.get(point.threshold)
        arrow = f"<- {', '.join(dict.fromkeys(rules))}" if rules else ""
        labelled = [rate_text(getattr(point, rate)) for rate in rates]
        rows.append((f"{point.threshold:g}", f"{point.kept_rows:,}", *shares, *labelled, arrow))
    notes = [f"recall and precision: labels of {curve.category}, this threshold alone"] if rates else []
    if curve.picked:
        notes.append(f"{curve.picked} labels are of samples that were picked: these rates are theirs")
    return "\n".join([f"{curve.score}: {curve.rows:,} rows", *table(rows), *notes])


def trial_json(trial: Trial) -> dict[str, Any]:
    """The trial for machines."""
    return {
        "verdict": trial.stored.verdict.address,
        "before": policy_facts(trial.stored.policy),
        "after": policy_facts(trial.policy),
        **trial.change.json(),
        "notes": trial.notes,
    }


def trial_text(trial: Trial) -> str:
    """The trial for people."""
    change, before, after = trial.change, trial.stored.policy, trial.policy
    lines = [
        f"{_named(before)} -> {_named(after)} on verdict {trial.stored.verdict.address[:20]}: "
        f"kept {change.kept_before:,} -> {change.kept_after:,} of {change.rows:,} rows"
    ]
    lines += _groups_text(f"newly dropped: {change.dropped:,}", change.newly_dropped)
    lines += _groups_text(f"newly kept: {change.kept:,}", change.newly_kept)
    if change.other_reason:
        lines.append(f"out for another reason than before: {change.other_reason:,}")
    if change.other_weight:
        lines.append(f"kept with another weight: {change.other_weight:,}")
    return "\n".join([*lines, *trial.notes, "nothing was written; a run with this policy makes the verdict"])


def policy_facts(policy: Policy) -> dict[str, Any]:
    """Name, version and digest, as a report has them."""
    return {"name": policy.name, "version": policy.version, "digest": digest_of(policy.to_dict())}


def require_score(stored: StoredVerdict, score: str) -> None:
    """Raises `Refusal` naming the nearest score where the annotation does not hold this one."""
    known = stored.score_names()
    if score not in known:
        raise Refusal(f"unknown score {score!r}{did_you_mean(score, known)}; stored: {', '.join(known)}")


def _groups_text(heading: str, groups: list[Group]) -> list[str]:
    if not groups:
        return [heading]
    rows = [("category", "rule", "rows", "for example")]
    rows += [(g.category, g.rule, f"{g.rows:,}", ", ".join(g.keys)) for g in groups]
    return [heading, *table(rows)]


def _named(policy: Policy) -> str:
    return f"{policy.name} v{policy.version}"


def problem_lines(error: Exception) -> list[str]:
    """One line a problem; a policy file's come below a heading that names the file."""
    heading, *problems = str(error).splitlines()
    return [f"{heading}: {problem.strip()}" for problem in problems] or [heading]
