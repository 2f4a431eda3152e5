"""Cut a text into passages that a model reads to their end: at paragraphs, or at sentence ends of any script."""

from collections.abc import Iterable, Iterator
from typing import Any

import regex

from effir.encoding.text_reader import TextReader

# A full stop ends a sentence if a space follows; the marks of other scripts (Unicode's Sentence_Terminal) always do.
_CLOSING = r"[\p{Pe}\p{Pf}\"']*"
_SENTENCE = regex.compile(rf"(?V1)(?:[.!?…]+{_CLOSING}(?=\s|$)|[\p{{STerm}}--[.!?]]+{_CLOSING}|\n\n)\s*")
_SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
WIDEST = 8  # characters a token, about: no more of a long text is tokenised at a time


def passages(text: str, title: str, reader: TextReader) -> Iterator[str]:
    """Yield passages of which a model reads everything, with ``title`` before each; single spaces between words.

    A passage ends with a paragraph or a sentence, if one ends among what the model reads; else between two words, if
    there are spaces. A title that takes more than half of the tokens leaves no room: the passages are cut without it.
    """
    whole = "\n\n".join(filter(None, (" ".join(part.split()) for part in regex.split(r"\n\s*\n", text))))
    head, start = f"{title} " if title and not _is_cut(f"{title} {title} ", reader) else "", 0
    while rest := whole[start : start + WIDEST * reader.max_tokens]:
        end = _end(rest, head, reader)
        start += end
        if passage := _plain(rest[:end]):
            yield passage


def sentences(text: str) -> list[str]:
    """Split a text at sentence ends and paragraphs; joined, the parts are the text.

    >>> sentences("It is 3.14 long. Is it? 是的。好。吗")
    ['It is 3.14 long. ', 'Is it? ', '是的。', '好。', '吗']
    """
    ends = [found.end() for found in _SENTENCE.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if start < end]


def grouped(parts: Iterable[str], most: int) -> list[str]:
    """Join successive parts of a text into groups of at most ``most`` words; split a longer part between words.

    Two characters of a script without spaces count as a word.

    >>> grouped(["a b. ", "c. ", "d e f g."], 3)
    ['a b. c.', 'd e f', 'g.']
    >>> grouped(["数组。", "平滑。", "滤波器。"], 3)
    ['数组。平滑。', '滤波器。']
    """
    groups: list[str] = []
    for piece in (piece for part in parts for piece in _pieces(part, most)):
        if groups and _size(groups[-1] + piece) <= most:
            groups[-1] += piece
        else:
            groups.append(piece)
    return [plain for group in groups if (plain := _plain(group))]


def _end(rest: str, head: str, reader: TextReader) -> int:
    """Return where the first passage of a text ends: all of it that fits, back to the best place to cut."""
    end = len(reader.truncated(head + rest, "document")) - len(head)
    is_last_or_read = len(rest) < WIDEST * reader.max_tokens or end >= len(rest)
    if is_last_or_read and not _is_cut(head + _plain(rest), reader):
        return len(rest)
    ends = [found.end() for found in _SENTENCE.finditer(rest)]
    while (end := _place(rest, end, ends)) > 1 and _is_cut(head + _plain(rest[:end]), reader):
        end -= 1
    return end


def _place(rest: str, end: int, sentence_ends: list[int]) -> int:
    """Return the best place to cut at or before ``end``: a paragraph in the second half, a sentence, a word."""
    paragraph, space = rest.rfind("\n\n", end // 2, end), rest.rfind(" ", end // 2, end)
    sentence = max((each for each in sentence_ends if each <= end), default=0)
    return max(1, (paragraph + 2 if paragraph > 0 else 0) or sentence or (space + 1 if space > 0 else end))


def _is_cut(text: str, reader: TextReader) -> bool:
    return any(reader.cut([text], "document"))


def _pieces(part: str, most: int) -> list[str]:
    if _size(part) <= most:
        return [part]
    words: list[Any] = regex.findall(r"\s*\S+\s*", part)
    return ["".join(words[start : start + most]) for start in range(0, len(words), most)]


def _size(text: str) -> int:
    return len(text.split()) + len(_SPACELESS.findall(text)) // 2


def _plain(text: str) -> str:
    return " ".join(text.split())
