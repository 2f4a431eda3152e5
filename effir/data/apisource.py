"""Read every documented public function, class and method of a Python package from its wheel, without importing it.

The result depends only on the bytes of the wheel, not on Python: names come from `ast`, signatures from the source.
"""

import ast
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effir.data.docstrings import Docstring, collapse, read_docstring
from effir.errors import EffirError

_SKIPPED = frozenset(
    "tests test testing conftest benchmarks examples sandbox compat legacy deprecated "
    "externals extern vendor vendored third_party _lib _external _vendor _vendored".split()
)
_STAND_INS = frozenset({"setter", "deleter", "getter", "overload"})
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class ApiEntry:
    """One documented object: its public name, its signature as written, the parts of its docstring."""

    name: str
    signature: str
    docstring: Docstring

    @property
    def own_name(self) -> str:
        """The last component: ``savgol_filter`` of ``scipy.signal.savgol_filter``."""
        return self.name.rpartition(".")[2]


def read_package(wheel: Path, package: str) -> dict[str, ApiEntry]:
    """Map public qualified names to entries, sorted by name; if names collide, the first path wins.

    EffirError if ``wheel`` is not a zip archive.
    """
    found: dict[str, ApiEntry] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for path in sorted(name for name in archive.namelist() if is_public_module(name, package)):
                for entry in module_entries(archive.read(path), path):
                    found.setdefault(entry.name, entry)
    except zipfile.BadZipFile:
        raise EffirError(f"{wheel} is not a wheel: delete it, then download it again") from None
    return dict(sorted(found.items()))


def is_public_module(path: str, package: str) -> bool:
    """Return whether a member of a wheel is source of the package itself: no tests, no vendored code.

    >>> is_public_module("scipy/signal/_filters.py", "scipy"), is_public_module("scipy/_lib/uarray.py", "scipy")
    (True, False)
    """
    *folders, file = PurePosixPath(path).parts
    if not file.endswith(".py") or not folders or folders[0] != package:
        return False
    stem = file.removesuffix(".py")
    return not stem.startswith("test_") and not stem.endswith("_test") and _SKIPPED.isdisjoint([*folders[1:], stem])


def module_entries(source: bytes, path: str) -> Iterator[ApiEntry]:
    """Yield the documented public objects of one module, in the order of the source."""
    text = source.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old docstrings hold invalid escapes
        tree = ast.parse(text)
    exported = _exported(tree)
    lines = [line.encode() for line in text.split("\n")]
    module = public_module(path)
    for node in _definitions(tree.body):
        if not node.name.startswith("_") and (exported is None or node.name in exported):
            yield from _entries(node, module, lines)


def public_module(path: str) -> str:
    """Return the dotted module name without private components and ``src``, which no user types.

    >>> public_module("scipy/signal/_savitzky_golay.py"), public_module("dask/array/__init__.py")
    ('scipy.signal', 'dask.array')
    """
    parts = PurePosixPath(path.removesuffix(".py")).parts
    return ".".join(part for part in parts if not part.startswith("_") and part != "src")


def _entries(node: Definition | ast.ClassDef, scope: str, lines: list[bytes]) -> Iterator[ApiEntry]:
    name = f"{scope}.{node.name}"
    docstring = ast.get_docstring(node, clean=False)
    if docstring and "deprecated" not in docstring[:400].lower() and not _is_stand_in(node):
        yield ApiEntry(name, _signature(node, lines), read_docstring(docstring))
    if isinstance(node, ast.ClassDef):
        for member in _definitions(node.body):
            if not member.name.startswith("_"):
                yield from _entries(member, name, lines)


def _definitions(body: list[ast.stmt]) -> Iterator[Definition | ast.ClassDef]:
    """Yield the functions and classes of a body, including those under `if` and `try`."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions([*node.body, *node.orelse])


def _is_stand_in(node: Definition | ast.ClassDef) -> bool:
    """Return whether a definition repeats another one: overload, property setter, deprecated alias."""
    called = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    names = [each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in called]
    return any(name in _STAND_INS or "deprecat" in name.lower() for name in names)


def _exported(tree: ast.Module) -> frozenset[str] | None:
    """Return the names in a module's literal ``__all__``; None without one."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            with suppress(ValueError, TypeError):
                return frozenset(ast.literal_eval(node.value))
            break
    return None


def _signature(node: Definition | ast.ClassDef, lines: list[bytes]) -> str:
    """Return ``name(first, second=default)`` as written, without annotations; of a class, its constructor's."""
    if isinstance(node, ast.ClassDef):
        makers = [item for item in _definitions(node.body) if item.name == "__init__"]
        inner = _signature(makers[0], lines) if makers else ""
        return node.name + inner.removeprefix("__init__")
    if any(getattr(decorator, "id", "").endswith("property") for decorator in node.decorator_list):
        return node.name
    return f"{node.name}({', '.join(_parameters(node.args, lines))})"


def _parameters(arguments: ast.arguments, lines: list[bytes]) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        if argument.arg not in {"self", "cls"}:
            yield argument.arg + _default(default, lines)
    if arguments.vararg:
        yield "*" + arguments.vararg.arg
    elif arguments.kwonlyargs:
        yield "*"
    for argument, keyword_default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield argument.arg + _default(keyword_default, lines)
    if arguments.kwarg:
        yield "**" + arguments.kwarg.arg


def _default(node: ast.expr | None, lines: list[bytes]) -> str:
    """Return ``=`` and a default as written, "" without one; `ast` counts columns in UTF-8 bytes."""
    if node is None:
        return ""
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    if first == last:
        return "=" + collapse(lines[first][node.col_offset : node.end_col_offset].decode())
    inner = [lines[first][node.col_offset :], *lines[first + 1 : last], lines[last][: node.end_col_offset]]
    return "=" + collapse(b" ".join(inner).decode())
