"""Verilog of recoders, multipliers, cells and arrays.

Written as a designer would, with ``+`` for the sums, so that the synthesiser chooses adders and trees: an independent
design to compare the unit-gate circuits with. No reset; ``clear`` starts a new sum.
"""

from __future__ import annotations

from tensorbench.core.errors import unknown

from .arrays import Array
from .circuits import BoothForm
from .encoders import ENCODERS, get_encoder

ARRAYS_IN_VERILOG = ("matrix2d", "systolic_os", "systolic_ws")


def encoder_module(kind: str, n: int = 8, booth: BoothForm = "factored", name: str | None = None) -> str:
    """``module <name>(input [n-1:0] a, output [width-1:0] code)``; the name is ``encoder_<kind>`` by default."""
    encoder = get_encoder(kind, n)
    bodies = {"ent": _ent, "mbe": _mbe, "csd": _csd, "plain": lambda n, booth: ["assign code = a;"]}
    return _module(
        name or f"encoder_{kind}",
        [f"input [{n - 1}:0] a", f"output [{encoder.width - 1}:0] code"],
        bodies[kind](n, booth),
    )


def digit_module(kind: str = "ent", booth: BoothForm = "textbook") -> str:
    """The cell of one digit, module ``digit``: EN-T from two pairs and a carry, Booth from a triple.

    Raises:
        ValueError: a recoder without digit cells.
    """
    if kind == "ent":
        ports = ["input [1:0] a", "input [1:0] b", "input c", "output [1:0] e", "output co"]
        lines = ["assign co = (a[0] & a[1]) | (a[1] & c);", "assign e = {b[1] ^ (b[0] & co), b[0] ^ co};"]
        return _module("digit", ports, lines)
    if kind == "mbe":
        return _module("digit", ["input [2:0] t", "output [2:0] code"], _booth_digit("t[0]", "t[1]", "t[2]", 0, booth))
    raise ValueError(unknown("encoder with digit cells", kind, ("ent", "mbe")))


def _module(name: str, ports: list[str], lines: list[str]) -> str:
    return f"module {name}(" + ", ".join(ports) + ");\n" + "".join(f"  {x}\n" for x in lines) + "endmodule\n"


def _ent(n: int, booth: BoothForm) -> list[str]:
    lines = [f"wire s = a[{n - 1}];", f"wire [{n - 1}:0] m = (a ^ {{{n}{{s}}}}) + s;"]
    lines += ["wire c0 = 1'b0;", "assign code[1:0] = m[1:0];", f"assign code[{n}] = s;"]
    for i in range(1, n // 2):
        a0, a1, b0, b1 = (f"m[{2 * i - 2 + k}]" for k in range(4))
        lines.append(f"wire c{i} = ({a0} & {a1}) | ({a1} & c{i - 1});")
        lines.append(f"assign code[{2 * i + 1}:{2 * i}] = {{{b1} ^ ({b0} & c{i}), {b0} ^ c{i}}};")
    return lines


def _booth_digit(a: str, b: str, c: str, at: int, booth: BoothForm) -> list[str]:
    if booth == "factored":
        two, neg = f"({c} ^ {b}) & ~({b} ^ {a})", c
    else:
        two, neg = f"({c} & ~{b} & ~{a}) | (~{c} & {b} & {a})", f"{c} & ~({b} & {a})"
    return [f"assign code[{at}] = {b} ^ {a};", f"assign code[{at + 1}] = {two};", f"assign code[{at + 2}] = {neg};"]


def _mbe(n: int, booth: BoothForm) -> list[str]:
    lines: list[str] = []
    for i in range(n // 2):
        below = f"a[{2 * i - 1}]" if i else "1'b0"
        lines += _booth_digit(below, f"a[{2 * i}]", f"a[{2 * i + 1}]", 3 * i, booth)
    return lines


def _csd(n: int, booth: BoothForm) -> list[str]:
    lines = ["wire c0 = 1'b0;"]
    for i in range(n):
        x, above = f"a[{i}]", f"a[{min(i + 1, n - 1)}]"
        lines += [f"assign code[{2 * i}] = {x} ^ c{i};", f"assign code[{2 * i + 1}] = ({x} ^ c{i}) & {above};"]
        lines.append(f"wire c{i + 1} = ({x} & {above}) | (c{i} & ({x} | {above}));")
    return lines


def _product(kind: str, n: int, width: int) -> list[str]:
    """Rows ``p<i>`` and corrections from ``code`` and ``b``, and ``wire [width-1:0] product``."""
    lines, terms = [], []
    radix4 = kind in ("ent", "mbe")
    bits = n + 1 if radix4 else n
    for i in range(n // 2 if radix4 else n):
        if kind == "ent":
            e = f"code[{2 * i + 1}:{2 * i}]"
            lines += [f"wire one{i} = code[{2 * i}];", f"wire two{i} = {e} == 2'b10;"]
            lines.append(f"wire neg{i} = ({e} == 2'b11) ^ code[{n}];")
        elif kind == "mbe":
            lines.append(f"wire one{i} = code[{3 * i}], two{i} = code[{3 * i + 1}], neg{i} = code[{3 * i + 2}];")
        elif kind == "csd":
            lines.append(f"wire one{i} = code[{2 * i}], neg{i} = code[{2 * i + 1}];")
        else:
            lines.append(f"wire one{i} = code[{i}], neg{i} = {1 if i == n - 1 else 0};")
        multiple = f"{{{bits}{{one{i}}}}} & " + (f"{{b[{n - 1}], b}}" if radix4 else "b")
        if radix4:
            multiple = f"({multiple}) | ({{{bits}{{two{i}}}}} & {{b, 1'b0}})"
        lines.append(f"wire [{bits - 1}:0] p{i} = ({multiple}) ^ {{{bits}{{neg{i}}}}};")
        shift = 2 * i if radix4 else i
        terms.append(f"({{~p{i}[{bits - 1}], p{i}[{bits - 2}:0]}} << {shift})")
        terms.append(f"({{{width - 1}'b0, neg{i}}} << {shift})")
    shifts = [(2 * i if radix4 else i) + bits - 1 for i in range(n // 2 if radix4 else n)]
    constant = -sum(1 << s for s in shifts) % (1 << width)
    rows = [t.replace("({~", f"({{{{{width - bits}{{1'b0}}}}, ~") for t in terms]
    return [*lines, f"wire [{width - 1}:0] product = {width}'d{constant} + " + " + ".join(rows) + ";"]


def mac_module(
    kind: str,
    n: int = 8,
    *,
    edge: bool = False,
    accumulator: int = 32,
    booth: BoothForm = "factored",
    name: str = "mac",
) -> str:
    """``out = acc + a · b`` (``accumulator=0``: ``out = a · b``), with its recoder's module where ``edge`` is false."""
    if kind not in ENCODERS:
        raise ValueError(unknown("encoder", kind, ENCODERS))
    width, code = accumulator or 2 * n, get_encoder(kind, n).width
    ports = [f"input [{(code if edge else n) - 1}:0] a", f"input [{n - 1}:0] b"]
    ports += [f"input [{accumulator - 1}:0] acc"] if accumulator else []
    lines = [f"wire [{code - 1}:0] code" + (" = a;" if edge else ";")]
    if not edge:
        lines.append(f"{name}_encoder recoder(.a(a), .code(code));")
    lines += _product(kind, n, width)
    lines.append("assign out = product" + (" + acc;" if accumulator else ";"))
    text = _module(name, [*ports, f"output [{width - 1}:0] out"], lines)
    return text if edge else encoder_module(kind, n, booth, f"{name}_encoder") + text


def multiplier_module(
    kind: str, n: int = 8, *, edge: bool = False, booth: BoothForm = "factored", name: str = "multiplier"
) -> str:
    """``out = a · b`` in 2n bits."""
    return mac_module(kind, n, edge=edge, accumulator=0, booth=booth, name=name)


def adder_module(width: int, out: int, name: str = "adder") -> str:
    """The signed sum of two numbers."""
    ports = [f"input signed [{width - 1}:0] a", f"input signed [{width - 1}:0] b", f"output signed [{out - 1}:0] out"]
    return _module(name, ports, ["assign out = a + b;"])


def cell_module(array: Array, booth: BoothForm = "factored") -> str:
    """Module ``cell`` of an array and what it needs: the MAC and its registers."""
    _known(array)
    edge, w, n, s = array.placement == "edge", _operand(array), array.n, array.accumulator
    ports = ["input clk", f"input [{w - 1}:0] a", f"input [{n - 1}:0] b"]
    if array.name == "systolic_ws":
        ports += ["input load", f"input [{s - 1}:0] sum_in"]
        ports += [f"output reg [{w - 1}:0] a_out", f"output reg [{n - 1}:0] b_out", f"output reg [{s - 1}:0] sum"]
        lines = [f"wire [{s - 1}:0] out;", "mac unit(.a(a), .b(b_out), .acc(sum_in), .out(out));"]
        lines.append("always @(posedge clk) begin a_out <= a; sum <= out; if (load) b_out <= b; end")
    else:
        moving = array.name == "systolic_os"
        ports += ["input clear"]
        ports += [f"output reg [{w - 1}:0] a_out", f"output reg [{n - 1}:0] b_out"] if moving else []
        ports += [f"output reg [{s - 1}:0] sum"]
        lines = [f"wire [{s - 1}:0] out;", "mac unit(.a(a), .b(b), .acc(sum), .out(out));"]
        move = "a_out <= a; b_out <= b; " if moving else ""
        lines.append(f"always @(posedge clk) begin {move}sum <= clear ? {s}'d0 : out; end")
    mac = mac_module(array.kind, n, edge=edge, accumulator=s, booth=booth)
    return mac + _module("cell_", ports, lines)


def array_module(array: Array, booth: BoothForm = "factored") -> str:
    """Module ``array`` of the broadcast matrix or a systolic array. Operands enter side by side, the first one lowest.

    Ports: ``clk, a, b``, then ``clear`` and ``sums`` (all cells, row by row), or for the weight-stationary array
    ``load`` (weights move down while it is set) and ``sums`` of the bottom row. The inputs must be skewed by whoever
    drives it.

    Raises:
        ValueError: an array without a generator.
    """
    _known(array)
    r, c, n, w, s = array.rows, array.cols, array.n, _operand(array), array.accumulator
    edge, ws = array.placement == "edge" and array.kind != "plain", array.name == "systolic_ws"
    outputs = c if ws else r * c
    ports = ["input clk", f"input [{r * n - 1}:0] a", f"input [{c * n - 1}:0] b"]
    ports += ["input load" if ws else "input clear", f"output [{outputs * s - 1}:0] sums"]
    lines, modules = [], cell_module(array, booth)
    if edge:
        modules += encoder_module(array.kind, n, booth, "edge_encoder")
    for i in range(r):
        lines.append(f"wire [{w - 1}:0] a_{i}_0;")
        source = f"a[{(i + 1) * n - 1}:{i * n}]"
        lines.append(f"edge_encoder e{i}(.a({source}), .code(a_{i}_0));" if edge else f"assign a_{i}_0 = {source};")
    lines += [f"wire [{n - 1}:0] b_0_{j} = b[{(j + 1) * n - 1}:{j * n}];" for j in range(c)]
    lines += [f"wire [{s - 1}:0] s_0_{j} = {s}'d0;" for j in range(c)] if ws else []
    for i in range(r):
        for j in range(c):
            links = [".clk(clk)", f".a(a_{i}_{j})", f".b(b_{i}_{j})"]
            if array.name == "matrix2d":
                links = [".clk(clk)", f".a(a_{i}_0)", f".b(b_0_{j})"]
            else:
                lines.append(f"wire [{w - 1}:0] a_{i}_{j + 1}; wire [{n - 1}:0] b_{i + 1}_{j};")
                links += [f".a_out(a_{i}_{j + 1})", f".b_out(b_{i + 1}_{j})"]
            if ws:
                lines.append(f"wire [{s - 1}:0] s_{i + 1}_{j};")
                links += [".load(load)", f".sum_in(s_{i}_{j})", f".sum(s_{i + 1}_{j})"]
            else:
                at = i * c + j
                links += [".clear(clear)", f".sum(sums[{(at + 1) * s - 1}:{at * s}])"]
            lines.append(f"cell_ c_{i}_{j}({', '.join(links)});")
    lines += [f"assign sums[{(j + 1) * s - 1}:{j * s}] = s_{r}_{j};" for j in range(c)] if ws else []
    return modules + _module("array", ports, lines)


def _operand(array: Array) -> int:
    return array.encoder.width if array.placement == "edge" else array.n


def _known(array: Array) -> None:
    if array.name not in ARRAYS_IN_VERILOG:
        raise ValueError(unknown("array with a Verilog generator", array.name, ARRAYS_IN_VERILOG))
