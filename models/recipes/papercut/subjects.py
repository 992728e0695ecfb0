"""The subjects, drawn facing right, in units (see world.py): walkers stand on y = 0, flyers are centred on the origin.

All they do on one spot is a loop of half a second, as long as three latent frames, or of a few times that, so that a movie of any length goes on as it
began: steps and wings take half a second, what bounces a whole one, what sways or looks around two or four.

Each subject is a list of parts from back to front.  All parts are first drawn a little larger in the colour of the rim
(dark, at night pale), then in their own, so that a subject has one outline around the whole and stands out from any place.
"""
from __future__ import annotations

import math

import skia

from .shapes import mix, paint, polygon

EDGE = .026


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


def eye(parts: Parts, x, y, r) -> None:
    parts.oval(x, y, r, r * 1.1, (255, 255, 250), False)
    parts.oval(x + r * .25, y + r * .1, r * .62, r * .74, (20, 18, 26), False)


def cat_face(parts: Parts, x, y, light) -> None:
    """A cat's head from the front."""
    for side in (-1, 1):
        parts.oval(x + .010 + side * .050, y - .012, .027, .030, (206, 236, 90), False)
        parts.oval(x + .014 + side * .050, y - .010, .013, .026, (16, 16, 22), False)
    parts.oval(x + .012, y + .046, .050, .034, light, False)
    parts.oval(x + .012, y + .028, .019, .014, (236, 92, 116), False)


def sitting(parts: Parts, cat: bool, t, phase, color, dark, light) -> None:
    sway = math.sin(math.pi * t + phase)
    look = .014 * math.sin(.5 * math.pi * t + phase)
    if cat:
        parts.limb([(-.10, -.03), (-.28, -.02 + .01 * sway), (-.23 + .03 * sway, -.21)], .056, color)
    else:
        parts.limb([(-.11, -.05), (-.19, -.06), (-.215 + .025 * sway, -.17 + .02 * abs(sway))], .058, color)
    parts.oval(-.02, -.12, .135, .130, color)
    parts.poly([(-.09, -.25), (.08, -.25), (.115, -.02), (-.13, -.02)], color)
    parts.oval(-.08, -.028, .062, .032, color)
    parts.limb([(.018, -.14), (.018, -.022)], .062, color)
    parts.limb([(.088, -.14), (.088, -.022)], .062, color)
    parts.oval(.052, -.17, .046, .068, light, False)
    hx, hy = .035 + look, -.325
    if cat:
        for side in (-1, 1):
            parts.poly([(hx + side * .120, hy - .165), (hx + side * .014, hy - .085), (hx + side * .118, hy - .005)], color)
        parts.oval(hx, hy, .126, .104, color)
        for side in (-1, 1):
            parts.poly([(hx + side * .103, hy - .128), (hx + side * .046, hy - .084), (hx + side * .102, hy - .05)], (246, 150, 160), False)
        cat_face(parts, hx, hy, light)
    else:
        parts.oval(hx, hy, .112, .110, color)
        for side in (-1, 1):
            parts.oval(hx + side * .115, hy + .020, .044, .100, dark, True, -side * 12)
        parts.oval(hx + .018, hy + .090, .024, .036, (244, 106, 130), False)
        parts.oval(hx + .018, hy + .050, .066, .050, light, False)
        parts.oval(hx + .020, hy + .024, .030, .022, (20, 18, 24), False)
        for side in (-1, 1):
            eye(parts, hx + .010 + side * .046, hy - .030, .024)


def running(parts: Parts, cat: bool, t, phase, color, dark, light, pace: float, lift: float) -> None:
    """From the side: running, walking (a smaller pace) or in a jump (lift 0..1: legs stretched)."""
    w = 2 * math.pi * (1 + pace) * t + phase
    swing = .45 + .35 * pace
    bob = .014 * math.sin(w) * pace
    shade = mix(color, (0, 0, 0), .24)
    for far in (1, 0):  # the two legs on the far side first
        for hip, lead in ((-.135, 0.), (.110, math.pi * .8)):
            a = swing * math.sin(w + lead + far * .9) if not lift else lift * (-.95 if hip < 0 else .95) + far * .2
            x, y = hip + .03 * far, -.13 + bob
            parts.limb([(x, y), (x + .115 * math.sin(a), y + .110 * math.cos(a) - .012)], .058, shade if far else color)
    if cat:
        parts.limb([(-.17, -.18 + bob), (-.30, -.16), (-.31, -.32 + .02 * math.sin(w))], .050, color)
    else:
        parts.limb([(-.17, -.19 + bob), (-.24, -.20), (-.27, -.30 + .03 * math.sin(w))], .052, color)
    parts.oval(-.015, -.175 + bob, .200, .086, color)
    parts.oval(-.015, -.130 + bob, .13, .028, light, False)
    hx, hy = .20, -.265 + bob * .5
    parts.limb([(.13, -.19 + bob), (.19, -.24 + bob * .5)], .10, color)
    if cat:
        for dx in (-.058, .046):
            parts.poly([(hx + dx - .046, hy - .050), (hx + dx, hy - .160), (hx + dx + .052, hy - .050)], color)
        parts.oval(hx, hy, .102, .090, color)
        parts.oval(hx + .064, hy + .034, .038, .030, light, False)
        parts.oval(hx + .092, hy + .018, .017, .014, (236, 92, 116), False)
        parts.oval(hx + .034, hy - .014, .027, .029, (206, 236, 90), False)
        parts.oval(hx + .042, hy - .012, .013, .025, (16, 16, 22), False)
    else:
        parts.oval(hx + .085, hy + .026, .075, .046, light)
        parts.oval(hx, hy, .094, .092, color)
        parts.oval(hx + .146, hy + .004, .026, .021, (20, 18, 24), False)
        parts.oval(hx - .050, hy + .020, .040, .090, dark, True, 14 + 8 * math.sin(w))
        eye(parts, hx + .038, hy - .022, .024)


def butterfly(parts: Parts, t, phase, color, dark, light) -> None:
    a = .42 + .58 * abs(math.cos(2 * math.pi * t + phase))
    for side in (-1, 1):
        up = [(0, -.03), (side * a * .07, -.16), (side * a * .17, -.205), (side * a * .245, -.16), (side * a * .225, -.05), (side * a * .12, .015), (0, .02)]
        low = [(0, .0), (side * a * .12, .005), (side * a * .195, .05), (side * a * .175, .130), (side * a * .10, .160), (side * a * .04, .11), (0, .05)]
        parts.poly(low, mix(color, (0, 0, 0), .16))
        parts.poly(up, color)
        parts.oval(side * a * .15, -.115, a * .050, .050, light, False)
        parts.oval(side * a * .11, .078, a * .034, .034, light, False)
    for side in (-1, 1):
        parts.limb([(0, -.09), (side * .03, -.17), (side * .075, -.19)], .018, (46, 34, 40))
    parts.limb([(0, -.085), (0, .11)], .044, (50, 38, 46))


def bird(parts: Parts, t, phase, color, dark, light) -> None:
    f = math.sin(4 * math.pi * t + phase)
    parts.poly([(-.05, -.03), (.07, -.04), (.0, -.05 - .19 * f), (-.09, -.06 - .23 * f)], mix(color, (0, 0, 0), .32))
    parts.poly([(-.10, -.03), (-.27, -.075), (-.25, .005), (-.28, .06), (-.10, .05)], mix(color, (0, 0, 0), .16))
    parts.poly([(.185, -.100), (.290, -.055), (.185, -.020)], (255, 170, 30))
    parts.oval(-.01, 0, .160, .095, color)
    parts.oval(.125, -.060, .088, .082, color)
    parts.oval(.03, .040, .095, .048, light, False)
    parts.poly([(-.10, -.02), (.08, -.02), (-.02, -.04 - .22 * f), (-.17, -.06 - .27 * f)], mix(color, (0, 0, 0), .18))
    eye(parts, .148, -.076, .028)


def fish(parts: Parts, t, phase, color, dark, light) -> None:
    f = math.sin(4 * math.pi * t + phase)
    shade = mix(color, (0, 0, 0), .18)
    parts.poly([(-.11, 0), (-.26, -.135 + .02 * f), (-.205 + .03 * f, 0), (-.26, .135 + .02 * f)], shade)
    parts.poly([(-.09, -.09), (.0, -.185), (.08, -.09)], shade)
    parts.poly([(-.04, .09), (-.07, .165), (.05, .10)], shade)
    parts.oval(.01, 0, .180, .120, color)
    parts.limb([(-.055, -.085), (-.03, 0), (-.055, .085)], .040, light, False)
    parts.limb([(.035, -.100), (.06, 0), (.035, .100)], .040, light, False)
    eye(parts, .125, -.026, .033)


def drone(parts: Parts, t, phase, color, dark, light) -> None:
    shade = mix(color, (0, 0, 0), .25)
    grey = (64, 68, 80)
    for side in (-1, 1):
        parts.limb([(side * .06, .06), (side * .12, .150)], .028, grey)
        parts.limb([(side * .07, .150), (side * .16, .150)], .028, grey)
        parts.limb([(side * .08, -.01), (side * .21, -.06)], .046, shade)
        parts.limb([(side * .21, -.06), (side * .21, -.11)], .040, grey)
        parts.oval(side * .21, -.125, .105 + .04 * math.sin(8 * math.pi * t + phase + side), .026, (226, 236, 246))
    parts.oval(0, .01, .140, .078, color)
    parts.oval(0, -.020, .085, .028, light, False)
    parts.oval(0, .080, .052, .048, (44, 46, 58))
    parts.oval(.010, .084, .024, .024, (110, 214, 255), False)


def car(parts: Parts, t, phase, color, dark, light) -> None:
    parts.poly([(-.17, -.20), (-.11, -.33), (.09, -.33), (.18, -.20)], color)
    parts.poly([(-.32, -.07), (-.32, -.18), (-.28, -.215), (.24, -.215), (.33, -.17), (.34, -.07)], color)
    parts.poly([(-.13, -.21), (-.09, -.30), (-.02, -.30), (-.02, -.21)], (206, 234, 250), False)
    parts.poly([(.02, -.21), (.02, -.30), (.075, -.30), (.135, -.21)], (206, 234, 250), False)
    parts.oval(.315, -.145, .022, .026, (255, 240, 150), False)
    turn = 2 * math.pi * t + phase
    for x in (-.19, .19):
        parts.oval(x, -.075, .080, .080, (44, 44, 54))
        parts.oval(x, -.075, .040, .040, (206, 210, 220), False)
        parts.limb([(x - .03 * math.cos(turn), -.075 - .03 * math.sin(turn)), (x + .03 * math.cos(turn), -.075 + .03 * math.sin(turn))], .016, (90, 94, 106), False)


def person(parts: Parts, t, phase, color, dark, light, pace: float, lift: float) -> None:
    w = 2 * math.pi * (1 + pace) * t + phase
    swing = .40 + .35 * pace
    trousers, skin, hair = (62, 70, 110), (250, 204, 164), (84, 54, 40)
    for far in (1, 0):
        a = swing * math.sin(w + math.pi * far) if not lift else (.5 if far else -.5) * lift
        leg = mix(trousers, (0, 0, 0), .25 * far)
        parts.limb([(0, -.19), (.165 * math.sin(a), -.19 + .165 * math.cos(a) - .01)], .072, leg)
        parts.limb([(.165 * math.sin(a), -.032), (.165 * math.sin(a) + .035, -.030)], .048, (60, 44, 40))
        if far:
            b = -swing * math.sin(w + math.pi) if not lift else -2.2 * lift
            parts.limb([(.0, -.33), (.13 * math.sin(b), -.33 + .13 * math.cos(b))], .052, mix(color, (0, 0, 0), .25))
    parts.poly([(-.070, -.38), (.070, -.38), (.085, -.17), (-.085, -.17)], color)
    b = -swing * math.sin(w) if not lift else 2.2 * lift
    parts.limb([(0, -.345), (.135 * math.sin(b), -.345 + .135 * math.cos(b))], .056, color)
    parts.oval(.135 * math.sin(b), -.345 + .135 * math.cos(b), .030, .030, skin)
    parts.oval(.0, -.465, .085, .088, hair)
    parts.oval(.022, -.450, .068, .072, skin, False)
    parts.oval(.056, -.460, .012, .016, (20, 18, 26), False)


def ball(canvas, t, phase, color, light, rim, action) -> None:
    r, lift, squash, turn = .172, 0., 1., 0.
    if action == "bounce":
        h = abs(math.sin(math.pi * t + phase))
        lift, squash = .34 * h, 1 - .16 * max(0., 1 - 6 * h)
    else:
        turn = math.degrees(math.pi * t + phase)
    canvas.save()
    canvas.translate(0, -r * squash - lift)
    canvas.scale(2 - squash, squash)
    canvas.rotate(turn)
    canvas.drawCircle(0, 0, r + EDGE * .6, paint(rim))
    canvas.drawCircle(0, 0, r, paint(color))
    for k in range(2):
        path = skia.PathBuilder() if hasattr(skia, "PathBuilder") else skia.Path()
        path.moveTo(0, 0)
        path.arcTo(skia.Rect(-r, -r, r, r), 180 * k, 62, False)
        path.close()
        canvas.drawPath(path.detach() if hasattr(path, "detach") else path, paint(light))
    canvas.drawCircle(0, 0, r * .26, paint(color))
    canvas.restore()


SIZES = {"run": 1.22, "walk": 1.22, "jump": 1.22, "sit": 1.02, "butterfly": 1.32, "bird": 1.25, "fish": 1.35, "drone": 1.25, "car": 1.08, "person": .98}


def draw_subject(canvas: skia.Canvas, subject: str, action: str, direction: str, t: float, phase: float, color, name: str, night: bool) -> None:
    """Draws a subject facing right; t in seconds, `color` already in this scene's light, `name` the colour's name."""
    if name in ("white", "yellow"):
        light = mix(color, (236, 160, 100), .40)
    elif name == "black":
        light = mix(color, (255, 255, 255), .35)
    else:
        light = mix(color, (255, 250, 240), .55)
    rim = mix(color, (236, 240, 255), .78) if night else (mix(color, (60, 50, 60), .70) if name in ("white", "yellow") else mix(color, (0, 0, 0), .60))
    if subject == "ball":
        ball(canvas, t, phase, color, mix((250, 248, 240), color, .1) if name != "white" else (90, 160, 226), rim, action)
        return
    size = SIZES[subject] if subject in SIZES else SIZES[action]
    canvas.scale(size, size)
    parts, lift = Parts(), 0.
    if action == "jump":
        lift = abs(math.sin(math.pi * t + phase))
        canvas.translate(0, -.17 * lift)
        lift = max(.05, lift)
    if subject in ("cat", "dog"):
        soft = mix(color, (0, 0, 0), .34) if name != "black" else mix(color, (255, 255, 255), .16)
        if action == "sit":
            sitting(parts, subject == "cat", t, phase, color, soft, light)
        else:
            running(parts, subject == "cat", t, phase, color, soft, light, 1. if action == "run" else 0., lift)
    elif subject == "person":
        person(parts, t, phase, color, rim, light, 1. if action == "run" else 0., lift)
    elif subject == "car":
        car(parts, t, phase, color, rim, light)
    elif subject == "drone":
        canvas.rotate(10 if action == "fly" and direction != "none" else 2 * math.sin(math.pi * t + phase))
        drone(parts, t, phase, color, rim, light)
    else:
        canvas.rotate(4 * math.sin(math.pi * t + phase))
        {"butterfly": butterfly, "bird": bird, "fish": fish}[subject](parts, t, phase, color, rim, light)
    parts.show(canvas, rim)
