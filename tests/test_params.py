from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from effir.errors import EffirError
from effir.params import Params, check_params, load_params

MANUAL = Path(__file__).parents[1] / "params.yaml"


def changed(key: str, value: Any) -> dict[str, Any]:
    """The project's own settings with one key changed, as ``-S`` changes it; None removes the key."""
    values: dict[str, Any] = yaml.safe_load(MANUAL.read_text(encoding="utf-8"))
    section, _, name = key.partition(".")
    place, name = (values[section], name) if name else (values, section)
    place[name] = value
    if value is None:
        del place[name]
    return values


def sections() -> dict[str, type[BaseModel]]:
    return {field.alias or name: field.annotation for name, field in Params.model_fields.items()}  # type: ignore[misc]


def test_the_manual_is_a_valid_setting_and_names_every_key() -> None:
    load_params(MANUAL)
    written = yaml.safe_load(MANUAL.read_text(encoding="utf-8"))
    assert {name: set(section) for name, section in written.items()} == {
        name: set(section.model_fields) for name, section in sections().items()
    }


def test_every_key_says_what_it_is_in_the_code() -> None:
    for name, section in sections().items():
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key}"


def test_every_key_of_the_manual_has_a_comment_near_above_it() -> None:
    lines = MANUAL.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  ") and not line.lstrip().startswith("#"):
            # Up to three keys of one thing (rank, alpha, dropout) may share a comment.
            assert any(above.startswith("  #") for above in lines[number - 3 : number]), line


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "prune.width",
            1.6,
            "prune.width: input should be less than or equal to 1, got 1.6; "
            "it is the share of the remaining MLP channels that is kept",
        ),
        (
            "finetune.learning_rate",
            "fast",
            "finetune.learning_rate: input should be a valid number, unable to parse string as a number, got 'fast'; "
            "it is the peak learning rate",
        ),
        (
            "analyze.sublayer",
            "norm",
            "analyze.sublayer: input should be 'mlp', 'attention', 'block' or 'attention_or_mlp', got 'norm'; "
            "it is mlp, attention, block or attention_or_mlp: the kind of sublayer to rank and to drop",
        ),
        (
            "prune.depth",
            -1,
            "prune.depth: input should be greater than or equal to 0, got -1; it is the number of sublayers to drop",
        ),
        ("prune.nope", 3, "prune.nope is not a key of params.yaml: remove it or correct its name"),
        ("prun", {}, "prun is not a key of params.yaml: remove it or correct its name"),
        (
            "prune.depth",
            None,
            "prune.depth is missing from params.yaml: the number of sublayers to drop",
        ),
        (
            "register.alias",
            "latest",
            "register.alias: MLflow reserves `latest`, and `v` with a number, for itself, got 'latest'; it is the "
            "alias that the new version gets",
        ),
        (
            "register.alias",
            "v2",
            "register.alias: MLflow reserves `latest`, and `v` with a number, for itself, got 'v2'; it is the alias "
            "that the new version gets",
        ),
        (
            "register.alias",
            "best.one",
            "register.alias: MLflow takes letters, digits, _ and - in an alias, got 'best.one'; it is the alias that "
            "the new version gets",
        ),
        (
            "register.alias",
            "champion",
            "register.alias: `effir promote` alone sets champion and previous, got 'champion'; it is the alias that "
            "the new version gets",
        ),
        (
            "data.eval",
            ["apidocs", "cost"],
            "data.eval names a set `cost`, but metrics/cost.json is what measure_cost writes: give it another name",
        ),
        (
            "data.eval",
            ["apidocs", "apidocs"],
            "data.eval names a set twice (apidocs, apidocs): name each once",
        ),
        (
            "analyze.drop_texts",
            300,
            "analyze.drop_texts must be at most analyze.texts (256), got 300: lower it, or read more texts",
        ),
        (
            "evaluate.baselines",
            {"BM25": "hub:a/b"},
            "evaluate.baselines.BM25: bm25, effir, uncompressed, base, cut, served, usual name other systems: choose "
            "another name, got 'BM25'; it is a name and the source of a sentence-transformers folder each; {} compares "
            "with BM25 alone",
        ),
        (
            "evaluate.baselines",
            {"small_low": "hub:a/b"},
            "evaluate.baselines.small_low: metrics that end in _low and _high are bounds: choose another name, got "
            "'small_low'; it is a name and the source of a sentence-transformers folder each; {} compares with BM25 "
            "alone",
        ),
        ("register", None, "register is missing from params.yaml: a section of settings"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(EffirError) as refused:
        check_params(changed(key, value))
    assert str(refused.value) == sentence


def test_more_negatives_than_are_mined_contradict_each_other() -> None:
    values = changed("data.negatives", 3)
    values["training"]["negatives"] = 4
    with pytest.raises(
        EffirError, match=r"^training\.negatives must be at most data\.negatives \(3\), got 4: mine more or train with"
    ):
        check_params(values)


def test_examples_that_cannot_fill_a_batch_and_a_miner_without_a_teacher_are_refused() -> None:
    needed = r"^training\.examples must be 0 or at least the batch_size of finetune and finetune_full \(32\)"
    with pytest.raises(EffirError, match=needed):
        check_params(changed("training.examples", 15))
    values = changed("training.teacher", "")
    values["training"]["miner"] = "teacher"
    with pytest.raises(EffirError, match=r"^training\.miner is teacher, but training\.teacher names none"):
        check_params(values)


def test_baselines_are_none_or_names_of_letters_digits_dots_dashes_with_a_source() -> None:
    assert check_params(changed("evaluate.baselines", {})).evaluate.baselines == {}
    named = {"bge-small_en.v1.5": "hub:a/b@c"}
    assert check_params(changed("evaluate.baselines", named)).evaluate.baselines == named
    for wrong in ({"a b": "hub:a/b"}, {"a/b": "hub:a/b"}, {"small": ""}):
        with pytest.raises(EffirError, match=r"^evaluate\.baselines\.[^\n]*\{\} compares with BM25 alone$"):
            check_params(changed("evaluate.baselines", wrong))


def test_a_width_below_1_needs_a_method() -> None:
    with pytest.raises(EffirError, match=r"^prune\.method is none, but prune\.width is 0\.66: choose a method, or"):
        check_params(changed("prune.method", "none"))


def test_a_value_inside_a_list_or_mapping_is_named_by_its_place() -> None:
    with pytest.raises(EffirError, match=r"^data\.eval\.1: .*got '\.\./up'; it is names of the sets"):
        check_params(changed("data.eval", ["apidocs", "../up"]))
    with pytest.raises(EffirError, match=r"^data\.collections\.mine: .*got 3; it is own collections"):
        check_params(changed("data.collections", {"mine": 3}))


def test_a_set_with_an_at_sign_is_refused_wherever_it_is_named() -> None:
    for key, value in [("data.eval", ["a@b"]), ("data.dev", "a@b"), ("data.train", {"a@b": 1.0})]:
        with pytest.raises(EffirError, match=rf"^{key.replace('.', '[.]')}.*string should match pattern.*'a@b'"):
            check_params(changed(key, value))


@pytest.mark.parametrize("key", ["retriever.query_prompt", "retriever.document_prompt"])
def test_a_line_break_in_a_prompt_is_one_and_its_two_characters_are_refused(key: str) -> None:
    prompt = check_params(changed(key, "Instruct: find it\nQuery: ")).retriever.model_dump()[key.partition(".")[2]]
    assert prompt == "Instruct: find it\nQuery: "
    with pytest.raises(EffirError, match=rf"^{key}: it holds the two characters \\n, write the character itself"):
        check_params(changed(key, "Instruct: find it\\nQuery: "))
    with pytest.raises(EffirError, match=rf"^{key}: it holds \$\{{, which DVC takes for a reference"):
        check_params(changed(key, "${model.base}: "))


def test_numbers_that_arrive_as_text_are_numbers() -> None:
    # YAML 1.1, which PyYAML reads, wants a dot: `-S finetune.learning_rate=1e-5` leaves the text "1e-5".
    assert yaml.safe_load("1e-5") == "1e-5"
    assert check_params(changed("finetune.learning_rate", "1e-5")).finetune.learning_rate == 1e-5
    assert check_params(changed("prune.depth", "4")).prune.depth == 4


def test_a_file_that_is_missing_or_no_mapping_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EffirError, match=r"params\.yaml is missing: run this in the project's root, or restore it"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "broken.yaml").write_text("prune: [1,")
    with pytest.raises(EffirError, match=r"broken\.yaml is not YAML \([^\n]+\): correct it$"):
        load_params(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(EffirError, match=r"empty\.yaml is empty: restore it by `git checkout"):
        load_params(tmp_path / "empty.yaml")


def test_a_file_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"\x80model: 1\n")
    with pytest.raises(EffirError, match=r"params.yaml is not UTF-8 text \(invalid start byte\): correct it$"):
        load_params(tmp_path / "params.yaml")


def test_the_variant_names_depth_width_and_seed() -> None:
    values = changed("prune.depth", 10)
    values["prune"]["width"], values["training"]["seed"] = 0.5, 3
    assert check_params(values).variant == "d10-w0.50-s3"
    values["finetune"]["steps"] = 0
    assert check_params(values).variant == "d10-w0.50-s3-not-finetuned"
