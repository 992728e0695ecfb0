"""The paper-cut world: what a scene is made of, how scenes are drawn by lot, and their pictures.

A `Scene` is a handful of attributes (what the captions talk about) plus a seed (everything the captions leave open).
`Scene.render` draws it at any size and any time (see painter.py, stage.py).

`WORLD` says what there is and how often; captions, vocabulary and attribute values follow it.
"""
from __future__ import annotations

import dataclasses
import random
import zlib

import numpy as np
import skia

COLORS = {
    "none": (128, 128, 128), "red": (224, 44, 44), "orange": (244, 134, 28), "yellow": (252, 214, 48),
    "green": (64, 178, 74), "blue": (44, 108, 230), "purple": (144, 72, 204), "pink": (250, 134, 182),
    "brown": (140, 84, 46), "black": (46, 44, 54), "white": (248, 246, 240), "grey": (144, 150, 162),
}
NATURAL = {  # usual colours, the first ones more often; the very first goes without saying
    "none": ("none",), "cat": ("orange", "orange", "orange", "grey", "white"), "dog": ("brown", "brown", "brown", "white", "black"),
    "butterfly": ("orange", "orange", "purple", "blue"), "bird": ("blue", "blue", "red"), "fish": ("orange", "orange", "yellow"),
    "drone": ("white", "white", "red"), "ball": ("red", "red", "blue"), "car": ("red", "red", "blue"), "person": ("blue", "red", "yellow"),
}
TIMES = {"day": .42, "sunset": .30, "night": .28}


@dataclasses.dataclass(frozen=True)
class World:
    """Which attributes there are, with their weights; a scene's own are drawn by `Scene.sample`."""
    subjects: dict[str, float]
    places: tuple[str, ...]
    homes: dict[str, tuple[float, ...]]  # where a subject is at home; odd combinations stay possible, so that prompts can ask for them
    actions: dict[str, tuple[str, ...]]
    directions: tuple[str, ...]
    cameras: dict[str, float]
    weathers: tuple[str, ...]
    pairs: float  # share of scenes with a second subject
    pillars: float  # share of travels past pillars in front


WORLD = World(
    subjects={"none": 1., "cat": 2., "dog": 2., "butterfly": 1.7, "bird": 1.3, "fish": 1.3, "drone": 1.7, "ball": 1., "car": 1.3, "person": 1.5},
    places=("windowsill", "snow", "garden", "underwater", "ruins", "city", "seaside"),
    homes={"none": (2, 2, 2, 2, 2, 2, 2), "cat": (5, 2, 2, 1, 1.5, 2, 1.5), "dog": (1.5, 4, 3, 1, 1.5, 2, 3), "butterfly": (1.5, 1, 4, 3, 1.5, 1, 1.5),
           "bird": (1.5, 2, 3, 1, 2, 3, 3), "fish": (.6, .6, .6, 7, .6, .6, .6), "drone": (1, 1.5, 1.5, 1, 4, 3, 1.5), "ball": (2, 2, 3, 1.5, 2, 2, 2),
           "car": (.5, 2, 1, .5, 1.5, 6, 2), "person": (1.5, 3, 3, 1, 2, 3, 3)},
    actions={"none": ("none",), "cat": ("sit", "run", "jump", "walk"), "dog": ("sit", "run", "jump", "walk"), "butterfly": ("fly",), "bird": ("fly",),
             "fish": ("swim",), "drone": ("hover", "fly"), "ball": ("bounce", "roll"), "car": ("drive",), "person": ("walk", "run", "jump")},
    directions=("none", "left", "right", "towards", "away"),
    cameras={"static": .5, "pan left": .08, "pan right": .08, "zoom in": .08, "zoom out": .08, "tilt up": .06, "tilt down": .06, "orbit": .06},
    weathers=("clear", "snow", "rain"), pairs=.12, pillars=.3,
)
SUBJECTS, PLACES, CAMERAS, DIRECTIONS = tuple(WORLD.subjects), WORLD.places, tuple(WORLD.cameras), WORLD.directions
ALL_ACTIONS = tuple(dict.fromkeys(a for s in SUBJECTS for a in WORLD.actions[s]))
WALKERS = ("cat", "dog", "ball", "car", "person")  # stand on the ground; the others are in the air
TRAVELS = ("run", "walk", "swim", "roll", "drive")  # actions that always go somewhere


@dataclasses.dataclass(frozen=True)
class Scene:
    subject: str
    place: str
    time: str
    color: str
    action: str
    direction: str
    camera: str
    weather: str
    seed: int
    other: str = "none"  # a second subject, which passes in front of the first
    other_color: str = "none"
    pillars: bool = False  # pillars stand in front of the subject's way

    @staticmethod
    def sample(rng: random.Random, held_out: bool = False) -> "Scene":
        """Draws a scene: homely combinations often, odd ones sometimes; never held-out ones, or only those."""
        while True:
            scene = Scene._draw(rng)
            if scene.held_out == held_out:
                return scene

    @property
    def held_out(self) -> bool:
        """Whether this combination of subject, place, time and colour is kept from training, for evaluation."""
        if self.subject == "none" or self.color == NATURAL[self.subject][0]:
            return False
        return zlib.crc32(f"{self.subject} {self.place} {self.time} {self.color}".encode()) % 8 == 0

    @staticmethod
    def _draw(rng: random.Random) -> "Scene":
        subject = rng.choices(list(WORLD.subjects), list(WORLD.subjects.values()))[0]
        place = rng.choices(WORLD.places, WORLD.homes[subject])[0]
        time = rng.choices(list(TIMES), list(TIMES.values()))[0]
        color = rng.choice(NATURAL[subject] if subject == "none" or rng.random() < .55 else list(COLORS)[1:])
        action = rng.choice(WORLD.actions[subject])
        if subject in ("cat", "dog") and place == "windowsill" and rng.random() < .7:
            action = "sit"
        moves = action in TRAVELS or (action == "fly" and (subject != "butterfly" or rng.random() < .4))
        direction = rng.choice(("left", "right")) if moves else "none"
        if moves and "towards" in WORLD.directions and rng.random() < .2:
            direction = rng.choice(("towards", "away"))
        camera = rng.choices(list(WORLD.cameras), list(WORLD.cameras.values()))[0]
        if moves and not camera.startswith("zoom"):
            camera = "static"  # what travels is followed by the camera, so a camera of its own would not be seen
        weather = "snow" if place == "snow" and rng.random() < .7 else "clear"
        if "rain" in WORLD.weathers and place not in ("snow", "underwater") and rng.random() < .12:
            weather = "rain"
        seed = rng.randrange(1 << 31)
        other, other_color, pillars = "none", "none", False
        if rng.random() < WORLD.pairs and subject != "none" and direction == "none":
            other = rng.choice([s for s in ("cat", "dog", "person", "ball") if s != subject])
            other_color = rng.choice(NATURAL[other])
        if place in ("ruins", "underwater") and direction in ("left", "right") and rng.random() < WORLD.pillars:
            pillars = True
        return Scene(subject, place, time, color, action, direction, camera, weather, seed, other, other_color, pillars)

    @property
    def travels(self) -> bool:
        """Whether the subject goes to the left or right, with the camera beside it."""
        return self.direction in ("left", "right")

    @property
    def moving(self) -> bool:
        """Whether the picture as a whole goes somewhere: beside a traveller or by a camera of its own."""
        return self.travels or self.camera != "static"

    def with_(self, **changes) -> "Scene":
        return dataclasses.replace(self, **changes)

    def mirrored(self) -> "Scene":
        """The attributes of this scene's mirror image (sun and moon then stand on the left, which the world itself never has)."""
        swap = {"left": "right", "right": "left", "pan left": "pan right", "pan right": "pan left"}
        return self.with_(direction=swap.get(self.direction, self.direction), camera=swap.get(self.camera, self.camera))

    def render(self, width: int, height: int, frames: int, rate: float = 24., start: float = 0.) -> np.ndarray:
        """uint8 [frames, height, width, 3]; `start` in seconds since the scene began."""
        surface = skia.Surface(width, height)
        out = np.empty((frames, height, width, 3), np.uint8)
        for i in range(frames):
            self.draw(surface.getCanvas(), width, height, start + i / rate)
            out[i] = surface.toarray(colorType=skia.kRGBA_8888_ColorType)[:, :, :3]
        return out

    def draw(self, canvas: skia.Canvas, width: int, height: int, t: float) -> None:
        from .painter import paint_scene
        paint_scene(self, canvas, width, height, t)

    def subject_mask(self, columns: int, rows: int, t: float, detail: int = 4) -> np.ndarray:
        """float32 [rows, columns], 0..1: the share of each cell of a grid over the frame that subjects cover."""
        from .painter import paint_subjects
        surface = skia.Surface(columns * detail, rows * detail)
        canvas = surface.getCanvas()
        canvas.clear(skia.ColorTRANSPARENT)
        paint_subjects(self, canvas, columns * detail, rows * detail, t)
        alpha = surface.toarray(colorType=skia.kRGBA_8888_ColorType)[:, :, 3].astype(np.float32) / 255
        return alpha.reshape(rows, detail, columns, detail).mean((1, 3))
