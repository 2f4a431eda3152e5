"""Write the list of error messages in docs/troubleshooting.md, from the code: ``python -m docs.messages``."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
MARK = "<!-- made by `python -m docs.messages`: what follows is of the code -->"
RAISED = ("EffirError", "UsageError", "BadParameter", "ClickException")


def messages(path: Path) -> Iterator[str]:
    """Yield each error message that a file raises, what it fills in as ``…``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in RAISED:
            if said := template(node.args[0]):
                yield said


def template(node: ast.expr) -> str:
    """Write a string or f-string as text, ``…`` for what it fills in; anything else is empty.

    >>> template(ast.parse("f'{path} is missing: mend the path'", mode="eval").body)
    '… is missing: mend the path'
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join("…" if isinstance(part, ast.FormattedValue) else template(part) for part in node.values)
    return ""


def listing(root: Path) -> str:
    """List the messages of all code under ``root`` as Markdown, a heading a file, with the file's purpose."""
    lines = list[str]()
    for path in sorted([*(root / "effir").rglob("*.py"), *(root / "stages").rglob("*.py")]):
        if found := sorted(set(messages(path))):
            purpose = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
            lines += ["", f"### `{path.relative_to(root)}`", "", purpose, "", *(f"- {_shown(text)}" for text in found)]
    return "\n".join(lines) + "\n"


def _shown(text: str) -> str:
    return re.sub(r"(?<!`)<(\w[^>]*)>(?!`)", r"&lt;\1&gt;", text)


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(before + MARK + "\n" + listing(ROOT), encoding="utf-8")
