"""Block lists: what they match, what they let pass, and how a bad entry is told."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from filters.block_lists import PARSERS, BlockListError, BlockLists, Kind, load_list, normalise_url
from filters.duplicates import perceptual_hash


def lists(folder: Path, kind: Kind, *entries: str, name: str = "list.txt", radius: int = 4) -> BlockLists:
    path = folder / name
    path.write_text("# a comment\n\n" + "\n".join(entries) + "\n")
    return BlockLists.load({kind: [path]}, phash_radius=radius)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("HTTP://Example.ORG:80", "http://example.org/"),
        ("https://example.org.:443/A?b=C#part", "https://example.org/A?b=C"),
        ("http://user:word@example.org:8080/", "http://example.org:8080/"),
        ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
    ],
)
def test_urls_are_compared_in_one_form(given: str, normal: str) -> None:
    assert normalise_url(given) == normal
    assert normalise_url(normal) == normal


@pytest.mark.parametrize("text", ["ftp://example.org/", "example.org/x", "http:///x", "http://h:port/", ""])
def test_what_is_no_web_address_has_no_form(text: str) -> None:
    with pytest.raises(ValueError):
        normalise_url(text)


def test_a_url_is_refused_exactly_and_the_message_keeps_it_to_itself(tmp_path: Path) -> None:
    blocked = lists(tmp_path, "urls", "https://Example.org/secret.jpg")
    assert blocked.refuses_url("https://example.org:443/secret.jpg#x") == "block list list.txt (urls)"
    for other in ("https://example.org/Secret.jpg", "http://example.org/secret.jpg", "not a url"):
        assert blocked.refuses_url(other) is None


def test_a_domain_covers_what_lies_below_it_by_whole_labels(tmp_path: Path) -> None:
    blocked = lists(tmp_path, "domains", "Example.org", "*.bücher.example")
    for host in ("example.org", "a.b.EXAMPLE.org.", "xn--bcher-kva.example", "www.bücher.example"):
        assert blocked.refuses_url(f"http://{host}/x.jpg") == "block list list.txt (domains)"
    for host in ("badexample.org", "org", "example.org.evil.net"):
        assert blocked.refuses_url(f"http://{host}/x.jpg") is None


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_bodies_are_refused_by_their_hash_and_every_entry_is_found(tmp_path: Path, kind: Kind) -> None:
    """Among 3,000 digests several end in a zero byte, which numpy would take for padding."""
    bodies = [str(number).encode() for number in range(3000)]
    digests = [hashlib.new(kind, body).hexdigest() for body in bodies]
    assert any(digest.endswith("00") for digest in digests)
    blocked = lists(tmp_path, kind, *(digest.upper() for digest in digests))
    assert all(blocked.refuses_bytes(body) == f"block list list.txt ({kind})" for body in bodies)
    assert not any(blocked.refuses_bytes(b"x" + body) for body in bodies)


def test_a_picture_is_refused_within_the_radius(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    listed = imagehash.phash(Image.fromarray(image))
    phash = perceptual_hash(image)
    assert f"{int(phash):016x}" == str(listed)
    blocked = lists(tmp_path, "phash", str(listed), radius=3)
    assert blocked.compare_pictures and blocked.refuses_phash(phash) == "block list list.txt (phash)"
    assert blocked.refuses_phash(phash ^ np.uint64(0b10101))
    assert blocked.refuses_phash(phash ^ np.uint64(0b1010101)) is None


def test_tables_and_gzip_are_read_too(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"body").hexdigest()
    table, packed = tmp_path / "a.csv", tmp_path / "b.tsv.gz"
    table.write_text(f"reason,sha256\nasked,{digest}\n")
    packed.write_bytes(gzip.compress(f"sha256\treason\n{digest}\tasked\n".encode()))
    for path in (table, packed):
        blocked = BlockLists.load({"sha256": [path]})
        assert blocked.refuses_bytes(b"body") == f"block list {path.name} (sha256)"


@pytest.mark.parametrize(
    ("kind", "entry", "expected"),
    [
        ("urls", "no-url", "an http or https URL with a host, got 'no-url'"),
        ("domains", "http://example.org", "a domain such as example.org, got 'http://example.org'"),
        ("md5", "abc", "32 hexadecimal digits, got 'abc'"),
        ("sha256", "z" * 64, f"64 hexadecimal digits, got '{'z' * 40}…'"),
        ("phash", "0123", "16 hexadecimal digits, got '0123'"),
    ],
)
def test_a_bad_entry_is_told_with_file_and_line(
    tmp_path: Path, kind: Kind, entry: str, expected: str
) -> None:
    with pytest.raises(BlockListError) as told:
        lists(tmp_path, kind, entry)
    assert str(told.value) == (
        f"block list {tmp_path / 'list.txt'}, line 3: expected {expected}; mend or remove the line"
    )


def test_files_that_are_no_lists_are_told(tmp_path: Path) -> None:
    table, packed = tmp_path / "a.csv", tmp_path / "a.txt.gz"
    table.write_text("hash\nx\n")
    packed.write_bytes(gzip.compress(b"00" * 1000)[:20])
    for path, why in (
        (table, r"expected a column 'md5', got hash"),
        (packed, "cannot be read after line 0"),
        (tmp_path / "gone.txt", "No such file"),
    ):
        with pytest.raises(BlockListError, match=why):
            load_list(path, "md5")


def test_an_empty_list_refuses_nothing(tmp_path: Path) -> None:
    for kind in PARSERS:
        blocked = lists(tmp_path, kind)
        assert blocked.refuses_url("http://example.org/") is None
        assert blocked.refuses_bytes(b"x") is None and blocked.refuses_phash(np.uint64(0)) is None
