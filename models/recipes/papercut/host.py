"""Runs an exported package with numpy and ONNX Runtime: what an application does with it, as short as possible."""
from __future__ import annotations

import pathlib
import tomllib

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


def open_session(path: pathlib.Path, threads: int = 2) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def sigmas(steps: int, shift: float) -> np.ndarray:
    """Noise levels from 1 to 0, steps + 1 of them: those of `sigma_schedule = "linspace"`."""
    s = np.linspace(1, 1 / steps, steps)
    s = shift * s / (1 + (shift - 1) * s)
    return np.append(s, 0).astype(np.float32)


class Package:
    def __init__(self, folder: pathlib.Path, threads: int = 2):
        self.folder = folder
        self.config = tomllib.loads((folder / "model.toml").read_text())
        text = self.config["text_encoders"][0]
        self.tokenizer, self.longest = Tokenizer.from_file(str(folder / text["tokenizer"]["file"])), text["tokenizer"]["max_length"]
        session = lambda name: open_session(folder / name, threads)
        self.text = session(text["file"])
        self.denoiser = session(self.config["denoisers"][0]["file"])
        self.decoder = session(self.config["decoder"]["init"]), session(self.config["decoder"]["step"])
        self.encoder = session(self.config["encoder"]["init"]), session(self.config["encoder"]["step"])
        shapes = {i.name: i.shape for i in self.denoiser.get_inputs()}
        self.layers, self.width = shapes["past_key"][0], shapes["past_key"][4]
        self.draft = shapes["chunk_draft"][2], 1, 1  # of no frames, hence of any size

    def embed(self, prompt: str) -> tuple[np.ndarray, np.ndarray]:
        ids = self.tokenizer.encode(prompt).ids[:self.longest]
        ids = np.array([ids], np.int64)
        return tuple(self.text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)}))

    def generate(self, prompt: str, frames: int, width: int, height: int, seed: int = 0, steps: int | None = None,
                 guidance: float | None = None, shift: float | None = None, given: dict[int, np.ndarray] | None = None) -> np.ndarray:
        """Latents [1, C, frames, height/16, width/16], chunk after chunk with a rolling window of past frames.

        `given` holds latent frames [C, h, w] that are known, by their number: they stay as they are, the others follow
        from them.  Frames see all of their own chunk and of what lies before it.
        """
        defaults, stream = self.config["defaults"], self.config["stream"]
        steps = steps or defaults["num_inference_steps"]
        guidance = defaults["guidance_scale"] if guidance is None else guidance
        shift = shift or self.config["scheduler"]["shift"]
        prompts = [self.embed(prompt)] + ([self.embed("")] if guidance != 1 else [])
        begins = np.float32(self.config["scheduler"].get("init_noise_sigma", 1.))
        follows = np.float32(stream.get("init_noise_sigma", begins))
        h, w = height // 16, width // 16
        past = [np.zeros((2, self.layers, 1, 0, h * w // 4, self.width), np.float32) for _ in prompts]
        rng, out = np.random.default_rng(seed), []
        chunk = stream["chunk"]
        starts = sorted({*range(0, frames, chunk), *range(stream.get("first", chunk), frames)[:1]})
        for first, end in zip(starts, [*starts[1:], frames]):
            t = end - first
            x = rng.standard_normal((1, self.config["latents"]["channels"], t, h, w), np.float32) * (follows if first else begins)
            free = np.ones(t, np.float32)
            for i in range(t):
                if given and first + i in given:
                    x[0, :, i], free[i] = given[first + i], 0
            drafts = [np.zeros((1, 0, *self.draft), np.float32) for _ in prompts]  # of this chunk, which its first call makes
            before, levels = None, sigmas(steps if first else max(steps, stream.get("first_num_inference_steps", 1)), shift)
            for a, b in zip(levels[:-1], levels[1:]) if free.any() else ():
                v, _, _, drafts = zip(*(self.predict(x, a * free, *known) for known in zip(prompts, past, drafts)))
                v = v[0] if guidance == 1 else v[1] + guidance * (v[0] - v[1])
                # Adams-Bashforth of second order (`solver_order = 2`), once a velocity before this one is known; Euler otherwise.
                further = (b - a) / (2 * before[0]) * (v - before[1]) if before and self.config["scheduler"].get("solver_order", 1) == 2 else 0
                x, before = x + (b - a) * free[:, None, None] * (v + further), (b - a, v)
            level, seen = stream.get("context_noise", 0.) * (first >= stream["sink"]), x
            if level:
                seen = (1 - level) * x + level * rng.standard_normal(x.shape, np.float32)
            for i, p in enumerate(prompts):
                _, k, v, _ = self.predict(seen, level, p, past[i], drafts[i])
                past[i] = self.roll(np.concatenate([past[i], np.stack([k, v])], 3))
            out.append(x)
        return np.concatenate(out, 2)

    def predict(self, x, sigma, prompt, past, draft):
        """The velocity, this call's keys and values, and its chunk's draft; sigma is one noise level or one for each frame."""
        t = np.ascontiguousarray(np.broadcast_to(1000 * np.asarray(sigma, np.float32), (1, x.shape[2])))
        return self.denoiser.run(None, {"latents": x, "timestep": t, "prompt_embeds": prompt[0], "prompt_mask": prompt[1],
                                        "past_key": past[0], "past_value": past[1], "chunk_draft": draft})

    def roll(self, past: np.ndarray) -> np.ndarray:
        """Keeps the first `sink` frames and the newest, `window` in all."""
        window, sink = self.config["stream"]["window"], self.config["stream"]["sink"]
        if past.shape[3] <= window:
            return past
        return np.concatenate([past[:, :, :, :sink], past[:, :, :, -(window - sink):]], 3)

    def _run(self, sessions, x: np.ndarray, cuts: list[int], name: str, axis: int) -> np.ndarray:
        out, states, at = [], [], 0
        for i, n in enumerate(cuts):
            piece = np.take(x, range(at, at + n), axis)
            result = sessions[i > 0].run(None, {name: piece, **{f"state_{k}": s for k, s in enumerate(states)}})
            out.append(result[0])
            states = result[1:]
            at += n
        return out

    def decode(self, latents: np.ndarray, chunk: int = 3) -> np.ndarray:
        """Frames float [F, H, W, 3] in 0..1."""
        n = latents.shape[2]
        cuts = [min(chunk, n - i) for i in range(0, n, chunk)]
        return np.concatenate(self._run(self.decoder, latents, cuts, "latents", 2), 1)[0]

    def encode(self, frames: np.ndarray, chunk: int = 3) -> np.ndarray:
        """Latents [1, C, T, h, w] of frames float [1+4k, H, W, 3] in 0..1."""
        k = (len(frames) - 1) // 4 + 1
        cuts = [min(chunk, k - i) for i in range(0, k, chunk)]
        cuts = [4 * n - 3 * (i == 0) for i, n in enumerate(cuts)]
        return np.concatenate(self._run(self.encoder, frames[None].astype(np.float32), cuts, "frames", 1), 2)
