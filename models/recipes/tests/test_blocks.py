"""The shared pieces of graphs compute what they stand for."""
import unittest

import numpy as np
import torch
from PIL import Image

from open_models import attention, images, patches, rope, text
from open_models.families.causal_conv import CausalConv, Memory
from open_models.modulation import Modulation, timesteps_of
from open_models.padding import count_equal_rows


class Images(unittest.TestCase):
    def test_a_picture_comes_out_as_from_pillow(self):
        from transformers import CLIPImageProcessor

        processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
        mine = images.ImageProcessor(processor)
        for height, width in ((96, 160), (160, 96), (56, 56), (40, 30)):
            picture = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
            right = processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
            found = mine(torch.from_numpy(picture)[None].float() / 255)
            level = 1 / 255 / 0.26  # one of 256 levels, after normalisation
            self.assertLess((found - right).abs().max().item(), 1.1 * level, (height, width))
            self.assertLess(((found - right).abs() > 1e-4).float().mean().item(), 1e-3, (height, width))

    def test_an_unknown_processor_is_refused(self):
        from transformers import CLIPImageProcessor

        with self.assertRaisesRegex(ValueError, "bicubic"):
            images.ImageProcessor(CLIPImageProcessor(resample=2))


class Rope(unittest.TestCase):
    def test_pairs_are_rotated_as_complex_numbers(self):
        x, angles = torch.randn(2, 5, 3, 8), torch.randn(5, 1, 4)
        right = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
        torch.testing.assert_close(rope.rotate_pairs(x, angles.cos(), angles.sin()), right)


class Modulations(unittest.TestCase):
    def test_given_cells_get_the_values_of_timestep_zero(self):
        mask = torch.tensor([[0.0, 1.0, 1.0]])
        steps = timesteps_of(torch.tensor([700.0]), mask)
        self.assertEqual(steps.tolist(), [[700.0, 0.0]])
        shift, scale = Modulation(steps[:, :, None, None].expand(1, 2, 2, 4), mask.unsqueeze(2) > 0).plus(torch.tensor([[1.0] * 4, [2.0] * 4]))
        self.assertEqual(shift[0, :, 0].tolist(), [1.0, 701.0, 701.0])
        self.assertEqual(scale[0, :, 0].tolist(), [2.0, 702.0, 702.0])

    def test_without_a_mask_all_cells_share_one_row(self):
        (value,) = Modulation(torch.ones(1, 1, 1, 4), None).plus(torch.zeros(1, 4))
        self.assertEqual(value.shape, (1, 1, 4))


class Padding(unittest.TestCase):
    def test_one_token_of_padding_stands_for_all(self):
        torch.manual_seed(0)
        query, key, value = torch.randn(2, 7, 8), torch.nn.Linear(6, 8), torch.nn.Linear(6, 8)
        attend = lambda x, bias=None: torch.nn.functional.scaled_dot_product_attention(query[: x.shape[0]], key(x), value(x), attn_mask=bias)
        for lengths in ([3, 5], [0, 0], [9, 4], [8, 8], [0, 1]):
            embeds = torch.randn(2, 9, 6) * (torch.arange(9) < torch.tensor(lengths)[:, None]).unsqueeze(2)
            cut, bias = count_equal_rows(embeds)
            self.assertEqual(cut.shape[1], min(9, max(2, 1 + max(lengths))), lengths)
            torch.testing.assert_close(attend(cut, bias[0]), attend(embeds), msg=lambda m: f"{lengths}: {m}")

    def test_a_text_encoder_needs_no_padding(self):
        from transformers import UMT5Config, UMT5EncoderModel

        torch.manual_seed(0)
        encoder = UMT5EncoderModel(UMT5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4)).eval()
        ids = torch.randint(0, 32, (2, 40))
        for lengths in ([3, 7], [1, 1], [40, 9]):
            mask = (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
            with torch.no_grad():
                found = text.T5(encoder, masked=True)(ids, mask)
                torch.testing.assert_close(found, encoder(ids, mask)[0] * mask.unsqueeze(2), msg=lambda m: f"{lengths}: {m}")


class CausalConvolutions(unittest.TestCase):
    def test_frames_in_pairs_and_one_by_one_are_a_3d_convolution(self):
        torch.manual_seed(0)
        for frames, rows in ((3, 3), (3, 1), (1, 3)):
            weight, bias, edge = torch.randn(5, 4, frames, rows, rows), torch.randn(5), rows // 2
            conv = CausalConv(weight, bias, (edge, edge))
            clip = torch.randn(2, 9, 4, 6, 7)
            padded = torch.nn.functional.pad(clip.transpose(1, 2), (edge, edge, edge, edge, frames - 1, 0))
            right = torch.nn.functional.conv3d(padded, weight, bias).transpose(1, 2)
            for multiple in (1, 2):
                start, whole = Memory(), Memory()
                start.multiple = whole.multiple = multiple
                torch.testing.assert_close(conv(clip, whole), right, atol=1e-5, rtol=1e-5)
                pieces = [conv(clip[:, :1], start)]
                later = Memory(tuple(start.kept))
                later.multiple = multiple
                pieces.append(conv(clip[:, 1:5], later))
                last = Memory(tuple(later.kept))
                last.multiple = multiple
                pieces.append(conv(clip[:, 5:], last))
                torch.testing.assert_close(torch.cat(pieces, dim=1), right, atol=1e-5, rtol=1e-5)


class Patches(unittest.TestCase):
    def test_repeat_interleave_by_expansion_is_pytorch_s(self):
        x = torch.randn(2, 3, 4)
        for dim in (0, 1, 2, -1):
            torch.testing.assert_close(patches.repeat_interleave(x, 3, dim=dim), x.repeat_interleave(3, dim=dim))

    def test_the_timestep_embedding_is_diffusers(self):
        from diffusers.models.embeddings import get_timestep_embedding

        steps = torch.tensor([0.0, 3.5, 999.0])
        for width, flip, shift in ((16, True, 0), (17, False, 1)):
            torch.testing.assert_close(patches.timestep_embedding(steps, width, flip, shift), get_timestep_embedding(steps, width, flip, shift), rtol=0, atol=0)


class Attention(unittest.TestCase):
    def test_forms_that_the_operator_lacks_stay_pytorch_s(self):
        q = torch.randn(1, 2, 5, 8)
        right = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        with attention.form("fused"):
            found = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        torch.testing.assert_close(found, right)


if __name__ == "__main__":
    unittest.main()
