"""The world: what is drawn, what is said of it, what is kept from training."""
import random
import unittest

import numpy as np
import skia

from papercut import captions, world
from papercut.stage import Stage
from papercut.tokenizer import UNK, make_tokenizer, make_words
from papercut.world import WORLD, Scene


def scenes(count: int, **options) -> list[Scene]:
    rng = random.Random(3)
    return [Scene.sample(rng, **options) for _ in range(count)]


class Drawing(unittest.TestCase):
    def test_a_scene_looks_the_same_whenever_it_is_drawn(self):
        for scene in scenes(8):
            whole = scene.render(64, 40, 3, start=1.)
            alone = scene.render(64, 40, 1, start=1. + 2 / 24)
            np.testing.assert_array_equal(whole[2], alone[0])

    def test_every_subject_place_and_time_can_be_drawn_in_every_shape(self):
        for subject in WORLD.subjects:
            for i, place in enumerate(WORLD.places):
                action = WORLD.actions[subject][i % len(WORLD.actions[subject])]
                scene = Scene(subject, place, list(world.TIMES)[i % 3], "red", action, "none", "static", "clear", i)
                for w, h in ((64, 40), (40, 64), (48, 48), (96, 40)):
                    self.assertGreater(scene.render(w, h, 1).std(), 10, scene)

    def test_a_subject_fills_a_good_part_of_the_frame_and_stays_in_it(self):
        for scene in scenes(40):
            if scene.subject == "none":
                continue
            for w, h in ((32, 20), (20, 32), (20, 20), (40, 20)):
                for t in (0., 1.5, 3.):
                    mask = scene.subject_mask(w, h, t)
                    self.assertGreater(mask.sum() / min(mask.shape) ** 2, .03, scene)
                    self.assertGreater(mask[:, 1:-1].sum() / mask.sum(), .9, (scene, w, h, t))

    def test_the_mask_is_where_the_subject_is(self):
        for scene in scenes(20):
            if scene.subject in ("none", "ball"):
                continue
            without = scene.with_(subject="none", color="none", action="none", direction="none", camera="static")
            there = scene.with_(direction="none", camera="static")
            change = np.abs(there.render(128, 80, 1)[0].astype(int) - without.render(128, 80, 1)[0]).max(-1) > 40
            covered = there.subject_mask(128, 80, 0., 1) > .5
            self.assertGreater((change & covered).sum() / covered.sum(), .55, scene)

    def test_a_subject_begins_in_the_same_place_and_pose_whatever_the_seed(self):
        for scene in scenes(12):
            np.testing.assert_array_equal(scene.subject_mask(32, 20, 0.), scene.with_(seed=scene.seed + 1).subject_mask(32, 20, 0.))

    def test_every_move_of_the_camera_begins_with_what_a_still_one_sees(self):
        still = Scene("cat", "garden", "day", "orange", "sit", "none", "static", "clear", 4)
        for camera in WORLD.cameras:
            moved = still.with_(camera=camera)
            np.testing.assert_array_equal(moved.render(64, 40, 1), still.render(64, 40, 1), camera)
            if camera != "static":
                change = np.abs(moved.render(64, 40, 1, start=.5).astype(int) - still.render(64, 40, 1, start=.5)).mean()
                self.assertGreater(change, 4, camera)

    def test_layers_move_by_their_depth_under_a_pan(self):
        scene = Scene("none", "garden", "day", "none", "none", "none", "pan right", "clear", 1)
        a, b = (Stage(scene, skia.Surface(8, 8).getCanvas(), 256, 160, t) for t in (0., 1.))
        shift = {p: b.way(p) - a.way(p) for p in (.2, .55, 1., 1.25)}
        self.assertGreater(shift[1.], .1)
        for p, way in shift.items():
            self.assertAlmostEqual(way, p * shift[1.])

    def test_a_zoom_makes_all_layers_grow_and_near_ones_more(self):
        scene = Scene("none", "garden", "day", "none", "none", "none", "zoom in", "clear", 1)

        def seen(p: float, t: float) -> float:
            lo, hi = Stage(scene, skia.Surface(8, 8).getCanvas(), 256, 160, t).enter(p)
            return hi - lo

        grown = [seen(p, 0.) / seen(p, 1.) for p in (0., .5, 1., 1.3)]
        self.assertGreater(grown[0], 1.03)
        self.assertEqual(grown, sorted(grown))
        self.assertGreater(grown[-1], 1.1)

    def test_there_is_one_sun_and_it_is_on_the_right(self):
        for seed in range(20):
            scene = Scene("none", "garden", "day", "none", "none", "none", "static", "clear", seed)
            frame = scene.render(128, 80, 1)[0].astype(int)
            yellow = (abs(frame - (255, 214, 60)).max(-1) < 12)[:40]
            columns = np.flatnonzero(yellow.any(0))
            self.assertGreater(len(columns), 5)
            self.assertGreater(columns.min(), 64)
            self.assertLess(columns.max() - columns.min(), 20)


class HeldOut(unittest.TestCase):
    def test_held_out_combinations_are_drawn_only_when_asked_for(self):
        self.assertFalse(any(s.held_out for s in scenes(300)))
        self.assertTrue(all(s.held_out for s in scenes(30, held_out=True)))

    def test_it_depends_on_the_combination_alone(self):
        for scene in scenes(30, held_out=True):
            self.assertTrue(scene.with_(seed=1, camera="static", direction="none").held_out)

    def test_a_subject_in_its_own_colour_is_never_held_out(self):
        for scene in scenes(100):
            if scene.subject != "none":
                self.assertFalse(scene.with_(color=world.NATURAL[scene.subject][0]).held_out)


class Captions(unittest.TestCase):
    def test_what_a_caption_leaves_out_is_as_usual(self):
        rng = random.Random(2)
        for scene in scenes(400):
            said = captions.choose_said(scene, rng)
            usual = {"time": ("day",), "color": ("none", world.NATURAL[scene.subject][0]), "action": (WORLD.actions[scene.subject][0],),
                     "direction": ("none", "right"), "camera": ("static",)}
            for k, values in usual.items():
                self.assertTrue(said[k] == getattr(scene, k) or getattr(scene, k) in values, (k, said, scene))

    def test_the_vocabulary_has_every_word_of_every_caption(self):
        tokenizer, words, rng = make_tokenizer(), make_words(), random.Random(1)
        for scene in scenes(400):
            for language in captions.LANGUAGES:
                text, _ = captions.caption(scene, rng, language)
                self.assertNotIn(UNK, tokenizer.encode(text).ids, text)
                self.assertNotIn("[UNK]", [words.id_to_token(i) for i in words.encode(text).ids], text)

    def test_words_that_are_only_made_of_known_characters_are_unknown(self):
        for text, unknown in (("月球上的猫", ["月"]), ("海边", []), ("一只猫坐在窗台上看日落", [])):
            self.assertNotIn(UNK, make_tokenizer().encode(text).ids, text)
            found = make_words().encode(text)
            self.assertEqual([text[a:b] for i, (a, b) in zip(found.ids, found.offsets) if i == 0], unknown)

    def test_what_is_written_as_in_taiwan_is_read_as_if_written_as_in_beijing(self):
        for traditional, simplified in (("一隻貓坐在窗臺上看日落", "一只猫坐在窗台上看日落"), ("花園裡有一隻藍色的鳥，鏡頭環繞", "花园里有一只蓝色的鸟，镜头环绕"),
                                        ("古代遺跡的無人機", "古代遗迹的无人机"), ("水下遺跡的蝴蝶", "水下遗迹的蝴蝶")):
            for tokenizer in (make_tokenizer(), make_words()):
                self.assertEqual(tokenizer.encode(traditional).ids, tokenizer.encode(simplified).ids)
            self.assertNotIn(UNK, make_tokenizer().encode(traditional).ids)

    def test_a_second_subject_is_named_in_every_style(self):
        rng, others = random.Random(4), [s for s in scenes(1500) if s.other != "none"]
        for scene in others:
            for language, words in zip(captions.LANGUAGES, (captions.ZH, captions.EN)):
                text, said = captions.caption(scene, rng, language)
                self.assertTrue(any(name in text for name in words["subject"][said["other"]]), (text, said))

    def test_what_is_said_can_be_said(self):
        rng = random.Random(2)
        for scene in scenes(200):
            _, said = captions.caption(scene, rng)
            for attribute, value in said.items():
                self.assertIn(value, (*captions.VALUES[attribute], captions.UNSAID))


if __name__ == "__main__":
    unittest.main()
