"""Order, cycles and followers of step graphs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workflows.graph import find_cycle, in_order, with_descendants


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, list[str]]:
    """A random graph whose steps are listed in any order."""
    count = draw(st.integers(1, 8))
    names = [f"s{i}" for i in range(count)]
    needs = {
        n: draw(st.lists(st.sampled_from(names[:i]), unique=True)) if i else [] for i, n in enumerate(names)
    }
    return {name: needs[name] for name in draw(st.permutations(names))}


@given(acyclic())
def test_every_step_comes_after_what_it_needs(needs: dict[str, list[str]]) -> None:
    order = in_order(needs)
    assert sorted(order) == sorted(needs)
    assert all(order.index(needed) < order.index(name) for name in needs for needed in needs[name])
    assert find_cycle(needs) is None


def test_order_is_the_recipes_where_wiring_leaves_it_open() -> None:
    assert in_order({"a": [], "b": ["a"], "c": [], "d": ["b"]}) == ["a", "b", "c", "d"]


def test_followers_are_transitive() -> None:
    needs = {"d": ["b"], "a": [], "b": ["a"], "c": ["a"], "e": ["c", "d"]}
    assert with_descendants(needs, "b") == {"b", "d", "e"}


def test_a_step_that_needs_itself_is_a_cycle() -> None:
    assert find_cycle({"a": ["a"]}) == ["a", "a"]
