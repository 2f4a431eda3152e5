"""`effir plan`: sizes before anything is downloaded, and the paper's own."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from effir.cli import main
from effir.compress.plan import plan, planned
from effir.errors import EffirError

MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture
def mistral(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL), encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # where no params.yaml names a cut
    return tmp_path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2), encoding="utf-8")
    shutil.copy(PARAMS, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def effir(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


@pytest.mark.parametrize(
    ("sublayer", "depth", "width", "billions"),
    [
        ("mlp", 0, 1.0, 7.1),
        ("mlp", 16, 1.0, 4.3),
        ("mlp", 20, 1.0, 3.6),
        ("mlp", 24, 1.0, 2.9),
        ("mlp", 16, 0.7, 3.4),
        ("attention", 16, 1.0, 6.4),
        ("block", 8, 1.0, 5.4),
    ],
)
def test_mistral_7b_has_the_sizes_of_the_paper(
    mistral: Path, sublayer: str, depth: int, width: float, billions: float
) -> None:
    arguments = ["--sublayer", sublayer, "--depth", str(depth), "--width", str(width), "--json"]
    result = effir(str(mistral), *arguments)
    assert result.exit_code == 0, result.output
    assert round(json.loads(result.output)["parameters"][1] / 1e9, 1) == billions


def test_flops_memory_and_vectors_follow_from_the_configuration(mistral: Path) -> None:
    found = json.loads(effir(str(mistral / "config.json"), "--depth", "16", "--tokens", "1", "--json").output)
    # A layer multiplies by 41.9 M weights in its attention and by 176.2 M in its MLP; a lone token sees itself alone.
    attention, mlp = 4096 * (4096 * 2 + 1024 * 2), 3 * 4096 * 14336
    whole, cut = (2 * (32 * (attention + 2 * 4096) + mlps * mlp) for mlps in (32, 16))
    assert found["flops_per_token"] == [whole, cut]
    assert found["flops_speedup"] == pytest.approx(whole / cut)
    assert found["weight_bytes"]["bfloat16"] == [2 * each for each in found["parameters"]]
    assert found["vector_bytes"] == 4 * 4096


def test_the_table_shows_both_models(mistral: Path) -> None:
    lines = effir(str(mistral), "--depth", "16", "--width", "0.7").output.splitlines()
    assert lines[0] == "The cut: 16 mlp sublayers dropped, 70% of the remaining MLP channels kept."
    assert lines[1].split() == ["uncompressed", "cut"]
    assert lines[2].split() == ["parameters", "7,110.7", "M", "3,446.4", "M"]
    assert lines[-2].startswith("47.5% of the non-embedding parameters are kept. ")


def test_without_options_the_cut_is_the_pipelines(project: Path) -> None:
    # metrics/cost.json of the committed default run: kept_share 0.49667. Widths are rounded to multiples of 16 there.
    found = json.loads(effir(str(project), "--json").output)
    assert (found["sublayer"], found["depth"], found["width"]) == ("block", 10, 0.66)
    assert found["kept_share"] == pytest.approx(0.497, abs=0.002)


def test_an_option_takes_the_place_of_its_setting_alone(project: Path) -> None:
    found = json.loads(effir(str(project), "--width", "1.0", "--json").output)
    assert (found["sublayer"], found["depth"], found["width"]) == ("block", 10, 1.0)


def test_a_cut_checkpoint_is_planned_from_what_it_still_has(tmp_path: Path) -> None:
    cut = {**MISTRAL, "model_type": "effir_mistral", "mlp_widths": [0] * 16 + [14336] * 16}
    (tmp_path / "config.json").write_text(json.dumps(cut), encoding="utf-8")
    found = plan(str(tmp_path), "mlp", 4, 1.0, tokens=512)
    assert found.whole.having("mlp") == list(range(16, 32))
    assert found.cut.having("mlp") == list(range(20, 32))


def test_what_cannot_be_planned_is_one_sentence(
    mistral: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    empty = tmp_path_factory.mktemp("empty")
    (broken := empty / "broken.json").write_text("{", encoding="utf-8")
    (foreign := empty / "foreign.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    for arguments, said in [
        ([str(mistral), "--depth", "33"], "the depth is 33, but the model has 32 mlp sublayers: choose 0 to 32"),
        (
            [str(mistral), "--sublayer", "block", "--depth", "32"],
            "dropping 32 sublayers of kind block leaves no layer: drop fewer",
        ),
        ([str(broken)], f"{broken} is not JSON"),
        ([str(foreign)], f"{foreign} is a gpt2 model, which effir cannot cut"),
        ([str(empty)], f"{empty} is not a Hugging Face checkpoint: it has no config.json. Name another folder"),
        (["no such thing"], "no such thing is neither a path nor a hub id"),
        (["nobody/nothing"], "the config.json of nobody/nothing could not be downloaded"),
    ]:
        result = effir(*arguments)
        assert result.exit_code == 2
        assert result.output.startswith(f"Error: {said}")
        assert result.output.count("\n") == 1


def test_a_ranking_of_two_kinds_is_refused(mistral: Path) -> None:
    uncut = plan(str(mistral), "mlp", 0, 1.0, tokens=1).whole
    with pytest.raises(EffirError, match="attention_or_mlp drops sublayers of two sizes"):
        planned(uncut, "attention_or_mlp", 1, 1.0)
