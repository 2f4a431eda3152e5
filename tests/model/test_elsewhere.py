"""The retriever's folder, untouched, in the frameworks that its users have."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.hub import hub
from tests.serve.conftest import tiny_retriever

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

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


PUSH = "SentenceTransformer(sys.argv[1], trust_remote_code=True).push_to_hub('team/pushed', token='hf_tests')"
UPLOAD = "HfApi(token='hf_tests').upload_folder(repo_id='team/uploaded', folder_path=sys.argv[1])"
READ = "\n".join(
    [
        "model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device='cpu')",
        "documents, query = json.loads(sys.argv[2])",
        "found = [model.encode(documents, prompt_name='document'), model.encode(query, prompt_name='query')]",
        "print(json.dumps([vectors.tolist() for vectors in found]))",
    ]
)


@pytest.mark.parametrize("repository", ["team/pushed", "team/uploaded"])
def test_a_hub(retriever: Path, tmp_path: Path, repository: str) -> None:
    """Pushed by sentence-transformers, or sent as it is; then read by its name, by one who has no more than the hub."""
    imports = (
        "import json, sys\nfrom huggingface_hub import HfApi\nfrom sentence_transformers import SentenceTransformer\n"
    )

    def run(code: str, *arguments: str, home: str) -> str:
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / home),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", imports + code, *arguments]
        done = subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    with hub(tmp_path / "hub") as address:
        create = "HfApi(token='hf_tests').create_repo('team/uploaded')\n"
        run(PUSH if repository == "team/pushed" else create + UPLOAD, str(retriever), home="author")
        texts = json.dumps([TEXTS, QUERY])
        documents, query = json.loads(run(READ, repository, texts, home="reader").splitlines()[-1])
    assert_same(documents, query, retriever)
    assert (tmp_path / "hub" / repository / "modeling.py").is_file()
