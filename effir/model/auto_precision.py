"""`auto`: bfloat16 or float32, measured once for a machine, a version of the runtime and a size of model.

A processor that multiplies bfloat16 natively may still be faster in float32: with AVX512-BF16 but without AMX, Intel's
Xeons are (docs/decisions/0003-bfloat16.md). The CPU time of one thread is compared, because it does not depend on what
else runs: on two busy cores the time on the clock said 0.5 to 3.9 where an idle machine says 5 to 6.
"""

import logging
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from effir.errors import EffirError
from effir.files import read_json, state_dir, text_digest, write_json

Arithmetic = Literal["float32", "bfloat16"]
Product = tuple[int, int]
"""The matrix (out, in) of the largest linear layer."""

MARGIN = 1.2
"""How many times as fast float32 must be to replace bfloat16; a processor near 1 would change its mind."""
ROWS = 256  # tokens in the product that is measured
SECONDS, FEWEST, MOST = 0.1, 3, 30  # CPU time and rounds of a measurement
SIDES = 512, 4096  # a smaller matrix measures the call, a larger one takes seconds
USUAL: Product = (1536, 576)  # SmolLM2-135M, where a config names no sizes
IDENTITY = ("vendor_id", "model name", "stepping", "flags", "CPU implementer", "CPU part", "Features")


@dataclass(frozen=True)
class Decision:
    """In what a model is computed; ``speedup`` of bfloat16 over float32, None where nothing had to be measured."""

    arithmetic: Arithmetic
    speedup: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return it as numbers: ``served_bfloat16`` is 1 or 0, ``bfloat16_speedup`` is there if it was measured.

        >>> Decision("float32", 0.556).metrics()
        {'served_bfloat16': 0.0, 'bfloat16_speedup': 0.556}
        """
        measured = {} if self.speedup is None else {"bfloat16_speedup": self.speedup}
        return {"served_bfloat16": float(self.arithmetic == "bfloat16"), **measured}


def decide(
    runtime: str, product: Product, candidates: Callable[[Product], Mapping[Arithmetic, Callable[[], object]]]
) -> Decision:
    """Decide for a ``runtime``, named with its version; ``candidates`` prepares a product of ``ROWS`` in each type.

    A candidate computes once and returns the CPU seconds that it took. The first decision of a machine is kept in the
    state folder and holds. It is logged.
    """
    found = _kept(runtime, product) or _keep(runtime, product, chosen(candidates(product)))
    logging.getLogger("effir").info(
        f"auto computes in {found.arithmetic}: {runtime} multiplies {product[0]} x {product[1]} matrices "
        f"{found.speedup:.2f} times as fast in bfloat16 as in float32 on this processor"
    )
    return found


def chosen(candidates: Mapping[Arithmetic, Callable[[], Any]]) -> Decision:
    """Compare the least seconds that each candidate takes, in turn; float32 must win by ``MARGIN``.

    >>> chosen({"float32": lambda: 1.0, "bfloat16": lambda: 1.8})
    Decision(arithmetic='float32', speedup=0.556)
    >>> chosen({"float32": lambda: 1.0, "bfloat16": lambda: 1.1})
    Decision(arithmetic='bfloat16', speedup=0.909)
    """
    for run in candidates.values():
        run()  # prepares kernels
    least, spent, rounds = dict.fromkeys(candidates, float("inf")), 0.0, 0
    while rounds < FEWEST or (rounds < MOST and spent < SECONDS):
        for name, run in candidates.items():
            took = run()
            spent, least[name] = spent + took, min(least[name], took)
        rounds += 1
    speedup = round(least["float32"] / max(least["bfloat16"], 1e-9), 3)
    return Decision("float32" if speedup * MARGIN < 1 else "bfloat16", speedup)


def product_of(config: Any) -> Product:
    """Read the largest linear layer from a config, an object or a mapping; a cut changes neither of its sides."""
    named = config if isinstance(config, Mapping) else vars(config)
    sides = (named.get("intermediate_size") or USUAL[0], named.get("hidden_size") or USUAL[1])
    out, into = (min(max(int(side), SIDES[0]), SIDES[1]) for side in sides)
    return out, into


def machine() -> str:
    """Name the processor and its instructions, as far as they are known."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    lines = (line.partition(":") for line in first.splitlines())
    found = [value.strip() for key, _, value in lines if key.strip() in IDENTITY]
    return " ".join(found or [platform.machine(), platform.processor()])


def _kept(runtime: str, product: Product) -> Decision | None:
    with suppress(EffirError, OSError, KeyError, TypeError):  # none yet, damaged, or no state folder
        return Decision(**read_json(_place(runtime, product))["decision"])
    return None


def _keep(runtime: str, product: Product, found: Decision) -> Decision:
    """Keep a decision and return the one that holds: another process may have decided meanwhile."""
    if earlier := _kept(runtime, product):
        return earlier
    with suppress(OSError):  # a state folder that cannot be written: the decision holds for this process
        measured = {"runtime": runtime, "product": product, "machine": machine()[:100]}
        write_json(_place(runtime, product), {**measured, "decision": asdict(found)})
    return found


def _place(runtime: str, product: Product) -> Path:
    return state_dir("precision") / f"{text_digest(f'{runtime} {product} {MARGIN} {machine()}')[:16]}.json"
