"""The FAISS index of a corpus."""
