"""The papers' list and the bibliographies made from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tensorbench.core.papers import Paper, latex, load_papers, name_parts, to_bibtex, to_hayagriva

ROOT = Path(__file__).resolve().parents[3]
LIST = ROOT / "configs" / "papers.yaml"

GOOD = "funbat: {package: decomposition, title: Functional Tucker, authors: [Shikai Fang], year: 2024, venue: ICLR}\n"


@pytest.fixture(scope="module")
def papers() -> dict[str, Paper]:
    return load_papers(LIST)


def written(folder: Path, text: str) -> Path:
    path = folder / "papers.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def parse_bibtex(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """A small BibTeX reader that counts braces, so that an unbalanced or badly escaped value does not parse."""
    entries: dict[str, tuple[str, dict[str, str]]] = {}
    position = 0
    while match := re.compile(r"\s*@(\w+)\{(\w+),").match(text, position):
        kind, key = match.groups()
        fields: dict[str, str] = {}
        position = match.end()
        while field := re.compile(r"\s*(\w+) = \{").match(text, position):
            depth, position = 1, field.end()
            start = position
            while depth:
                step = {"{": 1, "}": -1}.get(text[position], 0) if text[position - 1] != "\\" else 0
                depth, position = depth + step, position + 1
            assert field[1] not in fields
            fields[field[1]] = text[start : position - 1]
            if text[position] == ",":
                position += 1
        closing = re.compile(r"\s*\}").match(text, position)
        assert closing, f"entry {key} does not close"
        assert key not in entries
        entries[key], position = (kind, fields), closing.end()
    assert not text[position:].strip(), "text left over after the last entry"
    return entries


# --- the list -------------------------------------------------------------------------------------------------------


def test_list_holds_the_119_papers(papers: dict[str, Paper]) -> None:
    assert len(papers) == 119
    assert len({p.package for p in papers.values()}) == 12
    assert len({p.arxiv for p in papers.values()}) == 119
    assert next(iter(papers)) == "funbat" and list(papers)[-1] == "facet"


def test_every_paper_can_be_cited_and_found(papers: dict[str, Paper]) -> None:
    for key, paper in papers.items():
        assert paper.authors, key
        assert paper.link, key
        assert all(name_parts(name)[0] for name in paper.authors), key
        # a preprint may follow its publication, but not by long, and is rarely cited under an earlier year
        assert paper.arxiv and -1 <= paper.year - (2000 + int(paper.arxiv[:2])) <= 7, key


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected papers by key"),
        ("- funbat", "expected papers by key"),
        ("funbat: 3", "funbat: expected fields"),
        (GOOD.replace("venue", "venu"), "funbat: unknown field 'venu'; did you mean 'venue'?"),
        (GOOD.replace("title: Functional Tucker, ", ""), "funbat: title is missing"),
        (GOOD.replace("Functional Tucker", "''"), "funbat.title"),
        (GOOD.replace("decomposition", "''"), "funbat.package"),
        (GOOD.replace("2024", "'2024'"), "funbat.year"),
        (GOOD.replace("2024", "1824"), "funbat: year 1824 is not plausible"),
        (GOOD.replace("2024", "20244"), "funbat: year 20244 is not plausible"),
        (GOOD.replace("Shikai Fang", "others"), "'others' may only stand last"),
        (GOOD.replace("Shikai Fang", "A B, others, C D"), "'others' may only stand last"),
        (GOOD.replace("Shikai Fang", "A B, A B"), "twice"),
        (GOOD.replace("}", ", arxiv: 2311.04829}"), "funbat.arxiv: 2311.04829: write the bare id in quotes"),
        (GOOD.replace("}", ", arxiv: '2313.04829'}"), "funbat.arxiv"),
        (GOOD.replace("}", ", arxiv: 'arXiv:2311.04829'}"), "funbat.arxiv"),
        (GOOD.replace("}", ", doi: 'https://doi.org/10.1000/x'}"), "funbat.doi"),
        (GOOD.replace("}", ", url: www.example.org}"), "funbat.url"),
        (GOOD.replace("}", ", url: 'https://example.org', doi: 10.1000/x}"), "url is only for papers with neither"),
        (GOOD.replace("}", ", kind: jurnal}"), "funbat.kind"),
        (GOOD.replace("venue: ICLR", "kind: journal"), "venue is missing"),
        (GOOD.replace("funbat", "Fun-bat"), "a key is lower-case"),
        (GOOD + GOOD, "'funbat' is written twice"),
        (
            GOOD + GOOD.replace("funbat", "other").replace("Tucker", "tucker"),
            "other: title 'Functional tucker' is funbat",
        ),
        ("funbat: {package: [", "papers.yaml, line"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        load_papers(path)
    assert str(path) in str(caught.value)


def test_all_mistakes_come_in_one_message(tmp_path: Path) -> None:
    text = "a: {package: x, titel: T, year: 2020}\nb: {package: x, title: U, year: 3020, arxiv: '1'}\n"
    with pytest.raises(ValueError) as caught:
        load_papers(written(tmp_path, text))
    message = str(caught.value)
    assert "3 mistakes" in message
    for part in ("did you mean 'title'?", "a: title is missing", "b.arxiv"):
        assert part in message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_papers(tmp_path / "nowhere.yaml")


# --- names and escaping ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Shikai Fang", ("Fang", "Shikai")),
        ("C. Lawrence Zitnick", ("Zitnick", "C. Lawrence")),
        ("Gianni de Fabritiis", ("de Fabritiis", "Gianni")),
        ("Laurens van der Maaten", ("van der Maaten", "Laurens")),
        ("Basu Roy Chowdhury, Somnath", ("Basu Roy Chowdhury", "Somnath")),
        ("OpenAI", ("OpenAI", "")),
    ],
)
def test_name_parts(name: str, parts: tuple[str, str]) -> None:
    assert name_parts(name) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Schölkopf", r"Sch{\"o}lkopf"),
        ("Veličković", r"Veli{\v{c}}kovi{\'c}"),
        ("Guido Montúfar", r"Guido Mont{\'u}far"),
        ("naïve", r"na{\"\i}ve"),
        ("Gelß", r"Gel{\ss}"),
        ("Scho\u0308n", r"Sch{\"o}n"),  # decomposed on input
        ("A_b & 50 % of {x} $y$ #1", r"A\_b \& 50 \% of \{x\} \$y\$ \#1"),
        ("a\\b", r"a{\textbackslash}b"),
        ("ℓ∞", r"{$\ell$}{$\infty$}"),
        ("張量", "張量"),
    ],
)
def test_latex_escapes(text: str, expected: str) -> None:
    assert latex(text) == expected


# --- bibliographies -------------------------------------------------------------------------------------------------


def test_bibtex_parses_back(papers: dict[str, Paper]) -> None:
    entries = parse_bibtex(to_bibtex(papers))
    assert list(entries) == list(papers)
    for key, (kind, fields) in entries.items():
        paper = papers[key]
        assert fields["title"] == "{" + latex(paper.title) + "}"
        assert fields["author"].count(" and ") == len(paper.authors) - 1
        assert fields["year"] == str(paper.year)
        assert fields.get("eprint") == paper.arxiv and fields.get("archiveprefix") == "arXiv"
        assert (kind == "misc") == (paper.venue is None)
        assert ("journal" in fields) == (kind == "article")
        assert all(ord(letter) < 128 for value in fields.values() for letter in value), key


def test_bibtex_of_an_incomplete_paper() -> None:
    paper = Paper(package="x", title="T", authors=["Ann de Boer", "others"], year=2020, doi="10.1000/a_b")
    assert not paper.complete
    kind, fields = parse_bibtex(to_bibtex({"k": paper}))["k"]
    assert kind == "misc"
    assert fields == {"title": "{T}", "author": "de Boer, Ann and others", "year": "2020", "doi": "10.1000/a_b"}


def test_hayagriva_of_a_preprint_and_of_an_article() -> None:
    preprint = Paper(package="x", title="On {A} $b$ and \\c", authors=["Ann Lee"], year=2020, arxiv="2001.00001")
    article = Paper(package="x", title="T", year=2021, venue="Neural Networks", kind="journal", doi="10.1000/a")
    entries = yaml.safe_load(to_hayagriva({"p": preprint, "a": article}))
    assert entries["p"]["title"] == r"{On \{A\} \$b\$ and \\c}"
    assert entries["p"]["serial-number"] == {"arxiv": "2001.00001"}
    assert entries["p"]["author"] == [{"name": "Lee", "given-name": "Ann"}]
    assert entries["p"]["parent"]["type"] == "repository"
    assert entries["a"]["parent"] == {"type": "periodical", "title": "{Neural Networks}"}
    assert "author" not in entries["a"] and entries["a"]["serial-number"] == {"doi": "10.1000/a"}


def test_typst_cites_all_papers(tmp_path: Path, papers: dict[str, Paper]) -> None:
    typst = pytest.importorskip("typst")
    hard = Paper(
        package="x", title="On {A}, $b$, 50 % and \\c_d #e", authors=["Ann Lee", "others"], year=2020, venue="V & W"
    )
    papers = papers | {"hard": hard}
    (tmp_path / "papers.yaml").write_text(to_hayagriva(papers), encoding="utf-8")
    (tmp_path / "papers.bib").write_text(to_bibtex(papers), encoding="utf-8")
    cites = " ".join(f"#cite(<{key}>)" for key in papers)
    for source in ("papers.yaml", "papers.bib"):
        (tmp_path / "main.typ").write_text(f'{cites}\n#bibliography("{source}", style: "ieee")\n')
        assert typst.compile(str(tmp_path / "main.typ"))[:4] == b"%PDF"


def test_typst_refuses_a_key_that_is_not_listed(tmp_path: Path, papers: dict[str, Paper]) -> None:
    typst = pytest.importorskip("typst")
    (tmp_path / "papers.yaml").write_text(to_hayagriva(papers), encoding="utf-8")
    (tmp_path / "main.typ").write_text('#cite(<nobody>)\n#bibliography("papers.yaml")\n')
    with pytest.raises(Exception, match="nobody"):
        typst.compile(str(tmp_path / "main.typ"))
