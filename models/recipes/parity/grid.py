"""Random weights that compress: three values a tensor, so that whole models fit into fixtures of some hundred kilobytes."""

import math

import torch


def randomize(module: torch.nn.Module, seed: int, gain: float = 1.0) -> torch.nn.Module:
    """Fills every parameter of `module`, also those that training starts at zero, and returns it for inference.

    A matrix or kernel gets -s, 0 and +s, with s a power of two and so many zeros that a sum over its inputs keeps their
    variance (times `gain` squared): activations stay of order one through any depth. Biases, scales and embeddings get
    three values around what they are in real models.
    """
    generator = torch.Generator().manual_seed(seed)

    def ternary(shape: torch.Size, std: float) -> torch.Tensor:
        step = 2.0 ** math.ceil(math.log2(std))
        share = (std / step) ** 2  # of values that are not zero
        draw = torch.rand(shape, generator=generator)
        return step * ((draw < share / 2).float() - (draw > 1 - share / 2).float())

    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            shape = parameter.shape
            if parameter.ndim == 0:
                continue
            if name.endswith(("scale_shift_table", "position_embedding.weight", "relative_attention_bias.weight")):
                parameter.copy_(ternary(shape, 0.25))
            elif name.endswith(("embed_tokens.weight", "shared.weight", "token_embedding.weight")):
                parameter.copy_(ternary(shape, 0.5 if "token_embedding" in name else 1.0))
            elif parameter.numel() == shape[0]:  # biases, and scales of shape [C], [C,1,1], …
                parameter.copy_((0.0 if "bias" in name else 1.0) + ternary(shape, 0.1))
            else:
                parameter.copy_(ternary(shape, gain / math.sqrt(parameter[0].numel())))
    return module.eval()


def soften(module: torch.nn.Module, suffix: str, factor: float) -> torch.nn.Module:
    """Scales the parameters whose name ends in `suffix`: an output layer's, so that few pixels are cut at black or white."""
    with torch.no_grad():
        matching = [p for name, p in module.named_parameters() if name.endswith(suffix)]
        assert matching, suffix
        for parameter in matching:
            parameter.mul_(factor)
    return module
