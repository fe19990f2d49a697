"""Attacks on secrets: what must not stand in logs, errors, lineage and quarantine."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import typer
from typer.testing import CliRunner

from pairloom.flows.cli import app
from pairloom.flows.cli.answers import errors_in_one_line
from pairloom.storage.corpus import Corpus
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingest import Ingest
from pairloom.storage.secrets import SafeFormatter, redact_record, redacted, redacted_values
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource
from pairloom.tasks.evaluation.card import lineage
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, Plan, Verdict

SECRET = "hunter2hunter2"
LEAKS = [
    f"https://ann:{SECRET}@shop.example/a.png can't be read",
    f"https://{SECRET}@shop.example/a.png",
    f"https://ann:a@{SECRET}@shop.example/a.png",
    f"s3://AKIA:{SECRET}@bucket/key",
    f"postgresql+psycopg://ann:{SECRET}@db:5432/x",
    f"GET https://shop.example/a.png?token={SECRET} gave 403",
    f"https://shop.example/a.png?size=3&access_token={SECRET}&x=1",
    f"https://shop.example/a.png?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
    f"https://shop.example/a.png?X-Amz-Security-Token={SECRET}",
    f"https://blob.example/a.png?sv=2026&sig={SECRET}",
    f"https://shop.example/a.png?api_key={SECRET}",
    f"https://shop.example/a.png?apikey={SECRET}",
    f"https://shop.example/a.png?KEY={SECRET}",
    f"https://shop.example/a.png?client_secret={SECRET}",
    f"https://shop.example/a.png?Signature={SECRET}&Expires=1",
    f"https://shop.example/a.png?password={SECRET}#part",
    f"Authorization: Bearer {SECRET}",
    f"authorization: basic {SECRET}",
    f"the environment said {SECRET} in the middle",
    f"two: https://a:{SECRET}@x/ https://b:{SECRET}@y/",
]
PLAIN = [
    "https://shop.example/a.png?size=3&key_colour=red",
    "mail ann@shop.example about https://shop.example/",
    "https://shop.example/@ann/a.png",
    "https://shop.example/?mail=ann@shop.example",
    "a bearer of bad news",
    "a red shoe: 3 tokens, the secret is out",
    "",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_TOKEN", SECRET)
    monkeypatch.setenv("EMPTY_SECRET", "")
    monkeypatch.setenv("SHORT_SECRET", "red")


@pytest.mark.parametrize("text", LEAKS)
def test_secret_is_hidden_wherever_it_is_written(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "environment" not in text:
        monkeypatch.delenv("SHOP_API_TOKEN")
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)
    assert SECRET not in json.dumps(redacted_values({"a": [text, {"b": (text, 1)}]}))
    record = logging.LogRecord("pairloom", logging.INFO, "", 0, "%s: %s", ("x", text), None)
    assert SECRET not in SafeFormatter("%(message)s").format(record)
    assert redact_record(record)
    assert SECRET not in record.getMessage()


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize("text", LEAKS)
def test_errors_of_commands_hide_secrets(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    with pytest.raises(typer.Exit), errors_in_one_line(told.append):
        raise ValueError(text)
    assert SECRET not in capsys.readouterr().err + "".join(told)


def test_tracebacks_in_a_log_hide_secrets_and_escapes() -> None:
    try:
        raise ValueError(f"\x1b[31m{LEAKS[0]}")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "no", (), (type(error), error, error.__traceback__))
    line = SafeFormatter("%(message)s").format(record)
    assert SECRET not in line
    assert "\x1b" not in line


def test_warnings_of_a_command_pass_the_formatter() -> None:
    assert CliRunner().invoke(app, ["status", "--file", "absent.yaml"]).exit_code == 2
    formatters = [type(handler.formatter) for handler in logging.getLogger().handlers if handler.formatter]
    assert SafeFormatter in formatters


@pytest.mark.parametrize("text", LEAKS)
def test_lineage_hides_secrets(text: str) -> None:
    pipeline = Pipeline.model_validate(
        {"name": "p", "root": "/x", "sources": [{"kind": "folder", "path": "x"}], "model": {"pretrained": text}}
    )
    plan = SimpleNamespace(run_id="r", snapshot=1, rival=None, training_digest="d")
    model = SimpleNamespace(model_id="m", trunk="", text_trunk="", steps=1, samples=1, seconds=1.0)
    verdict = SimpleNamespace(metrics={}, intervals={}, floor=None)
    facts = lineage(pipeline, cast(Plan, plan), cast(ModelRef, model), cast(Verdict, verdict))
    assert SECRET not in json.dumps(facts)


def test_quarantine_holds_no_secrets(tmp_path: Path) -> None:
    rows = [json.dumps({"image": text, "text": "a"}) for text in LEAKS]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    corpus = Corpus(tmp_path / "root")
    night = Ingest(corpus, {}, IngestConfig())
    snapshot, counts = night.run([JsonlSource(path=tmp_path / "captions.jsonl")], ColumnsConfig())
    assert counts.quarantined == len(LEAKS)
    said = [row for batch in corpus.rejected(snapshot, ["image_path", "message"]) for row in batch.to_pylist()]
    assert SECRET not in json.dumps(said)
    assert "shop.example/a.png" in json.dumps(said)
