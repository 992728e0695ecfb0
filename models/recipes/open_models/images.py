"""Image processors in a graph: the picture as an image encoder wants it, with the numbers of Pillow."""
from __future__ import annotations

import torch
from torch import Tensor, nn

CUBIC = -0.5  # Pillow's bicubic kernel


def pixels(shape, generator):
    """Frames as 8-bit video has them: multiples of 1/255."""
    return torch.randint(0, 256, shape, generator=generator) / 255


class ImageProcessor(nn.Module):
    """transformers' CLIPImageProcessor: shortest edge by bicubic resampling, centre crop, mean and deviation.

    Pillow resamples rows, rounds to 8 bits, then columns, and rounds again; so does this. Each pass is a product with a
    matrix that is made in the graph, for any size of picture, and has only those rows that the crop keeps.
    """

    def __init__(self, processor):
        super().__init__()
        size, crop = processor.size, processor.crop_size
        known = processor.do_resize and processor.do_center_crop and processor.do_rescale and processor.do_normalize
        if not known or "shortest_edge" not in size or crop["height"] != crop["width"] or int(processor.resample) != 3:
            raise ValueError(f"image processor {type(processor).__name__} with size {dict(size)} and resample {processor.resample}: only the bicubic "
                             "resize of the shortest edge with a square crop is known")
        self.edge, self.crop = size["shortest_edge"], crop["height"]
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(processor.image_std).view(1, 3, 1, 1))
        self.factor = 255 * processor.rescale_factor

    def forward(self, image: Tensor) -> Tensor:
        """[B,h,w,3] in 0..1 to [B,3,crop,crop]."""
        x = bytes_of(image * 255).permute(0, 3, 1, 2)
        h, w = (torch.scalar_tensor(n, dtype=torch.float64) for n in x.shape[2:])
        x = bytes_of(x @ self.resampling(w, torch.minimum(h, w), x.shape[3]).transpose(0, 1))
        x = bytes_of(self.resampling(h, torch.minimum(h, w), x.shape[2]) @ x)
        return (x / 255 * self.factor - self.mean) / self.std

    def resampling(self, length: Tensor, shortest: Tensor, count: int) -> Tensor:
        """[crop,length]: the weights of a picture's lines in the lines of the result."""
        resized = torch.floor(self.edge * length / shortest)
        begin = torch.floor((resized - self.crop) / 2)
        scale = length / resized
        centre = (torch.arange(self.crop, dtype=torch.float64) + begin + 0.5) * scale
        distance = torch.abs(torch.arange(count, dtype=torch.float64)[None] + 0.5 - centre[:, None]) / torch.clamp(scale, min=1.0)
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weights = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
        return (weights / weights.sum(dim=1, keepdim=True)).float()


def bytes_of(x: Tensor) -> Tensor:
    """Rounded to 0..255."""
    return torch.floor(x + 0.5).clamp(0, 255)
