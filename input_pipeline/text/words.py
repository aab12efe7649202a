"""What the words of a text are, in any script."""

import unicodedata

import regex

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]+",
                      regex.VERSION1)
# Two characters of one word: letters or digits with their accents, of scripts with spaces.
_JOINED = regex.compile(rf"[\p{{L}}\p{{N}}\p{{M}}_](?:\p{{M}}|[[\p{{L}}\p{{N}}_]--[{UNSPACED}]])",
                        regex.VERSION1)
_ALONE = regex.compile(rf"[{UNSPACED}]")
_PLURAL = regex.compile("e?s")
_TIES = "-\u2010\u2011'\u2019"  # hyphens and apostrophes, which make one word of two


def words(text: str) -> list[str]:
    """Runs of letters and digits with their accents, lower case, each character in its usual form.

    Of ASCII the words are those of Google's rouge_score. In scripts that set no spaces between
    words each letter is one.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def splits_word(text: str, place: int) -> bool:
    """Whether the characters before and at `place` belong to one word."""
    if not 0 < place < len(text) or not _JOINED.match(text, place - 1):
        return False
    return not _ALONE.match(text, place - 1) or unicodedata.category(text[place])[0] == "M"


def wholeness(text: str, start: int, end: int) -> int:
    """How well text[start:end] stands on its own.

    Returns:
        0: as whole words; 1: as a part of words tied by hyphens or apostrophes, or without the
        ending of a plural; 2: inside a word.
    """
    if splits_word(text, start):
        return 2
    if splits_word(text, end):
        plural = _PLURAL.match(text, end)
        return 1 if plural and not splits_word(text, plural.end()) else 2
    tied = (start > 1 and text[start - 1] in _TIES and splits_word(
        text[start - 2] + text[start], 1)) or (end + 1 < len(text) and text[end] in _TIES
                                               and splits_word(text[end - 1] + text[end + 1], 1))
    return int(tied)
