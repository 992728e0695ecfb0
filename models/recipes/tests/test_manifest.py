"""model.toml: what is written is read back as it was meant."""
import argparse
import tomllib
import unittest

from open_models import cli, scheduler, toml

MANIFEST = {
    "format": 1,
    "description": 'a "quoted" name, 猫',
    "text_encoders": [{"file": "a.onnx", "tokenizer": {"file": "t.json", "clean": []}}, {"file": "b.onnx", "tokenizer": {"file": "u.json", "clean": ["strip"]}}],
    "video": {"width": {"min": 64, "max": 1280, "default": 832}, "frame_rate": {"min": "1/1", "max": "60/1", "default": "16/1"}},
    "denoisers": [{"file": "high.onnx", "min_timestep": 875.0}, {"file": "low.onnx"}],
    "scheduler": {"type": "X", "beta_start": 1e-05, "use_flow_sigmas": True, "disable_corrector": []},
}


class Toml(unittest.TestCase):
    def test_a_manifest_is_read_back_as_it_was(self):
        self.assertEqual(tomllib.loads(toml.dumps(MANIFEST)), MANIFEST)

    def test_what_toml_has_no_form_for_is_an_error(self):
        with self.assertRaises(TypeError):
            toml.dumps({"a": None})


class FlowMatchEulerDiscreteScheduler:
    def __init__(self, shift=1.0):
        pass


class UniPCMultistepScheduler:
    def __init__(self, flow_shift=1.0, use_flow_sigmas=False, prediction_type="epsilon"):
        pass


class DDIMScheduler:
    def __init__(self, beta_start=1e-4):
        pass


class AnotherScheduler(unittest.TestCase):
    def test_of_rectified_flow_keeps_its_shift_in_its_own_words(self):
        config_for, flow, unipc = scheduler.config_for, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
        made = config_for(unipc, {"shift": 7.0}, flow.__name__)
        self.assertEqual((made["flow_shift"], made["use_flow_sigmas"], made["prediction_type"]), (7.0, True, "flow_prediction"))
        self.assertEqual(config_for(flow, {"flow_shift": 3.0, "use_flow_sigmas": True}, unipc.__name__)["shift"], 3.0)
        self.assertEqual(config_for(unipc, {"beta_start": 1e-4}, "DDIMScheduler"), {"beta_start": 1e-4})

    def test_that_cannot_sample_the_model_is_refused(self):
        for cls, config, own in ((DDIMScheduler, {"shift": 7.0}, "FlowMatchEulerDiscreteScheduler"), (DDIMScheduler, {"use_flow_sigmas": True}, "UniPCMultistepScheduler"),
                                 (UniPCMultistepScheduler, {"shift": 1.0, "use_dynamic_shifting": True}, "FlowMatchEulerDiscreteScheduler"),
                                 (FlowMatchEulerDiscreteScheduler, {"beta_start": 1e-4}, "DDIMScheduler")):
            with self.assertRaisesRegex(SystemExit, cls.__name__):
                scheduler.config_for(cls, config, own)


class Override(unittest.TestCase):
    def test_a_path_sets_a_number_or_a_text(self):
        manifest = {"video": {"width": {"default": 832}}, "name": "a"}
        cli.override(manifest, "video.width.default=480")
        cli.override(manifest, "name=b")
        self.assertEqual(manifest, {"video": {"width": {"default": 480}}, "name": "b"})

    def test_a_value_of_another_kind_is_refused(self):
        for assignment in ("scale=5,0", "scale=true", "name=3", "video=4"):
            with self.assertRaises(SystemExit, msg=assignment):
                cli.override({"scale": 5.0, "name": "a", "video": {"width": 1}}, assignment)

    def test_a_path_to_nowhere_is_refused(self):
        for assignment in ("vidio.width=1", "format", "format.x=1"):
            with self.assertRaises(SystemExit, msg=assignment) as refused:
                cli.override({"format": 1}, assignment)
            self.assertIn(assignment, str(refused.exception))


class Scheduler(unittest.TestCase):
    def test_the_table_has_the_constructor_s_fields_without_nulls(self):
        from diffusers import FlowMatchEulerDiscreteScheduler

        table = scheduler.table(FlowMatchEulerDiscreteScheduler(shift=3.0), sigma_schedule="linspace")
        self.assertEqual((table["type"], table["shift"], table["sigma_schedule"]), ("FlowMatchEulerDiscreteScheduler", 3.0, "linspace"))
        self.assertNotIn("shift_terminal", table)
        self.assertFalse([name for name in table if name.startswith("_")])


class CommandLine(unittest.TestCase):
    def test_the_standard_s_attention_needs_its_opset(self):
        from unittest import mock

        with mock.patch("sys.argv", ["export.sh", "a", "b", "--attention", "onnx"]), self.assertRaises(SystemExit) as refused:
            cli.main()
        self.assertIn("--opset 23", str(refused.exception))

    def test_a_source_that_is_neither_folder_nor_hub_name_is_refused(self):
        from open_models.source import Source

        with self.assertRaises(SystemExit) as refused:
            Source("/no/such/folder")
        self.assertIn("/no/such/folder", str(refused.exception))

    def test_an_unknown_family_lists_the_known_ones(self):
        from open_models import families

        with self.assertRaises(SystemExit) as refused:
            families.find("FluxPipeline")
        self.assertIn("WanPipeline", str(refused.exception))


if __name__ == "__main__":
    unittest.main()
