"""Cut-paper shapes on a Skia canvas: flat colour, a soft drop shadow, no outline thinner than a pixel."""
from __future__ import annotations

import functools
import math

import skia


def mix(a, b, t: float):
    """From colour a (t = 0) to colour b (t = 1); components 0..255."""
    return tuple(x * (1 - t) + y * t for x, y in zip(a, b))


def paint(color, alpha: float = 1., stroke: float = 0.) -> skia.Paint:
    """Fill paint, or a round-ended line `stroke` units wide."""
    r, g, b = color
    return _paint(min(255, int(r)), min(255, int(g)), min(255, int(b)), int(255 * alpha), stroke)


@functools.lru_cache(4096)
def _paint(r: int, g: int, b: int, alpha: int, stroke: float) -> skia.Paint:
    p = skia.Paint(AntiAlias=True, Color=skia.Color(r, g, b, alpha))
    if stroke:
        p.setStyle(skia.Paint.kStroke_Style)
        p.setStrokeWidth(stroke)
        p.setStrokeCap(skia.Paint.kRound_Cap)
        p.setStrokeJoin(skia.Paint.kRound_Join)
    return p


def polygon(points) -> skia.Path:
    path = skia.PathBuilder() if hasattr(skia, "PathBuilder") else skia.Path()
    path.addPolygon([skia.Point(*p) for p in points], True)
    return path.detach() if hasattr(path, "detach") else path


class Pen:
    """Draws in the canvas's current coordinates."""

    SHADOW = (.010, .014)

    def __init__(self, canvas: skia.Canvas):
        self.c = canvas

    def gradient(self, height: float, top, bottom) -> None:
        colors = [skia.Color(*(int(v) for v in top)), skia.Color(*(int(v) for v in bottom))]
        # The lower colour is reached at the horizon, a little below the middle.
        self.c.drawPaint(skia.Paint(Shader=skia.GradientShader.MakeLinear([(0, 0), (0, height * .72)], colors)))

    def polygon(self, points, color, alpha: float = 1.) -> None:
        self.c.drawPath(polygon(points), paint(color, alpha))

    def cut(self, points, color) -> None:
        """A polygon of paper lying on what is below it."""
        path = polygon(points)
        self.c.save()
        self.c.translate(*self.SHADOW)
        self.c.drawPath(path, paint((10, 10, 30), .20))
        self.c.restore()
        self.c.drawPath(path, paint(color))

    def rect(self, x, y, w, h, color, alpha: float = 1.) -> None:
        self.c.drawRect(skia.Rect.MakeXYWH(x, y, w, h), paint(color, alpha))

    def circle(self, x, y, r, color, alpha: float = 1.) -> None:
        self.c.drawCircle(x, y, r, paint(color, alpha))

    def ellipse(self, x, y, rx, ry, color, alpha: float = 1.) -> None:
        self.c.drawOval(skia.Rect(x - rx, y - ry, x + rx, y + ry), paint(color, alpha))

    def star(self, x, y, r, color) -> None:
        points = [(x + math.sin(i * math.pi / 4) * (r if i % 2 == 0 else r * .38), y + math.cos(i * math.pi / 4) * (r if i % 2 == 0 else r * .38)) for i in range(8)]
        self.polygon(points, color)

    def star5(self, x, y, r, color) -> None:
        """A five-pointed star lying on the ground."""
        self.cut([(x + math.sin(i * math.pi / 5) * q, y - math.cos(i * math.pi / 5) * q * .8) for i, q in enumerate((r, r * .48) * 5)], color)

    def line(self, x, y, x2, y2, width, color) -> None:
        self.c.drawLine(x, y, x2, y2, paint(color, 1., width))

    def veil(self, color, alpha: float) -> None:
        """Dims the whole frame."""
        self.c.drawPaint(paint(color, alpha))

    def moon(self, x, y, r, color) -> None:
        """A crescent: an arc of the disc and an arc of a disc beside it."""
        outer = [(x + r * math.cos(a), y + r * math.sin(a)) for a in (math.pi * (.32 + 1.36 * i / 20) for i in range(21))]
        inner = [(x + .45 * r + .8 * r * math.cos(a), y + .86 * r * math.sin(a)) for a in (math.pi * (1.70 - 1.40 * i / 20) for i in range(21))]
        self.polygon(outer + inner, color)

    def blob(self, x, y, r, color) -> None:
        """A scalloped round, as a tree's crown."""
        points = []
        for i in range(40):
            a = 2 * math.pi * i / 40
            q = r * (1 + .07 * math.cos(8 * a))
            points.append((x + q * math.cos(a), y + q * math.sin(a)))
        self.cut(points, color)

    def flower(self, x, y, r, color, stem, heart) -> None:
        self.rect(x - r * .22, y, r * .44, r * 3, stem)
        for i in range(5):
            a = 2 * math.pi * i / 5 - math.pi / 2
            self.circle(x + r * .75 * math.cos(a), y + r * .75 * math.sin(a), r * .58, color)
        self.circle(x, y, r * .5, heart)

    def ribbon(self, x, foot, height, width, sway, color) -> None:
        """A weed: a band that stands on `foot` and sways at its top."""
        left, right = [], []
        for i in range(9):
            f = i / 8
            cx = x + sway * f * f + .012 * math.sin(6.28 * f * 1.2)
            w = width * (1 - .6 * f)
            left.append((cx - w, foot - height * f))
            right.append((cx + w, foot - height * f))
        self.cut(left + right[::-1], color)
