from dataclasses import replace

import pytest

from effir.data.examples import Example
from effir.errors import EffirError
from effir.training.trainer import as_columns, by_part

EXAMPLES = [
    Example(f"what is number {i}?", f"the number {i} is {i * i} squared", (f"letter {i}", f"{i} words"))
    for i in range(6)
]
MIXED = [replace(example, part="few" if i % 3 == 0 else "many") for i, example in enumerate(EXAMPLES)]


def test_examples_become_columns_in_the_order_that_the_loss_reads() -> None:
    table = as_columns(EXAMPLES[:2])
    assert table.column_names == ["query", "positive", "negative_1", "negative_2", "label"]
    assert table[1] == {
        "query": "what is number 1?",
        "positive": "the number 1 is 1 squared",
        "negative_1": "letter 1",
        "negative_2": "1 words",
        "label": 1,  # its row, by which its teacher scores are found
    }
    assert as_columns([replace(EXAMPLES[0], negatives=())]).column_names == ["query", "positive", "label"]


def test_parts_are_tables_of_their_own_with_the_rows_of_all() -> None:
    parts = by_part(MIXED, batch_size=2)
    assert {name: table["label"][:] for name, table in parts.items()} == {"few": [0, 3], "many": [1, 2, 4, 5]}
    assert parts["few"][1]["query"] == "what is number 3?"
    assert by_part(EXAMPLES, batch_size=6)[""]["label"][:] == [0, 1, 2, 3, 4, 5]


def test_200_queries_onto_4_answers_are_refused_and_a_frequent_answer_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    onto_four = [Example(f"query {i}", f"answer {i % 4}", ()) for i in range(200)]
    with pytest.raises(EffirError, match=r"^200 training examples have only 4 different answers, and a batch holds"):
        by_part(onto_four, batch_size=32)
    assert capsys.readouterr().err == ""
    by_part(onto_four, batch_size=4)  # 50 batches of 4: all are full
    assert capsys.readouterr().err == ""
    # One answer has 40 of 80 examples, so they go to 40 batches: 2 examples in each on average.
    by_part([Example(f"query {i}", f"answer {max(0, i - 39)}", ()) for i in range(80)], batch_size=8)
    assert (
        "40 of 80 training examples have the same text among their answers: batches hold 2.0" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        (MIXED, "2 training examples of few cannot fill a batch of 3: lower batch_size, raise training.examples, or"),
        (EXAMPLES[:2], "2 training examples cannot fill a batch of 3: lower batch_size$"),
        ([], "0 training examples cannot fill a batch of 3: lower batch_size$"),
    ],
)
def test_too_few_for_a_batch_is_one_sentence(examples: list[Example], said: str) -> None:
    with pytest.raises(EffirError, match=f"^{said}"):
        by_part(examples, batch_size=3)
