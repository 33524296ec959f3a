"""The states in which a row of a URL list ends."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Every row ends in exactly one of these; it is the `status` column of the corpus."""

    OK = "success"  # img2dataset's word, so that its readers understand our shards
    GONE = "gone"
    TRANSIENT = "transient"
    TIMEOUT = "timeout"
    REFUSED_BY_SITE = "refused_by_site"
    REFUSED_BY_POLICY = "refused_by_policy"
    PRIVATE_ADDRESS = "private_address"
    TOO_LARGE = "too_large"
    NOT_AN_IMAGE = "not_an_image"
    DECODE_ERROR = "decode_error"
    TOO_SMALL = "too_small"
    BAD_ASPECT = "bad_aspect"
    HASH_MISMATCH = "hash_mismatch"
    DUPLICATE_URL = "duplicate_url"
    FORGOTTEN = "forgotten"  # what `unclip forget --purge` leaves of a row


DROPPED = frozenset({State.DUPLICATE_URL, State.FORGOTTEN})
"""States of rows that are without an image because we wanted none; the others that lack one failed."""
