"""A retriever folder as a fast encoder: batches by tokens, no padding mask, packed or quantised weights."""
