"""Encode texts by a retriever folder: batches by tokens, no padding mask, prepacked or quantised weights."""
