"""Writes the packages of the tests, tiny-stream, tiny-clip, tiny-guest and tiny-image: real graphs of the right form with sums in place of
learnt layers, so that every input has an effect that a test can see and every frame can be foretold.

    python packages.py [--check]

A prompt's embeddings are colours: each known word pushes the four channels of the latent, and their mean over the
prompt is where denoising ends, plus a share of the noise (another seed, another frame) and of the past. Padding is far
from every word, so a forgotten mask shows. Frames are sigmoids of the first three channels, eight pixels a latent's side and
four frames a latent frame, with a small ramp from frame to frame and a share of the latent frame before.

Beside tiny-stream's denoiser lies one that finds something out once a chunk, which a test puts into the manifest.

tiny-guest is of a family that nobody has heard of: two text encoders, guidance in the denoiser, a conditioner, parameters, a decoder
that adds noise and takes three latent frames, then two at a time. Beside it lie a conditioner that draws noise of its own and one for each
step, which a test puts into the manifest. tiny-image makes pictures, and its empty negative prompt is zeros.

Needs onnx and numpy; --check also onnxruntime, and tokenizers if there. The files are the same on every run.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

HERE = Path(__file__).parent / "packages"
MAX_LENGTH = 8
RAMP = np.arange(4, dtype=np.float32) * 0.05

# Words with what they add to red, green, blue and the fourth channel. The first three are [PAD], [UNK] and [BOS].
WORDS = {
    "[PAD]": (9, 9, 9, 9), "[UNK]": (0, 0, 0, -1), "[BOS]": (0, 0, 0, 0),
    "red": (6, -4, -4, 0), "green": (-4, 6, -4, 0), "blue": (-4, -4, 6, 0),
    "white": (6, 6, 6, 0), "black": (-6, -6, -6, 0), "yellow": (6, 6, -4, 0),
    "a": (0, 0, 0, 0), "an": (0, 0, 0, 0), "the": (0, 0, 0, 0), "in": (0, 0, 0, 0.1), "on": (0, 0, 0, 0.2),
    "and": (0, 0, 0, 0.3), "of": (0, 0, 0, 0.4), "cat": (1, 0, -1, 1), "dog": (-1, 1, 0, 2),
    "bird": (0, -1, 1, 3), "fish": (-1, 0, 1, 4), "runs": (0.5, 0.5, 0, 0), "sleeps": (-0.5, 0, -0.5, 0),
    "snow": (1, 1, 2, 0), "garden": (-1, 1, -1, 0), ",": (0, 0, 0, 0), ".": (0, 0, 0, 0),
    "红": (6, -4, -4, 0), "绿": (-4, 6, -4, 0), "蓝": (-4, -4, 6, 0), "白": (6, 6, 6, 0), "黑": (-6, -6, -6, 0),
    "色": (0, 0, 0, 0), "的": (0, 0, 0, 0), "一": (0, 0, 0, 0), "只": (0, 0, 0, 0), "猫": (1, 0, -1, 1),
    "狗": (-1, 1, 0, 2), "鸟": (0, -1, 1, 3), "雪": (1, 1, 2, 0), "里": (0, 0, 0, 0.1), "跑": (0.5, 0.5, 0, 0),
    "，": (0, 0, 0, 0), "。": (0, 0, 0, 0),
}  # fmt: skip

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, t in enumerate(("[PAD]", "[UNK]", "[BOS]"))
    ],
    "normalizer": {"type": "Lowercase"},
    # Chinese characters and marks one by one, everything else by white space.
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "[\\u4e00-\\u9fff]"}, "behavior": "Isolated", "invert": False},
            {"type": "WhitespaceSplit"},
            {"type": "Punctuation", "behavior": "Isolated"},
        ],
    },
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[BOS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[BOS]": {"id": "[BOS]", "ids": [2], "tokens": ["[BOS]"]}},
    },
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
}

MANIFEST = """\
format = 1
name = "{name}"
version = "1"
description = "{description}"
license = "MIT OR Apache-2.0"
provenance = "written by hand in tests/data/packages.py; learnt from nothing"

[[text_encoders]]
file = "text_encoder.onnx"
[text_encoders.tokenizer]
file = "tokenizer.json"
max_length = 8
pad_token = "[PAD]"
unk_token = "[UNK]"
clean = ["collapse_whitespace", "strip"]

[latents]
channels = 4
spatial_compression_ratio = 8
temporal_compression_ratio = 4
size_multiple = 16

[video]
width = {{ min = 16, max = 512, default = 64 }}
height = {{ min = 16, max = 512, default = 48 }}
frame_rate = {{ min = "1/1", max = "120/1", default = "24/1" }}
num_frames = {{ min = 1, max = 257, default = 17 }}

{graphs}
[scheduler]
type = "FlowMatchEulerDiscreteScheduler"
num_train_timesteps = 1000
shift = {shift}

[defaults]
num_inference_steps = {steps}
guidance_scale = {guidance}
"""

STREAM = """
[[denoisers]]
file = "denoiser.onnx"

[decoder]
init = "decoder_init.onnx"
step = "decoder_step.onnx"

[encoder]
init = "encoder_init.onnx"
step = "encoder_step.onnx"

[stream]
chunk = 2
window = 4
sink = 1
"""

CLIP = """
[[denoisers]]
file = "denoiser_high.onnx"
min_timestep = 500

[[denoisers]]
file = "denoiser_low.onnx"

[decoder]
file = "decoder.onnx"

[encoder]
file = "encoder.onnx"
"""


GUEST = """\
format = 1
name = "tiny-guest"
version = "1"
description = "A family that nobody has heard of, for tests."
license = "MIT OR Apache-2.0"
provenance = "written by hand in tests/data/packages.py; learnt from nothing"

[[text_encoders]]
file = "text_encoder.onnx"
[text_encoders.tokenizer]
file = "tokenizer.json"
max_length = 8
pad_token = "[PAD]"
unk_token = "[UNK]"
clean = ["html_unescape", "fix_text", "collapse_whitespace", "strip"]

[[text_encoders]]
file = "text_encoder_2.onnx"
[text_encoders.tokenizer]
file = "tokenizer.json"
max_length = 12
pad_token = "[PAD]"
template = "a {} in the snow"

[latents]
channels = 4
spatial_compression_ratio = 8
temporal_compression_ratio = 4
size_multiple = 16
frame_step = 8
noise_layout = "TCHW"

[video]
width = { min = 16, max = 512, default = 64 }
height = { min = 16, max = 512, default = 48 }
frame_rate = { min = "1/1", max = "120/1", default = "8/1" }
num_frames = { min = 9, max = 41, default = 17 }

[[denoisers]]
file = "denoiser.onnx"

[conditioner]
file = "conditioner.onnx"
required = false

[decoder]
file = "decoder.onnx"
init = "decoder_init.onnx"
step = "decoder_step.onnx"
first = 3
chunk = 2

[parameters]
condition_mask = 1.0
style = 0.5
grain = 0.25
decode_noise_scale = 0.1

[scheduler]
type = "FlowMatchEulerDiscreteScheduler"

[defaults]
num_inference_steps = 2
guidance_scale = 6.0
"""

IMAGE = """\
format = 1
name = "tiny-image"
version = "1"
description = "The form of a model of pictures, for tests."
license = "MIT OR Apache-2.0"
provenance = "written by hand in tests/data/packages.py; learnt from nothing"

[[text_encoders]]
file = "text_encoder.onnx"
zero_negative = true
[text_encoders.tokenizer]
file = "tokenizer.json"
max_length = 8
pad_token = "[PAD]"

[latents]
channels = 4
spatial_compression_ratio = 8
temporal_compression_ratio = 1
size_multiple = 16

[video]
width = { min = 16, max = 512, default = 64 }
height = { min = 16, max = 512, default = 48 }
frame_rate = { min = "1/1", max = "60/1", default = "1/1" }
num_frames = { min = 1, max = 1, default = 1 }

[[denoisers]]
file = "denoiser.onnx"

[decoder]
file = "decoder.onnx"

[scheduler]
type = "FlowMatchEulerDiscreteScheduler"

[defaults]
num_inference_steps = 1
guidance_scale = 2.0
"""


def model(signature: str, body: str, weights: dict, external: str | None = None) -> onnx.ModelProto:
    """Returns the graph written in ONNX's text form with those of `weights` that it names, the floats in a file `external`."""
    graph = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]>\ngraph {signature} {{{body}}}')
    used = {name for node in graph.graph.node for name in node.input}
    offset = 0
    for name, value in weights.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        if external and value.dtype == np.float32:
            set_external_data(tensor, external, offset, value.nbytes)
            offset += value.nbytes
            tensor.ClearField("raw_data")
        if name in used:
            graph.graph.initializer.append(tensor)
    return graph


def ints(*values):
    return np.array(values, np.int64)


def text_encoder(mask_type: str) -> onnx.ModelProto:
    """The mask leaves as floats in one package and as integers in the other: both are allowed."""
    return model(
        "(int64[B,L] input_ids, int64[B,L] attention_mask) => "
        f"(float[B,L,4] prompt_embeds, {mask_type}[B,L] prompt_mask)",
        f"""
        prompt_embeds = Gather(table, input_ids)
        prompt_mask = Cast<to = {1 if mask_type == "float" else 7}>(attention_mask)
        """,
        {"table": np.array(list(WORDS.values()), np.float32)},
    )


def pooled_text_encoder() -> onnx.ModelProto:
    """The mean of a prompt's embeddings alone."""
    return model(
        "(int64[B,L] input_ids, int64[B,L] attention_mask) => (float[B,4] pooled_embeds)",
        """
        embeds = Gather(table, input_ids)
        mask = Cast<to = 1>(attention_mask)
        mask3 = Unsqueeze(mask, last)
        kept = Mul(embeds, mask3)
        total = ReduceSum<keepdims = 0>(kept, one)
        count = ReduceSum<keepdims = 1>(mask, one)
        pooled_embeds = Div(total, count)
        """,
        {"table": np.array(list(WORDS.values()), np.float32), "last": ints(-1), "one": ints(1)},
    )


# The prompt's colour [B,4,1,1,1]: the mean of its embeddings where the mask is set.
COLOUR = """
    mask = Cast<to = 1>(prompt_mask)
    mask3 = Unsqueeze(mask, last)
    kept = Mul(prompt_embeds, mask3)
    total = ReduceSum<keepdims = 0>(kept, one)
    count = ReduceSum<keepdims = 1>(mask, one)
    mean = Div(total, count)
    colour = Unsqueeze(mean, tail)
"""
# Flow matching: the velocity from `target` to the latents at noise level sigma.
VELOCITY = """
    level = Div(timestep, thousand)
    sigma = Max(level, small)
    share = Mul(latents, noise_share)
    target = Add(settled, share)
    way = Sub(latents, target)
    sigma5 = Reshape(sigma, per_frame)
    prediction = Div(way, sigma5)
"""


def velocity_weights(noise_share: float, per_frame: np.ndarray) -> dict:
    return {
        "last": ints(-1), "one": ints(1), "tail": ints(2, 3, 4), "thousand": np.float32([1000]), "small": np.float32([1e-3]),
        "noise_share": np.float32([noise_share]), "per_frame": per_frame,
    }  # fmt: skip


# What a denoiser that drafts is told, or in a chunk's first pass finds out: the mean of its latents [B,1,4].
DRAFT = """
        own_mean = ReduceMean<axes = [2, 3, 4], keepdims = 0>(latents)
        own = Unsqueeze(own_mean, one)
        told = Concat<axis = 1>(chunk_mean, own)
        chunk_out_mean = Slice(told, zero, one, one)
        drafted = Squeeze(chunk_out_mean, one)
        drafted5 = Unsqueeze(drafted, tail)
        drafted_token = Unsqueeze(chunk_out_mean, zero_two)
"""


def stream_denoiser(drafts: bool = False) -> onnx.ModelProto:
    """Keys and values are the latents' means over 2x2; the past's mean, none at first, moves the target. One that `drafts` adds the mean of its
    chunk's first latents to the target and to the values."""
    return model(
        "(float[B,4,T,h,w] latents, float[B,T] timestep, float[B,L,4] prompt_embeds, float[B,L] prompt_mask,"
        f" float[1,B,P,N,4] past_key, float[1,B,P,N,4] past_value{', float[B,K,4] chunk_mean' if drafts else ''}) => "
        "(float[B,4,T,h,w] prediction, float[1,B,T,M,4] present_key, float[1,B,T,M,4] present_value"
        f"{', float[B,1,4] chunk_out_mean' if drafts else ''})",
        COLOUR + (DRAFT if drafts else "")
        + """
        size = Shape(past_value)
        frames_tokens = Gather(size, frames_and_tokens)
        tokens = ReduceProd<keepdims = 1>(frames_tokens)
        tokens_f = Cast<to = 1>(tokens)
        at_least_one = Max(tokens_f, unit)
        half_key = Mul(past_key, half)
        difference = Sub(past_value, half_key)
        past_total = ReduceSum<keepdims = 0>(difference, frames_and_tokens)
        past_mean = Div(past_total, at_least_one)
        past_share = Mul(past_mean, tenth)
        past_one = Squeeze(past_share, zero)
        past = Unsqueeze(past_one, tail)
        """
        + ("moved = Add(colour, past) settled = Add(moved, drafted5)" if drafts else "settled = Add(colour, past)")
        + """
        by_frame = Transpose<perm = [0, 2, 1, 3, 4]>(latents)
        shape = Shape(by_frame)
        image = Slice(shape, two, five)
        image_shape = Concat<axis = 0>(last, image)
        images = Reshape(by_frame, image_shape)
        pooled = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(images)
        batch_frames = Slice(shape, zero, two)
        token_shape = Concat<axis = 0>(batch_frames, four_by_n)
        channels_first = Reshape(pooled, token_shape)
        token_rows = Transpose<perm = [0, 1, 3, 2]>(channels_first)
        """
        + (
            "pooled_value = Unsqueeze(token_rows, zero) present_key = Neg(pooled_value) present_value = Add(pooled_value, drafted_token)"
            if drafts
            else "present_value = Unsqueeze(token_rows, zero) present_key = Neg(present_value)"
        )
        + VELOCITY,
        velocity_weights(0.1, ints(0, 1, -1, 1, 1))
        | {
            "frames_and_tokens": ints(2, 3), "unit": np.float32([1]), "half": np.float32([0.5]), "tenth": np.float32([0.1]),
            "zero": ints(0), "two": ints(2), "five": ints(5), "four_by_n": ints(4, -1), "zero_two": ints(0, 2),
        },  # fmt: skip
    )


def clip_denoiser(bias: float, noise_share: float) -> onnx.ModelProto:
    return model(
        "(float[B,4,T,h,w] latents, float[B] timestep, float[B,L,4] prompt_embeds, int64[B,L] prompt_mask) => "
        "(float[B,4,T,h,w] prediction)",
        COLOUR + "settled = Add(colour, bias)" + VELOCITY,
        velocity_weights(noise_share, ints(-1, 1, 1, 1, 1)) | {"bias": np.float32([bias])},
    )


def guest_denoiser() -> onnx.ModelProto:
    """The second text encoder's colour counts `style` times, guidance and frame rate a hundredth; where the mask is 0, nothing moves."""
    return model(
        "(float[B,4,T,H,W] latents, float[B] timestep, float[B,L,4] prompt_embeds, float[B,L] prompt_mask,"
        " float[B,4] pooled_embeds, float[B] guidance_scale, float[B] frame_rate, float[B,1,T,H,W] condition_mask,"
        " float[1] style) => (float[B,4,T,H,W] prediction)",
        COLOUR
        + """
        pooled = Unsqueeze(pooled_embeds, tail)
        styled = Mul(pooled, style)
        told = Add(guidance_scale, frame_rate)
        hundredth_told = Mul(told, hundredth)
        told5 = Reshape(hundredth_told, per_frame)
        both = Add(colour, styled)
        settled = Add(both, told5)
        """
        + VELOCITY.replace("prediction = Div(way, sigma5)", "moving = Div(way, sigma5)\n    prediction = Mul(moving, condition_mask)"),
        velocity_weights(0.1, ints(-1, 1, 1, 1, 1)) | {"hundredth": np.float32([0.01])},
    )


# 0 in the first frame, 1 in later ones.
CONDITION_MASK = """
    depth = ReduceMean<axes = [1], keepdims = 1>(noise)
    zeros = Mul(depth, nothing)
    kept = Slice(zeros, zero, one, two)
    still = Slice(zeros, one, end, two)
    moving = Add(still, unit)
    condition_mask = Concat<axis = 2>(kept, moving)
"""
FIRST_FRAME = {
    "zero": ints(0), "one": ints(1), "two": ints(2), "end": ints(1 << 31), "nothing": np.float32([0]), "unit": np.float32([1]),
}  # fmt: skip


def conditioner() -> onnx.ModelProto:
    """The image's latents in the first frame, which the mask keeps; its fourth channel is `grain`."""
    return model(
        "(float[B,1,h,w,3] image, float[B,4,T,H,W] noise, float[B] grain) => "
        "(float[B,4,T,H,W] latents, float[B,1,T,H,W] condition_mask)",
        """
        shape = Shape(image)
        latent_shape = Div(shape, upsampling)
        parts = Concat<axis = 0>(latent_shape, eight)
        split_shape = Gather(parts, interleaved)
        split = Reshape(image, split_shape)
        colours = ReduceMean<axes = [3, 5], keepdims = 0>(split)
        inside = Clip(colours, low, high)
        rest = Sub(unit, inside)
        odds = Div(inside, rest)
        logit = Log(odds)
        rows = MatMul(logit, from_rgb)
        apart = Transpose<perm = [0, 4, 1, 2, 3]>(rows)
        grain5 = Reshape(grain, five)
        fourth = Mul(grain5, fourth_channel)
        first = Add(apart, fourth)
        later = Slice(noise, one, end, two)
        latents = Concat<axis = 2>(first, later)
        """
        + CONDITION_MASK,
        FIRST_FRAME
        | {
            "upsampling": ints(1, 1, 8, 8, 1), "eight": ints(8), "interleaved": ints(0, 1, 2, 5, 3, 5, 4), "low": np.float32(0.01),
            "high": np.float32(0.99), "from_rgb": np.eye(3, 4, dtype=np.float32), "five": ints(-1, 1, 1, 1, 1),
            "fourth_channel": np.float32([0, 0, 0, 1]).reshape(1, 4, 1, 1, 1),
        },  # fmt: skip
    )


def sampling_conditioner() -> onnx.ModelProto:
    """A first frame that is drawn around the image's mean, and known to the step."""
    return model(
        "(float[B,1,h,w,3] image, float[B,4,1,H,W] image_noise, float[B,4,T,H,W] noise) => "
        "(float[B,4,T,H,W] latents, float[B,1,T,H,W] condition_mask, float[B,4,1,H,W] known)",
        """
        mean = ReduceMean<keepdims = 0>(image)
        known = Add(image_noise, mean)
        later = Slice(noise, one, end, two)
        latents = Concat<axis = 2>(known, later)
        """
        + CONDITION_MASK,
        FIRST_FRAME,
    )


def conditioner_step() -> onnx.ModelProto:
    """Puts the known first frame back, with as much noise of its own as the step is at; the noise is drawn cell by cell."""
    return model(
        "(float[B,4,T,H,W] latents, float[B] timestep, float[B,1,H,W,C] noise, float[B,4,1,H,W] known, float[B] step_noise_scale) => "
        "(float[B,4,T,H,W] sample)",
        """
        level = Div(timestep, thousand)
        scale = Mul(level, step_noise_scale)
        scale5 = Reshape(scale, per_frame)
        channels_first = Transpose<perm = [0, 4, 1, 2, 3]>(noise)
        share = Mul(channels_first, scale5)
        first = Add(known, share)
        later = Slice(latents, one, end, two)
        sample = Concat<axis = 2>(first, later)
        """,
        FIRST_FRAME | {"thousand": np.float32([1000]), "per_frame": ints(-1, 1, 1, 1, 1)},
    )


def image_denoiser() -> onnx.ModelProto:
    return model(
        "(float[B,4,T,H,W] latents, float[B] timestep, float[B,4] pooled_embeds) => (float[B,4,T,H,W] prediction)",
        "settled = Unsqueeze(pooled_embeds, tail)" + VELOCITY,
        velocity_weights(0.1, ints(-1, 1, 1, 1, 1)),
    )


def image_decoder() -> onnx.ModelProto:
    return model(
        "(float[B,4,T,H,W] latents) => (float[B,T,h,w,3] frames)",
        """
        rows = Transpose<perm = [0, 2, 3, 4, 1]>(latents)
        colours = MatMul(rows, to_rgb)
        shape = Shape(colours)
        full_shape = Mul(shape, upsampling)
        apart = Unsqueeze(colours, between)
        bounded = Sigmoid(apart)
        wide = Expand(bounded, block)
        frames = Reshape(wide, full_shape)
        """,
        {
            "to_rgb": np.eye(4, 3, dtype=np.float32), "upsampling": ints(1, 1, 8, 8, 1), "between": ints(3, 5),
            "block": ints(1, 1, 1, 8, 1, 8, 1),
        },  # fmt: skip
    )


# The latent frame before: of the chunk before, or nothing at a scene's start.
OPENING = """
    opening_mean = Slice(mean, zero, one, two)
    state_frame = Mul(opening_mean, nothing)
"""
HISTORY = """
    history = Concat<axis = 2>(state_frame, mean)
    before = Slice(history, zero, minus_one, two)
    share = Mul(before, tenth)
"""
CLOSING = """
    state_out_frame = Slice(mean, minus_one, end, two)
"""


def states(first: bool, streams: bool) -> tuple[str, str]:
    taken, left = ", float[B,1,1,h,w] state_frame", ", float[B,1,1,h,w] state_out_frame"
    return "" if first else taken, left if streams else ""


# In one file that init and step share, where the package streams.
DECODER_WEIGHTS = {
    "to_rgb": np.eye(4, 3, dtype=np.float32), "ramp": RAMP.reshape(1, 1, 4, 1, 1, 1, 1, 1), "tenth": np.float32([0.1]),
    "nothing": np.float32([0]),
}  # fmt: skip


def decoder(first: bool, streams: bool, noisy: int = 0) -> onnx.ModelProto:
    """The state is the mean over channels of the last latent frame; a scene's first latent frame gives its last frame alone.

    One that is `noisy` adds noise and takes as many latent frames, or any number with -1.
    """
    taken, left = states(first, streams)
    body = """
        scale = Reshape(decode_noise_scale, per_frame)
        added = Mul(decode_noise, scale)
        noised = Add(latents, added)
    """ if noisy else "noised = Identity(latents)"
    body += """
        mean = ReduceMean<axes = [1], keepdims = 1>(noised)
    """
    body += OPENING if first else ""
    body += HISTORY
    body += """
        shifted = Add(noised, share)
        rows = Transpose<perm = [0, 2, 3, 4, 1]>(shifted)
        colours = MatMul(rows, to_rgb)
        shape = Shape(colours)
        full_shape = Mul(shape, upsampling)
        apart = Unsqueeze(colours, between)
        ramped = Add(apart, ramp)
        bounded = Sigmoid(ramped)
        wide = Expand(bounded, block)
        whole = Reshape(wide, full_shape)
    """
    body += "frames = Slice(whole, three, end, one)" if first else "frames = Identity(whole)"
    body += CLOSING if streams else ""
    weights = DECODER_WEIGHTS | {
        "zero": ints(0), "one": ints(1), "two": ints(2), "three": ints(3), "minus_one": ints(-1), "end": ints(1 << 31),
        "upsampling": ints(1, 4, 8, 8, 1), "between": ints(2, 4, 6), "block": ints(1, 1, 4, 1, 8, 1, 8, 1),
        "per_frame": ints(-1, 1, 1, 1, 1),
    }  # fmt: skip
    t = noisy if noisy > 0 else "T"
    noise = f", float[B,4,{t},h,w] decode_noise, float[B] decode_noise_scale" if noisy else ""
    signature = f"(float[B,4,{t},h,w] latents{noise}{taken}) => (float[B,F,H,W,3] frames{left})"
    return model(signature, body, weights, "decoder.weights" if streams and not noisy else None)


def encoder(first: bool, streams: bool) -> onnx.ModelProto:
    """The decoder backwards, nearly: means over 8x8 pixels and four frames, the first frame of a scene four times."""
    taken, left = states(first, streams)
    body = """
        opening = Slice(frames, zero, one, one)
        whole = Concat<axis = 1>(opening, opening, opening, frames)
    """ if first else "whole = Identity(frames)"
    body += """
        shape = Shape(whole)
        latent_shape = Div(shape, upsampling)
        parts = Concat<axis = 0>(latent_shape, four_eight)
        split_shape = Gather(parts, interleaved)
        split = Reshape(whole, split_shape)
        colours = ReduceMean<axes = [2, 4, 6], keepdims = 0>(split)
        inside = Clip(colours, low, high)
        rest = Sub(unit, inside)
        odds = Div(inside, rest)
        logit = Log(odds)
        flat = Sub(logit, ramp_mean)
        rows = MatMul(flat, from_rgb)
        raw = Transpose<perm = [0, 4, 1, 2, 3]>(rows)
        mean = ReduceMean<axes = [1], keepdims = 1>(raw)
    """
    body += OPENING if first else ""
    body += HISTORY
    body += "latents = Sub(raw, share)"
    body += CLOSING if streams else ""
    weights = {
        "from_rgb": np.eye(3, 4, dtype=np.float32), "ramp_mean": np.float32([RAMP.mean()]), "unit": np.float32([1]),
        "low": np.float32(0.01), "high": np.float32(0.99), "tenth": np.float32([0.1]), "nothing": np.float32([0]),
        "zero": ints(0), "one": ints(1), "two": ints(2), "minus_one": ints(-1), "end": ints(1 << 31),
        "upsampling": ints(1, 4, 8, 8, 1), "four_eight": ints(4, 8), "interleaved": ints(0, 1, 5, 2, 6, 3, 6, 4),
    }  # fmt: skip
    return model(f"(float[B,F,H,W,3] frames{taken}) => (float[B,4,T,h,w] latents{left})", body, weights)


def packages() -> dict[str, dict[str, onnx.ModelProto | str]]:
    tokenizer = json.dumps(TOKENIZER, ensure_ascii=False, indent=1) + "\n"
    return {
        "tiny-stream": {
            "model.toml": MANIFEST.format(
                name="tiny-stream", description="A causal model's form, for tests.", graphs=STREAM, shift=1.0, steps=2,
                guidance=1.0,
            ),
            "tokenizer.json": tokenizer,
            "text_encoder.onnx": text_encoder("float"),
            "denoiser.onnx": stream_denoiser(),
            "drafting_denoiser.onnx": stream_denoiser(drafts=True),
            "decoder_init.onnx": decoder(first=True, streams=True),
            "decoder_step.onnx": decoder(first=False, streams=True),
            "encoder_init.onnx": encoder(first=True, streams=True),
            "encoder_step.onnx": encoder(first=False, streams=True),
        },
        "tiny-clip": {
            "model.toml": MANIFEST.format(
                name="tiny-clip", description="The form of a model of whole clips, for tests.", graphs=CLIP, shift=3.0,
                steps=4, guidance=3.0,
            ),
            "tokenizer.json": tokenizer,
            "text_encoder.onnx": text_encoder("int64"),
            "denoiser_high.onnx": clip_denoiser(bias=0.0, noise_share=0.1),
            "denoiser_low.onnx": clip_denoiser(bias=0.1, noise_share=0.3),
            "decoder.onnx": decoder(first=True, streams=False),
            "encoder.onnx": encoder(first=True, streams=False),
        },
        "tiny-guest": {
            "model.toml": GUEST,
            "tokenizer.json": tokenizer,
            "text_encoder.onnx": text_encoder("float"),
            "text_encoder_2.onnx": pooled_text_encoder(),
            "denoiser.onnx": guest_denoiser(),
            "conditioner.onnx": conditioner(),
            "sampling_conditioner.onnx": sampling_conditioner(),
            "conditioner_step.onnx": conditioner_step(),
            "decoder.onnx": decoder(first=True, streams=False, noisy=-1),
            "decoder_init.onnx": decoder(first=True, streams=True, noisy=3),
            "decoder_step.onnx": decoder(first=False, streams=True, noisy=2),
        },
        "tiny-image": {
            "model.toml": IMAGE,
            "tokenizer.json": tokenizer,
            "text_encoder.onnx": pooled_text_encoder(),
            "denoiser.onnx": image_denoiser(),
            "decoder.onnx": image_decoder(),
        },
    }  # fmt: skip


def write() -> None:
    for name, files in packages().items():
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            data = content.encode() if isinstance(content, str) else content.SerializeToString(deterministic=True)
            (folder / file).write_bytes(data)
    weights = b"".join(value.tobytes() for value in DECODER_WEIGHTS.values())
    (HERE / "tiny-stream" / "decoder.weights").write_bytes(weights)


class Runs:
    """The graphs of one package, opened in ONNX Runtime."""

    def __init__(self, name: str):
        import onnxruntime

        folder = HERE / name
        self.sessions = {}
        for path in sorted(folder.glob("*.onnx")):
            onnx.checker.check_model(str(path), full_check=True)
            self.sessions[path.stem] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, graph: str, **feeds):
        session = self.sessions[graph]
        return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds)))


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-4)


def ids_of(*words: str, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    vocabulary = list(WORDS)
    ids = [vocabulary.index(w) for w in ("[BOS]", *words)]
    mask = np.array([[1] * len(ids) + [0] * (MAX_LENGTH - len(ids))] * batch, np.int64)
    return np.array([ids + [0] * (MAX_LENGTH - len(ids))] * batch, np.int64), mask


def decoded(latents: np.ndarray, state: np.ndarray | None) -> np.ndarray:
    mean = latents.mean(1, keepdims=True)
    before = np.concatenate([np.zeros_like(mean[:, :, :1]) if state is None else state, mean[:, :, :-1]], 2)
    colours = np.moveaxis((latents + 0.1 * before)[:, :3], 1, -1)
    colours = colours.repeat(4, 1).repeat(8, 2).repeat(8, 3)
    ramp = np.tile(RAMP, latents.shape[2]).reshape(1, -1, 1, 1, 1)
    frames = 1 / (1 + np.exp(-(colours + ramp)))
    return frames[:, 3:] if state is None else frames


def check_text(run: Runs) -> dict[str, np.ndarray]:
    ids, mask = ids_of("a", "red", "cat", batch=2)
    text = run("text_encoder", input_ids=ids, attention_mask=mask)
    close(text["prompt_embeds"], np.array(list(WORDS.values()), np.float32)[ids])
    assert (text["prompt_mask"] == mask).all()
    return text


def colour_of(text: dict[str, np.ndarray]) -> np.ndarray:
    mask = text["prompt_mask"].astype(np.float32)[..., None]
    return ((text["prompt_embeds"] * mask).sum(1) / mask.sum(1))[:, :, None, None, None]


def check_stream(random: np.random.Generator) -> None:
    run = Runs("tiny-stream")
    text = check_text(run)
    b = 2
    for t, past, h, w in [(1, 0, 2, 2), (2, 0, 6, 8), (2, 2, 6, 8), (3, 4, 2, 10), (1, 4, 20, 32)]:
        latents = random.standard_normal((b, 4, t, h, w), np.float32)
        timestep = random.uniform(0, 1000, (b, t)).astype(np.float32)
        timestep[0, 0] = 0
        tokens = h * w // 4
        key, value = random.standard_normal((2, 1, b, past, tokens, 4), np.float32)
        out = run("denoiser", latents=latents, timestep=timestep, past_key=key, past_value=value, **text)
        moved = 0.1 * (value - 0.5 * key).mean((0, 2, 3))[:, :, None, None, None] if past else 0
        sigma = np.maximum(timestep / 1000, 1e-3)[:, None, :, None, None]
        close(out["prediction"], (latents - (colour_of(text) + moved + 0.1 * latents)) / sigma, 2e-3)
        pooled = latents.reshape(b, 4, t, h // 2, 2, w // 2, 2).mean((4, 6)).transpose(0, 2, 3, 4, 1)
        close(out["present_value"], pooled.reshape(1, b, t, tokens, 4))
        close(out["present_key"], -out["present_value"])
        draft = random.standard_normal((b, 1, 4), np.float32)
        for given, told in ((draft[:, :0], latents.mean((2, 3, 4))[:, None]), (draft, draft)):
            drafted = run("drafting_denoiser", latents=latents, timestep=timestep, past_key=key, past_value=value, chunk_mean=given, **text)
            close(drafted["chunk_out_mean"], told)
            close(drafted["prediction"], out["prediction"] - told[:, 0, :, None, None, None] / sigma, 2e-3)
            close(drafted["present_value"], out["present_value"] + told[None, :, :, None])

        first = run("decoder_init", latents=latents)
        close(first["frames"], decoded(latents, None))
        assert first["frames"].shape == (b, 1 + (t - 1) * 4, h * 8, w * 8, 3)
        second = run("decoder_step", latents=latents, state_frame=first["state_out_frame"])
        close(second["frames"], decoded(latents, first["state_out_frame"]))
        whole = run("decoder_init", latents=np.concatenate([latents, latents], 2))
        close(np.concatenate([first["frames"], second["frames"]], 1), whole["frames"])

        state, back = run("encoder_init", frames=first["frames"]), []
        back.append(state["latents"])
        state = run("encoder_step", frames=second["frames"], state_frame=state["state_out_frame"])
        back.append(state["latents"])
        together = run("encoder_init", frames=whole["frames"])["latents"]
        close(np.concatenate(back, 2), together)
        # Decoder and encoder share nothing about the fourth channel, and the state is a second-order matter.
        assert np.abs(together[:, :3] - np.concatenate([latents, latents], 2)[:, :3]).mean() < 0.1


def check_clip(random: np.random.Generator) -> None:
    run = Runs("tiny-clip")
    text = check_text(run)
    for t, h, w in [(1, 2, 2), (2, 2, 4), (5, 6, 8)]:
        latents = random.standard_normal((2, 4, t, h, w), np.float32)
        timestep = np.float32([900, 100])
        for graph, bias, share in [("denoiser_high", 0.0, 0.1), ("denoiser_low", 0.1, 0.3)]:
            out = run(graph, latents=latents, timestep=timestep, **text)
            target = colour_of(text) + bias + share * latents
            close(out["prediction"], (latents - target) / (timestep / 1000)[:, None, None, None, None], 2e-3)
        frames = run("decoder", latents=latents)["frames"]
        close(frames, decoded(latents, None))
        back = run("encoder", frames=frames)["latents"]
        assert back.shape == latents.shape and np.abs(back - latents)[:, :3].mean() < 0.1


def check_guest(random: np.random.Generator) -> None:
    run = Runs("tiny-guest")
    text = check_text(run)
    ids, mask = ids_of("a", "red", "cat", batch=2)
    pooled = run("text_encoder_2", input_ids=ids, attention_mask=mask)["pooled_embeds"]
    close(pooled, colour_of(text)[:, :, 0, 0, 0])
    noise = random.standard_normal((2, 4, 5, 2, 4), np.float32)
    image = random.uniform(0.1, 0.9, (2, 1, 16, 32, 3)).astype(np.float32)
    grain = np.float32([0.25, 0.25])
    given = run("conditioner", image=image, noise=noise, grain=grain)
    mean = image.reshape(2, 2, 8, 4, 8, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    close(given["latents"][:, :3, 0], np.log(mean / (1 - mean)))
    close(given["latents"][:, 3, 0], np.full((2, 2, 4), 0.25))
    close(given["latents"][:, :, 1:], noise[:, :, 1:])
    drawn = random.standard_normal((2, 4, 1, 2, 4), np.float32)
    sampled = run("sampling_conditioner", image=image, image_noise=drawn, noise=noise)
    close(sampled["latents"], np.concatenate([drawn + image.mean(), noise[:, :, 1:]], 2))
    close(sampled["condition_mask"], given["condition_mask"])
    fresh = random.standard_normal((2, 1, 2, 4, 4), np.float32)
    stepped = run(
        "conditioner_step", latents=noise, timestep=np.float32([500, 250]), noise=fresh, known=sampled["known"],
        step_noise_scale=np.float32([1, 2]),
    )["sample"]  # fmt: skip
    close(stepped, np.concatenate([sampled["known"] + 0.5 * np.moveaxis(fresh, -1, 1), noise[:, :, 1:]], 2))
    assert (given["condition_mask"][:, :, 0] == 0).all() and (given["condition_mask"][:, :, 1:] == 1).all()
    two, style = np.float32([2, 3]), np.float32([0.5])
    out = run(
        "denoiser", latents=noise, timestep=np.float32([500, 500]), pooled_embeds=pooled, guidance_scale=two, frame_rate=two, style=style,
        condition_mask=given["condition_mask"], **text,
    )["prediction"]  # fmt: skip
    target = 1.5 * colour_of(text) + 0.02 * two[:, None, None, None, None] + 0.1 * noise
    close(out, (noise - target) / 0.5 * given["condition_mask"], 2e-3)
    drawn, scale = random.standard_normal(noise.shape, np.float32), np.float32([0.1, 0.1])
    whole = run("decoder", latents=noise, decode_noise=drawn, decode_noise_scale=scale)["frames"]
    close(whole, decoded(noise + 0.1 * drawn, None))
    first = run("decoder_init", latents=noise[:, :, :3], decode_noise=drawn[:, :, :3], decode_noise_scale=scale)
    second = run(
        "decoder_step", latents=noise[:, :, 3:], decode_noise=drawn[:, :, 3:], decode_noise_scale=scale,
        state_frame=first["state_out_frame"],
    )  # fmt: skip
    close(np.concatenate([first["frames"], second["frames"]], 1), whole)


def check_image(random: np.random.Generator) -> None:
    run = Runs("tiny-image")
    latents = random.standard_normal((2, 4, 1, 2, 4), np.float32)
    colour = random.standard_normal((2, 4), np.float32)
    out = run("denoiser", latents=latents, timestep=np.float32([500, 1000]), pooled_embeds=colour)["prediction"]
    sigma = np.float32([0.5, 1])[:, None, None, None, None]
    close(out, (latents - colour[:, :, None, None, None] - 0.1 * latents) / sigma, 2e-3)
    frames = run("decoder", latents=latents)["frames"]
    close(frames, (1 / (1 + np.exp(-np.moveaxis(latents[:, :3], 1, -1)))).repeat(8, 2).repeat(8, 3))


def check_tokenizer() -> None:
    try:
        import tokenizers
    except ImportError:
        print("tokenizers is not there: the tokenizer goes unchecked")
        return
    tokenizer = tokenizers.Tokenizer.from_file(str(HERE / "tiny-stream" / "tokenizer.json"))
    for text, tokens in [
        ("A red CAT, and a dog.", "[BOS] a red cat , and a dog ."),
        ("一只红色的猫在雪里跑。", "[BOS] 一 只 红 色 的 猫 [UNK] 雪 里 跑 。"),
        ("red的cat zebra", "[BOS] red 的 cat [UNK]"),
        ("", "[BOS]"),
    ]:
        assert tokenizer.encode(text).tokens == tokens.split(), tokenizer.encode(text).tokens


if __name__ == "__main__":
    write()
    if "--check" in sys.argv[1:]:
        check_tokenizer()
        check_stream(np.random.default_rng(0))
        check_clip(np.random.default_rng(1))
        check_guest(np.random.default_rng(2))
        check_image(np.random.default_rng(3))
        print("every graph gives what numpy gives")
