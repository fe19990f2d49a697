import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import lstm_architecture, tiny_architecture, tiny_texts
from typer.testing import CliRunner

from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.models.towers.config import ModelConfig, WordVectorsConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.word_start import start_from_words
from pairloom.models.towers.word_vectors import Question, WordVectors, alike, ask, beside, learn_words
from pairloom.models.towers.words import split_words
from pairloom.storage.words import WordStore
from pairloom.tasks.words import from_table, served_words, to_table

gensim = pytest.importorskip("gensim")
TEXTS = tiny_texts()
SMALL = WordVectorsConfig(dimension=32, epochs=5, min_count=1)

EXAMPLE = WordVectors(
    ("king", "queen", "man", "woman", "apple"),
    np.array([9, 8, 7, 6, 5]),
    np.array([[1, 1, 0], [1, -1, 0], [0, 2, 0], [0, -2, 0], [0, 0, 3]], dtype=np.float32),
    np.array([[0, 0, 1], [0, 0, 2], [0, 0, -1], [0, 1, 0], [1, 0, 0]], dtype=np.float32),
)


def test_a_text_is_split_into_lower_case_letters_and_digits() -> None:
    assert split_words("A T-shirt, №5 of ﬁne Ünïcödé 🍎") == ["a", "t", "shirt", "no", "5", "of", "fine", "ünïcödé"]


def test_neighbours_and_analogies_are_as_written_out() -> None:
    assert [each.word for each in alike(EXAMPLE, ["king", "woman"], ["man"], k=1)] == ["queen"]
    unit = [vector / np.linalg.norm(vector) for vector in EXAMPLE.vector_VD]
    total = unit[0] + unit[3] - unit[2]
    expected = {
        word: float(total @ unit[row] / np.linalg.norm(total))
        for row, word in enumerate(EXAMPLE.words)
        if word not in ("king", "woman", "man")
    }
    found = {each.word: each.score for each in alike(EXAMPLE, ["king", "woman"], ["man"], k=9)}
    assert found == pytest.approx(expected, abs=1e-6)


def test_what_stands_beside_a_word_comes_from_the_context_vectors() -> None:
    found = beside(EXAMPLE, "apple", k=9)
    assert [each.word for each in found[:2]] == ["queen", "king"]
    assert found[0].score == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-6)
    assert "apple" not in [each.word for each in found]


def test_questions_are_answered_word_by_word_or_as_a_sum() -> None:
    assert [each.query for each in ask(EXAMPLE, Question(["king", "apple"]), k=2)] == ["king", "apple"]
    (answer,) = ask(EXAMPLE, Question(["king"], ["woman"], ["man"]), k=2)
    assert (answer.query, answer.neighbours[0].word) == ("king + woman − man", "queen")
    with pytest.raises(ValueError, match="--beside takes words one by one"):
        ask(EXAMPLE, Question(["king"], ["woman"], beside=True), k=2)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("womn", r"'womn' is not among the 5 words of the texts; nearest spelling: woman"),
        ("king queen", r"is not one word"),
        ("!", r"is not one word"),
        ("zzzz", r"of the texts$"),
    ],
)
def test_an_unknown_word_names_the_nearest_spelling(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alike(EXAMPLE, [word])


def test_words_that_share_their_contexts_are_neighbours() -> None:
    pets = [[f"a {pet} with {what}"] for pet in ("cat", "dog") for what in ("fur", "paws", "whiskers", "tail")]
    cars = [[f"the {car} on {what}"] for car in ("bus", "lorry") for what in ("wheels", "road", "motor", "brakes")]
    words = learn_words((pets + cars) * 2, WordVectorsConfig(dimension=16, min_count=1, frequent=1))
    assert "dog" in [each.word for each in alike(words, ["cat"], k=3)]
    assert {each.word for each in beside(words, "bus", k=6)} & {"wheels", "road", "motor", "brakes"}
    assert words.vector_VD.shape == words.context_VD.shape == (len(words.words), 16)
    assert not np.allclose(words.vector_VD, words.context_VD)


def test_vectors_are_the_same_whatever_the_order_and_the_process() -> None:
    words = learn_words(TEXTS, SMALL)
    again = learn_words(TEXTS[::-1], SMALL)
    assert words.words == again.words
    program = """if True:
        import json, sys
        from pairloom.models.towers.word_vectors import learn_words
        from pairloom.models.towers.config import WordVectorsConfig
        words = learn_words(json.loads(sys.argv[1]), WordVectorsConfig.model_validate_json(sys.argv[2]))
        sys.stdout.buffer.write(words.vector_VD.tobytes() + words.context_VD.tobytes())"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, json.dumps(TEXTS), SMALL.model_dump_json()]
    other = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    for found in (again.vector_VD.tobytes() + again.context_VD.tobytes(), other):
        assert found == words.vector_VD.tobytes() + words.context_VD.tobytes()
    assert not np.array_equal(
        learn_words(TEXTS, SMALL.model_copy(update={"seed": 1})).vector_VD,
        words.vector_VD,
    )


def test_too_few_words_and_a_missing_gensim_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    for texts in ([], [["one"], ["two"]]):
        with pytest.raises(ValueError, match=r"texts hold 0 words that come 2 times or more"):
            learn_words(texts, WordVectorsConfig())
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ValueError, match=r"pip install 'pairloom\[objectives\]'"):
        learn_words(TEXTS, SMALL)


def test_stored_vectors_are_read_back_to_the_bit_and_old_ones_go(tmp_path: Path) -> None:
    store = WordStore(tmp_path)
    assert store.read("a") is None
    for name in "abcdef":
        store.write(name, to_table(EXAMPLE))
    found = from_table(store.read("f"))
    assert found.words == EXAMPLE.words
    for name in ("count_V", "vector_VD", "context_VD"):
        np.testing.assert_array_equal(getattr(found, name), getattr(EXAMPLE, name))
    assert store.read("a") is None
    (tmp_path / "words" / "f.parquet").write_bytes(b"PAR1")
    assert store.read("f") is None


@pytest.mark.parametrize("make", [tiny_architecture, lstm_architecture])
def test_tokens_that_are_whole_words_start_from_their_word(make: Callable[[Path], str], tmp_path: Path) -> None:
    texts = [text for own in TEXTS for text in own]
    config = ModelConfig(architecture=make(tmp_path))
    encoder, random = create(config, texts, seed=0), create(config, texts, seed=0)
    width = 12 if make is lstm_architecture else 32
    words = learn_words(TEXTS, SMALL.model_copy(update={"dimension": width}))
    started = start_from_words(encoder, words)
    networks: list[Any] = [encoder.network, random.network]
    tables = [getattr(each, "text", each).token_embedding.weight.detach() for each in networks]
    vector_VD = words.vector_VD - words.vector_VD.mean(axis=0)
    vector_VD = vector_VD * float(tables[1].std()) / vector_VD.std(ddof=1)
    expected = tables[1].clone()
    whole = 0
    for row, word in enumerate(words.words):
        tokens = [token for token in encoder.tokenize([word])[0].tolist() if token > 1]
        if len(tokens) == 1:
            whole += 1
            expected[tokens[0]] = torch.from_numpy(vector_VD[row])
    assert started == whole >= 5
    torch.testing.assert_close(tables[0], expected, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match=rf"dimension: 8, but the text tower's token embeddings have {width}"):
        start_from_words(encoder, learn_words(TEXTS, SMALL.model_copy(update={"dimension": 8})))


def test_word_vectors_exclude_weights_that_are_brought() -> None:
    for other in ({"pretrained": "openai"}, {"architecture": "local-dir:model"}):
        with pytest.raises(ValidationError, match="leave word_vectors out"):
            ModelConfig.model_validate({"word_vectors": {}, **other})


def test_a_pipeline_trains_from_word_vectors_and_the_command_reads_them(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    model = {"architecture": tiny_architecture(tmp_path), "word_vectors": {"dimension": 32, "epochs": 10}}
    file = str(write_pipelines(tmp_path, shapes, model=model))

    def command(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*arguments, "--file", file], env={"COLUMNS": "200"})
        return result.exit_code, result.stdout, result.stderr

    assert command("words", "red")[0] == 2
    assert "has no items yet" in command("words", "red")[2]
    assert command("run", "--json")[0] == 0
    (stored,) = (load_pipeline(Path(file)).folder / "words").glob("*.parquet")
    status, out, _ = command("words", "Red", "circle", "-k", "3", "--json")
    assert status == 0
    answers = json.loads(out)
    assert [each["query"] for each in answers] == ["Red", "circle"]
    assert [len(each["neighbours"]) for each in answers] == [3, 3]
    assert list(answers[0]["neighbours"][0]) == ["word", "score", "count"]
    assert list((load_pipeline(Path(file)).folder / "words").glob("*.parquet")) == [stored]
    assert "red + green − blue" in command("words", "red", "--plus", "green", "--minus", "blue")[1]
    assert command("words", "circle", "--beside")[0] == 0
    status, _, err = command("words", "circel")
    assert (status, err.strip().splitlines()[-1].split("; ")[1]) == (2, "nearest spelling: circle")


def test_without_configuration_the_training_items_texts_are_read(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    file = str(write_pipelines(tmp_path, shapes))
    assert CliRunner().invoke(app, ["ingest", "--file", file, "--json"]).exit_code == 0
    words = served_words(load_pipeline(Path(file)))
    assert set(words.words) <= set(split_words((shapes / "captions.jsonl").read_text("utf-8")))
    assert words.vector_VD.shape[1] == 128
