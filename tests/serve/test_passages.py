"""Passages: everything is read, whole sentences of any script, nothing is lost."""

import pytest

from effir.serve.passages import grouped, passages, sentences
from tests.serve.conftest import byte_reader

READER = byte_reader(64)
TEXTS = {  # a sentence, about as long as a passage may be
    "English": "The filter smooths an image with a Gaussian. ",
    "Chinese": "高斯滤波器可以平滑一个图像。",
    "Japanese": "フィルタで画像を滑らかにする。",
    "Hindi": "छवि को चिकना करो। ",
    "Arabic": "هل يمكن تنعيم الصورة؟ ",
    "Amharic": "ምስሉን ያስተካክላል።",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_passage_is_a_whole_sentence_of_any_script(language: str) -> None:
    sentence = TEXTS[language]
    assert len(sentence.encode()) <= 63 < 2 * len(sentence.strip().encode())  # one fits beside EOS, two do not
    assert list(passages(5 * sentence, "", READER)) == 5 * [sentence.strip()]


@pytest.mark.parametrize(
    "text", ["ภาพเรียบขึ้นด้วยตัวกรอง" * 9, "x" * 500, "word " * 99, "中" * 99, "1.5, " * 50], ids=range(5)
)
@pytest.mark.parametrize("title", ["", "T", "a title that takes more than half of what is read"])
def test_nothing_is_lost_and_all_is_read_where_no_sentence_ends(text: str, title: str) -> None:
    found = list(passages(text, title, READER))
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    head = f"{title} " if title == "T" else ""  # the long title leaves no room
    assert not any(READER.cut([head + passage for passage in found], "document"))
    assert len(found) < 3 * len(text.encode()) / (63 - len(head))  # and none is tiny
    words = set(text.split())
    assert "word" not in words or {word for passage in found for word in passage.split()} == words


def test_a_text_that_is_read_whole_stays_whole() -> None:
    assert list(passages("One. Two.\n\nThree.\n", "A title", READER)) == ["One. Two. Three."]
    assert list(passages(" \n\n ", "A title", READER)) == []


def test_a_long_text_is_tokenised_piece_by_piece() -> None:
    found = list(passages("The filter smooths an image. " * 5000, "", READER))
    assert len(found) == 2500  # two of 28 bytes, a space and EOS are 58 of 64 tokens


def test_sentences_of_all_scripts_are_told_apart_and_numbers_stay_whole() -> None:
    text = 'He said "3.14!" Then? 好。\n\nNo end'
    assert sentences(text) == ['He said "3.14!" ', "Then? ", "好。\n\n", "No end"]
    assert "".join(sentences(text)) == text


def test_groups_count_two_characters_of_chinese_as_a_word() -> None:
    assert grouped(["一二三四。", "五六。", "七八九十。"], 4) == ["一二三四。五六。", "七八九十。"]  # 1 + 6 / 2 = 4
