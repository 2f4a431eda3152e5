"""The pages that are made from the code say what the code says."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from docs import messages
from docs.reference import PAGE, entries, page
from effir.cli.profiles import use_profiles


def test_the_reference_of_params_is_what_params_yaml_says(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(Path("params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    use_profiles(Path("profiles"), ["default"], path)
    assert PAGE.read_text(encoding="utf-8") == page(path.read_text(encoding="utf-8")), "run `python -m docs.reference`"


def test_every_key_has_its_purpose() -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    keys = {f"{section}.{key}" for section, values in yaml.safe_load(text).items() for key in values}
    said = {f"{section}.{key}": comment for section, key, comment in entries(text)}
    assert said.keys() == keys
    assert all(len(comment) > 10 for comment in said.values())


def test_troubleshooting_lists_every_message_of_the_code() -> None:
    listed = messages.PAGE.read_text(encoding="utf-8").partition(messages.MARK)[2]
    assert listed.strip() == messages.listing(messages.ROOT).strip(), "run `python -m docs.messages`"


# What these say is known to a run alone; the page tells of them in prose.
FILLED_IN = {"effir/params.py", "effir/compress/plan.py", "effir/tracking/server.py", "stages/program.py"}


def test_every_message_says_how_to_mend_it() -> None:
    modules = messages.sources(Path())
    errors, count, bare = messages.raised(modules), 0, list[tuple[str, str]]()
    assert {"StoreError", "QualityLostError"} < errors
    for path, module in modules.items():
        for text in messages.messages(module, errors):
            count += 1
            remedy = re.split(r"[:;] ", text)[-1] if re.search(r"[:;] ", text) else ""
            if not re.search(r"[a-z]{2,}", remedy) and str(path) not in FILLED_IN:
                bare.append((str(path), text))
    assert count > 250
    assert bare == []


def test_a_message_is_found_however_it_is_put_together() -> None:
    code = """
HINT = "mend it"
class Lost(EffirError): ...
def reason(kind):
    return {"a": "an a"}.get(kind, f"the {kind}")
def fail(path):
    what = "empty" if path else "away"
    raise Lost(f"{path} is {what}", HINT)
def other(kind):
    raise EffirError(reason(kind) + f" went: {HINT}")
"""
    module = ast.parse(code)
    found = list(messages.messages(module, messages.raised({Path("x.py"): module})))
    assert found == ["… is empty: mend it", "… is away: mend it", "an a went: mend it", "the … went: mend it"]


def test_every_stage_is_told_of_in_the_order_in_which_they_run() -> None:
    page = Path("docs/stages.md").read_text(encoding="utf-8")
    told = [name for line in re.findall(r"(?m)^## (.+)$", page) for name in line.split(", ")]
    assert told == list(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])


@pytest.mark.parametrize("page", [Path("README.md"), *sorted(Path("docs").rglob("*.md"))], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), f"{page}: {target}"
