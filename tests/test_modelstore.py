import os
from pathlib import Path

import pytest

from pairloom.storage.modelstore import ModelStore


def test_a_model_and_every_folder_of_it_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, synced = tmp_path / "built", []
    (built / "text_tower").mkdir(parents=True)
    (built / "text_tower" / "weights").write_bytes(b"w")
    (built / "config").write_bytes(b"c")
    wanted = {path.stat().st_ino for path in (built, *built.rglob("*"))}
    fsync = os.fsync

    def note(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    model_id = ModelStore(tmp_path).adopt(built)
    assert wanted <= set(synced)
    assert synced[-1] == (tmp_path / "models").stat().st_ino, "the name comes last"
    assert (tmp_path / "models" / model_id / "text_tower" / "weights").read_bytes() == b"w"
