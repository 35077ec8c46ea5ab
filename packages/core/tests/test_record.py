"""Records: complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tensorbench.core import record, records


def example(seed: int = 0) -> record.Record:
    return record.Record(
        "toy",
        "line",
        "toy_line",
        "mean_only",
        seed,
        "desk",
        "2026-01-01T00:00:00+00:00",
        "abc",
        metrics={"rmse": 0.5, "bad": math.nan, "finite": 1.0},
        booleans=["finite"],
        history=[("rmse", 0.0, 2.0), ("rmse", 1.5, 0.5)],
        params={"dataset": {"slope": 3.0}, "method": {}},
        provenance={"commit": "x"},
        artifacts=["toy_line/a/b.npy"],
    )


def test_round_trip(tmp_path):
    path = tmp_path / "a.parquet"
    record.write(path, [example(0), example(1)])
    first, second = record.read_rows(path)
    assert first["metrics"]["rmse"] == 0.5 and math.isnan(first["metrics"]["bad"])
    assert first["history"] == [("rmse", 0.0, 2.0), ("rmse", 1.5, 0.5)]
    assert (first["params"]["dataset"], first["trial"], second["seed"]) == ({"slope": 3.0}, None, 1)
    frame = records.load(path)
    assert frame["finite"].tolist() == [True, True] and frame["dataset.slope"].tolist() == [3.0, 3.0]
    assert records.history(frame, "rmse")["value"].tolist() == [2.0, 0.5, 2.0, 0.5]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch, code):
    path = tmp_path / "a.parquet"
    record.write(path, [example(0)])
    before = path.read_bytes()

    def refuse(table, where, **_):
        where.write_bytes(b"half")
        raise OSError(code, "refused")

    monkeypatch.setattr(record.pq, "write_table", refuse)
    with pytest.raises(record.RecordError, match=r"cannot write .*a\.parquet: refused.*only this job is redone"):
        record.write(path, [example(1)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_schema_is_refused_by_name(tmp_path):
    path = tmp_path / "old.parquet"
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"tensorbench.schema": "0"}), path)
    with pytest.raises(
        record.RecordError, match=r"old\.parquet was written with record schema 0, this version reads 1"
    ):
        record.read_table(path)


def test_a_file_that_is_no_record(tmp_path):
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(record.RecordError, match="not a readable record"):
        record.read_table(path)
