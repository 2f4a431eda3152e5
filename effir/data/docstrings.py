"""Split a docstring into its summary sentence, the prose that follows, and the neighbours that it names.

Pure functions over strings. `inspect.cleandoc` is avoided: its output differs between Python versions.
"""

import re
from dataclasses import dataclass

SUMMARY_WORDS = range(7, 41)  # the length a query may have, in words

_ROLE = re.compile(r":[A-Za-z][\w:+-]*:`([^`]+)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^>`]*>`_{0,2}")
_MARKDOWN_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]*\)")
_CODE = re.compile(r"`+([^`]*?)`+_{0,2}")
_EPYTEXT = re.compile(r"\b[BCILMPU]\{([^{}]*)\}")
_CITATION = re.compile(r"\s*\[[\w-]+\]_")
_DIRECTIVE = re.compile(r"^\s*\.\. +(?:[\w:-]+::|_[^:]+:|\[[^\]]+\]).*$", re.MULTILINE)
_OPTION = re.compile(r"(?m)^\s*:(?:nosignatures|members|width|alt|align|toctree|label|include-source|context)\b.*$")
_RULE = re.compile(r"^\s*([-=~^\"'*+#`.])\1{2,}\s*$", re.MULTILINE)
_TEMPLATE = re.compile(r"%\(\w+\)s|^\s*%\w+%\s*$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)(?<!\bal)(?<!\betc)(?<![A-Z])\.\s+(?=[A-Z`:\[(])")
_NEIGHBOURS = re.compile(r"^(?:\.\. seealso::|#* *see +also *:?) *$", re.IGNORECASE)
_HEADING_RULE = re.compile(r"^[-=~]{3,}$")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_DESCRIPTION = re.compile(r"\s:|:\s|:$|\s-+\s")
_RESIDUE = re.compile(r">>>|::|\\|[{}|=<>$@]|\.\. |__|https?:|\bdeprecated\b|\balias\b|\btodo\b", re.IGNORECASE)
_PLAIN_WORD = re.compile(r"[(\"']*[A-Za-z][A-Za-z'/-]*[)\"'.,;:!?]*")
_ENGLISH = frozenset("the a an of to in is for with and or from by on that this if as at be are its".split())


@dataclass(frozen=True)
class Docstring:
    """The parts of one docstring, whitespace collapsed; ``neighbours`` are the names under "See Also", as written."""

    summary: str
    text: str
    neighbours: tuple[str, ...]


def read_docstring(docstring: str) -> Docstring:
    r"""Split a docstring into its summary sentence, what follows it, and the names it refers to.

    >>> read_docstring("Sort an array. In place.\n\nSee Also\n--------\nargsort : indices").neighbours
    ('argsort',)
    """
    lines = dedented(docstring)
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    end = next((number for number in range(start, len(lines)) if not lines[number].strip()), len(lines))
    opening = collapse("\n".join(lines[start:end]))
    stop = _SENTENCE_END.search(opening)  # abbreviations such as "e.g." do not end a sentence
    sentence, remainder = (opening[: stop.start() + 1], plain(opening[stop.end() :])) if stop else (opening, "")
    text = " ".join(part for part in (remainder, plain("\n".join(lines[end:]))) if part)
    return Docstring(plain(sentence), text, _neighbours(lines))


def dedented(docstring: str) -> list[str]:
    """Return the lines without their common margin; the first line, which follows the quotes, has none."""
    first, *others = docstring.expandtabs().split("\n")
    margin = min((len(line) - len(line.lstrip()) for line in others if line.strip()), default=0)
    return [first.strip(), *(line[margin:].rstrip() for line in others)]


def collapse(text: str) -> str:
    r"""Replace every run of whitespace by one space.

    >>> collapse(" a\n  b ")
    'a b'
    """
    return " ".join(text.split())


def plain(text: str) -> str:
    """Remove reStructuredText and Markdown marks.

    >>> plain("Like :func:`~scipy.signal.lfilter`, but ``fast`` [1]_.")
    'Like lfilter, but fast.'
    """
    for mark in (_DIRECTIVE, _OPTION, _RULE, _TEMPLATE, _CITATION):
        text = mark.sub("", text)
    text = _ROLE.sub(lambda match: _role_text(match[1]), text)
    for mark in (_LINK, _MARKDOWN_LINK, _EPYTEXT, _CODE):
        text = mark.sub(r"\1", text)
    return collapse(text)


def is_query(summary: str, name: str) -> bool:
    """Return whether a summary can be a query: English prose of 7 to 40 words that does not name its object.

    >>> is_query("Find the shortest path between two nodes of a graph.", "dijkstra")
    True
    >>> is_query("Find the shortest path between two nodes of a graph.", "Path")
    False
    """
    words = summary.split()
    if len(words) not in SUMMARY_WORDS or not summary[0].isalpha() or summary.endswith((":", ",", ";")):
        return False
    if _RESIDUE.search(summary) or not summary.isascii() or names(summary, name):
        return False
    if words[-1].lower() in _ENGLISH:  # a sentence that a list or formula would have finished
        return False
    english = sum(word.lower().strip(".,()") in _ENGLISH for word in words)
    return english >= 1 and sum(_PLAIN_WORD.fullmatch(word) is not None for word in words) >= 0.8 * len(words)


def names(text: str, name: str) -> bool:
    """Return whether ``name`` occurs in ``text`` as a word; case is ignored.

    >>> names("A KDTree of points.", "kdtree"), names("Trees of points.", "tree")
    (True, False)
    """
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def _role_text(target: str) -> str:
    """Return ``b`` for ``~a.b``, and ``text`` for ``text <a.b>``."""
    label, bracket, _ = target.partition("<")
    return label.strip() if bracket and label.strip() else target.strip("~!. <>").rpartition(".")[2]


def _neighbours(lines: list[str]) -> tuple[str, ...]:
    """Return the names under each "See Also" heading, in order, without duplicates."""
    found: dict[str, None] = {}
    for start, line in enumerate(lines):
        if _NEIGHBOURS.match(line.strip()):
            found.update(dict.fromkeys(name for row in _section(lines, start) for name in _row_names(row)))
    return tuple(found)


def _section(lines: list[str], start: int) -> list[str]:
    """Return the rows of the section that begins at ``start``, without margin and continuation lines."""
    margin = len(lines[start]) - len(lines[start].lstrip())
    underlined = start + 1 < len(lines) and _HEADING_RULE.match(lines[start + 1].strip())
    body: list[str] = []
    for number in range(start + (2 if underlined else 1), len(lines)):
        line, following = lines[number], lines[number + 1] if number + 1 < len(lines) else ""
        indent = len(line) - len(line.lstrip())
        if line.strip() and (_HEADING_RULE.match(following.strip()) if underlined else indent <= margin):
            break
        body.append(line)
    inner = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    return [line[inner:] for line in body if line.strip() and not line[inner].isspace()]


def _row_names(row: str) -> list[str]:
    """Return the names that one row lists before its description.

    >>> _row_names(":func:`~a.b`, c.d : what they do"), _row_names("- :func:`jax.x`: what"), _row_names("Some prose")
    (['a.b', 'c.d'], ['jax.x'], [])
    """
    listed = _DESCRIPTION.split(_ROLE.sub(r"\1", row.lstrip("-* ")), maxsplit=1)[0]
    items = [item.strip(" `~.!").removesuffix("()") for item in listed.split(",")]
    return [item for item in items if _NAME.fullmatch(item)]
