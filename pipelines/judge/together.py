"""What rows have in common: rules that hold on the same ones, categories, and clusters of duplicates."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from filters.policy import RuleHits
from pipelines.judge.verdict import DUPLICATE, Judged, reached_policy

Matches = Mapping[str, Bool[np.ndarray, " n"]]
"""Rows on which each rule of a policy holds."""
LARGEST = 10
MEMBERS = 8
"""Clusters listed, and samples of each; the counts beside them are always of all."""


def overlap(matches: Matches) -> list[dict[str, Any]]:
    """Pairs of rules that hold on the same rows, most frequent first; rows of both and of either."""
    pairs = []
    for (a, of_a), (b, of_b) in itertools.combinations(matches.items(), 2):
        if both := int((of_a & of_b).sum()):
            pairs.append({"rules": [a, b], "both": both, "either": int((of_a | of_b).sum())})
    return sorted(pairs, key=lambda pair: (-pair["both"], pair["rules"]))


def by_category(hits: Sequence[RuleHits], matches: Matches) -> list[dict[str, Any]]:
    """Rows that rules of each category dropped or hold for review, and how many only one category met."""
    rules: dict[str, list[str]] = {}
    for hit in hits:
        if hit.action != "weight":
            rules.setdefault(hit.category, []).append(hit.rule)
    met = {
        category: np.logical_or.reduce([matches[rule] for rule in names]) for category, names in rules.items()
    }
    categories = sum(rows.astype(np.int64) for rows in met.values())
    decided = Counter[tuple[str, str]]()
    for hit in hits:
        decided[hit.category, hit.action] += hit.decided
    return [
        {
            "category": category,
            "dropped": decided[category, "drop"],
            "review": decided[category, "review"],
            "met": int(rows.sum()),
            "met_by_no_other": int((rows & (categories == 1)).sum()),
        }
        for category, rows in met.items()
    ]


def clusters(judged: Judged) -> dict[str, Any]:
    """Clusters of more than one sample: how many of which size, what they cost, and the largest of them."""
    members: dict[str, list[int]] = {}
    seen = reached_policy(judged.verdict)
    for row, cluster in enumerate(judged.groups["cluster"].to_pylist()):
        if cluster is not None and seen[row]:
            members.setdefault(cluster, []).append(row)
    several = {cluster: rows for cluster, rows in members.items() if len(rows) > 1}
    sizes = Counter(map(len, several.values()))
    categories, rules = judged.verdict["category"].to_pylist(), judged.verdict["rule"].to_pylist()
    kept = judged.verdict["keep"].to_pylist()
    methods = Counter(
        rule
        for category, rule, keep in zip(categories, rules, kept, strict=True)
        if category == DUPLICATE and not keep
    )
    largest = sorted(several, key=lambda cluster: (-len(several[cluster]), cluster))[:LARGEST]
    ranks = judged.groups["rank"].to_pylist()
    return {
        "clusters": len(several),
        "samples": sum(map(len, several.values())),
        "dropped": sum(methods.values()),
        "dropped_by_method": dict(sorted(methods.items())),
        "sizes": [{"size": size, "clusters": count} for size, count in sorted(sizes.items())],
        "largest": [
            {
                "size": len(several[cluster]),
                "samples": [
                    sample(judged, row) for row in sorted(several[cluster], key=ranks.__getitem__)[:MEMBERS]
                ],
            }
            for cluster in largest
        ],
    }


def sample(judged: Judged, row: int) -> dict[str, Any]:
    """What a report says of one row: key, caption, why it is where it is, and the score that decided."""
    score = judged.verdict["score"][row].as_py()
    return {
        "key": judged.verdict["key"][row].as_py(),
        "caption": judged.scores["caption"][row].as_py() or "",
        "reason": judged.verdict["reason"][row].as_py(),
        "score": None if score is None else round(float(score), 4),
    }
