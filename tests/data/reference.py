"""Makes reference/*.json, the numbers that tests/reference.rs holds this library against, with PyTorch and diffusers.

    pip install torch diffusers
    python reference.py

Floats are written with the fewest digits that give the same single-precision number back.
"""

import inspect
import json
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.guiders import ClassifierFreeGuidance, ClassifierFreeZeroStarGuidance

OUT = Path(__file__).parent / "reference"
MADE_WITH = f"torch {torch.__version__.split('+')[0]}, diffusers {diffusers.__version__}, numpy {np.__version__}"


def floats(values):
    """A flat list of single-precision numbers as the shortest decimals."""
    return [float(str(x)) for x in np.asarray(values, dtype=np.float32).reshape(-1)]


def write(name, cases):
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (OUT / f"{name}.json").write_text(f'{{"made_with":"{MADE_WITH}","cases":[\n{lines}\n]}}\n')


# Noise: consecutive draws from one generator. Of a long draw only its beginning and its end, where the tail is.


def noise():
    lengths = [1, 2, 7, 15, 16, 17, 31, 33]
    plans = [(0, [n]) for n in lengths + [1000, 1001]]
    plans += [(seed, [7, 33]) for seed in (42, 2**31, 2**32 - 1, 2**32 + 1, 2**63, 2**64 - 1)]
    plans += [(5, plan) for plan in ([1, 1, 2], [3, 16, 1], [15, 17, 1, 33], [1, 0, 1], [16, 16], [32], [700, 700])]
    cases = []
    for seed, plan in plans:
        generator = torch.Generator("cpu").manual_seed(seed)
        draws = []
        for n in plan:
            x = torch.randn(n, generator=generator).numpy()
            draws.append({"n": n, "head": floats(x[:40]), "tail": floats(x[-20:])})
        cases.append({"seed": seed, "draws": draws})
    write("noise", cases)


# Patches: the packing of diffusers' LTX pipeline, written out here since importing that pipeline needs more packages.


def patches():
    cases = []
    for c, t, h, w, p, pt in [(3, 2, 4, 6, 2, 1), (2, 4, 2, 2, 1, 2), (2, 2, 4, 4, 2, 2), (4, 1, 3, 5, 1, 1)]:
        x = torch.arange(c * t * h * w, dtype=torch.float32).reshape(1, c, t, h, w)
        packed = x.reshape(1, -1, t // pt, pt, h // p, p, w // p, p)
        packed = packed.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4, 7).flatten(1, 3)
        cases.append(
            {"shape": [c, t, h, w], "patch_size": p, "patch_size_t": pt, "tokens": packed[0].int().tolist()}
        )
    write("patches", cases)


# Schedulers: their tables, and whole loops on a cheap model.

SHAPE = (1, 2, 2, 2)  # UniPC wants a batch and a channel axis


def model(sample, t):
    """A stand-in for a denoiser that mixes neighbours and bends, so that no mistake cancels."""
    t = torch.tensor(float(t), dtype=torch.float32)
    flat = sample.reshape(-1)
    neighbour = torch.roll(flat, -1)
    return ((flat * 0.5 + neighbour / (1 + neighbour.abs())) * ((t + 1) / (t + 2))).reshape(sample.shape)


FIRST = torch.tensor([0.3, -1.2, 0.8, 2.1, -0.4, 0.05, -1.9, 1.1]).reshape(SHAPE)
CLEAN = torch.tensor([-0.7, 0.2, 1.4, -1.1, 0.9, -0.3, 0.6, -2.0]).reshape(SHAPE)


def mu_of(config, seq_len):
    """calculate_shift of diffusers' LTX and Flux pipelines."""
    m = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    return seq_len * m + (config["base_shift"] - m * config["base_image_seq_len"])


def linear_quadratic(steps, threshold_noise=0.025):
    """linear_quadratic_schedule of diffusers' Mochi pipeline, importing which needs more packages."""
    n = steps // 2
    difference = n - threshold_noise * steps
    a = difference / (n * (steps - n) ** 2)
    b = threshold_noise / n - 2 * difference / (steps - n) ** 2
    gone = [i * threshold_noise / n for i in range(n)] + [a * i**2 + b * i + a * n**2 for i in range(n, steps)]
    return np.array([1.0 - x for x in gone])


def set_timesteps(scheduler, steps, seq_len=0, sigma_schedule=None, sigmas=None):
    arguments = {}
    if sigma_schedule == "linspace":
        arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    if sigma_schedule == "linear_quadratic":
        arguments["sigmas"] = linear_quadratic(steps)
    if sigmas is not None:
        arguments["sigmas"] = np.array(sigmas)
    if seq_len:
        arguments["mu"] = mu_of(scheduler.config, seq_len)
    if "sigmas" in arguments:
        scheduler.set_timesteps(**arguments)
    else:
        scheduler.set_timesteps(steps, **arguments)


def loop(scheduler, sample, begin, eta):
    """The sample after each step, with the noise of seed 7 where a step adds some."""
    generator = torch.Generator("cpu").manual_seed(7)
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    if eta is not None:
        extra["eta"] = eta
    samples, original, back = [], None, None
    for t in scheduler.timesteps[begin:]:
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        output = model(scaled, t)
        if isinstance(scheduler, CogVideoXDPMScheduler):
            sample, original = scheduler.step(output, original, t, back, sample, **extra)
            back = t
        else:
            sample = scheduler.step(output, t, sample, **extra).prev_sample
        assert sample.dtype == torch.float32 and sample.isfinite().all(), (scheduler.config, t)
        samples.append(floats(sample))
    return samples


def noisy(scheduler, index):
    """CLEAN with the noise of step `index`."""
    t = scheduler.timesteps[index : index + 1]
    if not hasattr(scheduler, "add_noise"):
        return scheduler.scale_noise(CLEAN, t, FIRST)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)  # neighbouring steps may have the same whole timestep
    return scheduler.add_noise(CLEAN, FIRST, t)


def run(make, case, steps, trace):
    case = dict(case)
    eta = case.pop("eta", None)

    def fresh():
        scheduler = make()
        set_timesteps(scheduler, steps, **case)
        return scheduler

    scheduler = fresh()
    result = {"timesteps": floats(scheduler.timesteps), "init_noise_sigma": floats(scheduler.init_noise_sigma)[0]
              if hasattr(scheduler, "init_noise_sigma") else 1.0}
    if not isinstance(
        scheduler,
        (DDIMScheduler, PNDMScheduler, CogVideoXDDIMScheduler, CogVideoXDPMScheduler, LCMScheduler, TCDScheduler),
    ):
        result["sigmas"] = floats(scheduler.sigmas)
    if not getattr(scheduler.config, "invert_sigmas", False):  # where diffusers takes the signal for the noise
        result["noisy"] = floats(noisy(scheduler, steps // 2))

    for name, begin in (("loop", 0), ("late_loop", steps // 2)):
        if name == "late_loop" and not (trace and steps == 5):
            continue
        scheduler = fresh()
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        samples = loop(scheduler, FIRST * result["init_noise_sigma"], begin, eta)
        result[name] = samples if trace else samples[-1:]
    return result


def scheduler_cases(cls, variants, counts=(1, 2, 4, 5, 20, 50), traced=(2, 5, 20)):
    cases = []
    for variant in variants:
        extra = {k: variant.pop(k) for k in ("seq_len", "sigma_schedule", "sigmas", "eta") if k in variant}
        steps = [len(extra["sigmas"])] if "sigmas" in extra else counts
        if variant.get("shift_terminal") or extra.get("sigma_schedule") == "linear_quadratic":
            steps = [n for n in steps if n > 1]
        # What a package would say: all of diffusers' fields that aren't None.
        config = {k: v for k, v in cls(**variant).config.items() if v is not None and not k.startswith("_")}
        if config.get("lambda_min_clipped") == -float("inf"):
            del config["lambda_min_clipped"]  # which JSON can't say
        config |= {k: v for k, v in extra.items() if k != "seq_len"}
        runs = {n: run(lambda: cls(**variant), extra, n, trace=n in traced) for n in steps}
        cases.append({"config": {"type": cls.__name__, **config}, "seq_len": extra.get("seq_len", 0), "runs": runs})
    return cases


LATENT = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FLOW = dict(use_flow_sigmas=True, prediction_type="flow_prediction")


def flow_euler():
    ltx = dict(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096
    )
    write(
        "flow_euler",
        scheduler_cases(
            FlowMatchEulerDiscreteScheduler,
            [
                {},
                {"shift": 3.0},
                {"shift": 5.0, "sigma_schedule": "linspace"},
                {"shift": 7.0, "num_train_timesteps": 500},
                {**ltx, "shift_terminal": 0.1, "sigma_schedule": "linspace", "seq_len": 4992},
                {**ltx, "seq_len": 1500},
                {**ltx, "time_shift_type": "linear", "sigma_schedule": "linspace", "seq_len": 256},
                {"shift": 3.0, "shift_terminal": 0.02},
                {"sigmas": [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875]},
                {"shift": 5.0, "sigmas": [1.0, 0.7, 0.3]},
                {"invert_sigmas": True, "sigma_schedule": "linear_quadratic"},  # Mochi
                {"shift": 7.0, "sigma_schedule": "linspace"},  # HunyuanVideo
            ],
        ),
    )


def unipc():
    write(
        "unipc",
        scheduler_cases(
            UniPCMultistepScheduler,
            [
                {**FLOW, "flow_shift": 3.0},
                {**FLOW, "flow_shift": 5.0, "solver_order": 1},
                {**FLOW, "flow_shift": 5.0, "solver_order": 3},
                {**FLOW, "solver_order": 3, "disable_corrector": [0, 2]},
                {**FLOW, "flow_shift": 3.0, "shift_terminal": 0.05},
                {**FLOW, "flow_shift": 3.0, "sigmas": [0.95, 0.8, 0.5, 0.2]},
            ],
        ),
    )
    write(
        "unipc_betas",
        scheduler_cases(
            UniPCMultistepScheduler,
            [
                {},
                {**LATENT, "solver_order": 3, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
                {**LATENT, "use_karras_sigmas": True},
                {**LATENT, "final_sigmas_type": "sigma_min", "timestep_spacing": "leading", "steps_offset": 1},
            ],
            counts=(1, 2, 5, 20),
        ),
    )


def dpm_multistep():
    write(
        "dpm_flow",
        scheduler_cases(
            DPMSolverMultistepScheduler,
            [
                {**FLOW, "flow_shift": 3.0},  # Sana
                {**FLOW, "flow_shift": 5.0, "solver_order": 1},
                {**FLOW, "flow_shift": 5.0, "solver_order": 3},
                {**FLOW, "flow_shift": 3.0, "solver_type": "heun", "lower_order_final": False},
                {**FLOW, "flow_shift": 3.0, "algorithm_type": "sde-dpmsolver++"},
            ],
            counts=(1, 2, 5, 20, 50),
        ),
    )
    write(
        "dpm_betas",
        scheduler_cases(
            DPMSolverMultistepScheduler,
            [
                {},  # PixArt
                {**LATENT, "use_karras_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1},
                {**LATENT, "solver_order": 3, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
                {**LATENT, "solver_type": "heun", "euler_at_final": True, "final_sigmas_type": "sigma_min"},
                {**LATENT, "final_sigmas_type": "sigma_min", "prediction_type": "sample"},
                {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
                {**LATENT, "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
                {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"},
                {**LATENT, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
            ],
            counts=(1, 2, 5, 20),
        ),
    )


def ddim():
    base = dict(clip_sample=False)
    zero_snr = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    write(
        "ddim",
        scheduler_cases(
            DDIMScheduler,
            [
                {},  # clips
                {**base, **LATENT, "set_alpha_to_one": False, "steps_offset": 1},
                {**base, **LATENT, "prediction_type": "v_prediction", "timestep_spacing": "linspace"},
                {**base, **zero_snr, **LATENT},
                {**base, "timestep_spacing": "trailing", "prediction_type": "sample"},
                {**base, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample_range": 2.0},
                {**LATENT, "clip_sample_range": 2.0, "prediction_type": "v_prediction"},
            ],
        ),
    )


def pndm():
    write(
        "pndm",
        scheduler_cases(
            PNDMScheduler,
            [
                {**LATENT, "skip_prk_steps": True, "steps_offset": 1},  # Stable Diffusion 1.5
                {"skip_prk_steps": True, "set_alpha_to_one": True, "prediction_type": "v_prediction"},
                {**LATENT, "skip_prk_steps": True, "timestep_spacing": "trailing"},
                {**LATENT, "skip_prk_steps": True, "timestep_spacing": "linspace"},
            ],
            counts=(1, 2, 4, 5, 20, 50),
        ),
    )


def cogvideox_ddim():
    write(
        "cogvideox_ddim",
        scheduler_cases(
            CogVideoXDDIMScheduler,
            [
                {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
                {
                    "prediction_type": "v_prediction",
                    "rescale_betas_zero_snr": True,
                    "timestep_spacing": "trailing",
                    "snr_shift_scale": 1.0,
                    "set_alpha_to_one": False,
                },
                {"timestep_spacing": "linspace"},
                {"beta_schedule": "linear", "prediction_type": "sample"},
            ],
        ),
    )


def cogvideox_dpm():
    zero_snr = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    write(
        "cogvideox_dpm",
        scheduler_cases(
            CogVideoXDPMScheduler,
            [
                {**zero_snr, "snr_shift_scale": 1.0},
                {**zero_snr, "set_alpha_to_one": False},
                {"timestep_spacing": "linspace"},
                {"beta_schedule": "linear", "prediction_type": "sample"},
            ],
            counts=(1, 2, 5, 20, 50),
        ),
    )


def consistency():
    write(
        "lcm",
        scheduler_cases(
            LCMScheduler,
            [
                {},
                {"beta_schedule": "linear", "original_inference_steps": 100, "timestep_scaling": 0.01},
                {"prediction_type": "v_prediction", "clip_sample": True},
                {"prediction_type": "sample", "rescale_betas_zero_snr": True},
            ],
            counts=(1, 2, 4, 5, 7, 50),
            traced=(2, 5, 7),
        ),
    )
    write(
        "tcd",
        scheduler_cases(
            TCDScheduler,
            [
                {"eta": 0.3},
                {"eta": 0.0},
                {"eta": 1.0, "prediction_type": "v_prediction"},
                {"eta": 0.5, "prediction_type": "sample", "original_inference_steps": 100},
            ],
            counts=(1, 2, 4, 5, 7, 50),
            traced=(2, 5, 7),
        ),
    )


def euler_discrete():
    write(
        "euler_discrete",
        scheduler_cases(
            EulerDiscreteScheduler,
            [
                {},
                {**LATENT, "timestep_spacing": "leading", "steps_offset": 1},
                {**LATENT, "timestep_spacing": "trailing"},
                {**LATENT, "prediction_type": "v_prediction", "final_sigmas_type": "sigma_min"},
                {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "timestep_spacing": "leading"},
                {**LATENT, "use_karras_sigmas": True, "timestep_spacing": "leading", "steps_offset": 1},
            ],
        ),
    )
    write(
        "euler_ancestral",
        scheduler_cases(
            EulerAncestralDiscreteScheduler,
            [
                {},
                {**LATENT, "timestep_spacing": "trailing"},  # SDXL-Turbo
                {**LATENT, "timestep_spacing": "leading", "steps_offset": 1, "prediction_type": "v_prediction"},
            ],
            counts=(1, 2, 4, 5, 20),
        ),
    )
    zero_snr = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    write(
        "euler_discrete_zero_snr",
        scheduler_cases(EulerDiscreteScheduler, [{**LATENT, **zero_snr, "prediction_type": "v_prediction"}]),
    )


# Guidance: two predictions and what diffusers' guiders make of them.


def guidance():
    generator = torch.Generator("cpu").manual_seed(3)
    cond, uncond = (torch.randn(1, 2, 3, 4, generator=generator) for _ in range(2))
    uncond = 0.8 * cond + 0.3 * uncond + 0.1
    cases = []
    for scale, rescale, zero_star in [
        (5.0, 0.0, False),
        (7.5, 0.7, False),
        (3.0, 1.0, False),
        (5.0, 0.0, True),
        (7.5, 0.35, True),
    ]:
        arguments = {"guidance_scale": scale, "guidance_rescale": rescale}
        if zero_star:
            guider = ClassifierFreeZeroStarGuidance(**arguments, zero_init_steps=0)
        else:
            guider = ClassifierFreeGuidance(**arguments)
        guider.set_state(step=1, num_inference_steps=10, timestep=torch.tensor(900))
        cases.append(
            {
                "scale": scale,
                "rescale": rescale,
                "zero_star": zero_star,
                "cond": floats(cond),
                "uncond": floats(uncond),
                "guided": floats(guider.forward(cond, uncond).pred),
            }
        )
    write("guidance", cases)


# Timesteps of many step counts, as sums that notice an exchange. Trailing: numpy.arange gives one value too
# many for some counts, as its length is rounded up; that value is no step.


def spacings():
    cases = []
    for spacing in ("linspace", "leading", "trailing"):
        scheduler = DDIMScheduler(timestep_spacing=spacing)
        sums = []
        for n in range(1, 251):
            scheduler.set_timesteps(n)
            t = scheduler.timesteps.numpy()[:n]
            sums.append(int((t * np.arange(1, n + 1)).sum()))
        cases.append({"timestep_spacing": spacing, "weighted_sums": sums})
    write("spacings", cases)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for make in (
        noise,
        patches,
        flow_euler,
        unipc,
        dpm_multistep,
        ddim,
        pndm,
        cogvideox_ddim,
        cogvideox_dpm,
        euler_discrete,
        consistency,
        guidance,
        spacings,
    ):
        make()
