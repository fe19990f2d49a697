import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.ignored import explained
from benchmarks.momentum import table
from benchmarks.rendered import scattered


def test_scattered_shapes_are_where_and_what_their_rows_say(tmp_path: Path) -> None:
    scattered(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["text"] for row in rows} == {f"a {row['group']}" for row in rows}
    assert len(Counter(row["group"] for row in rows if row["split"] == "val")) == 6
    hue = {"red": 0, "yellow": 60, "green": 120, "cyan": 180, "blue": 240, "magenta": 300}
    for row in rows[:40]:
        colours_HWC = np.asarray(Image.open(tmp_path / row["image"]).convert("HSV")).astype(float)
        inked_HW = colours_HWC[:, :, 1] > 128
        assert abs(np.nonzero(inked_HW)[1].mean() / 32 - row["x"]) < 0.05
        found = np.median(colours_HWC[inked_HW][:, 0]) * 360 / 255
        assert min((found - hue[row["colour"]]) % 360, (hue[row["colour"]] - found) % 360) < 34
        row_name, column_name = row["place"].split()
        assert (row["x"] < 0.4167, row["x"] > 0.5833) == (column_name == "left", column_name == "right")
        assert (row["y"] < 0.4167, row["y"] > 0.5833) == (row_name == "top", row_name == "bottom")


def test_what_is_explained_tells_a_kept_factor_from_a_lost_one() -> None:
    random = np.random.default_rng(0)
    embedding_ND = random.normal(size=(300, 6)).astype(np.float32)
    learn, check = list(range(200)), list(range(200, 300))
    assert explained(embedding_ND, embedding_ND[:, :1].astype(np.float64) * 3 + 1, learn, check) > 0.999
    assert explained(embedding_ND, random.normal(size=(300, 1)), learn, check) < 0.2


def test_the_table_gives_mean_and_spread_over_seeds() -> None:
    line: dict[str, float | str] = {"arm": "clip", "steps": 10, "batch": 4, "load": 1.5}
    lines = [line | {"seed": seed, "recall": recall} for seed, recall in ((0, 0.1), (1, 0.3))]
    assert table(lines).splitlines()[-1] == "| clip | 10 | 4 | 2 | 0.2 ± 0.14 |"
