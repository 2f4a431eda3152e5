"""Write the list of error messages in docs/troubleshooting.md, from the code: ``python -m docs.messages``."""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
MARK = "<!-- made by `python -m docs.messages`: what follows is of the code -->"
CLICK = ("UsageError", "BadParameter", "ClickException", "Refusal")
Names = Mapping[str, list[ast.expr]]
"""What a name may stand for: what is assigned to it, or what a function returns."""


def sources(root: Path) -> dict[Path, ast.Module]:
    """Parse all code of the package and the stages."""
    paths = sorted([*(root / "effir").rglob("*.py"), *(root / "stages").rglob("*.py")])
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def raised(modules: Mapping[Path, ast.Module]) -> set[str]:
    """Name EffirError and the classes that inherit from it, and click's errors."""
    classes = [node for module in modules.values() for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    return {"EffirError", *CLICK, *(c.name for c in classes if "EffirError" in map(ast.unparse, c.bases))}


def messages(module: ast.Module, errors: set[str]) -> Iterator[str]:
    """Yield each message that a module raises, what it fills in as ``…``; ``StoreError``'s remedy is behind a colon."""
    everywhere = names_in(module.body)
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    returned = {f.name: [r.value for r in ast.walk(f) if isinstance(r, ast.Return) and r.value] for f in functions}
    for function in functions:
        names = {**everywhere, **names_in(list(ast.walk(function))), **returned}
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in errors and node.args:
                if not ast.unparse(node.args[0]).startswith("str("):  # one that is passed on was said elsewhere
                    yield from (": ".join(parts) for parts in product(*(texts(each, names) for each in node.args)))


def names_in(nodes: list[ast.AST] | list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """Return what is assigned to each name by ``nodes``."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def texts(node: ast.expr, names: Names, depth: int = 3) -> list[str]:
    """Return what an expression may say, ``…`` for what only a run knows.

    >>> texts(ast.parse("f'{path} is {kind}: mend it'", mode="eval").body, {"kind": [ast.Constant("empty")]})
    ['… is empty: mend it']
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return ["".join(parts) for parts in product(*(texts(part, names, depth) for part in node.values))]
    if isinstance(node, ast.FormattedValue):
        return texts(node.value, names, depth) if node.conversion == -1 else ["…"]
    if isinstance(node, ast.IfExp):
        return texts(node.body, names, depth) + texts(node.orelse, names, depth)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return ["".join(pair) for pair in product(texts(node.left, names, depth), texts(node.right, names, depth))]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Dict):
        return [text for each in (*node.func.value.values, *node.args[1:]) for text in texts(each, names, depth)]
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Name) and depth:
        found = [text for value in names.get(called.id, []) for text in texts(value, names, depth - 1)]
        said = [text for text in dict.fromkeys(found) if re.search(r"\w", text)]
        return said or ["…"]
    return ["…"]


def listing(root: Path) -> str:
    """List the messages of all code under ``root`` as Markdown, a heading a file, with the file's purpose."""
    modules, lines = sources(root), list[str]()
    for path, module in modules.items():
        if found := sorted(set(messages(module, raised(modules)))):
            purpose = (ast.get_docstring(module) or "").splitlines()[0]
            lines += ["", f"### `{path.relative_to(root)}`", "", purpose, "", *(f"- {_shown(text)}" for text in found)]
    return "\n".join(lines) + "\n"


def _shown(text: str) -> str:
    return re.sub(r"(?<!`)<(\w[^>]*)>(?!`)", r"&lt;\1&gt;", text)


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(before + MARK + "\n" + listing(ROOT), encoding="utf-8")
