"""Each kind of table and archive through whole nights: counted exactly, and at the cost of what has changed."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import Dataset, Features, Image, Value
from pictures import picture

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import LanceSource, ParquetSource, SourceConfig, WebDatasetSource

COLUMNS = ColumnsConfig(id="sku", keep={"price": "float64"})
CONFIG = IngestConfig(workers=1, min_side=4)
Row = dict[str, Any]
SETTINGS: dict[str, Any] = {"max_removed": 1.0}


def write_parquet(folder: Path, shard: int, rows: list[Row]) -> SourceConfig:
    folder.mkdir(exist_ok=True)
    # Statistics would tell of the null image beforehand.
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{shard}.parquet", write_statistics=shard == 0)
    return ParquetSource(path=folder, **SETTINGS)


def write_saved(folder: Path, shard: int, rows: list[Row]) -> SourceConfig:
    features = Features({"image": Image(), "text": Value("string"), "sku": Value("int64"), "price": Value("float64")})
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in features}
    columns["image"] = [None if content is None else {"bytes": content, "path": None} for content in columns["image"]]
    shutil.rmtree(folder / str(shard), ignore_errors=True)
    Dataset.from_dict(columns, features).save_to_disk(folder / str(shard))
    return ParquetSource(path=folder, **SETTINGS)


def write_tar(folder: Path, shard: int, rows: list[Row]) -> SourceConfig:
    folder.mkdir(exist_ok=True)
    with webdataset.TarWriter(str(folder / f"{shard}.tar")) as writer:
        for row in rows:
            image = {} if row["image"] is None else {"png": row["image"]}
            told = {"sku": row["sku"], "price": row["price"]}
            writer.write({"__key__": f"{row['sku']:04d}", **image, "txt": row["text"], "json": told})
    return WebDatasetSource(path=folder, **SETTINGS)


def write_lance(folder: Path, shard: int, rows: list[Row]) -> SourceConfig:
    folder.mkdir(exist_ok=True)
    path, content = str(folder / "shop.lance"), pa.Table.from_pylist(rows)
    content = content.append_column("shard", pa.array([shard] * len(rows)))
    if (folder / "shop.lance").exists():
        table = lance.dataset(path)
        table.delete(f"shard = {shard}")
        table.insert(content)
    else:
        lance.write_dataset(content, path)
    return LanceSource(path=folder, **SETTINGS)


class Decoder:
    """Decodes, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self, items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        for each in decode(items, config):
            self.count += 1
            yield each


def night(tmp_path: Path, source: SourceConfig) -> tuple[Snapshot, RowCounts, int]:
    decoder = Decoder()
    snapshot, counts = Ingest(Corpus(tmp_path / "root"), COLUMNS.types, CONFIG, decoder).run([source], COLUMNS)
    return snapshot, counts, decoder.count


@pytest.mark.parametrize("write", [write_parquet, write_saved, write_tar, write_lance])
def test_nights_over_a_kind_are_exact_and_cost_what_changed(
    tmp_path: Path, write: Callable[[Path, int, list[Row]], SourceConfig]
) -> None:
    def row(number: int, **more: Any) -> Row:
        return {"image": picture(number), "text": f"text {number}", "sku": number, "price": number / 2, **more}

    shards = [[row(number) for number in range(10)], [row(number) for number in range(10, 20)]]
    bad = [row(20, image=None), row(21, image=b"no picture"), row(22, text=" "), row(3, sku=23, text="text 3")]
    write(tmp_path / "kind", 0, shards[0])
    source = write(tmp_path / "kind", 1, [*shards[1], *bad])
    first, counts, _ = night(tmp_path, source)
    assert counts == RowCounts(seen=24, new=20, duplicate=1, quarantined=3)
    corpus = Corpus(tmp_path / "root")
    reasons = {each["row"]: each["reason"] for batch in corpus.rejected(first) for each in batch.to_pylist()}
    assert reasons == {21: "image-missing", 22: "image-unreadable", 23: "text-empty", 24: "same-image-and-texts"}

    second, counts, decoded = night(tmp_path, source)
    assert (second, decoded) == (first, 0)
    assert counts == RowCounts(seen=24, unchanged=20, duplicate=1, quarantined=3)

    edited = [row(10, text="another"), row(11, image=picture(99)), *shards[1][2:-1], row(30)]
    write(tmp_path / "kind", 1, edited)
    third, counts, decoded = night(tmp_path, source)
    assert counts == RowCounts(seen=20, new=1, updated=2, unchanged=17, removed=1)
    assert decoded <= 10, "the images of the shard that was written anew"
    items = {each["item_id"]: each for each in corpus.table(third, ["item_id", "texts", "price", "image"]).to_pylist()}
    assert set(items) == {str(number) for number in [*range(19), 30]}
    assert items["10"]["texts"] == ["another"]
    assert items["11"]["image"]["bytes"] == picture(99)
    assert items["18"]["price"] == 9.0
