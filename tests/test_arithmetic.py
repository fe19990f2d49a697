"""The benchmark of composed queries asks what it says, and counts hits as a plain loop does."""

import numpy as np

from benchmarks.arithmetic import Item, K, Question, hits, questions


def item(name: str, concept: str, base: str, tone: str, text: str, split: str = "val") -> Item:
    return Item(name, concept, base, tone, text, split)


ITEMS = [
    item("a:run", "run", "run", "none", "person running"),
    item("b:run", "run", "run", "none", "person running"),
    item("a:run-dark", "run-dark", "run", "dark", "person running: dark skin tone"),
    item("a:man", "man", "man", "none", "man running"),
    item("a:man-light", "man-light", "man", "light", "man running: light skin tone"),
    item("a:woman", "woman", "woman", "none", "woman running", "train"),
    item("a:cat", "cat", "cat", "none", "cat"),
    item("a:both", "both", "both", "none", "woman and man"),
]


def test_every_change_within_the_split_is_asked() -> None:
    asked = {
        (ITEMS[each.asked].item_id, each.kind, each.plus, each.minus, each.rows) for each in questions(ITEMS, "val")
    }
    both = "person, man or woman"
    assert asked == {
        ("a:run", "tone added", "dark skin tone", None, (2,)),
        ("b:run", "tone added", "dark skin tone", None, (2,)),
        ("a:man", "tone added", "light skin tone", None, (4,)),
        ("a:run-dark", "tone removed", None, "dark skin tone", (0, 1)),
        ("a:man-light", "tone removed", None, "light skin tone", (3,)),
        ("a:run", both, "man", "person", (3,)),
        ("b:run", both, "man", "person", (3,)),
        ("a:man", both, "person", "man", (0, 1)),
    }
    assert list(questions(ITEMS, "test")) == []


def test_hits_match_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    image_ND = random.normal(size=(40, 4)).astype(np.float32)
    asked = [Question("kind", n, None, None, "", "", ((n + 1) % 40, (n + 2) % 40)) for n in range(40)]
    query_QD = image_ND + random.normal(size=(40, 4)).astype(np.float32)
    for itself in (False, True):
        slow = []
        for query_D, question in zip(query_QD, asked, strict=True):
            candidates = [n for n in range(40) if itself or n != question.asked]
            best = sorted(candidates, key=lambda n: -float(query_D @ image_ND[n]))[:K]
            slow.append(bool(set(best) & set(question.rows)))
        assert list(hits(query_QD, image_ND, asked, itself)) == slow
