"""Quality against the number of denoising steps: a table and a plot."""
from __future__ import annotations

import matplotlib

from .. import detectors
from .attributes import asked, compare, follow, look
from .bench import Bench, judged_scenes
from .figures import table

matplotlib.use("Agg")
STEPS = (1, 2, 4, 8, 16, 32)


def measure(bench: Bench) -> dict:
    scenes = judged_scenes(bench.count(48, 4), 2024)
    wanted = [asked(s) for s in scenes]
    real = compare(wanted, [read for read, *_ in bench.map("renders", look, [(scene, False) for scene in scenes])])
    out = {"prompts": 2 * len(scenes), "renders": {k: v["share"] for k, v in real.items()}, "steps": {}}
    for steps in STEPS:
        seen, moves, spent = follow(bench, scenes, what=f"{steps} steps", steps=steps)
        both = compare(wanted * 2, sum(seen.values(), ()))
        out["steps"][steps] = {**{k: v["share"] for k, v in both.items()}, "movement": moves, "cpu_seconds": spent}
    plot(out, bench.out / "quality-steps.png", bench.package.config["defaults"]["num_inference_steps"])
    return out


def plot(r: dict, path, default: int) -> None:
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6.4, 4), dpi=120)
    steps = [int(s) for s in r["steps"]]
    for k in detectors.CLASSES:
        axes.plot(steps, [v[k] for v in r["steps"].values()], marker="o", markersize=3.5, label=k.replace("color", "colour"))
    axes.axvline(default, color="grey", linewidth=.8, linestyle=":")
    axes.set(xscale="log", ylim=(0, 1.02), xlabel=f"denoising steps (dotted: the default, {default})", ylabel="share of videos that show what was asked")
    axes.set_xticks(steps, [str(s) for s in steps])
    axes.minorticks_off()
    axes.grid(alpha=.25)
    axes.legend(ncols=2, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)


def markdown(r: dict) -> str:
    names = [k for k in detectors.CLASSES]
    rows = [[s, *(v[k] for k in names), v["movement"], v["cpu_seconds"]] for s, v in r["steps"].items()]
    rows.append(["renders", *(r["renders"][k] for k in names), None, None])
    return table(["steps", *names, "movement", "CPU s a second of video"], rows) + f"\n\n{r['prompts']} prompts, both languages."
