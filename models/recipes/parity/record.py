"""Runs a pipeline of diffusers as it is, and writes down its numbers."""

import inspect
import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.numpy import save_file

from parity.instance import Case, Instance, Named

# So many values of a large tensor are kept; the rest of it is made by the same arithmetic.
KEPT_FRAMES, KEPT_EMBEDS = 8192, 2048
IN_WORDS = ("prompt", "negative_prompt", "width", "height", "num_frames", "num_inference_steps", "guidance_scale", "seed",
            "frame_rate")


def picture(width: int, height: int) -> Image.Image:
    """Returns an image of coloured blocks."""
    blocks = np.random.RandomState(3).randint(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1))


def stride(size: int, kept: int) -> int:
    """Returns the step that keeps about `kept` of `size` values: a prime, so that it meets every row, column and channel."""
    step = max(1, math.ceil(size / kept))
    while step > 1 and (step in (2, 3) or any(step % d == 0 for d in range(2, math.isqrt(step) + 1))):
        step += 1
    return step


class Recorder:
    """Listens to a pipeline through the doors it has: hooks of modules, methods that it calls, its callback."""

    def __init__(self, instance: Instance, pipeline: DiffusionPipeline, case: Case) -> None:
        self.instance, self.pipeline, self.case = instance, pipeline, case
        self.ids: dict[str, list[torch.Tensor]] = {}
        self.encoded: tuple | None = None
        self.prepared: tuple | torch.Tensor | None = None
        self.steps: list[torch.Tensor] = []

    def run(self) -> np.ndarray:
        """Returns the frames, f32[F,H,W,3] in 0..1."""
        case, pipeline = self.case, self.pipeline
        hooks = []
        for name in ("text_encoder", "text_encoder_2"):
            if (encoder := getattr(pipeline, name, None)) is not None:
                hooks.append(encoder.register_forward_hook(self._hear_ids(name), with_kwargs=True))
        for method in ("encode_prompt", "prepare_latents"):
            setattr(pipeline, method, self._hear(method))
        arguments = {
            "prompt": case.prompt, "width": case.width, "height": case.height,
            "num_inference_steps": case.num_inference_steps, "guidance_scale": case.guidance_scale, **case.arguments(),
        }
        if case.negative_prompt:
            arguments["negative_prompt"] = case.negative_prompt
        if case.num_frames > 1:
            arguments["num_frames"] = case.num_frames
        if case.frame_rate is not None:
            arguments["frame_rate"] = case.frame_rate
        if case.image:
            arguments["image"] = picture(case.width, case.height)
        pipeline.set_progress_bar_config(disable=True)
        try:
            with torch.no_grad():
                out = pipeline(**arguments, **self._callback(), generator=torch.Generator("cpu").manual_seed(case.seed),
                               output_type="np")
        finally:
            for hook in hooks:
                hook.remove()
            del pipeline.encode_prompt, pipeline.prepare_latents
        return np.asarray(out.frames[0] if hasattr(out, "frames") else out.images, np.float32)

    def _hear_ids(self, name: str):
        def hook(module, args, kwargs, output):
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            self.ids.setdefault(name, []).append(ids.clone())
        return hook

    def _hear(self, method: str):
        unheard = getattr(self.pipeline, method)

        def heard(*args, **kwargs):
            result = unheard(*args, **kwargs)
            if method == "encode_prompt":
                self.encoded = self.encoded or result
            else:
                self.prepared = result
            return result
        return heard

    def _callback(self) -> dict[str, object]:
        """Returns the arguments that make the pipeline call back after each step; older ones have another form."""
        if "callback_on_step_end" in inspect.signature(self.pipeline.__call__).parameters:
            return {"callback_on_step_end": self._hear_step, "callback_on_step_end_tensor_inputs": ["latents"]}
        hear = lambda step, timestep, latents: self._hear_step(self.pipeline, step, timestep, {"latents": latents})
        return {"callback": hear, "callback_steps": 1}

    def _hear_step(self, pipeline, index, timestep, values):
        latents = self.instance.latents(pipeline, values["latents"], self.case).clone()
        if self.case.image and self.instance.given:
            latents[:, :, :1] = self.instance.given(self.prepared)
        self.steps.append(latents)
        return {}


def record(instance: Instance, pipeline: DiffusionPipeline, folder: Path, scheduler_table) -> dict[str, str]:
    """Runs every case of `instance` and writes `cases.json` and `reference.safetensors` into `folder`.

    `scheduler_table` turns a scheduler into a package's `[scheduler]`. Returns, by case, words on its frames.
    """
    tensors: dict[str, np.ndarray] = {}
    cases, seen, report = [], set(), {}
    own_scheduler = pipeline.scheduler
    for case in instance.cases:
        used = instance.image_pipeline(pipeline) if case.image else pipeline
        used.scheduler = case.scheduler() if case.scheduler else type(own_scheduler).from_config(own_scheduler.config)
        recorder = Recorder(instance, used, case)
        frames = recorder.run()

        def put(name: str, tensor: np.ndarray, step: int = 1) -> None:
            tensors[f"{case.name}.{name}"] = np.ascontiguousarray(tensor.reshape(-1)[::step] if step > 1 else tensor)

        entry = {"name": case.name, **{f.name: getattr(case, f.name) for f in fields(case) if f.name in IN_WORDS}}
        if "guidance_scale_2" in case.arguments():
            entry["guidance_scale"] = None  # the package's experts have their own
        entry["frame_stride"] = stride(frames.size, KEPT_FRAMES)
        put("frames", np.round(frames.astype(np.float64) * 65535).astype(np.uint16), entry["frame_stride"])
        put("latents", torch.stack([s[0] for s in recorder.steps]).numpy().astype(np.float32))
        if case.image:
            put("image", np.asarray(picture(case.width, case.height)))
        if case.scheduler:
            entry["scheduler"] = scheduler_table(used)
        if (case.prompt, case.negative_prompt) not in seen:  # prompts that were met before are not checked again
            seen.add((case.prompt, case.negative_prompt))
            for encoder, calls in recorder.ids.items():
                for prefix, ids in zip(("", "negative_"), calls):
                    put(prefix + encoder.replace("text_encoder", "input_ids"), ids[0].numpy().astype(np.int32))
            for prefix, named in zip(("", "negative_"), instance.embeds(recorder.encoded)):
                _put_embeds(put, prefix, named)
        cases.append(entry)
        cut = np.mean((frames <= 0) | (frames >= 1))
        report[case.name] = (f"{list(frames.shape)}, deviation {frames.std():.3f}, cut {cut:.1%}, "
                             f"latents to {np.abs(tensors[f'{case.name}.latents']).max():.1f}")
    pipeline.scheduler = own_scheduler
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    save_file(tensors, folder / "reference.safetensors")
    return report


def _put_embeds(put, prefix: str, named: Named) -> None:
    for name, tensor in named.items():
        array = tensor[0].float().numpy()
        put(prefix + name, array, stride(array.size, KEPT_EMBEDS))
