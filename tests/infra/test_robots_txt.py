"""robots.txt by the letter of RFC 9309: groups, precedence, wildcards, escapes, hostile files."""

from __future__ import annotations

import pytest

from infra.robots_txt import Robots


def allows(text: str, path: str, token: str = "unclip") -> bool:
    return Robots(text, token).allows(f"https://example.org{path}")


@pytest.mark.parametrize(
    ("rule", "path", "matches"),
    [
        ("/fish", "/fish", True),
        ("/fish", "/fishheads/yummy.html", True),
        ("/fish", "/Fish.asp", False),
        ("/fish", "/catfish", False),
        ("/fish*", "/fish/salmon", True),
        ("/fish/", "/fish", False),
        ("/*.php", "/index.php?a=b", True),
        ("/*.php", "/", False),
        ("/*.php$", "/folder/filename.php", True),
        ("/*.php$", "/filename.php?parameters", False),
        ("/*.php$", "/a.php.php", True),
        ("/fish*.php", "/fishheads/catfish.php?x", True),
        ("/fish*.php", "/Fish.PHP", False),
        ("/a*b*c$", "/a-b-b-c", True),
        ("/a*b*c$", "/abc-", False),
        ("/ab*b$", "/ab", False),
        ("/$", "/", True),
        ("/$", "/x", False),
        ("*", "/anything", True),
        ("/a%3cd", "/a%3Cd.html", True),
        ("/%7ejoe", "/~joe/", True),
        ("/caf\u00e9", "/caf%C3%A9", True),
        ("/a%2fb", "/a/b", False),
        ("", "/", False),
    ],
)
def test_patterns(rule: str, path: str, matches: bool) -> None:
    assert allows(f"User-agent: *\nDisallow: {rule}", path) is not matches


def test_the_longest_rule_decides_and_allow_wins_a_tie() -> None:
    text = "User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /a/b/c\nDisallow: /tie\nAllow: /tie"
    found = [allows(text, path) for path in ("/a", "/a/b", "/a/b/c", "/tie", "/other")]
    assert found == [False, True, False, True, True]


def test_groups() -> None:
    text = (
        "\ufeffUser-agent: other\nDisallow: /\n\n"
        "User-Agent: UnClip # that is us\nuser-agent: friend\nSitemap: /map\nDisallow: /ours\n"
        "Crawl-delay: 1.5\n\nUser-agent: *\nDisallow: /everybody\n\nUser-agent: unclip\nDisallow: /more"
    )
    assert [allows(text, path) for path in ("/ours", "/more", "/everybody")] == [False, False, True]
    assert Robots(text, "unclip").crawl_delay_s == 1.5
    assert not allows(text, "/ours", "friend")
    assert not allows(text, "/everybody", "somebody")
    # A token is matched whole: `clip` is somebody else.
    assert not allows("User-agent: clip\nDisallow: /a\nUser-agent: *\nDisallow: /b", "/b")


@pytest.mark.parametrize(
    "text", ["", "nonsense", "<!DOCTYPE html><html>", "Disallow: /", "User-agent: unclip"]
)
def test_what_says_nothing_forbids_nothing(text: str) -> None:
    assert allows(text, "/a")


def test_a_hostile_pattern_costs_no_more_than_its_length() -> None:
    """By backtracking this would take longer than the universe has."""
    text = "User-agent: *\nDisallow: /" + "a*" * 200 + "b$"
    assert allows(text, "/" + "a" * 4000)
