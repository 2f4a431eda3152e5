"""Training a retriever: the trainer, its losses, teachers, checkpoints."""
