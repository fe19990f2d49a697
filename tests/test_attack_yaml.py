"""Attacks by pipelines.yaml and `--set`: what expands, makes objects, or is no value that Python holds."""

from pathlib import Path

import pytest

from pairloom.flows.config import load_pipeline, pipeline_names
from pairloom.flows.plain_yaml import plain_yaml

SOURCE = "sources: [{kind: folder, path: x}]"


def laughs(line: str, levels: int = 9) -> str:
    """Each line of the document stands for nine of the line above."""
    lines = [f"a0: &a0 {line}"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


DOCUMENTS = {
    "a billion laughs": laughs("[lol, lol, lol, lol, lol, lol, lol, lol, lol]"),
    "a billion laughs in mappings": "\n".join(
        ["a0: &a0 {k: lol}"]
        + [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 9)]
    ),
    "merges of merges": "\n".join(
        ["a0: &a0 {k: lol}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 9)]
    ),
    "a long text a thousand times": f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 1_000)}]",
    "an alias inside its anchor": f"pipelines: &a {{mine: *a, other: {{{SOURCE}}}}}",
    "a list inside itself": "pipelines: &a [*a]",
    "deep lists": "pipelines: " + "[" * 20_000,
    "deep mappings": "pipelines: " + "{a: " * 20_000,
    "deep block": "\n".join(" " * depth + "a:" for depth in range(900)),
    "a document of 2 MiB": "# " + "x" * 2**21,
    "an object": "pipelines: !!python/object/apply:os.system ['touch ran']",
    "a new object": "pipelines: !!python/object/new:os.system ['touch ran']",
    "a name": "pipelines: !!python/name:os.system",
    "a module": "pipelines: !!python/module:os",
    "a tag of one's own": "pipelines: !mine {a: b}",
    "an integer of 5,000 digits": "pipelines: 1" + "0" * 5_000,
    "a hexadecimal of 5,000 digits": "pipelines: 0x" + "f" * 5_000,
    "a sexagesimal of 3,000 places": "pipelines: " + "1:" * 3_000 + "1",
    "a day that isn't": "pipelines: 2001-99-99",
    "an hour that isn't": "pipelines: 2001-01-01T99:00:00",
    "a timestamp that isn't": "pipelines: !!timestamp x",
    "a number that isn't": "pipelines: !!int x",
    "base64 that isn't": "pipelines: !!binary x",
    "a control character": "pipelines: \x07",
    "two documents": "pipelines: {}\n---\npipelines: {}",
    "a mapping as a key": "? {a: b}\n: c",
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_hostile_document_is_refused_in_one_short_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pipelines.yaml"
    file.write_text(DOCUMENTS[kind])
    with pytest.raises(ValueError, match=r"pipelines\.yaml is no valid YAML: ") as error:
        pipeline_names(file)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2_000
    assert "sys." not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pipelines.yaml"]


OVERRIDES = [
    "ingest=" + "[" * 20_000,
    "ingest=!!python/object/apply:os.system ['touch ran']",
    "ingest=1" + "0" * 5_000,
    "ingest=2001-99-99",
    "ingest=&a [*a]",
    "sources.99999999999999999999.path=x",
    "__class__.x=1",
]


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda override: override[:30])
def test_hostile_override_is_refused_in_one_line(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pipelines.yaml"
    file.write_text(f"pipelines: {{mine: {{{SOURCE}}}}}")
    with pytest.raises(ValueError, match=r"\S") as error:
        load_pipeline(file, overrides=[override])
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["pipelines.yaml"]


def test_anchors_that_people_write_still_work() -> None:
    shared = "shared: &s {max_side: 64}\na: {<<: *s, workers: 1}\nb: *s\nc: 1_000\nd: 2026-11-26\n"
    found = plain_yaml(shared)
    assert (found["a"], found["b"], found["c"]) == ({"max_side": 64, "workers": 1}, {"max_side": 64}, 1_000)
    assert plain_yaml("") is None
