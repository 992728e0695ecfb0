"""Is a video one world?  Warping error by optical flow, seams between chunks, layers in parallax, a minute without drift,
a subject that passes behind pillars, and how different the seeds are.  Always beside renders of the same scenes, and
beside how much moves: a frozen video wins every consistency score."""
from __future__ import annotations

import itertools
import random

import cv2
import numpy as np

from .. import detectors
from ..captions import ATTRIBUTES
from ..world import CAMERAS, Scene
from .attributes import LATENT_FRAMES, asked, compare
from .bench import HEIGHT, LANGUAGES, RATE, WIDTH, Bench, full_prompt, judged_scenes, render
from .codec import flicker, seams
from .figures import interval, movement, table


def to_bytes(frames: np.ndarray) -> np.ndarray:
    return (frames * 255 + .5).clip(0, 255).astype(np.uint8)


def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where the points of grey picture a are in b, float [H, W, 2]: dense inverse search (Kroeger and others, 2016)."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(a, b, None)


def warping_error(frames: np.ndarray, step: int = 2) -> float:
    """Mean absolute difference, of 255, between a frame and the one `step` later warped onto it, where the flows there and
    back agree; flows are the video's own."""
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in to_bytes(frames)]
    rows, columns = np.mgrid[:frames.shape[1], :frames.shape[2]].astype(np.float32)
    errors = []
    for i in range(4, len(frames) - step, 3):
        there, back = flow(grey[i], grey[i + step]), flow(grey[i + step], grey[i])
        x, y = columns + there[..., 0], rows + there[..., 1]
        warp = lambda image: cv2.remap(image, x, y, cv2.INTER_LINEAR)
        seen = (np.abs(there + warp(back)).sum(-1) < 1) & (x > 0) & (y > 0) & (x < frames.shape[2] - 1) & (y < frames.shape[1] - 1)
        errors.append(np.abs(warp(frames[i + step]) - frames[i])[seen].mean() * 255)
    return float(np.mean(errors))


def parallax(frames: np.ndarray) -> tuple[float, float]:
    """Pixels a frame along x of the far middle of the picture and of the nearest ground, where there is something to follow."""
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in to_bytes(frames)]
    far, near = [], []
    h = frames.shape[1]
    for i in range(4, len(frames) - 2, 3):
        v = flow(grey[i], grey[i + 2])[..., 0] / 2
        edges = np.abs(cv2.Sobel(grey[i], cv2.CV_32F, 1, 0)) > 120
        for out, rows in ((far, slice(int(.36 * h), int(.60 * h))), (near, slice(int(.90 * h), h))):
            if edges[rows].sum() > 12:
                out.append(np.median(v[rows][edges[rows]]))
    return float(np.median(far)) if far else 0., float(np.median(near)) if near else 0.


def chunk_pair(bench: Bench, job) -> list[list[float]]:
    """Warping error, flicker at seams and movement of a video of a scene and of its render."""
    i, scene = job
    pair = bench.video(full_prompt(scene, LANGUAGES[i % 2], i), LATENT_FRAMES, i), render(scene, 4 * LATENT_FRAMES - 3)
    s = seams(len(pair[0]) - 2)
    return [[warping_error(v) for v in pair], [flicker(v)[s].mean() for v in pair], [movement(v) for v in pair]]


def chunks(bench: Bench) -> dict:
    """Warping error, flicker at seams and movement, generated and real."""
    scenes = judged_scenes(bench.count(48, 4), 77)
    values = np.mean(bench.map("warping and seams", chunk_pair, list(enumerate(scenes))), 0)
    pairs = zip(("warping", "flicker", "movement"), values)
    return {"videos": len(scenes)} | {k: {"generated": float(a), "renders": float(b), "ratio": float(a / max(b, 1e-9))} for k, (a, b) in pairs}


def pan_pair(bench: Bench, job) -> tuple[tuple[float, float], tuple[float, float]]:
    """Parallax of a video of a scene and of its render."""
    i, scene = job
    return parallax(bench.video(full_prompt(scene, LANGUAGES[i // 2 % 2], i), LATENT_FRAMES, 50 + i)), parallax(render(scene, 4 * LATENT_FRAMES - 3))


def pans(bench: Bench) -> dict:
    """How much faster near layers move than far ones under a pan past a place and under an orbit, generated and real."""
    moves = {"pan": ("pan left", "pan right")} | ({"orbit": ("orbit",)} if "orbit" in CAMERAS else {})
    shots, count, out = [(move, place) for move in moves for place in ("garden", "city", "underwater")], bench.count(6, 2), {}
    past = lambda move, place, i: Scene("none", place, "day", "none", "none", "none", moves[move][i % len(moves[move])], "clear", 1000 + i)
    found = bench.map("parallax", pan_pair, [(i, past(*shot, i)) for shot in shots for i in range(count)])
    for at, (move, place) in enumerate(shots):
        pairs = found[at * count:][:count]
        (far, near), (real_far, real_near) = np.abs(np.array(pairs)).mean(0)
        right = [np.sign(g[0]) == np.sign(r[0]) for g, r in pairs]
        out[f"{move}, {place}"] = {"far": float(far), "near": float(near), "real_far": float(real_far), "real_near": float(real_near), "right_way": float(np.mean(right)), "n": count}
    return out


def long_video(bench: Bench, job) -> list[tuple[dict[str, str], float]]:
    """What detectors read, and movement, in the beginning and at the end of a video of many latent frames, and then of its render at these times."""
    i, scene, latent_frames = job
    latents = bench.package.generate(full_prompt(scene, LANGUAGES[i % 2], i), latent_frames, WIDTH, HEIGHT, seed=bench.seed + i)
    cuts, count = (slice(3, 21), slice(latent_frames - 18, latent_frames)), 4 * LATENT_FRAMES - 3
    made = [bench.package.decode(latents[:, :, cut])[-count:] for cut in cuts]  # the first of them start the decoder
    real = [render(scene, count, start=(4 * cut.stop - 3 - count) / RATE) for cut in cuts]
    return [(bench.detectors.read(frames), movement(frames)) for frames in made + real]


def drift(bench: Bench, seconds: int = 60) -> dict:
    """What detectors read two seconds into a video and in its last seconds, and in renders, for in theirs, too, one may have gone away."""
    scenes = [s for s in judged_scenes(400, 99) if s.camera == "static"][:bench.count(24, 2)]
    found = bench.map(f"{seconds} s of one prompt", long_video, [(i, scene, seconds * 6 + 1) for i, scene in enumerate(scenes)])
    wanted, times = [asked(s) for s in scenes], ("2", str(seconds))
    moments = dict(zip((*times, *(f"{t} renders" for t in times)), zip(*found)))
    return {"videos": len(scenes), "seen": {k: compare(wanted, [seen for seen, _ in v]) for k, v in moments.items()},
            "movement": {k: float(np.mean([moved for _, moved in v])) for k, v in moments.items()}}


def behind_pillars(bench: Bench, job) -> list[float]:
    """In what share of the moments subject and colour are the usual ones, in a video of a scene and in its render."""
    i, scene = job
    prompt = full_prompt(scene, LANGUAGES[i % 2], i)
    same = []
    for frames in (bench.video(prompt, 37, i), render(scene, 145)):
        read = [bench.detectors.read(frames[a:a + 1]) for a in range(0, len(frames), 12)]
        named = [(r["subject"], r["color"]) for r in read]
        usual = max(set(named), key=named.count)
        same.append(np.mean([n == usual for n in named]))
    return same


def pillars(bench: Bench) -> dict | None:
    """Is a subject the same after it was hidden?  Only where the package's world has pillars."""
    if "pillars" not in ATTRIBUTES:
        return None
    rng, scenes = random.Random(5), []
    while len(scenes) < bench.count(24, 4):
        s = Scene.sample(rng)
        if s.pillars:
            scenes.append(s)
    generated, real = np.mean(bench.map("pillars", behind_pillars, list(enumerate(scenes))), 0)
    return {"videos": len(scenes), "generated": float(generated), "renders": float(real)}


def seeds_apart(bench: Bench, job) -> tuple[float, float]:
    """Mean difference, of 255, between pictures of a prompt with different seeds, and between renders."""
    (place, prompt, subject, color, action), count = job
    made = [bench.video(prompt, 3, 200 + i)[-1] for i in range(count)]
    way = "right" if action == "fly" else "none"
    real = [render(Scene(subject, place, "day", color, action, way, "static", "clear", 3000 + i), 1, start=.4)[0] for i in range(count)]
    small = lambda images: detectors.shrink(np.stack(images)).numpy()
    apart = lambda images: float(np.mean([np.abs(a - b).mean() for a, b in itertools.combinations(small(images), 2)]) * 127.5)
    return apart(made), apart(real)


def diversity(bench: Bench) -> dict:
    """How different the videos of a prompt are with different seeds, beside renders with different seeds."""
    prompts = [("garden", "花园", "none", "none", "none"), ("windowsill", "猫坐在窗台上", "cat", "orange", "sit"), ("city", "a blue bird in the city", "bird", "blue", "fly")]
    count = bench.count(6, 3)
    a, b = np.mean(bench.map("diversity", seeds_apart, [(prompt, count) for prompt in prompts]), 0)
    return {"generated": float(a), "renders": float(b), "ratio": float(a / b)}


def measure(bench: Bench) -> dict:
    return {"chunks": chunks(bench), "parallax": pans(bench), "diversity": diversity(bench), "pillars": pillars(bench), "drift": drift(bench)}


def markdown(r: dict) -> str:
    c = r["chunks"]
    names = {"warping": "warping error, of 255", "flicker": "flicker at chunk boundaries, of 255", "movement": "movement, of 255"}
    rows = [[names[k], c[k]["generated"], c[k]["renders"], c[k]["ratio"]] for k in names]
    rows.append(["difference between seeds, of 255", *(r["diversity"][k] for k in ("generated", "renders", "ratio"))])
    for shot, p in r["parallax"].items():
        ratio, real = p["near"] / max(p["far"], 1e-3), p["real_near"] / max(p["real_far"], 1e-3)
        rows.append([f"near against far, {shot} (right way {p['right_way']:.0%})", ratio, real, ratio / max(real, 1e-9)])
    if r["pillars"]:
        rows.append(["same subject and colour along pillars", r["pillars"]["generated"], r["pillars"]["renders"], r["pillars"]["generated"] / r["pillars"]["renders"]])
    d = r["drift"]
    early, late, *_ = moments = list(d["seen"])
    lines = [[k, *(interval(d["seen"][m][k]) for m in moments)] for k in detectors.CLASSES if d["seen"][early][k]["n"]]
    lines.append(["movement", *(d["movement"][m] for m in moments)])
    return (f"{c['videos']} videos:\n\n" + table(["", "generated", "renders", "ratio"], rows) + f"\n\n{d['videos']} videos of a minute:\n\n"
            + table(["", f"at {early} s", f"at {late} s", f"renders at {early} s", f"renders at {late} s"], lines) + ("" if r["pillars"] else "\n\nPillars are not in this package's world."))
