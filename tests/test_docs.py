"""The pages that are made from the code say what the code says."""

import re
from pathlib import Path

import pytest
import yaml

from docs import messages
from docs.reference import PAGE, entries, page
from effir.profiles import use_profiles


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


def test_every_message_says_how_to_mend_it() -> None:
    found = [text for path in Path("effir").rglob("*.py") for text in messages.messages(path)]
    assert len(found) > 200
    assert [text for text in found if ": " not in text and "; " not in text] == []


def test_every_stage_is_told_of_in_the_order_in_which_they_run() -> None:
    page = Path("docs/stages.md").read_text(encoding="utf-8")
    told = [name for line in re.findall(r"(?m)^## (.+)$", page) for name in line.split(", ")]
    assert told == list(yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"])


@pytest.mark.parametrize("page", [Path("README.md"), *sorted(Path("docs").rglob("*.md"))], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), f"{page}: {target}"
