"""Approve: the gate between a verdict and all that learns from it, opened by a person."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from infra.approvals import Approval, find_approval
from infra.digests import digest_of
from infra.store import Artifact
from pipelines.step import Context, Resources, Step, StepConfig, input_of

JUDGE = "judge"


class ApproveConfig(StepConfig):
    """`verdict`: what a judge step made; `corpus`: what it judged."""

    corpus: str = input_of("corpus")
    verdict: str = input_of("verdict")


class NotApprovedError(RuntimeError):
    """A verdict that nobody approved."""


class Approve(Step[ApproveConfig, Resources]):
    """Passes the verdict on, byte for byte, once `unclip approve` is on record for it.

    What it makes has the content of the verdict, so a gate put into a recipe makes nothing anew; what takes
    `${steps.approve}` cannot be reached without it.  A changed policy makes another verdict (its digest is in
    the report), which needs an approval of its own.
    """

    kind = "approve"
    produces = "verdict"
    version = 1
    Config = ApproveConfig

    def check_inputs(self, config: ApproveConfig, inputs: Mapping[str, Artifact]) -> list[str]:  # noqa: ARG002
        verdict = inputs["verdict"]
        if verdict.manifest["step"] != JUDGE:
            return [
                f"verdict: {verdict.address[:20]} was made by {verdict.manifest['step']}, expected {JUDGE}"
            ]
        judged = verdict.manifest["inputs"]["corpus"]["content"]
        if judged != inputs["corpus"].content:
            return ["corpus: is not the one that the verdict is of; wire both to the same corpus"]
        if approval_of(verdict) is not None:
            return []
        policy, rows, root = policy_facts(verdict), verdict.rows, verdict.path.parents[2]
        return [
            f"verdict {verdict.address[:20]} (policy {policy['name']} v{policy['version']}, {rows.kept:,} of "
            f"{rows.total:,} rows kept) is not approved: look at {verdict.path / 'report.html'}, then run: "
            f"unclip approve {verdict.address[:20]} --root {root} --by NAME"
        ]

    def run(self, context: Context[ApproveConfig, Resources]) -> dict[str, Any]:
        verdict, draft = context.inputs["verdict"], context.draft
        approval = approval_of(verdict)
        if approval is None:
            raise NotApprovedError(self.check_inputs(context.config, context.inputs)[0])
        committed = draft.committed()
        for record in verdict.shards:
            if record.name not in committed:
                draft.link_shard(record, verdict.path)
        for name in verdict.manifest["files"]:
            temporary = draft.temporary(name)
            shutil.copyfile(verdict.path / name, temporary)
            draft.commit_file(name, temporary)
        policy = f"{approval.policy['name']} v{approval.policy['version']}"
        return {
            "policy": policy,
            "policy_digest": approval.policy["digest"],
            "approval": approval.number,
            "approved_by": approval.who,
            "approved_at": approval.when,
            "note": approval.note,
        }


def policy_facts(verdict: Artifact) -> dict[str, Any]:
    """Name, version and digest of the policy that a judge step's verdict was made by."""
    policy = verdict.manifest["identity"]["policy"]
    return {"name": policy["name"], "version": policy["version"], "digest": digest_of(policy)}


def approval_of(verdict: Artifact) -> Approval | None:
    """The approval on record, in the store that the verdict lies in, for its content and its policy."""
    store = verdict.path.parents[1]
    return find_approval(store, verdict.content, policy_facts(verdict)["digest"])
