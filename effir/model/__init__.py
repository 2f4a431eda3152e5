"""A checkpoint, uncompressed or cut: its architecture, its shape, and the retriever made of it."""
