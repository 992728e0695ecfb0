"""Do videos show what their prompts say?  Per attribute: the share that the detectors read as asked, with its interval;
what they read in renders of the same scenes (the ceiling), in those after coding, in another prompt's video (the swapped
control), and what guessing would give.  All scenes are combinations that training never saw; both languages get the
same scenes and seeds."""
from __future__ import annotations

import time

import numpy as np

from .. import detectors
from ..world import WORLD
from .bench import LANGUAGES, RATE, Bench, full_prompt, judged_scenes, render
from .figures import interval, movement, share, table

LATENT_FRAMES = 9  # 33 frames, what the motion detector looks at


UNASKED = {"direction": "none", "camera": "static", "other": "none"}  # what is there where nothing was asked for


def asked(scene) -> dict[str, str]:
    """What a video of this scene is judged by: way, camera and second subject only where there is one to be seen, the weather where it is
    said (bench.full_prompt)."""
    usual = UNASKED | {"weather": "clear"}
    return {k: v for k in detectors.CLASSES if (v := getattr(scene, k)) != usual.get(k)}


def floor(name: str, scenes) -> float:
    """What guessing gives: one of the values, of actions one that the subject has."""
    if name == "action":
        return float(np.mean([1 / len(WORLD.actions[s.subject]) for s in scenes]))
    if name in ("direction", "camera", "weather"):
        return 1 / (len(detectors.CLASSES[name]) - 1)
    return 1 / len([v for v in detectors.CLASSES[name] if v != "none"])


def compare(wanted: list[dict], seen: list[dict]) -> dict[str, dict]:
    return {k: share([s.get(k) == w[k] for w, s in zip(wanted, seen) if k in w]) for k in detectors.CLASSES}


def watch(bench: Bench, job) -> tuple[dict[str, str], float, float]:
    """What detectors read in a video of (prompt, seed, options), its movement, and the CPU's seconds a second of it."""
    prompt, seed, options = job
    start = time.process_time()
    frames = bench.video(prompt, LATENT_FRAMES, seed, **options)
    spent = time.process_time() - start
    return bench.detectors.read(frames), movement(frames), spent / (len(frames) / RATE)


def follow(bench: Bench, scenes, what: str = "attributes", **options):
    """What detectors read in a video of every scene, by language; also mean movement, and the CPU's seconds a second of video."""
    jobs = [(full_prompt(scene, language, i), i, options) for language in LANGUAGES for i, scene in enumerate(scenes)]
    reads, moves, spent = zip(*bench.map(what, watch, jobs))
    seen = {language: reads[k * len(scenes):][:len(scenes)] for k, language in enumerate(LANGUAGES)}
    return seen, float(np.mean(moves)), float(np.mean(spent))


def look(bench: Bench, job) -> tuple[dict[str, str], float, dict[str, str] | None]:
    """What detectors read in a render of a scene, its movement, and, if asked for, what they read after coding."""
    scene, coded = job
    frames = render(scene, 4 * LATENT_FRAMES - 3)
    back = bench.detectors.read(bench.package.decode(bench.package.encode(frames))) if coded else None
    return bench.detectors.read(frames), movement(frames), back


def measure(bench: Bench) -> dict:
    scenes = judged_scenes(bench.count(200, 8))
    wanted = [asked(s) for s in scenes]
    coded = bench.count(60, 8)
    real, real_moves, back = zip(*bench.map("renders", look, [(scene, i < coded) for i, scene in enumerate(scenes)]))
    seen, moves, spent = follow(bench, scenes)
    half = len(scenes) // 2
    both = sum(seen.values(), ())
    return {
        "languages": {l: compare(wanted, seen[l]) for l in LANGUAGES},
        "renders": compare(wanted, real), "coded": compare(wanted, back[:coded]),
        "swapped": compare((wanted[half:] + wanted[:half]) * len(LANGUAGES), both),
        "chance": {k: floor(k, scenes) for k in detectors.CLASSES},
        "unasked": {k: share([s[k] == v for s, w in zip(both, wanted * 2) if k not in w]) for k, v in UNASKED.items()},
        "movement": moves, "movement_of_renders": float(np.mean(real_moves)), "cpu_seconds": spent,
    }


def markdown(r: dict) -> str:
    rows = []
    for k in detectors.CLASSES:
        zh, en, top = (r["languages"]["zh"][k], r["languages"]["en"][k], r["renders"][k])
        if not zh["n"]:
            continue
        mean = (zh["share"] + en["share"]) / 2
        rows.append([k, interval(zh), interval(en), zh["n"], top["share"], f"{mean / max(top['share'], 1e-9):.0%}", f"{100 * (zh['share'] - en['share']):+.0f}",
                     r["coded"][k]["share"], r["swapped"][k]["share"], r["chance"][k]])
    head = ["", "Chinese (95 %)", "English (95 %)", "prompts each", "renders", "of the ceiling", "zh − en, points", "coded renders", "swapped", "chance"]
    still = r["unasked"]
    return (table(head, rows) + f"\n\nWhere nothing was asked: no travel in {interval(still['direction'])}, a still camera in {interval(still['camera'])}, no second subject in {interval(still['other'])}. "
            f"Movement {r['movement']:.1f} against {r['movement_of_renders']:.1f} in renders (mean change in 1/6 s, of 255); {r['cpu_seconds']:.1f} CPU s a second of video.")
