"""Exports the checkpoints as a package: python -m papercut.export --out DIR

Writes the ONNX graphs, tokenizer.json, words.json and model.toml, then compares every graph with PyTorch on several shapes and
checks that decoding and encoding in pieces gives what the whole gives at once.
"""
from __future__ import annotations

import argparse
import pathlib
import shutil
import time

import numpy as np
import onnx
import torch

from . import checkpoints
from .data import add_work
from .graphs import DecoderGraph, DenoiserGraph, DraftGraph, EncoderGraph, TextGraph
from .host import Package
from .onnx_files import WeightFile, halve, made_once
from .streams import CONTEXT_NOISE, FOLLOWING_NOISE, WINDOW
from .text_encoder import WIDTH, TextEncoder
from .tokenizer import make_tokenizer, make_words
from .transformer import CHUNK, SINK, Transformer
from .vae import LATENT_CHANNELS

OPSET = 17
OFF = 1e-2  # what numbers of about 1 may differ by between PyTorch and ONNX Runtime, which adds in another order: some 1e-4


def trace(module, inputs, path: pathlib.Path, names_in, names_out, dynamic) -> onnx.ModelProto:
    torch.onnx.export(module.eval(), inputs, str(path), dynamo=False, opset_version=OPSET, input_names=names_in, output_names=names_out,
                      dynamic_axes=dynamic)
    model = onnx.load(str(path))
    model.producer_name, model.doc_string = "papercut", ""
    for node in model.graph.node:
        node.doc_string = ""
    halve(model)
    return model


def autoencoder(vae, out: pathlib.Path, kind: str) -> None:
    """decoder_init and decoder_step, or encoder_init and encoder_step, with one weight file."""
    make, source, result, axis = {"decoder": (DecoderGraph, "latents", "frames", 2), "encoder": (EncoderGraph, "frames", "latents", 1)}[kind]
    weights = WeightFile(out / f"{kind}.weights")
    space = {3: "h", 4: "w"} if kind == "decoder" else {2: "H", 3: "W"}
    space_out = {2: "H", 3: "W"} if kind == "decoder" else {3: "h", 4: "w"}
    first = torch.randn(1, LATENT_CHANNELS, 2, 6, 8) if kind == "decoder" else torch.rand(1, 5, 96, 128, 3)
    later = torch.randn(1, LATENT_CHANNELS, 2, 6, 8) if kind == "decoder" else torch.rand(1, 8, 96, 128, 3)
    states = make(vae, True).eval()(first)[1:]
    names = [f"state_{i}" for i in range(len(states))]
    outs = [f"state_out_{i}" for i in range(len(states))]
    states_axes = {n: {2: f"rows_{n[-1]}", 3: f"columns_{n[-1]}"} for n in names + outs}
    for part, start in (("init", True), ("step", False)):
        inputs = (first,) if start else (later, *states)
        path = out / f"{kind}_{part}.onnx"
        dynamic = {source: {axis: "T" if kind == "decoder" else "F", **space}, result: {3 - axis: "F" if kind == "decoder" else "T", **space_out}}
        dynamic |= {k: v for k, v in states_axes.items() if not start or k in outs}
        model = trace(make(vae, start), inputs, path, [source] + ([] if start else names), [result, *outs], dynamic)
        weights.take(model)
        onnx.save(model, str(path))
    weights.write()


def denoiser(net: Transformer, text: TextEncoder, out: pathlib.Path) -> None:
    """transformer.onnx: a chunk's first call, which is fed an empty draft, makes it; the others are fed that."""
    caches, d = net.n_caches, net.d
    inputs = {"latents": torch.randn(1, net.channels, 3, 6, 8), "timestep": torch.full((1, 3), 500.), "prompt_embeds": torch.randn(1, 5, WIDTH),
              "prompt_mask": torch.ones(1, 5), "past_key": torch.randn(caches, 1, 2, 12, d), "past_value": torch.randn(caches, 1, 2, 12, d)}
    past, present, frames = {1: "B", 2: "P", 3: "N"}, {1: "B", 2: "T", 3: "N"}, {0: "B", 2: "T", 3: "h", 4: "w"}
    axes = {"latents": frames, "timestep": {0: "B", 1: "T"}, "prompt_embeds": {0: "B", 1: "L"}, "prompt_mask": {0: "B", 1: "L"}, "past_key": past, "past_value": past,
            "chunk_draft": {0: "B", 1: "K", 3: "h", 4: "w"}, "chunk_out_draft": {0: "B", 1: "T", 3: "h", 4: "w"},
            "prediction": frames, "present_key": present, "present_value": present}
    path = out / "transformer.onnx"
    of_draft = {name: inputs[name] for name in ("latents", "prompt_embeds", "past_key", "past_value")}
    draft = trace(DraftGraph(net, text), tuple(of_draft.values()), path, list(of_draft), ["chunk_out_draft"], {name: axes[name] for name in (*of_draft, "chunk_out_draft")})
    inputs["chunk_draft"] = torch.randn(1, 3, 2 * net.channels, 6, 8)
    outputs = ["prediction", "present_key", "present_value"]
    model = trace(DenoiserGraph(net), tuple(inputs.values()), path, list(inputs), outputs, {name: axes[name] for name in (*inputs, *outputs)})
    made_once(model, "chunk_draft", draft, "chunk_out_draft")
    onnx.save(model, str(path))


def text_encoder(text, out: pathlib.Path) -> None:
    path = out / "text_encoder.onnx"
    ids = torch.tensor([[2, 5, 6, 7], [2, 9, 0, 0]])
    model = trace(TextGraph(text), (ids, (ids > 0).long()), path, ["input_ids", "attention_mask"], ["prompt_embeds", "prompt_mask"],
                  {"input_ids": {0: "B", 1: "L"}, "attention_mask": {0: "B", 1: "L"}, "prompt_embeds": {0: "B", 1: "L"}, "prompt_mask": {0: "B", 1: "L"}})
    onnx.save(model, str(path))


def model_toml(args, provenance: str) -> str:
    return f'''format = 1
name = "papercut"
version = "0.1.0"
description = "Paper-cut scenes from a prompt in Chinese or English: a small streaming text-to-video model"
license = "MIT OR Apache-2.0"
provenance = "{provenance}"

[[text_encoders]]
file = "text_encoder.onnx"
[text_encoders.tokenizer]
file = "tokenizer.json"
max_length = 48
pad_token = "[PAD]"
unk_token = "[UNK]"
words = "words.json"
clean = ["collapse_whitespace", "strip"]

[latents]
channels = {LATENT_CHANNELS}
spatial_compression_ratio = 16
temporal_compression_ratio = 4
size_multiple = 32

[video]
width = {{ min = 128, max = 512, default = 256 }}
height = {{ min = 128, max = 512, default = 160 }}
frame_rate = {{ min = "8/1", max = "60/1", default = "24/1" }}
num_frames = {{ min = 1, max = 1441, default = 121 }}

[[denoisers]]
file = "transformer.onnx"

[decoder]
init = "decoder_init.onnx"
step = "decoder_step.onnx"

[encoder]
init = "encoder_init.onnx"
step = "encoder_step.onnx"

[scheduler]
type = "FlowMatchEulerDiscreteScheduler"
num_train_timesteps = 1000
shift = {args.shift}
sigma_schedule = "linspace"
init_noise_sigma = {args.init_noise_sigma}

[defaults]
num_inference_steps = {args.steps}
guidance_scale = {args.guidance}

[stream]
chunk = {CHUNK}
window = {WINDOW}
sink = {SINK}
first = 1
first_num_inference_steps = {args.first_steps}
context_noise = {CONTEXT_NOISE}
init_noise_sigma = {args.following_noise_sigma}
'''


def check(folder: pathlib.Path, vae, text, net) -> None:
    """Prints the largest difference between the package and PyTorch, graph by graph, and the time a call takes; more than OFF is an error."""
    p = Package(folder)
    rng = np.random.default_rng(0)
    tensor = torch.from_numpy

    def worst(a, b) -> float:
        off = float(np.abs(a - b.detach().numpy()).max())
        if not off <= OFF:
            raise SystemExit(f"{folder} computes something else than PyTorch, by up to {off:.1e}: a graph was changed on its way to ONNX")
        return off

    with torch.no_grad():
        for prompt in ("a dog runs in the snow", "猫坐在窗台上", ""):
            ids = torch.tensor([p.tokenizer.encode(prompt).ids])
            e, _ = text(ids, torch.ones_like(ids))
            print(f"text_encoder [{ids.shape[1]} tokens]: {worst(p.embed(prompt)[0], e):.1e}")
        made = DraftGraph(net, text).eval()
        for h, w, t, n in ((10, 16, 3, 12), (10, 16, 3, 0), (10, 16, 3, 1), (12, 12, 1, 5), (16, 10, 2, 9), (10, 20, 3, 3)):
            x, clean = (rng.standard_normal((1, LATENT_CHANNELS, k, h, w), np.float32) for k in (t, max(n, 1)))
            words, nothing = torch.ones(1, e.shape[1]), torch.zeros(net.n_caches, 1, 0, h * w // 4, net.d)
            past = torch.stack(net(tensor(clean), torch.zeros(1, clean.shape[2]), e, words, nothing, nothing)[1:])[:, :, :, :n].numpy()
            sigma = np.float32(rng.uniform(0, 1))
            prompt = e.numpy(), np.ones((1, e.shape[1]), np.float32)
            before = tensor(past[0]), tensor(past[1])
            want = net(tensor(x), torch.full((1, t), 1000 * float(sigma)), e, words, *before, draft=made(tensor(x), e, *before).chunk(2, 2))
            draft, spent = np.zeros((1, 0, *p.draft), np.float32), []
            for _ in range(2):
                start = time.time()
                *got, draft = p.predict(x, sigma, prompt, past, draft)
                spent.append((time.time() - start) * 1e3)
                off = " ".join(f"{what} {worst(g, w):.1e}" for what, g, w in zip(("prediction", "key", "value"), got, want))
            print(f"transformer {h}x{w} T={t} P={n}: {off}, {spent[0]:.0f} ms, told its draft {spent[1]:.0f} ms")
        for h, w, t in ((10, 16, 7), (12, 12, 1), (20, 10, 4)):
            z = rng.standard_normal((1, LATENT_CHANNELS, t, h, w), np.float32)
            want = DecoderGraph(vae, True)(tensor(z))[0][0]
            whole, start = p.decode(z, t), time.time()
            pieces = p.decode(z, 3)
            spent = time.time() - start
            ones = p.decode(z, 1)
            print(f"decoder {h}x{w} T={t}: {worst(whole, want):.1e}, pieces of 3 {worst(pieces, tensor(whole)):.1e}, of 1 {worst(ones, tensor(whole)):.1e}, {spent * 1e3 / t:.0f} ms a latent frame")
            want = EncoderGraph(vae, True)(want[None])[0]
            start = time.time()
            got = p.encode(whole, t)
            spent = time.time() - start
            print(f"encoder {h}x{w} T={t}: {worst(got, want):.1e}, pieces of 3 {worst(p.encode(whole, 3), tensor(got)):.1e}, {spent * 1e3 / t:.0f} ms a latent frame")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_work(parser)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the package; replaced when all is written")
    parser.add_argument("--steps", type=int, default=2, help="default number of denoising steps")
    parser.add_argument("--first-steps", type=int, default=4, help="number of them for a scene's first frame, on which all others follow")
    parser.add_argument("--guidance", type=float, default=1.0, help="default guidance scale")
    parser.add_argument("--shift", type=float, default=2.0, help="shift of the noise levels")
    parser.add_argument("--init-noise-sigma", type=float, default=1., help="size of the noise that scenes begin with, 0..1: with less of it seeds are more alike (default: %(default)s)")
    parser.add_argument("--following-noise-sigma", type=float, default=FOLLOWING_NOISE, help="size of the noise of what follows, 0..1 (default: %(default)s)")
    parser.add_argument("--untrained", action="store_true", help="random weights where there is no checkpoint")
    args = parser.parse_args()
    vae, vae_note = checkpoints.load_vae(args.work, args.untrained)
    text, net, net_note = checkpoints.load_networks(args.work, args.untrained)
    # The networks as the package will hold them: rounded to float16, also what small tensors keep as float32.
    for module in (vae, text, net):
        for q in module.parameters():
            q.data = q.data.half().float()
    out = args.out.parent / (args.out.name + ".new")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    autoencoder(vae, out, "decoder")
    autoencoder(vae, out, "encoder")
    denoiser(net, text, out)
    text_encoder(text, out)
    make_tokenizer().save(str(out / "tokenizer.json"))
    make_words().save(str(out / "words.json"))
    provenance = f"Trained from scratch on scenes drawn by models/recipes, no outside data. {vae_note} {net_note}"
    (out / "model.toml").write_text(model_toml(args, provenance))
    check(out, vae, text, net)
    size = sum(f.stat().st_size for f in out.iterdir())
    print(f"package: {size / 1e6:.1f} MB")
    args.out.mkdir(parents=True, exist_ok=True)
    for f in out.iterdir():
        f.replace(args.out / f.name)
    out.rmdir()


if __name__ == "__main__":
    main()
