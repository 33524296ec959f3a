"""From img2dataset's statuses and messages to the states in which our rows end."""

from __future__ import annotations

from pipelines.acquire.states import State

# Looked for in the message, in this order; img2dataset has no finer status than these two.
DOWNLOAD = (
    ("hash mismatch", State.HASH_MISMATCH),
    ("x-robots-tag", State.REFUSED_BY_SITE),
    ("timed out", State.TIMEOUT),
    ("http error 401", State.REFUSED_BY_SITE),
    ("http error 403", State.REFUSED_BY_SITE),
    ("http error 404", State.GONE),
    ("http error 410", State.GONE),
    ("name or service not known", State.GONE),
    ("unknown url type", State.REFUSED_BY_POLICY),
)
RESIZE = (
    ("image too small", State.TOO_SMALL),
    ("image area too large", State.TOO_LARGE),
    ("aspect ratio too large", State.BAD_ASPECT),
)


def state_of(status: str | None, message: str | None) -> State | None:
    """The state for a row of img2dataset's, or of ours; None for a status that is neither's.

    `failed_to_download` is `transient`, and `failed_to_resize` is `decode_error`, unless the message says
    what happened.
    """
    text = (message or "").lower()
    if status == "failed_to_download":
        return next((state for words, state in DOWNLOAD if words in text), State.TRANSIENT)
    if status == "failed_to_resize":
        return next((state for words, state in RESIZE if words in text), State.DECODE_ERROR)
    return State(status) if status in set(State) else None
