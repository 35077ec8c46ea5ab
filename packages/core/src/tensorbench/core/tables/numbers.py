"""Numbers for people: ``0.371 ± 0.004``, ``(1.2 ± 0.3)×10⁻¹⁵``, ``8.1–9.4``: as many digits as mean something."""

from __future__ import annotations

import math
import re

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_THIN = "\u2009"  # between groups of three digits
# Plain decimals between these powers of ten, scientific notation outside.
_SMALL, _LARGE = -3, 6
_MOST = 6  # significant digits that are ever shown


def number(value: float | None, half: float | None = None, *, digits: int = 3) -> str:
    """``value`` with half the width of its interval, if there is one.

    With an interval the digits are those that it leaves standing (two of its own where it starts with 1, else one), and
    at least two of a value larger than that; without one, ``digits`` significant digits, and whole numbers below 10⁶ in
    full. NaN and None are a dash.
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if half is not None and not (math.isfinite(half) and half > 0):
        half = None
    if half is None and value == int(value) and abs(value) < 10**_LARGE:
        return _grouped(f"{value:.0f}")
    size = max(abs(value), half or 0.0)
    exponent = math.floor(math.log10(size))
    if half is None:
        # Rounding may carry into the next power of ten: 0.9996 is 1.00.
        exponent = math.floor(math.log10(float(f"{size:.{digits - 1}e}")))
        last = exponent - digits + 1
    else:
        first = math.floor(math.log10(half))
        last = first - 1 if half / 10.0**first < 1.95 else first
        last = min(max(last, exponent - _MOST + 1), exponent - 1 if half < abs(value) else last)
    scientific = not _SMALL <= exponent < _LARGE
    scale = 10.0**exponent if scientific else 1.0
    decimals = max(0, (exponent if scientific else 0) - last)
    text = _rounded(value, scale, decimals, last)
    if half is not None:
        width = _rounded(half, scale, decimals, last)
        if not re.search("[1-9]", width):  # an interval narrower than the last digit shown is no news
            return number(value, digits=digits)
        text = f"{text} ± {width}"
    if not scientific:
        return text
    power = f"×10{str(exponent).translate(_SUPERSCRIPT)}"
    return f"({text}){power}" if "±" in text else text + power


def span(low: float, high: float) -> str:
    """``0.051–0.12``: both ends to two significant digits (three where two read the same), one number where they agree.

    Whole numbers stay whole; a power of ten that both ends have stands once; a negative end takes " to " for the dash.
    """
    for digits in (2, 3):
        first, last = number(low, digits=digits), number(high, digits=digits)
        if first != last:
            break
    else:
        return number((low + high) / 2)
    (one, *power), (other, *same) = first.split("×"), last.split("×")
    joined = " to " if "−" in one + other else "–"
    if power and power == same:
        return f"({one}{joined}{other})×{power[0]}"
    return f"{first}{joined}{last}"


def interval(low: float | None, high: float | None) -> str:
    """``[0.410, 0.600]``, and no text at all where there is no interval (an end is None or NaN)."""
    if any(end is None or math.isnan(end) for end in (low, high)):
        return ""
    return f"[{number(low)}, {number(high)}]"


def _rounded(value: float, scale: float, decimals: int, last: int) -> str:
    if scale == 1.0 and last > 0:  # digits before the point that mean nothing
        value = round(value, -last)
    text = f"{value / scale:.{decimals}f}"
    return _grouped("0" + text[2:] if text.startswith("-") and not re.search("[1-9]", text) else text)


def _grouped(text: str) -> str:
    whole, point, fraction = text.partition(".")
    sign, whole = ("−", whole[1:]) if whole.startswith("-") else ("", whole)
    if len(whole) > 4:
        whole = f"{int(whole):,}".replace(",", _THIN)
    return sign + whole + point + fraction


_DIGITS = r"\d[\d\u2009.]*"
_TEX_NUMBER = re.compile(
    rf"\(?[−-]?{_DIGITS}(?:(?: ± |–| to )[−-]?{_DIGITS})?\)?×10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+|[−-]?{_DIGITS} ± {_DIGITS}|−{_DIGITS}"
)
_FROM_SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$", "−": "$-$", "–": "--", "…": r"\dots{}", "∞": r"$\infty$", "·": r"$\cdot$", "µ": r"\textmu{}",
    "²": r"$^2$", "³": r"$^3$", "≈": r"$\approx$", "λ": r"$\lambda$", _THIN: r"\,", "\n": " ",
}  # fmt: skip


def to_tex(text: str) -> str:
    """Text with numbers as :func:`number` writes them, for LaTeX: specials escaped, numbers in math mode."""
    pieces, at = [], 0
    for match in _TEX_NUMBER.finditer(text):
        pieces += [_escape(text[at : match.start()]), _math(match.group())]
        at = match.end()
    return "".join([*pieces, _escape(text[at:])])


def _escape(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)


def _math(text: str) -> str:
    text = re.sub("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)$", lambda m: f"10^{{{m.group(1).translate(_FROM_SUPERSCRIPT)}}}", text)
    between = (("–", r"\mbox{--}"), (" to ", r"\mbox{ to }"))
    for sign, command in (("×", r" \times "), (" ± ", r" \pm "), *between, ("−", "-"), (_THIN, r"\,")):
        text = text.replace(sign, command)
    return f"${text}$"


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#~])")


def to_markdown(text: str) -> str:
    """Text for a cell of a Markdown table: specials escaped, one line."""
    return re.sub(r"\s*\n\s*", " ", _MARKDOWN.sub(r"\\\1", text))
