"""The papers of the benchmark: reading and checking ``configs/papers.yaml``, and writing it as a bibliography.

One entry per paper, keyed by the name that experiments and claims use. ``to_bibtex`` serves LaTeX, ``to_hayagriva``
serves Typst. Titles are written so that no bibliography style may change their capitals: "Bayesian Tucker" must not
become "bayesian tucker", and no rule tells a proper name from a title-case word.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tensorbench.core import yamlfile
from tensorbench.core.errors import unknown

OTHERS = "others"
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_ARXIV = r"^(\d{2}(0[1-9]|1[0-2])\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})$"
_DOI = r"^10\.\d{4,9}/[^\s\"<>{}]+$"
_URL = r"^https?://[^\s{}]+$"

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^\S(.*\S)?$")]
Kind = Literal["conference", "workshop", "journal", "chapter"]


class Paper(BaseModel):
    """One paper. ``authors`` holds names as ``Given Family`` or ``Family, Given``; a final ``others`` says that the
    list is not complete, an empty list that nobody has confirmed the names yet."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    package: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    title: Text
    authors: list[Text] = Field(default_factory=list)
    year: int
    venue: Text | None = None
    kind: Kind | None = None
    arxiv: Annotated[str, StringConstraints(pattern=_ARXIV)] | None = None
    doi: Annotated[str, StringConstraints(pattern=_DOI)] | None = None
    url: Annotated[str, StringConstraints(pattern=_URL)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Paper:
        latest = datetime.date.today().year + 1
        if not 1900 <= self.year <= latest:
            raise ValueError(f"year {self.year} is not plausible; use a year from 1900 to {latest}")
        if OTHERS in self.authors[:-1] or self.authors == [OTHERS]:
            raise ValueError(f"{OTHERS!r} may only stand last in authors, after at least one name")
        if len(set(self.authors)) != len(self.authors):
            raise ValueError("authors names somebody twice")
        if self.url and (self.arxiv or self.doi):
            raise ValueError("url is only for papers with neither arxiv nor doi; remove it")
        if self.kind and not self.venue:
            raise ValueError(f"kind {self.kind!r} describes a venue, and venue is missing")
        return self

    @property
    def complete(self) -> bool:
        """Whether every author is named."""
        return bool(self.authors) and self.authors[-1] != OTHERS

    @property
    def link(self) -> str | None:
        """Where to read the paper: its arXiv page (open to all), else its DOI, else its address."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else self.url


def load_papers(path: str | Path) -> dict[str, Paper]:
    """The papers of the YAML file at ``path``, by key, in the file's order.

    Every mistake of the file is reported in one ``ValueError`` that names the file and, for each mistake, the paper's
    key and the field (with the nearest valid name for an unknown one).
    """
    content = yamlfile.read(Path(path))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: expected papers by key (funbat: {{package: ..., title: ...}}), got {content!r:.60}")
    papers: dict[str, Paper] = {}
    problems: list[str] = []
    for key, fields in content.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            problems.append(f"{key!r}: a key is lower-case letters, digits and underscores, and starts with a letter")
        if not isinstance(fields, dict):
            problems.append(f"{key}: expected fields such as title and year, got {fields!r:.60}")
            continue
        try:
            papers[key] = Paper.model_validate(fields)
        except ValidationError as error:
            problems.extend(f"{key}{text}" for text in _explain(error))
    problems.extend(_shared(papers))
    if problems:
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise ValueError(f"{path}: {count}\n" + "\n".join(f"  {problem}" for problem in problems))
    return papers


_HINTS = {
    "arxiv": 'write the bare id in quotes, such as "2311.04829"',
    "doi": "write the bare DOI, such as 10.1109/TPDS.2022.3217824",
    "url": "write a full address, https://...",
    "package": "write the package's name, such as decomposition",
}


def _explain(error: ValidationError) -> Iterable[str]:
    for item in error.errors(include_url=False):
        place = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            yield ": " + unknown("field", place, Paper.model_fields)
        elif item["type"] == "missing":
            yield f": {place} is missing"
        elif not place:
            yield ": " + str(item["ctx"]["error"])
        else:
            hint = _HINTS.get(place)
            yield f".{place}: {item['input']!r:.60}: " + (hint or item["msg"][:1].lower() + item["msg"][1:])


def _shared(papers: Mapping[str, Paper]) -> Iterable[str]:
    """Two entries with one title, arXiv id or DOI are one paper written twice (or a slip of copying)."""
    for field in ("title", "arxiv", "doi"):
        seen: dict[str, str] = {}
        for key, paper in papers.items():
            value = getattr(paper, field)
            if value is None:
                continue
            first = seen.setdefault(" ".join(value.casefold().split()), key)
            if first != key:
                yield f"{key}: {field} {value!r} is {first}'s already"


def name_parts(name: str) -> tuple[str, str]:
    """``(family, given)`` of ``Given Family`` or ``Family, Given``; lower-case particles belong to the family name
    (``Gianni de Fabritiis`` is a ``de Fabritiis``)."""
    if "," in name:
        family, given = name.split(",", 1)
        return family.strip(), given.strip()
    words = name.split()
    start = len(words) - 1
    while start > 1 and words[start - 1][0].islower():
        start -= 1
    return " ".join(words[start:]), " ".join(words[:start])


# --- BibTeX ---------------------------------------------------------------------------------------------------------

_ACCENTS = {  # combining mark -> LaTeX accent command
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0328": "k",
}  # fmt: skip
_LETTERS = {
    "ß": r"{\ss}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}", "Ł": r"{\L}", "æ": r"{\ae}", "Æ": r"{\AE}",
    "œ": r"{\oe}", "å": r"{\aa}", "Å": r"{\AA}", "ı": r"{\i}", "đ": r"{\dj}",
    "\\": r"{\textbackslash}", "~": r"{\textasciitilde}", "^": r"{\textasciicircum}",
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "–": "--", "—": "---", "’": "'", "‘": "`", "“": "``", "”": "''", "∞": r"{$\infty$}", "ℓ": r"{$\ell$}",
}  # fmt: skip


def latex(text: str) -> str:
    """``text`` for LaTeX: special characters escaped, accented letters as ``{\\'e}`` (classic BibTeX sorts and counts
    in bytes, so plain ASCII is the only safe spelling). Other letters stay as they are."""
    return "".join(map(_latex_letter, unicodedata.normalize("NFC", text)))


def _latex_letter(letter: str) -> str:
    if letter in _LETTERS:
        return _LETTERS[letter]
    base, *marks = list(unicodedata.normalize("NFD", letter))
    if len(marks) != 1 or marks[0] not in _ACCENTS:
        return letter
    accent = _ACCENTS[marks[0]]
    body = {"i": r"\i", "j": r"\j"}.get(base, base)
    return f"{{\\{accent}{{{body}}}}}" if accent.isalpha() else f"{{\\{accent}{body}}}"


_BIBTEX_TYPE = {
    "conference": "inproceedings",
    "workshop": "inproceedings",
    "journal": "article",
    "chapter": "incollection",
}


def to_bibtex(papers: Mapping[str, Paper]) -> str:
    """The papers as BibTeX, keyed by paper; one known only from arXiv becomes ``@misc`` with its eprint."""
    return "\n".join(_bibtex_entry(key, paper) for key, paper in papers.items())


def _bibtex_entry(key: str, paper: Paper) -> str:
    kind = paper.kind or "conference"
    fields: dict[str, str] = {"title": f"{{{latex(paper.title)}}}"}
    if paper.authors:
        fields["author"] = " and ".join(map(_bibtex_name, paper.authors))
    if paper.venue:
        fields["journal" if kind == "journal" else "booktitle"] = latex(paper.venue)
    fields["year"] = str(paper.year)
    if paper.arxiv:
        fields |= {"eprint": paper.arxiv, "archiveprefix": "arXiv"}
    if paper.doi:
        fields["doi"] = paper.doi
    if paper.url:
        fields["url"] = paper.url
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{_BIBTEX_TYPE[kind] if paper.venue else 'misc'}{{{key},\n{body}\n}}\n"


def _bibtex_name(name: str) -> str:
    if name == OTHERS:
        return name
    family, given = name_parts(name)
    # " and " separates names, so a name holding the word as such would have to be braced
    return latex(f"{family}, {given}") if given else f"{{{latex(family)}}}"


# --- Hayagriva (Typst) ----------------------------------------------------------------------------------------------

_PARENT = {"conference": "proceedings", "workshop": "proceedings", "journal": "periodical", "chapter": "anthology"}


def to_hayagriva(papers: Mapping[str, Paper]) -> str:
    """The papers as Hayagriva YAML for Typst's ``#bibliography``; one known only from arXiv has arXiv as parent."""
    entries = {key: _hayagriva_entry(paper) for key, paper in papers.items()}
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=120)


def _hayagriva_entry(paper: Paper) -> dict[str, Any]:
    kind = paper.kind or "conference"
    entry: dict[str, Any] = {"type": "chapter" if paper.venue and kind == "chapter" else "article"}
    entry["title"] = _verbatim(paper.title)
    if paper.authors:
        entry["author"] = [_hayagriva_name(name) for name in paper.authors]
    entry["date"] = paper.year
    if paper.venue:
        entry["parent"] = {"type": _PARENT[kind], "title": _verbatim(paper.venue)}
    elif paper.arxiv:
        entry["parent"] = {"type": "repository", "title": _verbatim(f"arXiv:{paper.arxiv}")}
    serial = {name: value for name, value in (("arxiv", paper.arxiv), ("doi", paper.doi)) if value}
    if serial:
        entry["serial-number"] = serial
    if paper.link and not paper.doi:
        entry["url"] = paper.link
    return entry


def _verbatim(text: str) -> str:
    """In a Hayagriva title ``{...}`` keeps capitals, ``$...$`` is mathematics, and a backslash escapes."""
    return "{" + re.sub(r"([\\{}$])", r"\\\1", text) + "}"


def _hayagriva_name(name: str) -> str | dict[str, str]:
    family, given = name_parts(name)
    return {"name": family, "given-name": given} if given else {"name": family}
