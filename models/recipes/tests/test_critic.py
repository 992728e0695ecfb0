"""The critics that make transformer and decoder decide."""
import unittest

import torch
from torch.nn import functional as F

from papercut import critic
from papercut.critic import Critic, PictureCritic, Seen, Sharpener, latents_seen

CHANNELS, TEXT = 4, 8
NOTHING = [torch.zeros(8, CHANNELS, 0, 8, 8)] * 2  # before a scene's beginning


def chunk(frames: int, level: float, n: int = 8):
    """Noised latents, their noise levels, the truth, whose places are 1 or -1, and gists."""
    truth = torch.randn(n, CHANNELS, frames, 8, 8).sign()
    sigma = torch.full((n, frames), level)
    return (1 - level) * truth + level * torch.randn_like(truth), sigma, truth, torch.zeros(n, TEXT)


def mist(x: torch.Tensor, level: float) -> torch.Tensor:
    """The velocity that makes of noised latents the mean of all that might be, 0."""
    return x / level


def sharpener_of_latents(steps: int = 0) -> Sharpener:
    sharpener = Sharpener(Critic(CHANNELS, TEXT), .5)
    sharpener.steps = steps
    return sharpener


class Told(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)

    def test_a_critic_learns_to_tell_mist_from_the_truth(self):
        for frames, name in ((1, "pictures"), (3, "videos")):
            sharpener = sharpener_of_latents()
            for _ in range(40):
                x, sigma, truth, gist = chunk(frames, .6)
                sharpener.learn(latents_seen(sharpener.critic, mist(x, .6), x, sigma, truth, gist, NOTHING))
            self.assertGreater(sharpener.told[name], .8)

    def test_a_critic_of_pictures_learns_to_tell_soft_edges_from_sharp_ones(self):
        sharpener = Sharpener(PictureCritic(16), .5)
        for _ in range(40):
            sharp = F.interpolate(torch.randn(4, 3, 3, 4, 4).sign(), (3, 32, 32))
            soft = F.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1))
            sharpener.learn(Seen(sharpener.critic, soft, sharp, torch.ones(4, 3)))
        self.assertGreater(sharpener.told["videos"], .8)

    def test_frames_of_a_chunk_are_seen_beside_the_one_before_and_a_single_one_alone(self):
        x, sigma, truth, gist = chunk(3, .6)
        critic = Critic(CHANNELS, TEXT)
        seen = latents_seen(critic, torch.zeros_like(x), x, sigma, truth, gist, NOTHING)
        frames, before = seen.pairs[0]
        self.assertEqual(len(frames), 8 * 2)
        self.assertTrue(torch.equal(frames[0], before[1]))
        x, sigma, truth, gist = chunk(1, .6)
        frames, before = latents_seen(critic, torch.zeros_like(x), x, sigma, truth, gist, NOTHING).pairs[0]
        self.assertEqual((len(frames), before.abs().sum().item()), (8, 0))

    def test_a_chunk_is_seen_beside_the_frame_before_it_in_truth_and_as_it_was_made(self):
        x, sigma, truth, gist = chunk(3, .6)
        critic = Critic(CHANNELS, TEXT)
        critic.blur = 0.
        before = [torch.full((8, CHANNELS, 1, 8, 8), value) for value in (1., 2.)]
        seen = latents_seen(critic, torch.zeros_like(x), x, sigma, truth, gist, before)
        for (frames, those_before), first, value in zip(seen.pairs, (truth, x), (1., 2.)):
            self.assertEqual(len(frames), 8 * 3)
            self.assertTrue(torch.equal(frames[0], first[0, :, 0]) and bool((those_before[0] == value).all()))

    def test_where_all_is_noise_or_nothing_is_left_to_decide_nothing_counts(self):
        for level in (1., .1, 0.):
            x, sigma, truth, gist = chunk(1, level)
            self.assertEqual(latents_seen(Critic(CHANNELS, TEXT), torch.zeros_like(x), x, sigma, truth, gist, NOTHING).doubt().item(), 0)


class Asked(unittest.TestCase):
    def asked(self, steps: int):
        torch.manual_seed(0)
        sharpener = sharpener_of_latents(steps)
        x, sigma, truth, gist = chunk(3, .6)
        v = mist(x, .6).requires_grad_()
        error = (v - (x - truth) / .6).square().mean()
        return sharpener.loss(error, v, latents_seen(sharpener.critic, v, x, sigma, truth, gist, NOTHING)), error, v

    def test_it_asks_a_share_of_what_the_error_asks(self):
        loss, error, v = self.asked(critic.ALONE)
        size = lambda y: torch.autograd.grad(y, v, retain_graph=True)[0].norm().item()
        self.assertAlmostEqual(size(loss) / size(error), .5, places=2)

    def test_it_asks_nothing_before_it_has_learned(self):
        self.assertEqual(self.asked(critic.ALONE - 1)[0].item(), 0)

    def test_what_is_asked_of_the_network_changes_no_weight_of_the_critic(self):
        sharpener = sharpener_of_latents(critic.ALONE)
        x, sigma, truth, gist = chunk(3, .6)
        v = mist(x, .6).requires_grad_()
        sharpener.loss(v.square().mean(), v, latents_seen(sharpener.critic, v, x, sigma, truth, gist, NOTHING)).backward()
        self.assertTrue(all(p.grad is None for p in sharpener.critic.parameters()))


if __name__ == "__main__":
    unittest.main()
