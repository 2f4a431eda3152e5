"""Write docs/params.md, every key of params.yaml, from its comments: ``python -m docs.reference``."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/params.md"
HEAD = """# Every setting

`python -m docs.reference` writes this page from the comments of `params.yaml`. Values are the defaults. Try another one
with `dvc exp run -S <key>=<value>`.
"""


def entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (section, key, comment) in the order of a params.yaml."""
    section, said = "", list[str]()
    for line in text.splitlines():
        if found := re.match(r"\s*# ?(.*)", line):
            said.append(found[1].strip())
        elif found := re.match(r"(\w+):\s*$", line):
            section, said = found[1], []
        elif found := re.match(r"  (\w+):", line):
            yield section, found[1], " ".join(said)
            said = []


def page(text: str) -> str:
    """Lay out a params.yaml as Markdown, a list for each section."""
    values, lines, before = yaml.safe_load(text), [HEAD], ""
    for section, key, said in entries(text):
        if section != before:
            lines += ["", f"## {section}", ""]
            before = section
        value = str(values[section][key])
        shown = value if len(value) < 40 else f"{value[:36]}…"
        lines.append(f"- **{section}.{key}** `{shown or chr(34) * 2}`: {said}")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page((ROOT / "params.yaml").read_text(encoding="utf-8")), encoding="utf-8")
