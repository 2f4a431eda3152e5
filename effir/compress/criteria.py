"""Choose: the criterion by which sublayers are ordered, by its name in params.yaml."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from effir.compress.drop_order import KINDS, Drop, Droppable, order_by_score
from effir.compress.leave_out import change_without_each, drop_order
from effir.compress.redundancy import Importance
from effir.model.shape import ModelShape

Criterion = Literal["cosine", "final_state", "one_by_one"]
Batches = Iterable[Mapping[str, Tensor]]


def drop_order_by(
    criterion: Criterion,
    model: Any,
    shape: ModelShape,
    importance: Importance,
    batches: Callable[[], Batches],
    droppable: Droppable,
    share: float,
) -> list[Drop]:
    """Order the sublayers of a model by a criterion, what may go first in front.

    ``cosine`` orders by ``importance`` (EffiR, sec. 3.1). The others read ``batches``: ``final_state`` scores each
    sublayer by what the final hidden states lose without it, ``one_by_one`` scores again after each drop and orders
    only the first ``share`` of all.
    """
    kinds = KINDS[droppable]
    if criterion == "one_by_one":
        count = round(share * sum(len(shape.having(kind)) for kind in kinds))
        return drop_order(model, shape, batches(), kinds, count)
    scores = importance.scores() if criterion == "cosine" else change_without_each(model, shape, batches(), kinds)
    return order_by_score(scores, shape, kinds)
