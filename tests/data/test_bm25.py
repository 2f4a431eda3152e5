"""BM25: Lucene's scores, and the same ranking on every machine."""

import math

import numpy as np
import pytest

from effir.data.beir import Document
from effir.data.bm25 import best, bm25_search, words
from effir.errors import EffirError


def test_bm25_scores_are_lucenes() -> None:
    documents = [Document("1", "", "cat dog"), Document("2", "", "cat cat fish bird"), Document("3", "", "bird")]
    found = bm25_search(documents, {"q": "cat"}, k=3)["q"]
    # idf = ln(1 + (3 - 2 + 0.5) / (2 + 0.5)); mean length 7/3; tf / (tf + 0.9 (0.6 + 0.4 length / mean))
    idf = math.log(1 + 1.5 / 2.5)
    first = idf * 1 / (1 + 0.9 * (0.6 + 0.4 * 2 / (7 / 3)))
    second = idf * 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / (7 / 3)))
    assert found == pytest.approx({"2": second, "1": first}, rel=1e-5)
    assert list(found) == ["2", "1"]


def test_bm25_breaks_ties_by_the_corpus_and_stops_at_k() -> None:
    documents = [Document(str(number), "", "cat") for number in range(20)]
    assert list(bm25_search(documents, {"q": "cat"}, k=3)["q"]) == ["0", "1", "2"]


def test_bm25_finds_nothing_for_a_query_without_known_words() -> None:
    assert bm25_search([Document("1", "", "cat")], {"q": "zebra", "": ""}, k=3) == {"q": {}, "": {}}


def test_bm25_refuses_a_corpus_without_words() -> None:
    with pytest.raises(EffirError, match="corpus is empty"):
        bm25_search([Document("1", "", "")], {"q": "cat"}, k=3)


def test_best_agrees_with_a_full_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 6, 100).astype(np.float32)
    expected = [int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > 0]
    assert [best(scores, k) for k in (1, 10, 100, 200)] == [expected[:k] for k in (1, 10, 100, 200)]


TEXTS = {
    "zh": ("数组可以用高斯滤波器平滑。", "网络服务器监听一个端口。", "怎样平滑一个数组"),
    "ja": ("画像をガウシアンフィルタで滑らかにする。", "サーバーはポートを待ち受ける。", "フィルタで画像を処理"),
    "th": ("เราใช้ตัวกรองเพื่อทำให้ภาพเรียบ", "เซิร์ฟเวอร์รอการเชื่อมต่อ", "ตัวกรองภาพ"),
    "my": ("ပုံများကို ချောမွေ့စေသည်", "ဆာဗာသည် ချိတ်ဆက်မှုကို စောင့်သည်", "ပုံချောမွေ့"),
}


@pytest.mark.parametrize("language", TEXTS)
def test_bm25_finds_texts_of_scripts_without_spaces(language: str) -> None:
    smooth, server, query = TEXTS[language]
    found = bm25_search([Document("server", "", server), Document("smooth", "", smooth)], {"q": query}, k=2)["q"]
    assert next(iter(found)) == "smooth"


def test_scripts_without_spaces_are_read_as_n_grams_of_characters() -> None:
    # 4 single characters and 3 pairs; the English word beside them stays whole; a text of two Thai letters is one.
    assert words("數組平滑") == ["數", "組", "平", "滑", "數組", "組平", "平滑"]
    assert words("用Python3编程") == ["用", "python3", "编", "程", "编程"]
    assert words("ตัวก") == ["ตัว", "ัวก"]
    assert words("กา") == ["กา"]
    assert words("छवि को चिकना करो।") == ["छवि", "को", "चिकना", "करो"]  # with spaces, and vowel signs
    assert "猫" in words("三毛猫")  # a query of one character finds it


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Vitamin D, the 2-D naïve Ωmega_3 (über) straße", "vitamin d 2 d naïve ωmega_3 über straße"),
        ("Быстрая сортировка и ёлка", "быстрая сортировка и ёлка"),
        ("다음 배열을 정렬", "다음 배열을 정렬"),  # Korean has spaces
        ("מערך של מספרים", "מערך של מספרים"),
        ("x² ≥ ½ µm ℵ₀", "x² ½ µm ℵ₀"),
        ("splits Chinese texts into words, for example 数组", "splits chinese texts words example 数组"),
    ],
)
def test_tokens_of_texts_with_spaces_are_as_before(text: str, tokens: str) -> None:
    assert words(text) == tokens.split()
