"""A finished verdict with what it was made of, so that another policy can be tried on the stored scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from filters.policy import Policy
from infra.forget import ForgetList
from infra.store import Artifact, Store, StoreError
from pipelines.aligned import read_metadata, read_table, require_same_keys, shard_names
from pipelines.forget.rows import forgotten_keys
from pipelines.judge.reweight import Reweight, reweight
from pipelines.judge.verdict import Judged, judge_rows, score_columns

JUDGE = "judge"
_COMPARED = ["key", "keep", "reason", "rule", "category", "weight"]


@dataclass(frozen=True, kw_only=True)
class StoredVerdict:
    """A verdict of `judge`, its inputs, and the policy that decided it."""

    verdict: Artifact
    corpus: Artifact
    annotation: Artifact
    clusters: Artifact
    policy: Policy

    @staticmethod
    def of(verdict: Artifact, store: Store) -> StoredVerdict:
        """Raises `StoreError` where an input is not in the store any more, or the policy is not on record."""
        inputs = {}
        for name in ("corpus", "annotation", "clusters"):
            wired = verdict.manifest["inputs"].get(name)
            found = store.find(wired["kind"], wired["address"]) if wired else None
            if found is None:
                raise StoreError(
                    f"{verdict.path}: the {name} it was made from is not in this root; run the recipe again"
                )
            inputs[name] = found
        recorded = verdict.manifest["identity"].get("policy")
        policy = Policy.from_mapping(recorded, origin=f"{verdict.path}/manifest.json, identity.policy")
        return StoredVerdict(verdict=verdict, policy=policy, **inputs)

    def judge(self, policy: Policy) -> Judged:
        """Every row judged by `policy`, all else as it was; what was forgotten since is dropped.

        Raises PolicyError where the policy names a score that the annotation does not hold.
        """
        config = self.verdict.config
        judged = judge_rows(
            self.corpus,
            self.annotation,
            self.clusters,
            policy,
            keep_duplicates=config["keep_duplicates"],
            fractions=config["split"],
            seed=config["seed"],
            forgotten=ForgetList.open(self.verdict.path.parents[1]),
        )
        if config.get("reweight"):
            judged, _ = reweight(judged, self.annotation, Reweight.model_validate(config["reweight"]))
        return judged

    def table(self) -> pa.Table:
        """The verdict on disk, all shards: `key, keep, reason, rule, category, weight`."""
        return pa.concat_tables(
            [read_table(self.verdict, shard, _COMPARED) for shard in shard_names(self.verdict)]
        )

    def score_names(self) -> list[str]:
        """Scores that the annotation holds."""
        shards = shard_names(self.annotation)
        return score_columns(self.annotation, shards[0]) if shards else []

    def scored(self, scores: Iterable[str]) -> Iterator[pa.Table]:
        """`key, status` and these scores of every fetched row that is not forgotten, shard by shard."""
        columns = ["key", "status", *scores]
        forgotten = dict(forgotten_keys(self.corpus, ForgetList.open(self.corpus.path.parents[1])))
        for shard in shard_names(self.annotation):
            table = read_metadata(self.annotation, shard, columns)
            gone = pc.is_in(table["key"], value_set=pa.array(forgotten.get(shard, []), table["key"].type))
            yield table.filter(pc.invert(gone))

    def require_same_rows(self, judged: Judged) -> None:
        """Raises MisalignedError unless `judged` has the rows of the verdict on disk, in their order."""
        ends = [*list(judged.starts.values())[1:], len(judged.verdict)]
        for (shard, start), end in zip(judged.starts.items(), ends, strict=True):
            known, now = (
                read_table(self.verdict, shard, ["key"])["key"],
                judged.verdict["key"].slice(start, end - start),
            )
            if not known.equals(now):
                require_same_keys(shard, known.to_pylist(), now.to_pylist(), "verdict")
