"""The retriever's folder, untouched, in the frameworks that its users have."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.serving.conftest import retriever as retriever  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")

QUERY, TEXTS = "w7 w8", ["w4 w5", "w6 w7 w8"]
PROMPT = "w60 "  # the fixture's query prompt


def test_langchain(retriever: Path) -> None:
    from langchain_huggingface import HuggingFaceEmbeddings

    own = SentenceTransformer(str(retriever), trust_remote_code=True, device="cpu")
    theirs = HuggingFaceEmbeddings(
        model_name=str(retriever),
        model_kwargs={"trust_remote_code": True, "device": "cpu"},
        query_encode_kwargs={"prompt_name": "query"},
    )
    np.testing.assert_allclose(theirs.embed_documents(TEXTS), own.encode(TEXTS, prompt_name="document"), atol=1e-6)
    np.testing.assert_allclose(theirs.embed_query(QUERY), own.encode(QUERY, prompt_name="query"), atol=1e-6)
    assert np.abs(np.array(theirs.embed_query(QUERY)) - own.encode(QUERY)).max() > 0.01  # the prompt counts


def test_llama_index(retriever: Path) -> None:
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    own = SentenceTransformer(str(retriever), trust_remote_code=True, device="cpu")
    theirs = HuggingFaceEmbedding(
        model_name=str(retriever), trust_remote_code=True, device="cpu", query_instruction=PROMPT
    )
    found = [theirs.get_text_embedding(text) for text in TEXTS]
    np.testing.assert_allclose(found, own.encode(TEXTS, prompt_name="document"), atol=1e-6)
    np.testing.assert_allclose(theirs.get_query_embedding(QUERY), own.encode(QUERY, prompt_name="query"), atol=1e-6)
