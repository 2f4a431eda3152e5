"""`effir plan`: sizes before anything is downloaded, and the paper's own."""

import json
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


@pytest.fixture
def mistral(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL), encoding="utf-8")
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
    assert lines[0].split() == ["whole", "cut"]
    assert lines[1].split() == ["parameters", "7,110.7", "M", "3,446.4", "M"]
    assert lines[-1].startswith("47.5% of the parameters beside the embeddings are kept. 2.0")


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
        ([str(mistral), "--depth", "33"], "33 sublayers are to be dropped, but the model has 32: choose 0 to that"),
        (
            [str(mistral), "--sublayer", "block", "--depth", "32"],
            "32 sublayers are to be dropped, which leaves nothing",
        ),
        ([str(broken)], f"{broken} is not JSON"),
        ([str(foreign)], f"{foreign} is a gpt2 model, which effir cannot cut"),
        ([str(empty)], f"{empty} is no Hugging Face checkpoint, it has no config.json: name another folder"),
        (["no such thing"], "no such thing is neither a path nor a hub id"),
        (["nobody/nothing"], "the config.json of nobody/nothing could not be fetched"),
    ]:
        result = effir(*arguments)
        assert result.exit_code == 2
        assert result.output.startswith(f"Error: {said}")
        assert result.output.count("\n") == 1


def test_a_ranking_of_two_kinds_is_refused(mistral: Path) -> None:
    whole = plan(str(mistral), "mlp", 0, 1.0, tokens=1).whole
    with pytest.raises(EffirError, match="the size of a cut by either cannot be foreseen"):
        planned(whole, "attention_or_mlp", 1, 1.0)
