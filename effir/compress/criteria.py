"""Choose: the criterion by which sublayers are ordered, by its name in params.yaml."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from effir.compress.drop_order import KINDS, Drop, Droppable, order_by_score
from effir.compress.leave_out import greedy_order, leave_one_out
from effir.compress.redundancy import Importance
from effir.model.shape import ModelShape

Criterion = Literal["cosine", "leave_one_out", "greedy"]
Batches = Iterable[Mapping[str, Tensor]]


def order_by_criterion(
    criterion: Criterion,
    model: Any,
    shape: ModelShape,
    importance: Importance,
    batches: Callable[[], Batches],
    droppable: Droppable,
    share: float,
) -> list[Drop]:
    """Order the sublayers of a model by a criterion, what may go first in front.

    ``cosine`` orders by ``importance`` (EffiR, sec. 3.1). The others read ``batches``: ``leave_one_out`` scores each
    sublayer by what the final hidden states lose without it, ``greedy`` scores again after each drop and orders
    only the first ``share`` of all.
    """
    kinds = KINDS[droppable]
    if criterion == "greedy":
        count = round(share * sum(len(shape.having(kind)) for kind in kinds))
        return greedy_order(model, shape, batches(), kinds, count)
    scores = importance.scores() if criterion == "cosine" else leave_one_out(model, shape, batches(), kinds)
    return order_by_score(scores, shape, kinds)
