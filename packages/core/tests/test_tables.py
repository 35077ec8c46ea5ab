"""Tables: digits that mean something, the best in bold, and files that LaTeX, Markdown, CSV and JSON readers take."""

import csv
import io
import json
import math

import pandas as pd
import pytest

from tensorbench.core import tables
from tensorbench.core.claims.decide import ledger
from tensorbench.core.claims.models import Verdict
from tensorbench.core.record import Record, RecordError, write
from tensorbench.core.records import load

THIN = "\u2009"


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (0.3712, 0.0041, "0.371 ± 0.004"),
        (0.3712, 0.0141, "0.371 ± 0.014"),
        (1.234e-15, 3e-16, "(1.2 ± 0.3)×10⁻¹⁵"),
        (1.2e-15, None, "1.20×10⁻¹⁵"),
        (-3e-9, 2e-9, "(−3.0 ± 2.0)×10⁻⁹"),
        (3e-9, 2e-8, "(0 ± 2)×10⁻⁸"),
        (0.99996, None, "1.00"),
        (999999.9, None, "1.00×10⁶"),
        (0.5, None, "0.500"),
        (-0.5, None, "−0.500"),
        (1234, None, "1234"),
        (12345, None, f"12{THIN}345"),
        (123.456, 20, "120 ± 20"),
        (0.3, 2, "0 ± 2"),
        (-0.3, 2, "0 ± 2"),
        (99.97, 0.3, "100.0 ± 0.3"),
        (2, 1e-12, "2"),
        (2, 0, "2"),
        (2, math.nan, "2"),
        (0, None, "0"),
        (math.nan, None, "–"),
        (None, None, "–"),
        (math.inf, None, "∞"),
        (-math.inf, None, "−∞"),
    ],
)
def test_numbers_show_the_digits_that_mean_something(value, half, text):
    assert tables.number(value, half) == text


@pytest.mark.parametrize("exponent", range(-300, 301, 25))
@pytest.mark.parametrize("mantissa", [1.0, 9.994, 9.996, 5.55])
def test_a_number_reads_back_to_what_it_was(mantissa, exponent):
    value = mantissa * 10.0**exponent
    text = tables.number(value).replace(THIN, "")
    if "×10" in text:
        front, power = text.split("×10")
        text = f"{front}e{power.translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}"
    assert float(text) == pytest.approx(value, rel=6e-3)


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("1.2×10⁻¹⁵", r"$1.2 \times 10^{-15}$"),
        ("(1.2 ± 0.3)×10⁻¹⁵", r"$(1.2 \pm 0.3) \times 10^{-15}$"),
        ("0.371 ± 0.004", r"$0.371 \pm 0.004$"),
        ("0.051–0.12", "0.051--0.12"),
        ("(−1.5 to −1.2)×10⁻⁵", r"$(-1.5\mbox{ to }-1.2) \times 10^{-5}$"),
        ("−4.2 to −4.0", "$-4.2$ to $-4.0$"),
        ("−0.5", "$-0.5$"),
        ("50 % of a_b & c#1 {x} ~ ^ $", r"50 \% of a\_b \& c\#1 \{x\} \textasciitilde{} \textasciicircum{} \$"),
        ("C:\\x ≤ 3", r"C:\textbackslash{}x $\le$ 3"),
    ],
)
def test_latex_has_its_specials_escaped_and_its_numbers_in_math_mode(text, tex):
    assert tables.to_tex(text) == tex


def test_markdown_has_its_specials_escaped_on_one_line():
    assert tables.to_markdown("a|b *c* <d>\n`e`_f") == r"a\|b \*c\* \<d\> \`e\`\_f"


def records(values, metric="rmse"):
    return pd.DataFrame(
        {"dataset": d, "method": m, "seed": s, "trial": None, metric: value}
        for (d, m), per_seed in values.items()
        for s, value in enumerate(per_seed)
    )


def build(frame, datasets=("x",), methods=("a", "b", "c"), trials=None, **metrics):
    metrics = metrics or {"rmse": "minimize"}
    return tables.experiment_table(frame, datasets=datasets, methods=methods, metrics=metrics, trials=trials)


def texts(table, column):
    return [row[column].text for row in table.rows]


@pytest.mark.parametrize(("direction", "best"), [("minimize", 0), ("maximize", 2)])
def test_the_best_of_a_column_is_bold_by_the_metrics_direction(direction, best):
    frame = records({("x", "a"): [1.0, 1.1], ("x", "b"): [2.0, 2.1], ("x", "c"): [3.0, 3.1]})
    table = build(frame, rmse=direction)
    assert [row[1].bold for row in table.rows] == [i == best for i in range(3)]
    assert list(table.raw["best"]) == [i == best for i in range(3)]
    assert table.columns == ["method", "RMSE ↓" if direction == "minimize" else "RMSE ↑"]


def test_what_reads_the_same_is_equally_good_and_all_equal_is_no_winner():
    tie = build(records({("x", "a"): [1.0], ("x", "b"): [1.0], ("x", "c"): [2.0]}))
    assert [row[1].bold for row in tie.rows] == [True, True, False]
    assert not any(row[1].bold for row in build(records({("x", m): [1.0] for m in "abc"})).rows)


def test_a_cell_carries_the_interval_behind_its_text():
    cell = build(records({("x", "a"): [1.0, 2.0, 3.0]})).rows[0][1]
    assert cell.text == "2 ± 2"
    assert (cell.value, cell.low, cell.high) == pytest.approx((2, 2 - 2.484, 2 + 2.484), abs=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (8.12, 9.43, "8.1–9.4"),
        (0.0512, 0.1204, "0.051–0.12"),
        (4.521, 4.539, "4.52–4.54"),  # two digits would read the same
        (4.5210, 4.5211, "4.52"),
        (1344, 2988, "1344–2988"),
        (6, 6, "6"),
        (-4.21, -4.02, "−4.2 to −4.0"),
        (-0.2, 0.3, "−0.20 to 0.30"),
        (1.21e-5, 1.52e-5, "(1.2–1.5)×10⁻⁵"),
        (9.1e-5, 1.2e-4, "9.1×10⁻⁵–1.2×10⁻⁴"),
        (-1.52e-5, -1.21e-5, "(−1.5 to −1.2)×10⁻⁵"),
    ],
)
def test_two_values_show_themselves(low, high, text):
    assert tables.span(low, high) == text


def test_of_two_seeds_the_cell_shows_both_values_and_no_interval():
    cell = build(records({("x", "a"): [12.0, 4.0]})).rows[0][1]
    assert (cell.text, cell.value, cell.low, cell.high) == ("4–12", 8, 4, 12)  # the interval would be 8 ± 51
    assert build(records({("x", "a"): [1.0, 1.0]})).rows[0][1].text == "1"


def test_nan_wins_nothing_and_says_so_and_absent_runs_are_dashes():
    table = build(records({("x", "a"): [0.1, math.nan], ("x", "b"): [2.0, 2.0], ("x", "c"): [math.nan, math.nan]}))
    assert texts(table, 1) == ["NaN in 1/2", "2", "–"]
    assert [row[1].bold for row in table.rows] == [False, True, False]
    assert texts(build(records({("x", "a"): [1.0]})), 1) == ["1", "–", "–"]


def test_long_tables_have_no_rows_for_what_is_no_job():
    frame = records({(d, "a"): [1.0] for d in "xyzuvw"} | {("y", "b"): [2.0]})
    jobs = {(d, "a") for d in "xyzuvw"} | {("y", "b"), ("z", "c")}
    table = tables.experiment_table(
        frame, datasets=[*"xyzuvw", "q"], methods=["a", "b", "c"], metrics={"rmse": "minimize"}, jobs=jobs
    )
    shown = [(row[0].text, row[1].text, row[2].text) for row in table.rows]
    assert shown[:5] == [("x", "a", "1"), ("y", "a", "1"), ("", "b", "2"), ("z", "a", "1"), ("", "c", "–")]
    assert len(shown) == 8  # the job of z and c has not run: it keeps its row; q takes no method: it has none


def test_nan_in_every_run_is_told_from_a_metric_that_is_not_logged(tmp_path):
    def run(method, seed, **metrics):
        return Record("p", "e", "x", method, seed, "desk", "now", "hash", metrics=metrics)

    rows = [run("a", s, rmse=math.nan) for s in (0, 1)] + [run("b", s, rmse=2.0) for s in (0, 1)] + [run("c", 0, k=1.0)]
    write(tmp_path / "all.parquet", rows)
    frame = load(tmp_path / "all.parquet")
    table = build(frame)
    assert texts(table, 1) == ["NaN in 2/2", "2", "–"]
    assert [row[1].bold for row in table.rows] == [False, True, False]
    assert table.raw.loc[0, ["seeds", "nan"]].tolist() == [2, 2]
    assert math.isnan(table.raw.loc[0, "mean"])
    assert texts(build(frame[frame["method"] == "a"], methods="a"), 1) == ["NaN in 2/2"]


def test_booleans_are_counted():
    table = build(records({("x", "a"): [True, True], ("x", "b"): [True, False]}, "exact"), exact="maximize")
    assert texts(table, 1) == ["2/2", "1/2", "–"]
    assert [row[1].bold for row in table.rows] == [True, False, False]


def test_no_records_make_a_table_of_dashes():
    for frame in (pd.DataFrame(), pd.DataFrame(columns=["dataset", "method", "seed", "trial", "rmse"])):
        table = build(frame, datasets=["x", "y"])
        assert [cell.text for cell in table.rows[0]] == ["a", "–", "–"]


def test_tuning_runs_are_left_out_and_their_number_is_a_column():
    frame = records({("x", "a"): [1.0], ("x", "b"): [2.0]})
    trial = records({("x", "a"): [99.0]}).assign(trial=0)
    table = build(pd.concat([frame, trial]), trials={"a": 8, "b": 0})
    assert texts(table, 1) == ["1", "2", "–"]
    assert (table.columns[-1], texts(table, 2)) == ("trials", ["8", "default", "default"])
    assert "trials" not in build(frame, trials={"a": 0, "b": 0}).columns


def test_few_columns_stand_beside_each_other_and_many_as_blocks():
    both = {"rmse": "minimize", "score": "maximize"}
    frame = records({(d, m): [1.0] for d in "wxyz" for m in "ab"}).assign(score=2.0)
    wide = build(frame, datasets="wxy", methods="ab", **both)
    assert wide.groups == [("", 1), ("RMSE ↓", 3), ("score ↑", 3)]
    assert wide.short == ["method", "w", "x", "y", "w", "x", "y"]
    long = build(frame, datasets="wxyz", methods="ab", **both)
    assert long.columns == ["dataset", "method", "RMSE ↓", "score ↑"]
    assert texts(long, 0) == ["w", "", "x", "", "y", "", "z", ""]
    assert long.blocks == [2, 4, 6]
    for table in (wide, long):
        assert {len(row) for row in table.rows} == {len(table.columns)} == {len(table.align)}


def test_a_metric_that_a_dataset_does_not_have_is_no_column_there():
    frame = pd.concat([records({("x", "a"): [1.0]}), records({("y", "a"): [1.0]}, "score")])
    table = build(frame, datasets="xy", methods="a", rmse="minimize", score="maximize")
    assert table.columns == ["method", "RMSE ↓ · x", "score ↑ · y"]


def test_the_four_files(tmp_path):
    frame = records({("beijing_pm25", "cp_als"): [1.5e-7, 1.7e-7], ("beijing_pm25", "b_c"): [3.0, 3.5]})
    table = build(frame, datasets=["beijing_pm25"], methods=["cp_als", "b_c"])
    paths = tables.write(table, tmp_path / "deep" / "package.v1")
    assert [path.name for path in paths] == [f"package.v1{s}" for s in (".csv", ".md", ".tex", ".json")]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert float(rows[0]["mean"]) == pytest.approx(1.6e-7, rel=1e-12)
    lines = paths[1].read_text().splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "**(1.5–1.7)×10⁻⁷**" in lines[2]
    tex = paths[2].read_text()
    assert r"{\boldmath\textbf{$(1.5\mbox{--}1.7) \times 10^{-7}$}} \\" in tex
    assert tex.count("{") == tex.count("}")
    assert (r"\toprule" in tex, r"\midrule" in tex, r"\bottomrule" in tex) == (True, True, True)
    data = json.loads(paths[3].read_text())
    assert data["columns"] == ["method", "RMSE ↓"]
    assert data["rows"][0][1]["bold"] is True
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in tables.write(table, tmp_path / "deep" / "package.v1")] == before


def test_two_level_headings_and_blocks_in_latex():
    frame = records({(d, m): [1.0, 2.0] for d in "xy" for m in "ab"})
    tex = tables.latex(build(frame, datasets="xy", methods="ab"))
    assert r" & \multicolumn{2}{c}{RMSE $\downarrow$} \\" in tex
    assert r"\cmidrule(lr){2-3}" in tex


def test_the_ledger_as_a_table(tmp_path):
    done = Verdict("p.a", "p", "It is 50% better.", "ratio", "≤ 0.75", "reproduced", 0.5, 0.41, 0.6, 5, note="a | b")
    frame = ledger([done], {"p": {"package": "d", "title": "P"}, "q": {"package": "d", "title": "Q & co"}})
    paths = tables.write(frame, tmp_path / "ledger")
    rows = list(csv.DictReader(io.StringIO(paths[0].read_text())))
    assert list(rows[0]) == list(frame.columns)
    assert [(row["paper"], row["low"]) for row in rows] == [("p", "0.41"), ("q", "")]
    markdown = paths[1].read_text()
    assert "| p | It is 50% better. | ≤ 0.75 | 0.500 | \\[0.410, 0.600\\] | 5 | **reproduced** | a \\| b |" in markdown
    assert "| q | Q & co | – | – | – | – | not implemented yet |  |" in markdown
    assert r"Q \& co" in paths[2].read_text()
    assert r"\begin{tabular}" in paths[2].read_text()


def test_a_long_table_breaks_over_pages():
    frame = pd.DataFrame({"n": range(100)})
    assert r"\begin{longtable}" in tables.latex(tables.plain_table(frame))


def test_any_frame_can_be_written(tmp_path):
    frame = pd.DataFrame({"name": ["a_b", None], "value": [1 / 3, math.inf], "ok": [True, False]})
    paths = tables.write(frame, tmp_path / "any")
    assert "| a\\_b | 0.3333 | yes |" in paths[1].read_text()
    assert "| – | ∞ | no |" in paths[1].read_text()
    assert json.loads(paths[3].read_text())["align"] == ["l", "r", "r"]


def test_a_table_that_cannot_be_written_says_where(tmp_path):
    (tmp_path / "table.md").mkdir()  # in the way
    with pytest.raises(RecordError, match=r"cannot write .*table\.md"):
        tables.write(pd.DataFrame({"a": [1]}), tmp_path / "table")
