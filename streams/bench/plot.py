"""The latency result as one SVG: answered events per second and latency, against the load."""

import math
from collections.abc import Callable
from html import escape

from streams.bench.result import Result

WIDTH, HEIGHT, MARGIN = 420, 300, 56
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#7b5ea7", "#b8860b", "#444444")

Line = tuple[str, str, list[tuple[float, float]]]
"""Name, colour and points of one line."""


def draw(result: Result) -> str:
    """Two panels side by side, both axes logarithmic."""
    throughput: list[Line] = []
    latency: list[Line] = []
    names = dict.fromkeys(f"{row['who']}, {row['guarantee']}" for row in result.results)
    for colour, name in zip(COLOURS * 2, names, strict=False):
        rows = [r for r in result.results if f"{r['who']}, {r['guarantee']}" == name]
        throughput.append((name, colour, [(r["rate_per_s"], r["rows_per_s"]) for r in rows]))
        for quantile in ("p50", "p99"):
            points = [(r["rate_per_s"], r["to_reader_ms"][quantile]) for r in rows]
            latency.append((f"{name}: {quantile}", colour, points))
    height = HEIGHT + MARGIN + 16 * (len(latency) + 1)
    size = f'width="{2 * (WIDTH + MARGIN)}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"',
            ' font-size="11">',
            '<rect width="100%" height="100%" fill="white"/>',
            *_panel(throughput, 0, "answered events per second", dashed=False),
            *_panel(latency, WIDTH + MARGIN, "ms to the answer (p99 dashed)", dashed=True),
            "</svg>",
        ]
    )


def _panel(lines: list[Line], left: float, title: str, *, dashed: bool) -> list[str]:
    xs = [x for _, _, points in lines for x, _ in points]
    ys = [max(y, 1e-3) for _, _, points in lines for _, y in points]
    x_of = _scale(min(xs), max(xs), left + MARGIN, left + WIDTH)
    y_of = _scale(min(ys), max(ys), HEIGHT, MARGIN / 2)
    parts = [f'<text x="{left + MARGIN}" y="14" font-weight="bold">{escape(title)}</text>']
    parts += [
        f'<text x="{x_of(tick):.0f}" y="{HEIGHT + 16}" text-anchor="middle">{tick:,.0f}</text>'
        for tick in _decades(min(xs), max(xs))
    ]
    for tick in _decades(min(ys), max(ys)):
        y = y_of(tick)
        parts.append(
            f'<line x1="{left + MARGIN}" x2="{left + WIDTH}" y1="{y:.0f}" y2="{y:.0f}" '
            f'stroke="#ddd"/><text x="{left + MARGIN - 4}" y="{y + 4:.0f}" text-anchor="end">'
            f"{tick:,.0f}</text>"
        )
    parts.append(f'<text x="{left + MARGIN}" y="{HEIGHT + 32}">events per second sent</text>')
    for position, (name, colour, points) in enumerate(lines):
        stroke = ' stroke-dasharray="5 4"' if dashed and name.endswith("p99") else ""
        path = " ".join(f"{x_of(x):.1f},{y_of(max(y, 1e-3)):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{stroke}/>'
        )
        parts += [
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(max(y, 1e-3)):.1f}" r="3" fill="{colour}"/>'
            for x, y in points
        ]
        parts.append(
            f'<text x="{left + MARGIN}" y="{HEIGHT + 50 + 16 * position}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    return parts


def _scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """A logarithmic scale from values to pixels."""
    bottom, top = math.log10(low), math.log10(max(high, low * 1.01))
    return lambda value: start + (math.log10(value) - bottom) / (top - bottom) * (stop - start)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every power of ten between two values."""
    found = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    return [value for value in found if low <= value <= high]
