"""The retriever's folder, untouched, in the frameworks that its users have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.serving.conftest import tiny_retriever

pytestmark = pytest.mark.usefixtures("one_thread")

QUERY, TEXTS = "w7 w8", ["w4 w5", "w6 w7 w8"]
QUERY_PROMPT, DOCUMENT_PROMPT = "w60 ", "w61 "


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_retriever(tmp_path_factory.mktemp("model"), QUERY_PROMPT, DOCUMENT_PROMPT)


def assert_same(documents: Any, query: Any, retriever: Path) -> None:
    """Compare with what sentence-transformers gives; prompts count, or the next line would hold without them."""
    own = SentenceTransformer(str(retriever), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(documents, own.encode(TEXTS, prompt_name="document"), atol=1e-6)
    np.testing.assert_allclose(query, own.encode(QUERY, prompt_name="query"), atol=1e-6)
    bare = own.encode([*TEXTS, QUERY], prompt="")
    assert np.abs(np.array([*documents, query]) - bare).max(axis=1).min() > 0.01


def test_langchain(retriever: Path) -> None:
    from langchain_huggingface import HuggingFaceEmbeddings

    theirs = HuggingFaceEmbeddings(
        model_name=str(retriever),
        model_kwargs={"trust_remote_code": True, "device": "cpu"},
        encode_kwargs={"prompt_name": "document"},
        query_encode_kwargs={"prompt_name": "query"},
    )
    assert_same(theirs.embed_documents(TEXTS), theirs.embed_query(QUERY), retriever)


def test_llama_index(retriever: Path) -> None:
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    theirs = HuggingFaceEmbedding(
        model_name=str(retriever),
        trust_remote_code=True,
        device="cpu",
        query_instruction=QUERY_PROMPT,
        text_instruction=DOCUMENT_PROMPT,
    )
    documents = [theirs.get_text_embedding(text) for text in TEXTS]
    assert_same(documents, theirs.get_query_embedding(QUERY), retriever)
