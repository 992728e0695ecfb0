"""The evaluation's measures, held against renders, whose truth is known."""
import unittest

import numpy as np

from papercut.evaluation import codec, consistency, figures, given
from papercut.evaluation.attributes import asked
from papercut.evaluation.bench import judged_scenes, render
from papercut.world import SUBJECTS, Scene

PAN = Scene("none", "garden", "day", "none", "none", "none", "pan right", "clear", 5)


class Measures(unittest.TestCase):
    def test_wilson_gives_the_published_interval(self):
        low, high = figures.wilson(81, 263)  # Newcombe 1998, table I
        self.assertAlmostEqual(low, .2553, places=3)
        self.assertAlmostEqual(high, .3662, places=3)

    def test_psnr_of_a_tenth_is_twenty(self):
        self.assertAlmostEqual(figures.psnr(np.zeros((2, 4, 4, 3)), np.full((2, 4, 4, 3), .1)), 20)

    def test_psnr_of_a_part_leaves_the_rest_out(self):
        a, b, mask = np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4, 3)), np.zeros((1, 4, 4), bool)
        b[0, 0], mask[0, 0] = .1, True
        self.assertAlmostEqual(figures.psnr(a, b, mask), 20)

    def test_far_and_near_layers_of_a_render_move_by_the_ratio_of_their_depths(self):
        far, near = consistency.parallax(render(PAN, 25))
        self.assertAlmostEqual(near / far, 1.25 / .55, delta=.35)

    def test_warping_a_render_leaves_less_than_not_warping_it(self):
        frames = render(PAN, 13)
        plain = np.abs(frames[6:] - frames[4:-2]).mean() * 255
        self.assertLess(consistency.warping_error(frames), .5 * plain)

    def test_a_jump_at_a_seam_shows_as_flicker_there(self):
        frames = np.zeros((33, 8, 8, 3), np.float32)
        frames[21:] = .2  # the first frame of the third chunk
        values = codec.flicker(frames)
        self.assertEqual(values[~codec.seams(len(values))].max(), 0)
        self.assertGreater(values[codec.seams(len(values))].max(), 0)

    def test_what_is_given_in_a_row_is_decoded_in_a_row(self):
        self.assertEqual(given.runs([0, 1, 2, 8]), [[0, 1, 2], [8]])
        self.assertEqual([given.frames_of(latent) for latent in (0, 1, 8)], [slice(0, 1), slice(1, 5), slice(29, 33)])

    def test_thin_things_are_found_and_their_loss_is_seen(self):
        frames = np.full((1, 40, 40, 3), .2, np.float32)
        frames[:, 20:22] = 1.
        mask = codec.thin_things(frames)
        self.assertTrue(mask[0, 20:22].all())
        self.assertLess(mask.mean(), .2)
        self.assertAlmostEqual(codec.recall(frames, frames, mask), 1.)
        self.assertLess(codec.recall(frames, np.full_like(frames, .2), mask), .05)


class Prompts(unittest.TestCase):
    def test_all_judged_scenes_are_held_out_and_every_subject_is_there(self):
        scenes = judged_scenes(14)
        self.assertTrue(all(s.held_out for s in scenes))
        self.assertEqual({s.subject for s in scenes}, set(SUBJECTS[1:]))

    def test_a_still_scene_is_not_judged_by_direction_and_camera(self):
        self.assertNotIn("direction", asked(PAN))
        self.assertEqual(asked(PAN)["camera"], "pan right")


if __name__ == "__main__":
    unittest.main()
