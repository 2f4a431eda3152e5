"""Read text files: plain text, Markdown, reStructuredText and HTML, in UTF-8, with or without a byte order mark."""

from html.parser import HTMLParser
from pathlib import Path

from effir.errors import EffirError

SUFFIXES = (".txt", ".md", ".rst", ".html", ".htm")
_HIDDEN = ("script", "style", "template", "noscript", "head")
_INLINE = "a abbr b bdi bdo cite code em font i kbd mark q s samp small span strong sub sup tt u var wbr".split()


def is_text(path: Path) -> bool:
    """Return whether a file has one of the ``SUFFIXES``, in small or capital letters."""
    return path.suffix.lower() in SUFFIXES


def read_text(path: Path) -> tuple[str, str]:
    """Return the title and the text of a file; the title of a file without one is its name without the ending."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise EffirError(f"{path} is not UTF-8 text ({error.reason}): convert or remove it") from None
    if path.suffix.lower() in (".html", ".htm"):
        title, text = _of_html(text)
    else:
        first = text.lstrip().partition("\n")[0]  # a Markdown heading?
        title = first.lstrip("# ").strip() if first.startswith("#") else ""
    return title or path.stem, text


class _Page(HTMLParser):
    """Collects the text of a page: a blank line for each element that is no part of a line."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self.text, self._open = "", "", list[str]()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in (*_HIDDEN, "title"):
            self._open.append(tag)
        elif tag == "body":
            self._open.clear()  # the end of the head may be left out
        if tag not in _INLINE:
            self.text += "\n\n"

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[self._open.index(tag) :]
        elif tag not in _INLINE:
            self.text += "\n\n"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["title"]:
            self.title += data
        elif not self._open:
            self.text += data


def _of_html(page: str) -> tuple[str, str]:
    parser = _Page()
    parser.feed(page)
    parser.close()
    return " ".join(parser.title.split()), parser.text.strip()
