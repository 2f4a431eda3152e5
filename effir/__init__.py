"""effir: a decoder-only language model made into a small, fast dense retriever (EffiR, arXiv 2512.20612).

Importing effir lets transformers open cut checkpoints without ``trust_remote_code``. It imports neither torch nor
transformers for that: the first ``AutoConfig.from_pretrained`` registers the cut architectures.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

__version__ = "0.1.0"

_AUTO_CONFIG = "transformers.models.auto.configuration_auto"


class _Watch:
    """An import hook that waits for transformers' ``AutoConfig``, then leaves."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find ``AutoConfig``'s module as Python does, and have it prepared once it has run."""
        if name != _AUTO_CONFIG:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_prepare(module: Any) -> None:
            run(module)
            _prepare(module.AutoConfig)

        spec.loader.exec_module = run_and_prepare  # type: ignore[method-assign]
        sys.meta_path.remove(self)
        return spec


def _prepare(auto_config: Any) -> None:
    """Have the first ``from_pretrained`` register the cut architectures.

    Not at once: transformers' own Gemma 3 imports ``AutoConfig`` halfway, and a cut Gemma 3 needs the whole of it.
    """
    original = auto_config.__dict__["from_pretrained"]

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if auto_config.__dict__.get("from_pretrained") is prepared:
            auto_config.from_pretrained = original
        register()
        return original.__get__(None, cls)(*args, **kwargs)

    prepared = classmethod(from_pretrained)
    auto_config.from_pretrained = prepared


def register() -> None:
    """Make the cut architectures known to ``AutoConfig`` and ``AutoModel``; doing it again changes nothing."""
    from transformers import AutoConfig, AutoModel

    from effir.model.modeling import FAMILIES

    for model in FAMILIES.values():
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model, exist_ok=True)


if _AUTO_CONFIG in sys.modules:
    _prepare(sys.modules[_AUTO_CONFIG].AutoConfig)
else:
    sys.meta_path.insert(0, _Watch())
