"""Paints a scene's frame: the place, the subjects, what lies nearer than they, the weather."""
from __future__ import annotations

import math

import skia

from .places import FRONTS, PLACES, WEATHER, column, sky
from .stage import Stage
from .subjects import draw_subject
from .world import COLORS, WALKERS

FEET = .385  # y on which a subject stands
POSES = {"bird": 1.2, "ball": 1.2}  # the phase of their movement at the start, where 0 shows them badly: wings are up, a ball is in the air


def paint_scene(scene, canvas: skia.Canvas, width: int, height: int, t: float) -> None:
    stage = Stage(scene, canvas, width, height, t)
    sky(stage)
    PLACES[scene.place](stage)
    stage.enter(1.)
    _subjects(stage, shadows=True)
    stage.leave()
    if scene.pillars:
        _pillars(stage)
    if scene.place in FRONTS:
        FRONTS[scene.place](stage)
    if scene.weather in WEATHER:
        WEATHER[scene.weather](stage)


def paint_subjects(scene, canvas: skia.Canvas, width: int, height: int, t: float) -> None:
    """The subjects alone, where `paint_scene` has them."""
    stage = Stage(scene, canvas, width, height, t)
    stage.enter(1.)
    _subjects(stage, shadows=False)
    stage.leave()


def _subjects(stage: Stage, shadows: bool) -> None:
    s = stage.scene
    if s.subject != "none":
        _subject(stage, shadows)
    if s.other != "none":
        _other(stage, shadows)


def _subject(stage: Stage, shadows: bool) -> None:
    s, t = stage.scene, stage.t
    phase = POSES.get(s.subject, 0.)
    stands = s.subject in WALKERS
    room = min(1., max(0., (stage.half_w - .38) / .42))
    # All scenes begin with the same place and pose.  The sun is on the right, so that who stays stands on the left of the middle.
    x, y = (-.10 * room if s.direction == "none" else 0.), (FEET if stands else -.015)
    if s.travels:
        x += stage.x + .04 * math.sin(.5 * math.pi * t + phase)
    if not stands:
        y += .035 * math.sin(math.pi * t + phase)
    if s.subject == "butterfly" and s.direction == "none":
        x += .07 * math.sin(.5 * math.pi * t + 2 * phase)
    size = 1.01
    if s.direction in ("towards", "away"):
        near = 1 - math.exp(-t / 3)
        size *= .5 + .6 * (near if s.direction == "towards" else 1 - near)
        y -= .18 * (1.1 - size) if stands else 0
    turn = 1.
    if s.camera == "orbit":
        x += stage.orbit
        turn = math.cos(3 * stage.orbit)
        turn = math.copysign(.3 + .7 * abs(turn), turn)
    _place(stage, s.subject, s.action, s.direction, s.color, x, y, -size if s.direction == "left" else size, size, phase, turn, shadows)


def _other(stage: Stage, shadows: bool) -> None:
    """The second subject goes to and fro in front of the first, from the left and back within eight seconds."""
    s, t = stage.scene, stage.t
    phase, size, angle = POSES.get(s.other, 0.), .8, .25 * math.pi * (t - 1.5)
    action = {"ball": "roll", "person": "walk"}.get(s.other, "run")
    _place(stage, s.other, action, "right", s.other_color, .62 * min(1., stage.half_w / .8) * math.sin(angle), FEET + .075,
           size if math.cos(angle) > 0 else -size, size, phase, 1., shadows)


def _place(stage: Stage, subject, action, direction, color, x, y, scale_x, scale_y, phase, turn, shadows) -> None:
    c = stage.canvas
    if shadows and subject in WALKERS:
        stage.pen.ellipse(x, y, .24 * scale_y, .032, stage.light((20, 20, 40)), .28)
    c.save()
    c.translate(x, y)
    c.scale(scale_x * turn, scale_y)
    draw_subject(c, subject, action, direction, stage.t, phase, stage.light(COLORS[color], .30), color, stage.scene.time == "night")
    c.restore()


def _pillars(stage: Stage) -> None:
    lo, hi = stage.enter(1.12)
    stone = stage.light((206, 188, 156) if stage.scene.place == "ruins" else (150, 190, 178))
    for k in stage.cells(lo, hi, 2.6, .3):
        column(stage, 2.6 * k + 1.3, .44, 1.1, .24, stone, False)
    stage.leave()
