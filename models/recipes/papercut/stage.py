"""The stage a scene is drawn on: camera, layers with depth, light.

Lengths are in *units*: one unit is the height of a landscape frame.  The origin is the middle of the frame, x to the
right, y downwards.  Each layer has a depth factor p: 0 is the sky, which hardly moves, 1 is the ground the subject stands
on, more than 1 is nearer than that; a camera move shifts a layer by p times its own way.  Layers are made of numbered
cells, each drawn from a hash of (seed, layer, cell), so a camera can travel for ever.
"""
from __future__ import annotations

import math

from .shapes import Pen, mix

SPEEDS = {"run": .66, "walk": .36, "fly": .52, "swim": .46, "roll": .54, "drive": .74}  # units a second, camera following


def hashed(seed: int, layer: int, cell: int, k: int) -> float:
    """A number in [0, 1) from four integers (splitmix64), the same on every machine."""
    z = (seed * 0x9E3779B97F4A7C15 + layer * 0xD1B54A32D192ED03 + cell * 0x8CB92BA72F3D8DD7 + k * 0xAEF17502108EF2D9) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return ((z ^ (z >> 31)) >> 11) / 2**53


class Stage:
    """One frame of one scene, empty: a canvas, the moment, where the camera is."""

    def __init__(self, scene, canvas, width: int, height: int, t: float):
        self.scene, self.canvas, self.t = scene, canvas, t
        self.width, self.height = width, height
        self.unit = min(height, .92 * width)
        self.half_w, self.half_h = width / 2 / self.unit, height / 2 / self.unit
        self.pen = Pen(canvas)
        self.drop = .5 * (self.half_h - .5)  # in tall frames the ground lies lower
        self.x, self.y, self.zoom, self.orbit = self.camera()

    def r(self, layer: int, cell: int, k: int, lo: float = 0., hi: float = 1.) -> float:
        """The scene's k-th random number of this cell."""
        return lo + (hi - lo) * hashed(self.scene.seed, layer, cell, k)

    def choice(self, layer: int, cell: int, k: int, options):
        return options[int(self.r(layer, cell, k, 0, len(options)))]

    def camera(self) -> tuple[float, float, float, float]:
        """The camera's way along x and y, its zoom, and the way of an orbit, at this time.  Every move begins with what a still camera
        sees, so that a first picture is the same for all; moves that must end settle after some five seconds."""
        s, t = self.scene, self.t
        ease = 1 - math.exp(-t / 2)
        x, y, zoom, orbit = 0., 0., 1., 0.
        if s.travels:
            x = t * SPEEDS[s.action] * (-1 if s.direction == "left" else 1)
        elif s.camera.startswith("pan"):
            # Past a place alone the camera travels on for ever; past a subject it stops before that is out of view.
            x = (.24 * t if s.subject == "none" else .45 * min(1., self.half_w / .8) * ease) * (-1 if s.camera == "pan left" else 1)
        if s.camera.startswith("zoom"):
            zoom = 1.6 ** (ease if s.camera == "zoom in" else -ease)
        elif s.camera.startswith("tilt"):
            y = .2 * ease * (-1 if s.camera == "tilt up" else 1)
        elif s.camera == "orbit":
            orbit = math.pi / 9 * t  # half a turn in three seconds, as painter.py turns who stands in the middle
        return x, y, zoom, orbit

    def way(self, p: float) -> float:
        """How far a layer has been shifted along x; an orbit takes the subject along (see painter.py)."""
        return (self.x + self.orbit) * p

    def enter(self, p: float) -> tuple[float, float]:
        """Enters a layer; returns the visible range of x in it."""
        c, z = self.canvas, 1 + (self.zoom - 1) * (.5 + .5 * p)  # partly a move of the camera, partly one of its lens
        c.save()
        c.translate(self.width / 2, self.height / 2)
        c.scale(self.unit * z, self.unit * z)
        c.translate(-self.way(p), self.drop - (.19 + self.drop) * (1 - 1 / z) - self.y * (.5 + .5 * p))
        return self.way(p) - self.half_w / z - .05, self.way(p) + self.half_w / z + .05

    def enter_frame(self) -> tuple[float, float]:
        """Enters the frame itself, which no camera moves; returns its width and height."""
        self.canvas.save()
        self.canvas.translate(self.width / 2, self.height / 2)
        self.canvas.scale(self.unit, self.unit)
        return 2 * self.half_w, 2 * self.half_h

    def leave(self) -> None:
        self.canvas.restore()

    @staticmethod
    def cells(lo: float, hi: float, spacing: float, margin: float) -> range:
        """Numbers of the cells that show between lo and hi, with `margin` around each."""
        return range(math.floor((lo - margin) / spacing), math.ceil((hi + margin) / spacing) + 1)

    def light(self, color, strength: float = 1.):
        """A colour in this scene's light; strength < 1 keeps more of the colour itself (used for subjects)."""
        if self.scene.time == "sunset":
            color = mix(mix(color, (0, 0, 0), .14 * strength), (255, 110, 60), .22 * strength)
        elif self.scene.time == "night":
            color = mix(mix(color, (0, 0, 0), .40 * strength), (30, 44, 130), .36 * strength)
        if self.scene.place == "underwater":
            color = mix(color, (20, 110, 160), .30 * strength * strength)
        return color
