"""Curves as a small SVG: a page's only kind of plot needs no plotting library."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, floor, log2, log10

WIDTH, HEIGHT, MARGIN = 640, 360, 60
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b")
Line = dict[float, float]  # x -> y
Band = dict[float, tuple[float, float]]  # x -> low and high y


@dataclass(frozen=True)
class Axis:
    """How numbers become places, and which ones are written."""

    label: str
    place: Callable[[float], float]
    ticks: Callable[[float, float], list[float]]  # of the smallest and the largest number
    padded: bool = False  # begins and ends at a tick

    def span(self, numbers: Iterable[float]) -> tuple[float, float]:
        low, high = min(numbers := list(numbers)), max(numbers)
        ticks = self.ticks(low, high)
        ends = (min(low, ticks[0]), max(high, ticks[-1])) if self.padded else (low, high)
        return self.place(ends[0]), self.place(ends[1])


def logarithmic(label: str, padded: bool = False) -> Axis:
    """Ticks at powers of two: those inside, or those around where padded. Positive numbers."""

    def ticks(low: float, high: float) -> list[float]:
        first, last = (floor(log2(low)), ceil(log2(high))) if padded else (ceil(log2(low)), floor(log2(high)))
        return [2.0**i for i in range(first, last + 1)]

    return Axis(label, log2, ticks, padded)


def linear(label: str, padded: bool = False) -> Axis:
    """About five ticks, at round numbers."""

    def ticks(low: float, high: float) -> list[float]:
        rough = max(high - low, 1e-9) / 5
        power = 10.0 ** floor(log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
        first, last = (floor(low / step), ceil(high / step)) if padded else (ceil(low / step), floor(high / step))
        return [round(i * step, 10) for i in range(first, last + 1)]

    return Axis(label, float, ticks, padded)


def curves(lines: dict[str, Line], x: Axis, y: Axis, bands: dict[str, Band] | None = None) -> str:
    """lines: name -> curve.
    bands: name -> interval around it, drawn faintly."""
    bands = bands or {}
    xs = [number for line in lines.values() for number in line]
    ys = [number for line in lines.values() for number in line.values()]
    ys += [number for band in bands.values() for ends in band.values() for number in ends]
    x_span, y_span = x.span(xs), y.span(ys)

    def at(right: float, up: float) -> tuple[float, float]:
        across = (x.place(right) - x_span[0]) / max(x_span[1] - x_span[0], 1e-9)
        height = (y.place(up) - y_span[0]) / max(y_span[1] - y_span[0], 1e-9)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - height * (HEIGHT - 2 * MARGIN)

    parts = [_text(WIDTH / 2, HEIGHT - 12, x.label), _text(14, HEIGHT / 2, y.label, turned=True)]
    for tick in x.ticks(min(xs), max(xs)):
        parts.append(_text(at(tick, min(ys))[0], HEIGHT - MARGIN + 20, f"{tick:,.10g}"))
    for tick in y.ticks(min(ys), max(ys)):
        _, v = at(min(xs), tick)
        parts.append(f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{v:.1f}" y2="{v:.1f}" stroke="#ddd"/>')
        parts.append(_text(MARGIN - 22, v + 4, f"{tick:g}"))
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        if band := bands.get(name):
            around = [at(n, low) for n, (low, _) in band.items()]
            around += [at(n, high) for n, (_, high) in reversed(band.items())]
            parts.append(f'<polygon points="{_path(around)}" fill="{colour}" opacity="0.12"/>')
        points = [at(n, value) for n, value in line.items()]
        parts.append(f'<polyline points="{_path(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(points[-1][0], points[-1][1] - 8, name, colour=colour))
    size = f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12"'
    body = '<rect width="100%" height="100%" fill="white"/>' + "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>\n'


def _path(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{u:.1f},{v:.1f}" for u, v in points)


def _text(x: float, y: float, text: str, turned: bool = False, colour: str = "#333") -> str:
    turn = f' transform="rotate(-90 {x:.0f} {y:.0f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="{colour}"{turn}>{text}</text>'
