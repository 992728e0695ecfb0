"""The subjects, drawn facing right, in units (see world.py): walkers stand on y = 0, flyers are centred on the origin.

Each subject is a list of parts from back to front.  All parts are first drawn a little larger in a dark colour, then in
their own, so that a subject has one soft outline around the whole and stands out from any place.
"""
from __future__ import annotations

import math

import skia

from .shapes import mix, paint, polygon

EDGE = .020


class Parts:
    """Collects parts; `show` draws the outline of all of them, then the parts."""

    def __init__(self):
        self.items = []

    def oval(self, x, y, rx, ry, color, edge=True, turn=0.):
        self.items.append(("oval", (x, y, rx, ry, turn), color, 0., edge))

    def poly(self, points, color, edge=True):
        self.items.append(("path", polygon(points), color, 0., edge))

    def limb(self, points, width, color, edge=True):
        """A rounded line through two points, or a curve through three (start, control, end)."""
        self.items.append(("limb", points, color, width, edge))

    def show(self, canvas: skia.Canvas, dark) -> None:
        for kind, shape, color, width, edge in self.items:
            if edge:
                self._draw(canvas, kind, shape, dark, width, EDGE)
        for kind, shape, color, width, edge in self.items:
            self._draw(canvas, kind, shape, color, width, 0.)

    @staticmethod
    def _draw(canvas, kind, shape, color, width, grow):
        if kind == "oval":
            x, y, rx, ry, turn = shape
            canvas.save()
            canvas.translate(x, y)
            if turn:
                canvas.rotate(turn)
            canvas.drawOval(skia.Rect(-rx - grow / 2, -ry - grow / 2, rx + grow / 2, ry + grow / 2), paint(color))
            canvas.restore()
        elif kind == "path":
            if grow:
                canvas.drawPath(shape, paint(color, 1., grow))
            canvas.drawPath(shape, paint(color))
        else:
            n = 8 if len(shape) == 3 else 1
            points = []
            for i in range(n + 1):
                f = i / n
                if len(shape) == 3:
                    (a, b), (c, d), (e, g) = shape
                    points.append(((1 - f) ** 2 * a + 2 * f * (1 - f) * c + f * f * e, (1 - f) ** 2 * b + 2 * f * (1 - f) * d + f * f * g))
                else:
                    (a, b), (c, d) = shape
                    points.append((a + (c - a) * f, b + (d - b) * f))
            p = paint(color, 1., width + grow)
            if n == 1:
                canvas.drawLine(*points[0], *points[1], p)
            else:
                path = skia.PathBuilder() if hasattr(skia, "PathBuilder") else skia.Path()
                path.addPolygon([skia.Point(*q) for q in points], False)
                canvas.drawPath(path.detach() if hasattr(path, "detach") else path, p)


def eye(parts: Parts, x, y, r, name: str) -> None:
    parts.oval(x, y, r, r * 1.1, (255, 255, 250), False)
    parts.oval(x + r * .25, y + r * .1, r * .62, r * .72, (20, 18, 26), False)


def sitting(parts: Parts, cat: bool, t, phase, color, dark, light, name) -> None:
    sway = math.sin(2.4 * t + phase)
    look = .012 * math.sin(.9 * t + phase)
    if cat:
        parts.limb([(-.10, -.03), (-.25, -.02 + .01 * sway), (-.215 + .025 * sway, -.17)], .044, color)
    else:
        parts.limb([(-.11, -.05), (-.18, -.06), (-.205 + .02 * sway, -.15 + .015 * abs(sway))], .046, color)
    parts.oval(-.015, -.115, .125, .125, color)
    parts.poly([(-.085, -.24), (.075, -.24), (.105, -.02), (-.12, -.02)], color)
    parts.oval(-.075, -.025, .055, .028, color)
    parts.limb([(.025, -.14), (.025, -.018)], .052, color)
    parts.limb([(.085, -.14), (.085, -.018)], .052, color)
    parts.oval(.055, -.165, .042, .062, light, False)
    hx, hy = .035 + look, -.305
    if cat:
        for side in (-1, 1):
            parts.poly([(hx + side * .100, hy - .135), (hx + side * .018, hy - .075), (hx + side * .102, hy - .010)], color)
        parts.oval(hx, hy, .108, .090, color)
        for side in (-1, 1):
            parts.poly([(hx + side * .086, hy - .105), (hx + side * .042, hy - .070), (hx + side * .088, hy - .04)], (246, 150, 160), False)
        parts.oval(hx + .012, hy + .040, .046, .034, light, False)
        parts.oval(hx + .012, hy + .022, .015, .011, (232, 96, 116), False)
        for side in (-1, 1):
            parts.oval(hx + .010 + side * .045, hy - .012, .021, .024, (196, 230, 90), False)
            parts.oval(hx + .014 + side * .045, hy - .010, .010, .020, (16, 16, 22), False)
    else:
        parts.oval(hx, hy, .098, .098, color)
        for side in (-1, 1):
            parts.oval(hx + side * .098, hy + .012, .036, .082, dark, True, -side * 12)
        parts.oval(hx + .018, hy + .046, .060, .046, light, False)
        parts.oval(hx + .018, hy + .080, .018, .022, (240, 110, 130), False)
        parts.oval(hx + .020, hy + .022, .024, .018, (20, 18, 24), False)
        for side in (-1, 1):
            eye(parts, hx + .010 + side * .040, hy - .024, .019, name)


def running(parts: Parts, cat: bool, t, phase, color, dark, light, name) -> None:
    w = 2 * math.pi * 2. * t + phase
    bob = .014 * math.sin(w)
    shade = mix(color, (0, 0, 0), .22)
    for far in (1, 0):  # the two legs on the far side first
        for hip, lead in ((-.135, 0.), (.115, math.pi * .8)):
            a = .75 * math.sin(w + lead + far * .7)
            x, y = hip + .02 * far, -.12 + bob
            parts.limb([(x, y), (x + .115 * math.sin(a), y + .115 * math.cos(a) - .005)], .044, shade if far else color)
    if cat:
        parts.limb([(-.17, -.17 + bob), (-.28, -.16), (-.30, -.30 + .02 * math.sin(w))], .040, color)
    else:
        parts.limb([(-.17, -.18 + bob), (-.23, -.19), (-.26, -.27 + .03 * math.sin(w * 1.))], .042, color)
    parts.oval(-.01, -.165 + bob, .195, .075, color)
    parts.oval(-.01, -.125 + bob, .13, .026, light, False)
    hx, hy = .20, -.245 + bob * .5
    parts.limb([(.13, -.18 + bob), (.19, -.23 + bob * .5)], .09, color)
    if cat:
        for dx in (-.050, .035):
            parts.poly([(hx + dx - .038, hy - .045), (hx + dx, hy - .130), (hx + dx + .042, hy - .045)], color)
        parts.oval(hx, hy, .088, .078, color)
        parts.oval(hx + .052, hy + .028, .034, .026, light, False)
        parts.oval(hx + .078, hy + .014, .013, .011, (232, 96, 116), False)
        parts.oval(hx + .034, hy - .012, .021, .023, (196, 230, 90), False)
        parts.oval(hx + .040, hy - .010, .010, .019, (16, 16, 22), False)
    else:
        parts.oval(hx + .075, hy + .022, .065, .038, light)
        parts.oval(hx, hy, .082, .080, color)
        parts.oval(hx + .128, hy + .004, .020, .017, (20, 18, 24), False)
        parts.oval(hx - .045, hy + .012, .034, .074, dark, True, 14 + 10 * math.sin(w))
        eye(parts, hx + .034, hy - .020, .019, name)


def butterfly(parts: Parts, t, phase, color, dark, light) -> None:
    a = .38 + .62 * abs(math.cos(math.pi * 1.6 * t + phase))
    for side in (-1, 1):
        up = [(0, -.03), (side * a * .07, -.16), (side * a * .17, -.195), (side * a * .235, -.15), (side * a * .215, -.05), (side * a * .12, .015), (0, .02)]
        low = [(0, .0), (side * a * .12, .005), (side * a * .185, .05), (side * a * .165, .125), (side * a * .10, .155), (side * a * .04, .11), (0, .05)]
        parts.poly(low, mix(color, (0, 0, 0), .14))
        parts.poly(up, color)
        parts.oval(side * a * .15, -.115, a * .042, .042, light, False)
        parts.oval(side * a * .11, .075, a * .030, .030, light, False)
    parts.limb([(.0, -.09), (.03, -.16), (.06, -.17)], .012, (46, 34, 40), False)
    parts.limb([(.0, -.09), (-.03, -.16), (-.06, -.17)], .012, (46, 34, 40), False)
    parts.limb([(0, -.08), (0, .10)], .034, (56, 42, 48))


def bird(parts: Parts, t, phase, color, dark, light) -> None:
    f = math.sin(2 * math.pi * 1.7 * t + phase)
    far = [(-.05, -.03), (.06, -.04), (-.02, -.04 - .17 * f), (-.10, -.05 - .20 * f)]
    parts.poly(far, mix(color, (0, 0, 0), .3))
    parts.poly([(-.10, -.02), (-.27, -.06), (-.25, .01), (-.28, .05), (-.10, .04)], mix(color, (0, 0, 0), .14))
    parts.poly([(.19, -.075), (.275, -.045), (.19, -.025)], (250, 170, 40))
    parts.oval(-.01, 0, .155, .082, color)
    parts.oval(.13, -.055, .075, .070, color)
    parts.oval(.03, .032, .095, .042, light, False)
    parts.poly([(-.08, -.02), (.07, -.02), (-.03, -.03 - .19 * f), (-.15, -.05 - .23 * f)], mix(color, (0, 0, 0), .14))
    eye(parts, .150, -.068, .021, "")


def fish(parts: Parts, t, phase, color, dark, light) -> None:
    f = math.sin(2 * math.pi * 1.4 * t + phase)
    shade = mix(color, (0, 0, 0), .16)
    parts.poly([(-.12, 0), (-.25, -.115 + .02 * f), (-.215 + .03 * f, 0), (-.25, .115 + .02 * f)], shade)
    parts.poly([(-.09, -.09), (.0, -.175), (.07, -.09)], shade)
    parts.poly([(-.04, .09), (-.06, .15), (.04, .10)], shade)
    parts.oval(.01, 0, .175, .112, color)
    parts.limb([(-.045, -.085), (-.02, 0), (-.045, .085)], .034, light, False)
    parts.limb([(.045, -.095), (.07, 0), (.045, .095)], .034, light, False)
    parts.poly([(.02, .01), (-.055, .02 + .035 * f), (-.03, .065 + .02 * f)], shade, False)
    eye(parts, .12, -.028, .026, "")


def drone(parts: Parts, t, phase, color, dark, light) -> None:
    shade = mix(color, (0, 0, 0), .25)
    for side in (-1, 1):
        parts.limb([(side * .05, .06), (side * .10, .135)], .020, (60, 64, 76))
        parts.limb([(side * .06, .135), (side * .14, .135)], .020, (60, 64, 76))
        parts.limb([(side * .08, -.01), (side * .22, -.055)], .034, shade)
        parts.limb([(side * .22, -.055), (side * .22, -.095)], .030, (60, 64, 76))
        w = .115 + .03 * math.sin(23. * t + phase + side)
        parts.oval(side * .22, -.105, w, .020, (222, 232, 242))
    parts.oval(0, .01, .125, .062, color)
    parts.oval(0, -.012, .075, .024, light, False)
    parts.oval(0, .070, .040, .038, (44, 46, 58))
    parts.oval(.010, .072, .017, .017, (120, 210, 250), False)
    if math.sin(5 * t + phase) > 0:
        parts.oval(-.09, .02, .014, .014, (255, 70, 60), False)


def ball(canvas, t, phase, color, light, dark, action) -> None:
    r, lift, squash, turn = .125, 0., 1., 0.
    if action == "bounce":
        h = abs(math.sin(math.pi * 1.0 * t + phase))
        lift, squash = .30 * h, 1 - .16 * max(0., 1 - 6 * h)
    else:
        turn = math.degrees(.45 * t / r) + math.degrees(phase)
    canvas.save()
    canvas.translate(0, -r * squash - lift)
    canvas.scale(2 - squash, squash)
    canvas.rotate(turn)
    canvas.drawCircle(0, 0, r + EDGE / 2, paint(dark))
    canvas.drawCircle(0, 0, r, paint(color))
    for k in range(3):
        path = skia.PathBuilder() if hasattr(skia, "PathBuilder") else skia.Path()
        path.moveTo(0, 0)
        path.arcTo(skia.Rect(-r, -r, r, r), 120 * k, 60, False)
        path.close()
        canvas.drawPath(path.detach() if hasattr(path, "detach") else path, paint(light))
    canvas.drawCircle(0, 0, r * .2, paint(color))
    canvas.restore()


def draw_subject(canvas: skia.Canvas, subject: str, action: str, t: float, phase: float, color, name: str) -> None:
    """Draws a subject facing right; t in seconds, `color` already in this scene's light, `name` the colour's name."""
    if name in ("white", "yellow"):
        light, dark = mix(color, (236, 170, 120), .35), mix(color, (60, 50, 60), .62)
    else:
        light, dark = mix(color, (255, 250, 240), .55), mix(color, (0, 0, 0), .55)
    if name == "black":
        light = mix(color, (255, 255, 255), .35)
    parts = Parts()
    if subject == "ball":
        ball(canvas, t, phase, color, (250, 248, 240) if name != "white" else (120, 170, 220), dark, action)
        return
    if subject in ("cat", "dog"):
        soft = mix(color, (0, 0, 0), .32)
        (sitting if action == "sit" else running)(parts, subject == "cat", t, phase, color, soft, light, name)
    elif subject == "drone":
        if action == "fly":
            canvas.rotate(9)
        drone(parts, t, phase, color, dark, light)
    else:
        canvas.rotate(4 * math.sin(1.7 * t + phase))
        {"butterfly": butterfly, "bird": bird, "fish": fish}[subject](parts, t, phase, color, dark, light)
    parts.show(canvas, dark)
