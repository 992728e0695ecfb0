"""The paper-cut world: scenes in layers with depth, drawn with Skia.

A `Scene` is a handful of attributes (what the captions talk about) plus a seed (everything the captions leave open).
`Scene.render` draws it at any size and any time.  Lengths are in *units*: one unit is the height of a landscape frame.
The origin is the middle of the frame, x to the right, y downwards.  Each layer has a depth factor p: 0 is the sky, which
never moves, 1 is the ground the subject stands on, and a camera move shifts a layer by p times its own way.  Layers are
made of numbered cells, each drawn from a hash of (seed, layer, cell), so a camera can travel for ever.
"""
from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import skia

from .subjects import draw_subject
from .shapes import Pen, mix

SUBJECTS = ("none", "cat", "dog", "butterfly", "bird", "fish", "drone", "ball")
PLACES = ("windowsill", "snow", "garden", "underwater", "ruins", "city")
TIMES = ("day", "sunset", "night")
CAMERAS = ("static", "pan left", "pan right", "zoom in", "zoom out")
DIRECTIONS = ("none", "left", "right")
ACTIONS = {
    "none": ("none",), "cat": ("sit", "run"), "dog": ("sit", "run"), "butterfly": ("fly",), "bird": ("fly",),
    "fish": ("swim",), "drone": ("hover", "fly"), "ball": ("bounce", "roll"),
}
ALL_ACTIONS = ("none", "sit", "run", "fly", "swim", "hover", "bounce", "roll")
COLORS = {
    "none": (128, 128, 128), "red": (222, 52, 48), "orange": (240, 138, 36), "yellow": (248, 208, 50),
    "green": (70, 176, 80), "blue": (54, 116, 226), "purple": (146, 80, 200), "pink": (246, 134, 176),
    "brown": (146, 92, 52), "black": (52, 50, 60), "white": (244, 242, 236), "grey": (146, 150, 160),
}
NATURAL = {
    "none": ("none",), "cat": ("orange", "orange", "grey", "black", "white"), "dog": ("brown", "brown", "orange", "white", "black"),
    "butterfly": ("orange", "blue", "purple", "yellow", "pink"), "bird": ("blue", "red", "yellow", "white"),
    "fish": ("orange", "red", "yellow", "blue"), "drone": ("white", "grey", "red", "black"),
    "ball": ("red", "blue", "yellow", "green"),
}
PLACE_WEIGHTS = {  # where a subject is at home; the odd combinations stay possible, so that prompts can ask for them
    "none": (2, 2, 2, 2, 2, 2), "cat": (5, 2, 2, 1, 1, 2), "dog": (1.5, 4, 3, 1, 1.5, 2), "butterfly": (1.5, 1, 4, 3, 1.5, 1),
    "bird": (1.5, 2, 3, 1, 2, 3), "fish": (.5, .5, .5, 8, .5, .5), "drone": (1, 1.5, 1.5, 1, 4, 3), "ball": (2, 2, 3, 1.5, 2, 2),
}
SKIES = {"day": ((88, 168, 240), (210, 236, 250)), "sunset": ((100, 66, 150), (255, 176, 92)), "night": ((14, 18, 54), (54, 66, 128))}
SEAS = {"day": ((60, 180, 210), (14, 84, 140)), "sunset": ((150, 110, 160), (40, 60, 120)), "night": ((20, 50, 100), (6, 20, 56))}
GROUND = .20  # y of the horizon of the subject's layer
FEET = .37    # y on which a subject stands


def hashed(seed: int, layer: int, cell: int, k: int) -> float:
    """A number in [0, 1) from four integers (splitmix64), the same on every machine."""
    z = (seed * 0x9E3779B97F4A7C15 + layer * 0xD1B54A32D192ED03 + cell * 0x8CB92BA72F3D8DD7 + k * 0xAEF17502108EF2D9) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return ((z ^ (z >> 31)) >> 11) / 2**53


@dataclasses.dataclass(frozen=True)
class Scene:
    subject: str
    place: str
    time: str
    color: str
    action: str
    direction: str
    camera: str
    snowing: bool
    natural: bool  # the colour is one that the subject has by nature, so a caption may leave it out
    seed: int

    @staticmethod
    def sample(rng: random.Random) -> "Scene":
        """Draws a scene: homely combinations often, odd ones sometimes."""
        subject = rng.choices(SUBJECTS, (1.2, 2, 2, 1.6, 1.2, 1.2, 1.6, 1))[0]
        place = rng.choices(PLACES, PLACE_WEIGHTS[subject])[0]
        time = rng.choices(TIMES, (.5, .28, .22))[0]
        natural = subject == "none" or rng.random() < .6
        color = rng.choice(NATURAL[subject] if natural else list(COLORS)[1:])
        natural = natural or color in NATURAL[subject]
        action = rng.choice(ACTIONS[subject])
        if subject in ("cat", "dog") and place == "windowsill" and rng.random() < .7:
            action = "sit"
        moves = action in ("run", "swim", "roll") or (action == "fly" and (subject != "butterfly" or rng.random() < .5))
        direction = rng.choice(DIRECTIONS[1:]) if moves else "none"
        # What travels is followed by the camera, so a camera of its own would not be seen.
        if moves:
            camera = rng.choices(("static", "zoom in", "zoom out"), (.8, .1, .1))[0]
        else:
            camera = rng.choices(CAMERAS, (.6, .1, .1, .1, .1))[0]
        snowing = place == "snow" and rng.random() < .7
        return Scene(subject, place, time, color, action, direction, camera, snowing, natural, rng.randrange(1 << 31))

    def with_(self, **changes) -> "Scene":
        return dataclasses.replace(self, **changes)

    def render(self, width: int, height: int, frames: int, rate: float = 24., start: float = 0.) -> np.ndarray:
        """uint8 [frames, height, width, 3]; `start` in seconds since the scene began."""
        surface = skia.Surface(width, height)
        out = np.empty((frames, height, width, 3), np.uint8)
        for i in range(frames):
            self.draw(surface.getCanvas(), width, height, start + i / rate)
            out[i] = surface.toarray(colorType=skia.kRGBA_8888_ColorType)[:, :, :3]
        return out

    def draw(self, canvas: skia.Canvas, width: int, height: int, t: float) -> None:
        _Painter(self, canvas, width, height, t).paint()


class _Painter:
    """One frame of one scene."""

    def __init__(self, scene: Scene, canvas: skia.Canvas, width: int, height: int, t: float):
        self.s, self.c, self.t = scene, canvas, t
        self.unit = min(height, 1.12 * width)
        self.half_w, self.half_h = width / 2 / self.unit, height / 2 / self.unit
        self.w, self.h = width, height
        self.pen = Pen(canvas)
        self.cam_x, self.zoom = self.camera()

    def r(self, layer: int, cell: int, k: int, lo: float = 0., hi: float = 1.) -> float:
        return lo + (hi - lo) * hashed(self.s.seed, layer, cell, k)

    def camera(self) -> tuple[float, float]:
        """Where the camera is (units along x) and its zoom, at this time."""
        s, t = self.s, self.t
        ease = 1 - math.exp(-t / 2.5)
        x, zoom = 0., 1.
        if s.direction != "none":
            x = t * {"run": .62, "fly": .5, "swim": .4, "roll": .45}[s.action] * (-1 if s.direction == "left" else 1)
        elif s.camera.startswith("pan"):
            sign = -1 if s.camera == "pan left" else 1
            # Past a place alone the camera travels on for ever; past a subject it slows down, so that this stays in view.
            x = sign * (.22 * t if s.subject == "none" else .5 * (ease - .5))
        if s.camera == "zoom in":
            zoom = 1 + .38 * ease
        elif s.camera == "zoom out":
            zoom = 1.38 - .38 * ease
        return x, zoom

    def tint(self, color, strength: float = 1.):
        """A colour under this time's light; strength < 1 keeps more of the colour itself (used for subjects)."""
        if self.s.time == "sunset":
            color = mix(mix(color, (0, 0, 0), .16 * strength), (255, 110, 60), .20 * strength)
        elif self.s.time == "night":
            color = mix(mix(color, (0, 0, 0), .42 * strength), (26, 40, 120), .34 * strength)
        if self.s.place == "underwater":
            color = mix(color, (20, 110, 160), .34 * strength * strength)
        return color

    def layer(self, p: float):
        """Enters a layer of depth factor p; returns the visible range of x in it."""
        c, z = self.c, 1 + (self.zoom - 1) * p
        c.save()
        c.translate(self.w / 2, self.h / 2)
        c.scale(self.unit * z, self.unit * z)
        c.translate(-self.cam_x * p, -.06 * (1 - 1 / z))
        return self.cam_x * p - self.half_w / z - .05, self.cam_x * p + self.half_w / z + .05

    @staticmethod
    def cells(lo: float, hi: float, spacing: float, margin: float):
        return range(math.floor((lo - margin) / spacing), math.ceil((hi + margin) / spacing) + 1)

    # -- the frame ------------------------------------------------------------------------------------------------
    def paint(self) -> None:
        s = self.s
        top, bottom = (SEAS if s.place == "underwater" else SKIES)[s.time]
        self.pen.gradient(self.h, top, bottom)
        if s.place == "underwater":
            self.light_rays()
        else:
            self.sky_bodies()
        getattr(self, s.place)()
        lo, hi = self.layer(1.)
        if s.subject != "none":
            self.subject()
        self.c.restore()
        if s.snowing:
            self.snowflakes()
        if s.place == "underwater":
            self.bubbles()

    def sky_bodies(self) -> None:
        self.layer(.03)
        x = self.r(0, 0, 0, .16, .40) * (1 if self.r(0, 0, 1) < .5 else -1)
        pen = self.pen
        if self.s.time == "day":
            pen.circle(x, -.31, .115, (255, 244, 190), .6)
            pen.circle(x, -.31, .08, (255, 216, 70))
            for k in range(2):
                cx, cy = -x * (1.1 + .5 * k) - .25 * k, self.r(0, 1, k, -.38, -.24)
                for dx, dy, r in ((-.07, .01, .04), (0, -.012, .055), (.07, .01, .042)):
                    pen.circle(cx + dx, cy + dy, r, (255, 255, 255), .95)
        elif self.s.time == "sunset":
            pen.circle(x, -.07, .20, (255, 200, 120), .45)
            pen.circle(x, -.07, .14, (255, 92, 48))
        else:
            for k in range(8):
                pen.star(self.r(0, 2, k, -.08, .08) + (k - 3.5) * .22, self.r(0, 3, k, -.46, -.14), self.r(0, 4, k, .020, .030), (255, 246, 190))
            pen.moon(x, -.30, .10, (250, 240, 190))
        self.c.restore()

    def light_rays(self) -> None:
        self.layer(.1)
        for k in range(3):
            x = -.6 + .5 * k + self.r(0, 0, k, -.1, .1) + .03 * math.sin(.7 * self.t + k)
            self.pen.polygon([(x, -1), (x + .12, -1), (x - .10, .6), (x - .36, .6)], (235, 255, 255), .16 if self.s.time != "night" else .07)
        self.c.restore()

    def hills(self, layer: int, p: float, base: float, height: float, wave: float, color) -> None:
        """A smooth ridge across the frame."""
        lo, hi = self.layer(p)
        a, b = self.r(layer, 0, 0, 0, 6.3), self.r(layer, 0, 1, 0, 6.3)
        y = lambda x: base - height * (.5 + .33 * math.sin(x * wave + a) + .17 * math.sin(x * wave * 2.3 + b))
        n = 22
        points = [(lo + (hi - lo) * i / n, y(lo + (hi - lo) * i / n)) for i in range(n + 1)]
        self.pen.cut([*points, (hi, 2), (lo, 2)], self.tint(color))
        self.c.restore()

    def ground(self, color, p: float = 1., y: float = GROUND):
        lo, hi = self.layer(p)
        self.pen.cut([(lo, y), (hi, y), (hi, 3), (lo, 3)], self.tint(color))
        return lo, hi

    def garden(self) -> None:
        self.hills(1, .2, .16, .20, 5.5, (132, 196, 140))
        lo, hi = self.layer(.55)
        for k in self.cells(lo, hi, .55, .3):
            x, s = .55 * k + self.r(2, k, 0, -.14, .14), self.r(2, k, 1, .85, 1.2)
            self.pen.rect(x - .022 * s, -.05, .044 * s, .35, self.tint((130, 86, 52)))
            self.pen.blob(x, -.09 * s, .15 * s, self.tint((60, 150, 74) if self.r(2, k, 2) < .7 else (104, 172, 70)))
            if self.r(2, k, 3) < .4:
                for dx, dy in ((-.06, .02), (.05, -.05), (.04, .06)):
                    self.pen.circle(x + dx * s, (-.09 + dy) * s, .02, self.tint((232, 64, 60)))
        self.c.restore()
        lo, hi = self.ground((112, 192, 84))
        for k in self.cells(lo, hi, .27, .1):
            color = ((240, 84, 110), (252, 206, 60), (190, 110, 230), (255, 255, 255))[int(self.r(3, k, 0, 0, 4))]
            for row in (0, 1):
                x = .27 * k + row * .13 + self.r(3, k, 1 + row, -.04, .04)
                y = (.265, .44)[row] + self.r(3, k, 3 + row, -.02, .02)
                self.pen.flower(x, y, (.033, .044)[row], self.tint(color), self.tint((52, 130, 60)), self.tint((255, 236, 140)))
        self.c.restore()

    def snow(self) -> None:
        self.hills(1, .2, .15, .26, 4.2, (196, 212, 234))
        lo, hi = self.layer(.55)
        for k in self.cells(lo, hi, .42, .2):
            x, s = .42 * k + self.r(2, k, 0, -.1, .1), self.r(2, k, 1, .8, 1.2)
            self.pen.rect(x - .018, .1, .036, .14, self.tint((110, 80, 62)))
            for i, (y, w) in enumerate(((.16, .15), (.06, .12), (-.03, .085))):
                y = .19 + (y - .19) * s
                self.pen.cut([(x - w * s, y), (x, y - .17 * s), (x + w * s, y)], self.tint((58, 122, 104)))
                self.pen.polygon([(x - w * s * .5, y - .085 * s), (x, y - .17 * s), (x + w * s * .5, y - .085 * s), (x, y - .06 * s)], self.tint((250, 252, 255)))
        self.c.restore()
        lo, hi = self.ground((242, 247, 253))
        for k in self.cells(lo, hi, .8, .4):
            x = .8 * k + self.r(3, k, 0, -.2, .2)
            self.pen.ellipse(x, .43, .26, .035, self.tint((218, 230, 246)))
        self.c.restore()

    def windowsill(self) -> None:
        self.hills(1, .15, .15, .18, 5., (140, 178, 150))
        self.hills(2, .3, .20, .12, 7., (104, 156, 112))
        wood, wall = self.tint((250, 246, 236)), self.tint((226, 190, 160))
        lo, hi = self.layer(1.)
        for k in self.cells(lo, hi, 1.5, 1.):
            x = 1.5 * k + .75  # a stretch of wall between two windows, with their curtains
            self.pen.cut([(x - .13, -2), (x + .13, -2), (x + .13, GROUND), (x - .13, GROUND)], wall)
            for side in (-1, 1):
                self.pen.cut([(x + side * .13, -2), (x + side * .09, -2), (x + side * .09, GROUND), (x + side * .13, GROUND)], wood)
                curtain = self.tint(((214, 84, 84), (84, 140, 196), (236, 180, 84))[int(self.r(3, 0, 0, 0, 3))])
                self.pen.cut([(x + side * .11, -2), (x + side * .27, -2), (x + side * .25, -.15), (x + side * .17, .16), (x + side * .11, .16)], curtain)
            self.pen.cut([(1.5 * k - .018, -2), (1.5 * k + .018, -2), (1.5 * k + .018, GROUND), (1.5 * k - .018, GROUND)], wood)
        self.pen.cut([(lo, -.36), (hi, -.36), (hi, -.325), (lo, -.325)], wood)
        self.pen.cut([(lo, GROUND + .02), (hi, GROUND + .02), (hi, .42), (lo, .42)], wood)
        self.pen.cut([(lo, .42), (hi, .42), (hi, 3), (lo, 3)], wall)
        self.c.restore()

    def column(self, x: float, foot: float, height: float, width: float, color, broken: bool) -> None:
        """A fluted column, whole with a capital or broken off."""
        top, w = foot - height, width / 2
        dark = mix(color, (0, 0, 0), .16)
        if broken:
            self.pen.cut([(x - w, foot), (x - w, top + .03), (x - w * .2, top - .02), (x + w * .3, top + .04), (x + w, top), (x + w, foot)], color)
        else:
            self.pen.cut([(x - w, foot), (x - w, top), (x + w, top), (x + w, foot)], color)
            self.pen.cut([(x - w * 1.6, top + .035), (x - w * 1.6, top), (x + w * 1.6, top), (x + w * 1.6, top + .035)], mix(color, (255, 255, 255), .12))
        for dx in (-.4, .4):
            self.pen.rect(x + dx * w - .008, top + .06, .016, height - .08, dark)
        self.pen.cut([(x - w * 1.6, foot + .01), (x - w * 1.6, foot - .035), (x + w * 1.6, foot - .035), (x + w * 1.6, foot + .01)], color)

    def colonnade(self, color) -> None:
        lo, hi = self.layer(.6)
        for k in self.cells(lo, hi, .8, .5):
            x = .8 * k + self.r(2, k, 0, -.06, .06)
            stone = self.tint(mix(color, (255, 255, 255), self.r(2, k, 1, 0, .15)))
            kind, h = self.r(2, k, 2), self.r(2, k, 3, .42, .5)
            if kind < .5:  # a gate: two columns and a beam
                self.column(x - .16, .24, h, .085, stone, False)
                self.column(x + .16, .24, h, .085, stone, False)
                self.pen.cut([(x - .26, .24 - h), (x - .26, .17 - h), (x + .26, .17 - h), (x + .26, .24 - h)], stone)
                if kind < .3:
                    self.pen.cut([(x - .28, .17 - h), (x, .06 - h), (x + .28, .17 - h)], stone)
            else:
                self.column(x - .15, .24, h, .095, stone, False)
                self.column(x + .15, .24, self.r(2, k, 4, .16, .3), .095, stone, True)
        self.c.restore()

    def ruins(self) -> None:
        lo, hi = self.layer(.2)
        for k in self.cells(lo, hi, .9, .5):
            x, s = .9 * k + self.r(1, k, 0, -.15, .15), self.r(1, k, 1, .8, 1.15)
            self.pen.cut([(x - .42 * s, .25), (x, .22 - .34 * s), (x + .42 * s, .25)], self.tint((226, 190, 140)))
        self.c.restore()
        self.colonnade((216, 196, 158))
        lo, hi = self.ground((222, 188, 128))
        for k in self.cells(lo, hi, .5, .3):
            x, y = .5 * k + self.r(3, k, 0, -.15, .15), self.r(3, k, 1, .26, .46)
            self.pen.cut([(x - .06, y), (x - .045, y - .05), (x + .04, y - .055), (x + .06, y)], self.tint((190, 168, 130)))
        self.c.restore()

    def underwater(self) -> None:
        sea = {"day": (50, 130, 160), "sunset": (80, 90, 140), "night": (34, 64, 110)}[self.s.time]
        self.hills(1, .2, .2, .26, 4.5, sea)
        self.colonnade((150, 190, 176))
        lo, hi = self.ground((226, 206, 150))
        for k in self.cells(lo, hi, .62, .3):
            x, n = .62 * k + self.r(3, k, 0, -.14, .14), 3
            for i in range(n):
                sway = .03 * math.sin(1.5 * self.t + k + i)
                h = self.r(3, k, 1 + i, .16, .30)
                self.pen.ribbon(x + (i - 1) * .05, .30, h, .022, sway, self.tint((62, 160, 92) if self.r(3, k, 5) < .6 else (220, 96, 120), .8))
        self.c.restore()

    def city(self) -> None:
        for layer, p, base, low, tall, step in ((1, .2, .25, .25, .55, .20), (2, .5, .26, .22, .52, .34)):
            lo, hi = self.layer(p)
            for k in self.cells(lo, hi, step, .3):
                w, h = step * self.r(layer, k, 0, .74, .98), self.r(layer, k, 1, low, tall)
                x = step * k
                if layer == 1:
                    color = self.tint((168, 182, 204))
                else:
                    color = self.tint(((206, 116, 96), (110, 132, 172), (222, 180, 120), (128, 152, 140))[int(self.r(2, k, 2, 0, 4))])
                self.pen.cut([(x, base), (x, base - h), (x + w, base - h), (x + w, base)], color)
                if layer == 2:
                    lit = self.s.time != "day"
                    for row in range(int((h - .08) / .105)):
                        for col in range(2):
                            on = self.r(2, k, 10 + 2 * row + col) < .7
                            pane = ((255, 222, 120) if on else self.tint((70, 84, 120))) if lit else (196, 228, 246)
                            self.pen.rect(x + w * (.17 + .40 * col), base - h + .045 + .105 * row, w * .26, .06, pane)
            self.c.restore()
        lo, hi = self.ground((176, 172, 170), y=.22)
        self.pen.rect(lo, .30, hi - lo, 2, self.tint((96, 98, 110)))
        for k in self.cells(lo, hi, .36, .2):
            self.pen.rect(.36 * k, .43, .18, .022, self.tint((250, 240, 210)))
        self.c.restore()

    def subject(self) -> None:
        s, t = self.s, self.t
        phase, x0 = self.r(9, 0, 0, 0, 6.283), self.r(9, 0, 1, -1, 1)
        ground = s.subject in ("cat", "dog", "ball")
        x = x0 * (.10 if s.direction != "none" else .20) * min(1., self.half_w / .6)
        y = FEET + self.r(9, 0, 2, -.03, .03) if ground else self.r(9, 0, 2, -.07, .02)
        if s.direction != "none":
            x += self.cam_x + .05 * math.sin(.8 * t + phase)
        if not ground:
            y += .035 * math.sin(1.9 * t + phase)
        if s.subject == "butterfly" and s.direction == "none":
            x += .09 * math.sin(1.1 * t + 2 * phase)
        color = self.tint(COLORS[s.color], .42)
        faces_left = s.direction == "left" or (s.direction == "none" and self.r(9, 0, 3) < .5)
        shade = self.tint((20, 20, 40))
        if ground:
            self.pen.ellipse(x, y, .17, .026, shade, .28)
        self.c.save()
        self.c.translate(x, y)
        scale = self.r(9, 0, 4, .94, 1.08)
        self.c.scale(-scale if faces_left else scale, scale)
        draw_subject(self.c, s.subject, s.action, t, phase, color, s.color)
        self.c.restore()

    def snowflakes(self) -> None:
        self.c.save()
        self.c.translate(self.w / 2, self.h / 2)
        self.c.scale(self.unit, self.unit)
        drift = self.cam_x * 1.1
        wide = 2 * self.half_w + .2
        high = 2 * self.half_h + .1
        for k in range(int(20 * wide * high / 1.8)):
            x = (self.r(8, k, 0) * wide + .04 * math.sin(self.t + k) - drift) % wide - wide / 2
            y = (self.r(8, k, 1) * high + self.t * self.r(8, k, 2, .16, .26)) % high - high / 2
            self.pen.circle(x, y, self.r(8, k, 3, .011, .018), (255, 255, 255))
        self.c.restore()

    def bubbles(self) -> None:
        self.c.save()
        self.c.translate(self.w / 2, self.h / 2)
        self.c.scale(self.unit, self.unit)
        high = 2 * self.half_h + .1
        for k in range(6):
            x = (self.r(8, k, 0, -1, 1) + .02 * math.sin(2 * self.t + k) - self.cam_x + 1) % 2 - 1
            y = high / 2 - (self.r(8, k, 1) * high + self.t * self.r(8, k, 2, .12, .2)) % high
            self.pen.circle(x * self.half_w * 1.05, y, self.r(8, k, 3, .014, .024), (225, 246, 255), .75)
        self.c.restore()
