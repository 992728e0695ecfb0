"""Contact sheets: the six prompts, every place by day, at sunset and at night, every camera move.

With a plugin folder they come out of a GStreamer pipeline, as users get them; otherwise out of the package's graphs.
"""
from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image

from .. import world
from ..sample import PROMPTS
from .bench import HEIGHT, RATE, WIDTH, Bench

PLACES = {"windowsill": "猫坐在窗台上", "snow": "雪地中的狗狗奔跑", "garden": "花园里的蝴蝶", "underwater": "水下遗迹的鱼", "ruins": "古代遗迹的无人机", "city": "城市里的鸟",
          "seaside": "海边的球"}
TIMES = {"day": "白天", "sunset": "日落", "night": "夜晚"}
CAMERAS = {"static": "garden", "pan left": "garden, pan left", "pan right": "garden, pan right", "zoom in": "古代遗迹，镜头推近", "zoom out": "古代遗迹，镜头拉远",
           "tilt up": "city, tilt up", "tilt down": "city, tilt down", "orbit": "猫，花园，镜头环绕"}


def piped(bench: Bench, prompt: str, latent_frames: int, seed: int) -> np.ndarray:
    """The video of a prompt as gst-launch makes it."""
    frames = 4 * latent_frames - 3
    with tempfile.TemporaryDirectory() as folder:
        raw = pathlib.Path(folder, "video.rgb")
        line = ["textsrc", f"prompt={prompt}", f"model={bench.package.folder.resolve()}", f"duration={round(frames * 1e9 / RATE)}",
                "!", "latentdiffuse", f"seed={bench.seed + seed}", "!", "vaedecode", "!", f"video/x-raw,width={WIDTH},height={HEIGHT},framerate={RATE}/1",
                "!", "videoconvert", "!", "video/x-raw,format=RGB", "!", "filesink", f"location={raw}"]
        subprocess.run(["gst-launch-1.0", "-q", *line], check=True, env=os.environ | {"GST_PLUGIN_PATH": str(bench.plugin)})
        return np.fromfile(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, 3).astype(np.float32) / 255


def moments(bench: Bench, job) -> np.ndarray:
    """As many moments of a prompt's video, from left to right."""
    prompt, seed, latent_frames, count = job
    frames = piped(bench, prompt, latent_frames, seed) if bench.plugin else bench.video(prompt, latent_frames, seed)
    picks = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return (np.concatenate(list(frames[picks]), 1) * 255 + .5).astype(np.uint8)


def sheet(bench: Bench, rows: list[list[str]], name: str, latent_frames: int, count: int) -> None:
    """The videos of each row's prompts side by side, as many moments of each."""
    prompts = [prompt for row in rows for prompt in row]
    found = bench.map(name, moments, [(prompt, i, latent_frames, count) for i, prompt in enumerate(prompts)])
    wide = len(rows[0])
    picture = np.concatenate([np.concatenate(found[i:i + wide], 1) for i in range(0, len(found), wide)])
    Image.fromarray(picture).save(bench.out / f"{name}.jpg", quality=88)


def measure(bench: Bench) -> dict:
    sheet(bench, [[prompt] for prompt in PROMPTS], "prompts", 9, 5)
    sheet(bench, [[f"{PLACES[place]}，{time}" for time in TIMES.values()] for place in world.PLACES], "places", 6, 2)
    sheet(bench, [[CAMERAS[camera]] for camera in world.CAMERAS], "cameras", 13, 5)
    return {"written": [f"{name}.jpg" for name in ("prompts", "places", "cameras")]}


def markdown(r: dict) -> str:
    return "Written: " + ", ".join(r["written"]) + "."
