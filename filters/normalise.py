"""Undoes what hides a word from a text scorer: invisible characters, look-alikes, leetspeak, spaced letters.

A text is read in several *views*, as written first, and a scorer takes the maximum over them: a view can
only add suspicion.  So it may be wrong about harmless text ("4ever" -> "aever") and costs nothing there.
Spaced-out letters alone are joined in every view: a classifier of words takes any line of single letters for
abuse, "B h u t a n" as much as an insult.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

# Part of the identity of every text scorer: bump when any view of any text changes.
NORMALISE_VERSION = 3

# Letters of other scripts that are drawn like Latin ones, after NFKC and lower-casing.
_LOOKALIKES = str.maketrans(
    # Cyrillic
    "авсԁегһіјкӏмпорԛѕтцѵԝхуѡ"
    # Greek and Latin-like
    "αβεικνορτυχγωηıɡɑ"
    # Armenian
    "ագզհյոռսօցքւ"
    # Latin small capitals
    "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘꞯʀꜱᴛᴜᴠᴡʏᴢ",
    "abcderhijklmnopqstuvwxywabeiknoptuxywnigawqqhjnnuogpiabcdefghijklmnopqrstuvwyz",
)
# Control characters that part no lines, and letters and a mark that are drawn as nothing or as a blank: the
# Hangul fillers and the empty Braille pattern.
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u115f\u1160\u3164\uffa0\u2800]")

_LEET = str.maketrans(
    {"0": "o", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g", "@": "a", "$": "s", "€": "e"}
)
# 1, ! and | stand for i or l: both readings are tried.
_LEET_I = str.maketrans({"1": "i", "!": "i", "|": "i"})
_LEET_L = str.maketrans({"1": "l", "!": "l", "|": "l"})

# A closing "!" is punctuation, one inside a word is a letter.
_LEET_WORD = re.compile(r"[\w@$€|](?:[\w@$€!|]*[\w@$€|])?")
_ORDINARY_NUMBER = re.compile(r"\d+(?:st|nd|rd|th|s|k|d|x|px|cm|mm|km|m|kg|g|am|pm|ml|l)|[a-z]\d+|\d+[a-z]")
# Three or more single letters or digits with one separator between each two: "p o r n", "n.u.d.3", "s-e-x".
# A NUL is one: UTF-16 that is read as UTF-8 has it behind every letter.
_SEPARATOR = r"[\s\x00-\x1f._*\-/+~·•|,:]"
_SPACED = re.compile(rf"(?<!\w)[^\W_](?:{_SEPARATOR}[^\W_]){{2,}}(?!\w)")
_SEPARATORS = re.compile(_SEPARATOR)
_REPEATED = re.compile(r"([^\W\d_])\1{2,}")


# Scorers read a batch one after the other: the views that the first has made serve the others.
@functools.lru_cache(maxsize=512)
def views(text: str) -> tuple[str, ...]:
    """Distinct readings of a text, as written first (but for spaced-out letters), at most sixteen."""
    readings = _join_spaced(text)
    for plain in _join_spaced(_plain(text)):
        stretched = [plain]
        if _REPEATED.search(plain):
            # "boooobs" needs two letters of the run, "nuuude" one.
            stretched = [_REPEATED.sub(r"\1\1", plain), _REPEATED.sub(r"\1", plain)]
        readings.append(plain)
        readings += [_read_leet(*pair) for pair in itertools.product(stretched, (_LEET_I, _LEET_L))]
    # Case is nothing to any scorer: a view that differs in case alone would only cost time.
    distinct = {reading.lower(): reading for reading in reversed(readings)}
    return tuple(sorted(distinct.values(), key=readings.index))


def score_views(
    texts: Sequence[str], score: Callable[[Sequence[str]], Float[np.ndarray, "m k"]], columns: int
) -> Float[np.ndarray, "n k"]:
    """Maximum of ``score`` over the views of each text; equal views are scored once."""
    views_of = [views(text) for text in texts]
    distinct = list(dict.fromkeys(itertools.chain.from_iterable(views_of)))
    place = {view: i for i, view in enumerate(distinct)}
    scores = score(distinct) if distinct else np.zeros((0, columns), dtype=np.float32)
    result = np.zeros((len(texts), columns), dtype=np.float32)
    for row, text_views in zip(result, views_of, strict=True):
        row[:] = scores[[place[view] for view in text_views]].max(axis=0)
    return result


def _plain(text: str) -> str:
    """Lower case, compatibility forms folded, no invisible characters or accents, look-alikes in Latin."""
    text = _UNSEEN.sub("", text)
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text)
    visible = "".join(c for c in decomposed if unicodedata.category(c) not in ("Cf", "Mn", "Me"))
    composed = unicodedata.normalize("NFKC", visible).lower()
    return re.sub(r"\w+", lambda match: _latin(match.group()), composed)


def _latin(word: str) -> str:
    """Maps look-alikes of a word that mixes scripts or holds nothing else; other words are what they are."""
    mapped = word.translate(_LOOKALIKES)
    return mapped if mapped.isascii() else word


def _read_leet(text: str, ambiguous: dict[int, str]) -> str:
    def letters(match: re.Match[str]) -> str:
        word = match.group()
        is_plain = word.isalpha() or not any(map(str.isalpha, word)) or _ORDINARY_NUMBER.fullmatch(word)
        return word if is_plain else word.translate(_LEET).translate(ambiguous)

    return _LEET_WORD.sub(letters, text)


def _join_spaced(text: str) -> list[str]:
    """The text with spaced-out letters joined: "a n u d e" as "anude" and "nude", for a may be a word."""
    found = _SPACED.search(text)
    return [_SPACED.sub(_joined, text), _SPACED.sub(_joined_behind_article, text)] if found else [text]


def _joined(match: re.Match[str]) -> str:
    word = _SEPARATORS.sub("", match.group())
    return match.group() if word.isdigit() else word


def _joined_behind_article(match: re.Match[str]) -> str:
    word = _joined(match)
    return word[1:] if word[0] in "aiAI" else word
