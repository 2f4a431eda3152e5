"""The pages say what the code says, stay short, and use the field's words."""

import re
from pathlib import Path

import pytest
import yaml

from docs.reference import PAGE, entries, page

DECISIONS = sorted(Path("docs/decisions").glob("*.md"))
PAGES = [Path("README.md"), *sorted(Path("docs").rglob("*.md"))]
OLD_NAMES = {Path("effir/lab/settings.py")}  # translates the settings of studies from before the redesign
CODE = [
    Path("params.yaml"),
    Path("dvc.yaml"),
    *(path for room in ("effir", "stages") for path in sorted(Path(room).rglob("*.py")) if path not in OLD_NAMES),
]

# Private words, and what to write instead.
INSTEAD = {
    r"(un)?heal(s|ed|ing)?": "fine-tune, recovery fine-tuning",
    r"restor(ed|ing|ation)": "distil, distillation; recover",
    r"teach(es|ing)?|taught|lessons?|opinions?": "teacher scores, distillation",
    r"(?<!relevance )judge?ments?": "qrels, relevance judgements",
    r"mend(s|ed|ing)?": "fix",
    r"habits?": "pooling and prompt config",
    r"lifelines?": "process",
    r"growing index": "document store",
    r"one_by_one|final_state": "greedy, leave_one_out",
    r"own teacher": "self-distillation",
    r"finds? (more|less|as much)": "has higher nDCG@10",
    r"told apart": "statistically indistinguishable",
    r"so many|another than|is none of": "N; not the one that",
}
WORDS = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)
# Names: code spans and the targets of links.
ALLOWED = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def private_words(text: str) -> list[str]:
    """Lines of a text that use a private word, outside of code spans and link targets."""
    kept = ALLOWED.sub(lambda span: "\n" * span[0].count("\n"), text)
    return [
        f"line {number}: {found[0]}"
        for number, line in enumerate(kept.splitlines(), 1)
        if (found := WORDS.search(line))
    ]


def test_the_reference_of_params_is_what_params_yaml_says() -> None:
    assert text_of(PAGE) == page(text_of(Path("params.yaml"))), "run `python -m docs.reference`"


def test_every_key_has_its_purpose() -> None:
    text = text_of(Path("params.yaml"))
    keys = {f"{section}.{key}" for section, values in yaml.safe_load(text).items() for key in values}
    said = {f"{section}.{key}": comment for section, key, comment in entries(text)}
    assert said.keys() == keys
    assert all(len(comment) > 10 for comment in said.values())


def test_every_stage_is_explained_in_the_order_in_which_they_run() -> None:
    told = re.findall(r"(?m)^\| `(\w+)`", text_of(Path("docs/stages.md")))
    assert told == list(yaml.safe_load(text_of(Path("dvc.yaml")))["stages"])


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page)):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_section_names_one(page: Path) -> None:
    for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text_of(page)):
        linked = page.parent / target if target else page
        headings = re.findall(r"(?m)^#+ (.+)$", text_of(linked))
        slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
        assert section in slugs, f"{page}: {target}#{section}"


# What these pages name is of the past: experiments, and where modules were.
PAST = {Path("docs/log.md"), Path("docs/decisions/0019-house.md")}


@pytest.mark.parametrize("page", [page for page in PAGES if page not in PAST], ids=str)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"`((?:effir|stages|tests|benchmarks|studies|profiles)/[\w/.-]+)`", text_of(page)))
    assert not [name for name in named if not Path(name).exists()]


# --- lengths


def test_readme_is_short() -> None:
    readme = Path("README.md").read_bytes()
    assert readme.count(b"\n") <= 150
    assert len(readme) <= 9_000


def test_results_are_at_most_250_lines() -> None:
    assert len(text_of(Path("docs/results.md")).splitlines()) <= 250


@pytest.mark.parametrize(
    "name", ["architecture", "experiments", "gpu", "speed", "stages", "troubleshooting", "tutorial", "using"]
)
def test_a_how_to_page_is_at_most_150_lines(name: str) -> None:
    assert len(text_of(Path(f"docs/{name}.md")).splitlines()) <= 150


@pytest.mark.parametrize("page", DECISIONS, ids=str)
def test_a_decision_is_at_most_60_lines(page: Path) -> None:
    assert len(text_of(page).splitlines()) <= 60


def test_all_pages_together_have_fewer_than_18000_words() -> None:
    # A word has a letter or a digit: the bars of a table are none.
    assert sum(len(re.findall(r"\S*\w\S*", text_of(page))) for page in PAGES) < 18_000


# --- words


def test_a_private_word_is_found_where_it_is_prose() -> None:
    assert private_words("The model is\nhealed for 60 steps.") == ["line 2: healed"]
    assert private_words("More steps teach more.") == ["line 1: teach"]
    assert private_words("Documents without judgements.") == ["line 1: judgements"]
    assert private_words("The relevance judgements, the study `heal`, [a page](results/heal.md), the teacher.") == []
    assert private_words("```\nheal\n```\nthen heal") == ["line 4: heal"]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_pages_use_the_fields_words(page: Path) -> None:
    assert not private_words(text_of(page)), f"{page}: see INSTEAD for what to write"


# CALLER: set to True when all parts of the redesign are merged.
CODE_IS_CLEAN = True


@pytest.mark.parametrize("path", CODE if CODE_IS_CLEAN else [], ids=str)
def test_the_code_uses_the_fields_words(path: Path) -> None:
    assert not private_words(text_of(path)), f"{path}: see INSTEAD for what to write"
