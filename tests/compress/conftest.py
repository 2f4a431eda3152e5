"""Tiny random models of every family, saved as uncompressed checkpoints with a tokenizer."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LAYERS, WIDTH, HIDDEN, VOCABULARY = 4, 48, 32, 64

# What makes each family itself: biases, sliding windows shorter than the texts, another head size than hidden / heads.
FAMILY_SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 4, "head_dim": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
    "qwen3": {"head_dim": 16, "attention_bias": True},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4},
}


def tiny_model(family: str, **settings: Any) -> Any:
    config = CONFIG_MAPPING[family](
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        **{"num_hidden_layers": LAYERS, **FAMILY_SETTINGS[family], **settings},
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, so that nothing hides behind zeros and ones
            parameter.normal_(0.1, 0.3)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{number}": number for number in range(4, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run tiny models on one thread: more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def whole_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a tiny model of a family, with LM head and tokenizer, once a session."""
    saved: dict[str, Path] = {}

    def save(family: str) -> Path:
        if family not in saved:
            saved[family] = tmp_path_factory.mktemp("whole") / family
            tiny_model(family).save_pretrained(saved[family])
            tiny_tokenizer().save_pretrained(saved[family])
        return saved[family]

    return save


@pytest.fixture(params=list(FAMILY_SETTINGS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def whole(family: str, whole_checkpoint: Callable[[str], Path]) -> Path:
    """An uncompressed checkpoint of each family in turn."""
    return whole_checkpoint(family)


@pytest.fixture
def model(whole_checkpoint: Callable[[str], Path]) -> Any:
    return AutoModel.from_pretrained(whole_checkpoint("llama")).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three right-padded texts of 9, 6 and 3 tokens: longer than the sliding windows."""
    ids = torch.randint(4, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(9) < torch.tensor([[9], [6], [3]])).long()
    return {"input_ids": ids * mask, "attention_mask": mask}
