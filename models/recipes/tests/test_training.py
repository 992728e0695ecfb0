"""What training rests on: steps of clips, noise levels, the cached past, checkpoints on their way."""
import collections
import math
import pathlib
import pickle
import random
import tempfile
import unittest
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F

from papercut import checkpoints, pieces, soup
from papercut.data import FAR, LEAD, OPENING, Job, render_job, decoder_target, encoder_input, prefetch, to_steps
from papercut.host import sigmas
from papercut.imagine import imagine
from papercut.latents import SELDOM, Latents, odds
from papercut.prepare import measure
from papercut.streams import LAPS, NOISY_PAST, WINDOW, WORST, Stream, Underway, behind_gap, chunks_of, worn
from papercut.text_encoder import Neighbours, TextEncoder
from papercut.train_transformer import AT_STEPS, FAINT, FIRST_STEPS, SLIGHT, STEPS, UNSURE, draft_loss, faint, kind_of_step, likely, noise_levels, unsure, weighted_errors
from papercut.train_vae import BETWEEN, batch, between, cut, flickers, flows, held_out, imagined_batch, led
from papercut.transformer import CHUNK, FADES, SINK, Transformer, clock
from papercut.vae import LATENT_CHANNELS, LATENT_RATE, NEAR, VAE, Decoder, Memory, settle
from papercut.world import Scene


def restless(module: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter some noise, so that nothing is hidden by a weight that starts at zero."""
    torch.manual_seed(5)
    for p in module.parameters():
        p.data += .05 * torch.randn_like(p)
    return module.eval()


class Clips(unittest.TestCase):
    def test_a_channel_that_tells_what_moves_alone_is_measured_where_something_moves(self):
        rng = np.random.default_rng(0)
        pictures = [rng.normal(3, (2, .01), (1, 4, 4, 2)).transpose(3, 0, 1, 2) for _ in range(40)]
        clips = [rng.normal(3, (2, .5), (3, 4, 4, 2)).transpose(3, 0, 1, 2) for _ in range(40)]
        mean, std = measure(pictures, clips)
        self.assertEqual((mean.shape, std.shape), ((2,), (2,)))
        self.assertTrue(np.allclose(mean, 3, atol=.15) and abs(std[0] - 2) < .1 and abs(std[1] - .433) < .05, (mean, std))

    def test_a_crop_is_rather_where_something_moves(self):
        pool = np.zeros((20, 13, 128, 256, 3), np.uint8)
        pool[..., 1] = np.arange(256)  # how far to the right
        pool[..., 128:, 0] = 19 * np.arange(13)[:, None, None]
        crops = np.concatenate([batch([pool, pool], np.random.default_rng(i), 4).numpy()[:, 0] for i in range(100)])
        self.assertTrue(.6 < crops[:, 0, :, 1].min(1).mean() / 128 < .74)  # 2/3; of any place 1/2

    def test_a_crop_of_imagined_latents_lies_where_its_frames_do(self):
        pool = np.zeros((20, 5, 192, 256, 3), np.uint8)
        pool[:] = np.arange(20, dtype=np.uint8)[:, None, None, None, None]
        pool[..., 1], pool[..., 2] = np.arange(192)[:, None] // 16, np.arange(256) // 16
        latents = pool[:, ::4, ::16, ::16].transpose(0, 1, 4, 2, 3).astype(np.float16)
        clips, z = imagined_batch(pool, latents, np.random.default_rng(0), 6)
        self.assertEqual((clips.shape, z.shape), ((6, 5, 128, 128, 3), (12, 3, 8, 8)))
        self.assertTrue(torch.equal(clips[:, ::4, ::16, ::16].permute(0, 1, 4, 2, 3).flatten(0, 1).float(), z))
        self.assertGreaterEqual(int(clips[..., 0].min()), held_out(pool))

    def test_the_first_frame_stands_for_a_step_of_four(self):
        clip = torch.randint(0, 256, (1, 5, 8, 8, 3), dtype=torch.uint8)
        steps = to_steps(clip)
        self.assertEqual(steps.shape, (1, 2, 4, 8, 8, 3))
        for i in range(4):
            self.assertTrue(torch.equal(steps[0, 0, i], clip[0, 0]))
            self.assertTrue(torch.equal(steps[0, 1, i], clip[0, 1 + i]))

    def test_frames_are_packed_as_pixel_unshuffle_does_it(self):
        steps = torch.randint(0, 256, (2, 3, 4, 16, 24, 3), dtype=torch.uint8)
        frames = steps.flatten(0, 2).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.assertTrue(torch.equal(decoder_target(steps), F.pixel_unshuffle(frames, 4)))
        self.assertTrue(torch.equal(encoder_input(steps), F.pixel_unshuffle(frames, 8).reshape(6, 4 * 192, 2, 3)))

    def test_what_fails_ahead_fails_where_it_is_wanted(self):
        def make(i: int) -> int:
            if i == 2:
                raise ValueError("no more")
            return i

        for ahead in (0, 3):
            items = prefetch(make, ahead)
            self.assertEqual([next(items), next(items)], [0, 1])
            with self.assertRaises(ValueError):
                next(items)


class Chunks(unittest.TestCase):
    def test_every_sequence_is_cut_as_a_scene_may_be_made(self):
        rng = random.Random(0)
        self.assertEqual({tuple(chunks_of(9, rng).tolist()) for _ in range(40)}, {(0, 1, 1, 2, 2, 2, 3, 3, 3), (0, 0, 0, 1, 1, 1, 2, 2, 2)})
        for chunk in (chunks_of(5, rng) for _ in range(40)):
            self.assertEqual(chunk[0], 0)
            self.assertTrue(set(chunk.diff().tolist()) <= {0, 1})
            self.assertLessEqual(chunk.bincount().max(), CHUNK)


class NoiseLevels(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.sigma = noise_levels(512, 4, CHUNK, 3., STEPS)
        self.before, self.chunk = self.sigma.split([4, CHUNK], 1)

    def test_any_frame_of_a_chunk_may_be_given_but_something_is_left_to_do(self):
        self.assertTrue(((self.sigma >= 0) & (self.sigma <= 1)).all())
        self.assertTrue((self.chunk > 0).any(1).all())
        given = {tuple(row) for row in (self.chunk == 0).tolist()}
        self.assertEqual(len(given), 2 ** CHUNK - 1)

    def test_free_frames_of_a_chunk_share_a_level(self):
        for row in self.chunk:
            self.assertEqual(len({float(s) for s in row if s > 0}), 1)

    def test_half_of_the_clips_are_at_the_levels_that_videos_are_made_through(self):
        for steps in (STEPS, FIRST_STEPS):
            level = noise_levels(2048, 0, CHUNK, 3., steps).amax(1)
            for step in torch.tensor(steps):
                self.assertAlmostEqual(float((level == step).float().mean()), AT_STEPS / len(steps), delta=.03)

    def test_these_levels_are_the_package_s(self):
        self.assertTrue(np.allclose(STEPS, sigmas(2, 2.)[:-1]) and np.allclose(FIRST_STEPS, sigmas(4, 2.)[:-1]))

    def test_noise_is_weaker_in_half_of_the_clips(self):
        size = faint(torch.ones(1000, 2, 1, 1, 1)).flatten(1)
        self.assertTrue((size[:, 0] == size[:, 1]).all() and size.min() >= FAINT[0] and size.max() == 1)
        self.assertAlmostEqual(float((size[:, 0] == 1).float().mean()), .5, delta=.06)

    def test_what_lies_before_is_clean_or_nearly(self):
        self.assertLessEqual(self.before.max(), NOISY_PAST)
        self.assertTrue(.2 < (self.before == 0).all(1).float().mean() < .4)

    def test_a_picture_is_never_given(self):
        self.assertGreater(noise_levels(256, 0, 1, 3., FIRST_STEPS).min(), 0)


class Errors(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.weight, self.sigma = torch.ones(2, 1, 3, 4, 5), torch.full((2, 3), .5)

    def test_an_error_that_stays_changes_nothing(self):
        error = torch.randn(2, 6, 1, 4, 5).expand(-1, -1, 3, -1, -1)
        whole, change = weighted_errors(error, self.weight, self.sigma)
        torch.testing.assert_close(whole, error.square().mean())
        self.assertEqual(change, 0)

    def test_errors_with_nothing_in_common_change_as_much_as_they_are(self):
        whole, change = weighted_errors(torch.randn(2, 600, 3, 4, 5), self.weight, self.sigma)
        torch.testing.assert_close(change, whole, rtol=.05, atol=0)

    def test_only_frames_of_one_level_are_compared(self):
        self.sigma[:, 0] = .2
        error = torch.zeros(2, 6, 3, 4, 5)
        error[:, :, 0] = 9
        self.assertEqual(weighted_errors(error, self.weight, self.sigma)[1], 0)

    def test_a_slight_fault_of_the_frame_before_is_better_kept(self):
        fault = SLIGHT * (2 * torch.rand(2, 6, 1, 4, 5) - 1)
        stays = -fault / self.sigma[:, None, :1, None, None]  # of a velocity, if the clean latents are off by the fault
        change = lambda error, fault: weighted_errors(error.expand(-1, -1, 3, -1, -1), self.weight, self.sigma, fault)[1].item()
        self.assertAlmostEqual(change(stays, fault), 0)
        self.assertAlmostEqual(change(torch.zeros_like(fault), fault), .5 * fault.square().mean().item() / 3, places=6)
        large = fault.sign() * 9
        self.assertAlmostEqual(change(torch.zeros_like(fault), large), .5 * SLIGHT ** 2 / 3, places=6)

    def test_a_given_frame_has_no_fault_to_keep(self):
        self.weight[:, :, 0] = 0
        self.assertEqual(weighted_errors(torch.zeros(2, 6, 3, 4, 5), self.weight, self.sigma, torch.ones(2, 6, 1, 4, 5))[1], 0)


class CachedPast(unittest.TestCase):
    def setUp(self):
        self.net = restless(Transformer(d=128, layers=2, text=8, channels=4, width=16))
        self.convolutions = (0, -3, -2)  # the caches of these; -1 is the draft's
        torch.manual_seed(1)
        self.x, self.levels = torch.randn(1, 4, 5, 6, 8), torch.tensor([[0., 0., 0., 700., 700.]])
        self.prompt, self.mask = torch.randn(1, 4, 8), torch.tensor([[1., 1., 1., 0.]])

    def run_net(self, x, levels, past=None, chunks=None):
        if past is None:
            past = torch.zeros(2, self.net.n_caches, 1, 0, 12, 128)
        times = torch.arange(5)[None]
        with torch.no_grad():
            draft = None if chunks is None else self.net.drafts_of_chunks(x, self.prompt[:, 0], chunks, times)
            return self.net(x, levels, self.prompt, self.mask, past[0], past[1], chunks, draft, None if chunks is None else times)

    def test_chunk_after_chunk_gives_what_training_saw_at_once(self):
        whole = self.run_net(self.x, self.levels, chunks=torch.tensor([0, 0, 0, 1, 1]))[0]
        first, keys, values = self.run_net(self.x[:, :, :3], self.levels[:, :3])
        later = self.run_net(self.x[:, :, 3:], self.levels[:, 3:], torch.stack([keys, values]))[0]
        torch.testing.assert_close(torch.cat([first, later], 2), whole, atol=1e-5, rtol=1e-4)

    def test_frames_of_a_chunk_see_each_other(self):
        other = self.x.clone()
        other[:, :, 4] += 1
        before, after = (self.run_net(x, self.levels, chunks=torch.tensor([0, 0, 0, 1, 1]))[0] for x in (self.x, other))
        self.assertTrue(torch.equal(before[:, :, :3], after[:, :, :3]))
        self.assertGreater((before[:, :, 3] - after[:, :, 3]).abs().max(), 1e-4)

    def test_convolutions_see_the_last_frame_that_is_cached(self):
        _, keys, values = self.run_net(self.x[:, :, :3], self.levels[:, :3])
        past = torch.stack([keys, values])
        before = self.run_net(self.x[:, :, 3:], self.levels[:, 3:], past)[0]
        for cache in self.convolutions:
            changed = past.clone()
            changed[:, cache, :, :2] += 1
            self.assertTrue(torch.equal(before, self.run_net(self.x[:, :, 3:], self.levels[:, 3:], changed)[0]))
            changed[0, cache, :, 2] += 1
            self.assertGreater((before - self.run_net(self.x[:, :, 3:], self.levels[:, 3:], changed)[0]).abs().max(), 1e-4)

    def test_a_draft_follows_on_the_first_three_and_the_last_three_frames_that_are_cached(self):
        _, keys, values = self.run_net(self.x[:, :, :4], self.levels[:, :4])
        past = torch.stack([keys, values]).repeat(1, 1, 1, 2, 1, 1)
        before = self.run_net(self.x[:, :, 4:], self.levels[:, 4:], past)[0]
        for frame in range(8):
            changed = past.clone()
            changed[0, -1, :, frame] += 1
            after = self.run_net(self.x[:, :, 4:], self.levels[:, 4:], changed)[0]
            self.assertEqual(bool((after - before).abs().max() > 1e-4), frame not in (3, 4))

    def test_hidden_words_change_nothing(self):
        before = self.run_net(self.x, self.levels)[0]
        self.prompt[:, 3] += 5
        self.assertTrue(torch.equal(before, self.run_net(self.x, self.levels)[0]))


class Words(unittest.TestCase):
    def test_a_prompt_means_the_same_alone_and_padded_beside_a_longer_one(self):
        torch.manual_seed(0)
        text = restless(TextEncoder(9, layers=1)).eval()
        ids, mask = torch.tensor([[2, 5, 6, 0, 0], [2, 4, 7, 8, 3]]), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        with torch.no_grad():
            together, alone = text(ids, mask)[0], text(ids[:1, :3], mask[:1, :3])[0]
        torch.testing.assert_close(together[:1, :3], alone)

    def test_what_a_text_encoder_knew_stays_when_it_begins_to_see_neighbours(self):
        x = torch.randn(2, 5, 8)
        self.assertTrue(torch.equal(Neighbours(8)(x, torch.ones(2, 5)), x))


class Limits(unittest.TestCase):
    def led_to(self, clean, level):
        """Where a velocity that leads to `clean` leads with its excess."""
        noisy, s = torch.randn_like(clean), torch.full((1, 2, 1, 1, 1), level)
        velocity = (noisy - clean) / s
        return noisy - s * (velocity + Transformer.excess(noisy, velocity, s))

    def test_what_is_as_large_as_latents_are_stays(self):
        clean = torch.randn(1, 2, 4, 6, 8)
        torch.testing.assert_close(self.led_to(clean, .5), clean, atol=1e-4, rtol=0)

    def test_a_frame_that_grows_is_brought_back_and_the_other_stays(self):
        clean = torch.randn(1, 2, 4, 6, 8)
        clean[:, 1] *= 40
        out = self.led_to(clean, 1.)
        torch.testing.assert_close(out[:, 0], clean[:, 0], atol=1e-4, rtol=0)
        self.assertAlmostEqual(out[:, 1].square().mean().sqrt().item(), 1.5, places=2)


class Drafts(unittest.TestCase):
    def setUp(self):
        self.net = restless(Transformer(d=128, layers=1, text=8, channels=4, width=16))
        torch.manual_seed(2)
        self.x, self.gist, self.chunk = torch.randn(2, 4, 7, 6, 8), torch.randn(2, 8), torch.tensor([0, 1, 1, 2, 2, 2, 3])

    def drafts(self, x, times):
        with torch.no_grad():
            return self.net.drafts_of_chunks(x, self.gist, self.chunk, torch.tensor([times] * 2))

    def test_a_beginning_is_guessed_from_the_prompt_alone(self):
        mean, log_variance = self.drafts(self.x, [0, 1, 2, 3, 4, 5, 6])
        same = self.drafts(torch.randn_like(self.x), [0, 1, 2, 3, 4, 5, 6])[0]
        self.assertTrue(torch.equal(mean[:, 0], same[:, 0]))
        self.assertFalse(torch.equal(mean[0, 0], mean[1, 0]))  # two prompts
        self.assertTrue((log_variance.abs() > 0).all())

    def test_training_and_a_stream_get_the_same_drafts(self):
        """What the network does by itself, chunk after chunk, it does with the drafts of all chunks at once."""
        net, chunk, times = self.net, torch.tensor([0, 1, 1]), torch.arange(3).expand(2, -1)
        x, prompt, mask = self.x[:, :, :3], self.gist[:, None], torch.ones(2, 1)
        empty = torch.zeros(net.n_caches, 2, 0, 12, net.d)
        with torch.no_grad():
            whole = net(x, torch.zeros(2, 3), prompt, mask, empty, empty, chunk, net.drafts_of_chunks(x, self.gist, chunk, times), times)[0]
            first, keys, values = net(x[:, :, :1], torch.zeros(2, 1), prompt, mask, empty, empty)
            then = net(x[:, :, 1:], torch.zeros(2, 2), prompt, mask, keys, values)[0]
        torch.testing.assert_close(torch.cat([first, then], 2), whole, rtol=1e-3, atol=1e-3)

    def test_no_draft_reaches_over_a_gap(self):
        mean, log_variance = self.drafts(self.x, [0, 1, 2, 7, 8, 9, 10])
        self.assertEqual(mean[:, 3:6].abs().max() + log_variance[:, 3:6].abs().max(), 0)
        self.assertGreater(mean[:, 6].abs().max(), 0)

    def test_a_chunk_is_guessed_from_what_lies_before_it_alone(self):
        before, changed = self.drafts(self.x, [0, 1, 2, 3, 4, 5, 6]), self.x.clone()
        changed[:, :, 3:6] += 1
        after = self.drafts(changed, [0, 1, 2, 3, 4, 5, 6])
        self.assertTrue(torch.equal(before[0][:, :6], after[0][:, :6]))
        self.assertFalse(torch.equal(before[0][:, 6], after[0][:, 6]))

    def stream(self, times, chunk=None):
        many = lambda x: x.repeat(8, *[1] * (x.ndim - 1))
        chunk = self.chunk if chunk is None else chunk
        return Stream(many(self.x)[:, :, :len(chunk)], torch.zeros(16, len(chunk), 6, 8), many(times)[:, :len(chunk)], chunk)

    def go(self, stream):
        """Has drafts alone go through a stream; the frames of each chunk and its draft."""
        gone = []
        with torch.no_grad():
            while stream.ahead:
                here, draft = stream.here, stream.draft(self.net, self.gist.repeat(8, 1))
                gone.append((list(range(here.start, here.stop)), draft))
                stream.take(likely(draft, stream.x0[:, :, here]))
        return gone

    def test_a_stream_follows_on_what_was_made_before_in_most_clips(self):
        torch.manual_seed(1)
        stream = self.stream(torch.arange(7).expand(2, -1))
        gone = self.go(stream)
        self.assertEqual([frames for frames, _ in gone], [[1, 2], [3, 4, 5], [6]])
        for frames, (mean, log_variance) in gone:
            self.assertEqual(mean.shape, (16, len(frames), 4, 6, 8))
            self.assertTrue(torch.equal(stream.drafts[0][:, frames], mean) and torch.equal(stream.drafts[1][:, frames], log_variance))
        own = (stream.made != stream.x0).flatten(3).any(-1).any(1)
        self.assertFalse(own[:, 0].any())  # what a video begins with is given
        self.assertTrue(torch.equal(own[:, 1:].all(1), own[:, 1:].any(1)))
        self.assertTrue(0 < own[:, 1:].all(1).sum() < 16)

    def test_what_lies_behind_a_gap_stays_the_truths(self):
        times = torch.tensor([[0, 1, 2, 9, 10, 11, 12]] * 2)
        self.assertEqual(behind_gap(self.chunk, times).tolist(), [False] * 3 + [True] * 3 + [False])
        self.assertFalse(behind_gap(self.chunk, torch.arange(7)[None]).any())
        torch.manual_seed(1)
        stream = self.stream(times)
        self.assertEqual([frames for frames, _ in self.go(stream)], [[1, 2], [6]])
        self.assertTrue(torch.equal(stream.made[:, :, 3:6], stream.x0[:, :, 3:6]))
        self.assertEqual(stream.drafts[0][:, 3:6].abs().max(), 0)

    def test_a_picture_is_a_stream_of_one_guess(self):
        stream = self.stream(torch.zeros(2, 1), torch.tensor([0]))
        (_, draft), = self.go(stream)
        with torch.no_grad():
            self.assertTrue(torch.equal(draft[0], self.net.begin(self.gist.repeat(8, 1), stream.x0)[0]))

    def test_a_call_sees_the_first_frames_and_the_last(self):
        chunk = chunks_of(22, random.Random(0))
        stream = Stream(torch.zeros(1, 4, 22, 6, 8), torch.zeros(1, 22, 6, 8), torch.arange(22)[None], chunk)
        windows = []
        while stream.ahead:
            windows.append((stream.here.start, stream.window().tolist()))
            stream.take(torch.zeros(1, 4, stream.here.stop - stream.here.start, 6, 8))
        for first, window in windows:
            self.assertEqual(window, list(range(first)) if first <= WINDOW else [0, 1, 2, *range(first - WINDOW + SINK, first)])
        self.assertGreater(windows[-1][0], WINDOW)

    def test_what_was_made_is_led_away_from_the_truth_but_not_without_end(self):
        torch.manual_seed(1)
        stream = self.stream(torch.arange(7).expand(2, -1))
        stream.away[:8], stream.away[8:] = 1.5, 0
        stream.take(stream.x0[:, :, 1:3] + torch.tensor([.1, 10.])[:, None, None])
        off = (stream.made - stream.x0)[:, :, 1:3]
        for made, want in ((off[:8, :, 0], .15), (off[:8, :, 1], WORST), (off[8:], 0.)):
            torch.testing.assert_close(made, torch.full_like(made, want), atol=1e-5, rtol=0)

    def test_the_fault_before_a_chunk_is_that_of_the_last_frame_made(self):
        stream = self.stream(torch.tensor([[0, 1, 2, 60, 61, 62, 63]]).expand(2, -1))
        stream.away[:] = 1
        stream.take(stream.x0[:, :, 1:3] + .3)
        self.assertEqual(stream.here.start, 6)
        torch.testing.assert_close(stream.fault_before, torch.zeros(16, 4, 1, 6, 8))  # what follows on a gap is the truth
        gone = self.stream(torch.arange(7).expand(2, -1))
        self.assertTrue((gone.fault_before == 0).all())
        gone.away[:] = 1
        gone.take(gone.x0[:, :, 1:3] + .3)
        torch.testing.assert_close(gone.fault_before, torch.full((16, 4, 1, 6, 8), .3))
        picture = Stream(torch.zeros(1, 4, 1, 6, 8), torch.zeros(1, 1, 6, 8), torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))
        self.assertIsNone(picture.fault_before)

    def test_a_sequence_is_gone_through_again_from_what_was_wrong_in_the_end(self):
        chunk = torch.arange(15) // CHUNK
        stream = Stream(torch.zeros(1, 4, 15, 6, 8), torch.zeros(1, 15, 6, 8), torch.arange(15)[None], chunk)
        stream.away[:] = 1
        for fault in (1., 2.):
            ways = []
            while stream.ahead:
                ways.append(stream.here.start)
                stream.take(torch.full((1, 4, CHUNK, 6, 8), fault))
            self.assertEqual(ways, [3, 6, 9, 12] if fault == 1 else [6, 9, 12])
            stream.again(stream.faults, stream.lap + 1)
            self.assertTrue((stream.made[:, :, 3:6] == fault).all())

    def test_subjects_wear_away_and_nothing_else_does(self):
        torch.manual_seed(0)
        x0, subject = torch.randn(400, 4, 3, 6, 8), torch.zeros(400, 3, 6, 8)
        subject[:, :, 2, 3] = 1
        faults = [worn(x0, subject) for _ in range(8)]
        for fault in faults:
            self.assertFalse(fault[..., 4:, :].any() or fault[..., 5:].any())  # no further than beside the subject
            self.assertTrue(.3 < fault.flatten(1).any(1).float().mean() < .5)
        self.assertGreater(len({round(f.square().sum().item()) for f in faults}), 2)  # in several ways
        self.assertFalse(worn(x0, torch.zeros_like(subject)).any())

    def test_faults_go_on_in_other_clips_until_they_are_old(self):
        made = []

        def make(kind):
            x0 = torch.full((1, 4, 12, 6, 8), float(len(made)))
            made.append(Stream(x0, torch.zeros(1, 12, 6, 8), torch.arange(12)[None], torch.arange(12) // CHUNK))
            made[-1].away[:] = 1
            return made[-1]

        underway, laps = Underway(make, random.Random(0)), collections.Counter()
        for _ in range(400):
            stream = underway.next("images")
            laps[stream.lap] += 1
            if stream.lap > 1:
                self.assertTrue(((stream.made - stream.x0)[:, :, 3:6] == .5).all())
            stream.take(stream.x0[:, :, stream.here] + .5)
            underway.back("images", stream)
        self.assertGreater(laps[2], laps[4])
        self.assertLessEqual(max(laps), LAPS)
        self.assertTrue(10 < len(made) < sum(laps.values()) // 3)

    def test_keys_of_the_past_are_those_of_one_look_at_all_of_it(self):
        """A network that goes through a stream looks at every frame once, and sees what it would see of all at once."""
        net, stream, prompt = self.net, self.stream(torch.arange(7).expand(2, -1)), self.gist.repeat(8, 1)[:, None]
        stream.away[:] = 0
        looked, mask, empty = [], torch.ones(16, 1), torch.zeros(net.n_caches, 16, 0, 12, net.d)
        call = lambda frames, past, draft: net(stream.x0[:, :, frames], torch.zeros(16, len(frames)), prompt, mask, *past, stream.chunk[frames], draft, stream.times[:, frames])
        with torch.no_grad():
            while stream.ahead:
                here, anew = stream.here, stream.sees(net)
                frames = torch.cat([anew, torch.arange(here.start, here.stop)])
                stream.draft(net, prompt[:, 0])
                v, keys, values = call(frames, stream.past, [y[:, frames] for y in stream.drafts])
                stream.keep(anew, keys[:, :, :len(anew)], values[:, :, :len(anew)])
                looked.append(anew.tolist())
                stream.take(stream.x0[:, :, here])
            whole = call(torch.arange(7), [empty, empty], stream.drafts)[0]
        self.assertEqual(looked, [[0], [1, 2], [3, 4, 5]])
        torch.testing.assert_close(v[:, :, 3:], whole[:, :, 6:], atol=1e-3, rtol=1e-3)
        stream.again(stream.faults, 2)
        self.assertEqual(stream.sees(net).tolist(), [0, 1, 2, 3, 4, 5])

    def test_what_is_told_through_noise_lies_between_a_draft_and_the_truth(self):
        torch.manual_seed(1)
        truth, mean = torch.ones(64, 4, 1, 6, 8), torch.zeros(64, 1, 4, 6, 8)
        made = [likely((mean, torch.full_like(mean, v)), truth).mean((1, 2, 3, 4)) for v in (-4., .5)]
        self.assertTrue((0 < made[0].mean()) & (made[0].mean() < made[1].mean()) & (made[1].mean() < 1))
        self.assertLess(made[0].mean(), .15)  # of what it was sure of it takes little

    def test_a_draft_knows_the_time(self):
        early, late = (self.drafts(self.x, [start + i for i in range(7)])[0] for start in (0, 10))
        self.assertTrue(torch.equal(early[:, 0], late[:, 0]))  # a scene's first picture has no time
        self.assertTrue((early[:, 1:] != late[:, 1:]).flatten(2).any(-1).all())

    def test_a_video_counts_its_time_for_ever(self):
        """Every frame's time is kept beside what drafts see of it, and goes round when all has settled."""
        net, empty = self.net, torch.zeros(self.net.n_caches, 1, 0, 12, self.net.d)
        call = lambda frames, *past: net(torch.randn(1, 4, frames, 6, 8), torch.zeros(1, frames), self.gist[:1, None], torch.ones(1, 1), *past)
        told = lambda keys: keys[-1, 0, :, 0, 4 * 5].tolist()  # after four channels and the one that says a frame is there, of four latents each
        with torch.no_grad():
            _, keys, values = call(1, empty, empty)
            _, more_keys, more_values = call(3, keys, values)
            self.assertEqual(told(keys) + told(more_keys), [0, 1, 2, 3])
            more_keys[-1, 0, :, :, 20:24] = 719
            self.assertEqual(told(call(3, more_keys, more_values)[1]), [576, 577, 578])
        torch.testing.assert_close(clock(torch.tensor([720.])), clock(torch.tensor([576.])), atol=1e-4, rtol=0)

    def test_each_chunk_is_imagined_after_what_was_made_of_those_before_it(self):
        def made(x):
            torch.manual_seed(4)
            with torch.no_grad():
                return imagine(self.net, x, self.gist[:, None], torch.ones(2, 1), self.chunk, torch.arange(7).expand(2, -1))

        before, changed = made(self.x), self.x.clone()
        changed[:, :, 3:6] += 1
        after = made(changed)
        self.assertFalse((before == self.x).any())
        self.assertTrue(torch.equal(before[:, :, :3], after[:, :, :3]))
        for frame in (3, 4, 5, 6):
            self.assertFalse(torch.equal(before[:, :, frame], after[:, :, frame]))
        with mock.patch("papercut.imagine.LEVELS", (1., 1.)):  # nothing is told of the truth
            self.assertTrue(torch.equal(made(self.x), made(changed)))

    def test_drafts_of_videos_go_further_from_the_frame_before_than_those_that_are_learned_and_less_so_later(self):
        known, last = self.net.known(self.x[:, :, :3]), self.x[:, None, :, 2]
        for time, further in ((0, 1.5), (LATENT_RATE * FADES, 1 + .5 / math.e), (1e4, 1.)):
            with torch.no_grad():
                self.net.draft.lead = 1.
                learned, variance = self.net.follow(known, self.gist, torch.tensor([time, time]), 3)
                self.net.draft.lead = 1.5
                led, same = self.net.follow(known, self.gist, torch.tensor([time, time]), 3)
            self.assertGreater((learned - last).abs().max(), .01)
            torch.testing.assert_close(led - last, further * (learned - last))
            self.assertTrue(torch.equal(same, variance))

    def test_the_best_draft_knows_how_far_it_is_off(self):
        torch.manual_seed(0)
        x0, subject = .5 * torch.randn(1, 4, 7, 40, 40), torch.zeros(1, 7, 40, 40)
        for log_variance, sign in ((-2., -1), (-.8, 1)):  # the logarithm of .25 is -1.39
            of = torch.full((1, 7, 4, 40, 40), log_variance, requires_grad=True)
            draft_loss((torch.zeros(1, 7, 4, 40, 40), of), x0, subject, 1., 1.)[0].backward()
            self.assertGreater(sign * of.grad.sum().item(), 0)


class Unsure(unittest.TestCase):
    def test_where_a_draft_varies_much_the_critic_has_more_to_say_and_where_it_knows_the_error(self):
        open_to = lambda variance: unsure((None, torch.full((2, 3, 4, 5, 6), math.log(variance))))
        self.assertEqual(open_to(UNSURE).shape, (2, 1, 3, 5, 6))
        self.assertAlmostEqual(open_to(UNSURE).mean().item(), .5, places=5)
        self.assertLess(open_to(.02).max(), .1)
        self.assertGreater(open_to(1.6).min(), .8)

    def test_in_the_end_most_of_what_is_seen_follows_on_faults(self):
        share = lambda progress, kind: sum(kind_of_step(it, progress) == kind for it in range(2000)) / 2000
        self.assertGreater(share(.2, "images"), .7)
        self.assertEqual(share(.2, "sequences"), 0)
        self.assertGreater(share(.9, "sequences"), .5)


class Draws(unittest.TestCase):
    def test_a_single_first_frame_is_nearly_always_its_scenes_own(self):
        """Latents here hold the time they were taken at."""
        with tempfile.TemporaryDirectory() as folder:
            work, rng = pathlib.Path(folder), random.Random(0)
            (work / "data").mkdir()
            state = VAE().state_dict()
            checkpoints.save(work / "vae.pt", average=state, it=1, importance=torch.ones(LATENT_CHANNELS))
            for name, frames in (("images-wide", 1), ("clips-wide", 5), ("sequences-apart", 15)):
                times = np.arange(20, dtype=np.float32)[:, None] % 2 + np.arange(frames, dtype=np.float32) + 100 * (name.endswith("apart") & (np.arange(frames) > 2))
                latents = np.broadcast_to(times[:, None, :, None, None], (20, LATENT_CHANNELS, frames, 2, 2)).astype(np.float16)
                np.savez(work / f"data/latents-{name}-0.npz", latents=latents, masks=np.zeros((20, frames, 2, 2), np.uint8), times=times,
                         scenes=np.frombuffer(pickle.dumps([Scene.sample(rng) for _ in range(20)]), np.uint8))
            data = Latents(work)
            late = lambda chunk: np.mean([data.draw(rng, "clips", 1, torch.tensor(chunk))[0][0, 0, 0, 0, 0].item() for _ in range(400)])
            self.assertLess(late([0, 1, 1, 2, 2]), .12)
            self.assertGreater(late([0, 0, 0, 1, 1]), .3)
            self.assertEqual(data.draw(rng, "images", 1, torch.tensor([0]))[0].shape, (40, LATENT_CHANNELS, 1, 2, 2))
            latents, _, times, _ = data.draw(rng, "sequences", 1, chunks_of(9, rng))
            self.assertTrue(torch.equal(latents[:, 0, :, 0, 0], times))
            self.assertEqual(times[0].diff().lt(1.5).tolist(), [True, True, False, True, True, True, True, True])
            self.assertEqual(data.draw(rng, "sequences", 1, chunks_of(31, rng))[0].shape[2], 15)

    def test_what_few_scenes_have_is_drawn_as_often_however_many_there_are(self):
        plain = Scene("cat", "garden", "day", "white", "sit", "none", "static", "clear", 1)
        scenes = [plain] * 50 + [plain.with_(other="dog", other_color="brown")] * 3 + [plain.with_(pillars=True)] * 7
        often = np.array(odds("images-wide", scenes)) / sum(odds("images-wide", scenes))
        self.assertAlmostEqual(often[50:53].sum(), SELDOM["pair"])
        self.assertAlmostEqual(often[53:].sum(), SELDOM["pillars"])

    def test_second_subjects_alone_can_be_rendered(self):
        self.assertNotIn("none", [render_job(Job(0, seed, 32, 32, 1, 0., paired=True))[1].other for seed in range(8)])

    def test_a_clip_in_two_parts_has_the_scenes_beginning_and_a_later_time_a_chunks_loop_apart(self):
        _, scene, frames, masks, times = render_job(Job(0, 7, 64, 48, 57, 0., apart=True, masked=True))
        self.assertEqual((frames.shape, masks.shape, times.shape), ((57 + LEAD, 48, 64, 3), (15, 3, 4), (15,)))
        self.assertTrue(np.array_equal(frames[:OPENING], scene.render(64, 48, OPENING)))
        chunks = times[3] / CHUNK
        self.assertTrue(FAR[0] <= chunks <= FAR[1] and chunks == int(chunks))
        self.assertEqual([times[:3].tolist(), (times[3:] - times[3]).tolist()], [[0, 1, 2], list(range(12))])
        last = scene.render(64, 48, 1, start=float(times[-1]) / LATENT_RATE)[0]
        self.assertLessEqual(np.abs(frames[-1].astype(int) - last).max(), 2)  # but for the last digit of its time


class Autoencoder(unittest.TestCase):
    def test_a_cut_puts_the_beginning_of_another_clip_before_the_rest(self):
        self.assertEqual(cut(torch.tensor([[1, 2, 3], [4, 5, 6]]), 1).tolist(), [[4, 2, 3], [1, 5, 6]])

    def test_flows_lead_to_where_things_go(self):
        picture = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        clip = np.stack([np.roll(picture, 3 * i, 1) for i in range(4)])
        flow = flows(clip[None], 2)
        self.assertEqual(flow.shape, (1, 2, 96, 128, 2))
        torch.testing.assert_close(flow[0, :, 24:72, 24:96].median(2)[0].median(1)[0], torch.tensor([[6., 0.], [6., 0.]]), atol=.3, rtol=0)
        there, inside = led(torch.from_numpy(clip[2:3]).permute(0, 3, 1, 2).float(), torch.tensor([6., 0.]).expand(1, 96, 128, 2))
        torch.testing.assert_close(there[..., :122], torch.from_numpy(clip[:1]).permute(0, 3, 1, 2).float()[..., :122], atol=.01, rtol=0)
        self.assertEqual(inside[0, 0].sum(1).tolist(), [122] * 96)

    def test_an_error_that_goes_with_what_moves_does_not_flicker(self):
        wanted = torch.zeros(1, 2, 1, 2, 8)
        wanted[0, 0, ..., 2], wanted[0, 1, ..., 3] = 1., 1.  # a thing goes one to the right
        flow = torch.zeros(1, 1, 2, 8, 2)
        flow[0, 0, :, 2, 0] = 1.
        self.assertEqual(flickers(.1 * wanted, wanted, flow)[1].item(), 0.)
        trembling = torch.zeros_like(wanted)
        trembling[0, 1, ..., 3] = .4  # where it has gone to, and where it was not to be seen
        change, followed = flickers(trembling, wanted, flow)
        torch.testing.assert_close((change, followed), (torch.tensor(.1), torch.tensor(.05)))

    def test_a_change_from_one_latent_frame_to_the_next_counts_more(self):
        inside, across = between(9, 1)[[1, 0]]
        self.assertAlmostEqual(float(across / inside), BETWEEN, places=5)
        torch.testing.assert_close(between(9, 1), torch.stack([across, inside, inside, inside] * 2))
        torch.testing.assert_close(between(9, 2).bool().sum() / between(9, 2).sum(), torch.tensor(1.))
        self.assertEqual((between(9, 2) > 1).tolist(), [True, False, False, True, True, False, False])


class Settling(unittest.TestCase):
    def test_pixels_go_slowly_to_what_hardly_differs_and_at_once_to_what_is_new(self):
        drawn = torch.zeros(1, 2, 3, 2, 1, 1)
        drawn[0, :, :, 0], drawn[0, :, :, 1] = .001, 1.
        shown = settle(drawn, torch.full((1, 2, 2, 1, 1), .9), torch.zeros(1, 3, 2, 1, 1), NEAR)[0, :, :, :, 0, 0]
        torch.testing.assert_close(shown[:, :, 0], torch.tensor([[.0001], [.00019]]).expand(2, 3), atol=1e-6, rtol=0)
        self.assertGreater(shown[:, :, 1].min(), .99)

    def test_what_differs_by_as_much_as_near_goes_twice_as_fast(self):
        step = lambda by: float(settle(torch.full((1, 1, 3, 1, 1, 1), by), torch.full((1, 1, 1, 1, 1), .8), torch.zeros(1, 3, 1, 1, 1), NEAR).mean()) / by
        self.assertAlmostEqual(1 - step(NEAR), (1 - step(1e-5)) / 2, places=4)

    def test_a_decoder_goes_on_from_what_it_showed_last(self):
        decoder, z = restless(Decoder(16, 24, 8)), torch.randn(3, LATENT_CHANNELS, 4, 5)
        with torch.no_grad():
            whole, _ = decoder(z, 3)
            head, states = decoder(z[:1], 1)
            tail, _ = decoder(z[1:], 2, states)
        torch.testing.assert_close(torch.cat([head, tail]), whole)


class Checkpoints(unittest.TestCase):
    def test_a_wider_network_does_what_the_narrower_one_did(self):
        old, new = torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(5, 8, 3)
        checkpoints.fit(new, old.state_dict())
        x = torch.randn(1, 5, 7, 7)
        torch.testing.assert_close(new(x)[:, :6], old(x[:, :4]))

    def test_a_wider_memory_sees_the_step_before_as_the_narrower_one_did(self):
        old, new, x = restless(Memory(4)), Memory(6), torch.randn(3, 4, 5, 5)
        with torch.no_grad():
            checkpoints.fit(new, old.state_dict())
            torch.testing.assert_close(new(F.pad(x, (0, 0, 0, 0, 0, 2)), 3)[0][:, :4], old(x, 3)[0])

    def test_a_wider_decoder_does_what_the_narrower_one_did(self):
        old, new, z = restless(Decoder(16, 24, 8)), Decoder(24, 32, 12), torch.randn(3, LATENT_CHANNELS, 4, 5)
        with torch.no_grad():
            checkpoints.fit(new, old.state_dict())
            torch.testing.assert_close(new(z, 3)[0], old(z, 3)[0], atol=1e-4, rtol=1e-3)

    def test_words_keep_their_meaning_when_others_are_added(self):
        known, words = ["[PAD]", "cat", "dog"], ["[PAD]", "car", "cat", "dog"]
        old, new = torch.nn.ModuleDict({"text": TextEncoder(3)}), torch.nn.ModuleDict({"text": TextEncoder(4)})
        made = {k: v.clone() for k, v in new.state_dict().items()}
        made["text.heads.subject.weight"] = torch.zeros(40, 256)  # of more subjects
        grown = checkpoints.with_words(old.state_dict(), known, made, words)
        self.assertTrue(torch.equal(grown["text.words.weight"][[0, 2, 3]], old["text"].words.weight))
        self.assertTrue(torch.equal(grown["text.words.weight"][1], made["text.words.weight"][1]))
        self.assertTrue(torch.equal(grown["text.layers.0.o.weight"], old["text"].layers[0].o.weight))
        self.assertEqual(grown["text.heads.subject.weight"].shape, (40, 256))

    def test_a_soup_is_the_weighted_mean_of_runs_and_of_one_network_only(self):
        one, other = ({"w": torch.full((2, 3), value), "count": torch.tensor(5)} for value in (1., 5.))
        self.assertTrue(torch.equal(soup.mean([one, other], [3, 1])["w"], torch.full((2, 3), 2.)))
        self.assertEqual(soup.mean([one, other], [3, 1])["count"], 5)
        with self.assertRaises(SystemExit):
            soup.mean([one, {"w": torch.zeros(2, 4), "count": torch.tensor(5)}], [1, 1])

    def test_pieces_bring_back_the_averaged_weights(self):
        with tempfile.TemporaryDirectory() as folder:
            work, there, carried = (pathlib.Path(folder) / n for n in ("work", "there", "pieces"))
            work.mkdir()
            state = restless(VAE()).state_dict()
            checkpoints.save(work / "vae.pt", vae=state, average=state, opt={"big": torch.zeros(1000)}, it=7)
            size, pieces.PIECE = pieces.PIECE, 4 << 20
            try:
                paths = pieces.split(work, carried)
            finally:
                pieces.PIECE = size
            self.assertGreater(len(paths), 1)
            self.assertTrue(all(p.stat().st_size <= 4 << 20 for p in paths))
            self.assertEqual(pieces.join(carried, there), ["vae.pt"])
            back, note = checkpoints.load_vae(there)
            self.assertEqual(note, "Autoencoder: 7 steps.")
            for name, value in back.state_dict().items():
                torch.testing.assert_close(value, state[name], atol=1e-3, rtol=1e-3)


if __name__ == "__main__":
    unittest.main()
