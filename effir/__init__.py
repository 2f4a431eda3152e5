"""effir: a decoder-only language model made into a small, fast dense retriever (EffiR, arXiv 2512.20612).

Import ``effir.model.checkpoint`` to let transformers open cut checkpoints without ``trust_remote_code``.
"""

__version__ = "0.1.0"
