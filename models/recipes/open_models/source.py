"""Where a pipeline comes from: a folder that diffusers' `save_pretrained` wrote, or a name on the Hugging Face hub."""
from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import torch

from . import scheduler

TYPES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


class Source:
    """A pipeline's components by the names that model_index.json gives them."""

    def __init__(self, location: str, revision: str | None = None, variant: str | None = None):
        self.location, self.variant, self.revision = location, variant, revision
        self.folder = pathlib.Path(location)
        if not self.folder.is_dir():
            self.folder = download(location, revision, variant)
        index = self.folder / "model_index.json"
        if not index.is_file():
            raise SystemExit(f"`{self.folder}` holds no model_index.json: SOURCE is the folder of a diffusers pipeline (save_pretrained) or a hub name")
        self.index: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))

    @property
    def pipeline(self) -> str:
        """The pipeline's class."""
        return self.index["_class_name"]

    @property
    def name(self) -> str:
        """The model's name for a package: lower case, and only what a package's name may hold."""
        return re.sub(r"[^a-z0-9._-]+", "-", pathlib.PurePath(self.location).name.lower()).strip("-") or "model"

    @property
    def license(self) -> str:
        """The licence that the model card's front matter names."""
        card = self.folder / "README.md"
        found = re.search(r"^license(?:_name)?:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace"), re.M) if card.is_file() else None
        return found.group(1) if found else ""

    def has(self, component: str) -> bool:
        """Whether the pipeline has this component."""
        entry = self.index.get(component)
        return isinstance(entry, list) and entry[0] is not None

    def option(self, name: str, default: Any = None) -> Any:
        """A setting of the pipeline itself, such as `boundary_ratio`."""
        value = self.index.get(name)
        return default if value is None or isinstance(value, list) else value

    def config(self, component: str) -> dict[str, Any]:
        """A component's config.json."""
        return json.loads((self.folder / component / "config.json").read_text(encoding="utf-8"))

    def cls(self, component: str) -> type:
        """A component's class."""
        library, name = self.index[component]
        if library not in ("diffusers", "transformers"):
            raise SystemExit(f"component `{component}` is a `{library}.{name}`: only classes of diffusers and transformers can be exported")
        found = getattr(__import__(library), name, None)
        if found is None:
            raise SystemExit(f"component `{component}` is a `{name}`, which this version of {library} doesn't have")
        return found

    def load(self, component: str, dtype: torch.dtype) -> torch.nn.Module:
        """A component's module. Weights of the same type stay mapped files until something reads them."""
        cls, folder = self.cls(component), self.folder / component
        no_progress_bars()
        if self.index[component][0] == "diffusers":
            module = cls.from_pretrained(folder, dtype=dtype, variant=self.variant, low_cpu_mem_usage=True)
        else:
            module = cls.from_pretrained(folder, dtype=dtype, variant=self.variant)
        return module.eval().requires_grad_(False)

    def tokenizer(self, component: str = "tokenizer"):
        """A tokenizer."""
        return self.cls(component).from_pretrained(self.folder / component)

    def scheduler(self, name: str | None = None):
        """The scheduler, or another one made of the same configuration."""
        own = self.cls("scheduler").from_pretrained(self.folder / "scheduler")
        if name is None:
            return own
        import diffusers

        cls = getattr(diffusers, name, None)
        if cls is None or not hasattr(cls, "from_config"):
            raise SystemExit(f"`{name}` is no scheduler of diffusers; EulerDiscreteScheduler and DDIMScheduler are")
        return cls.from_config(scheduler.config_for(cls, dict(own.config), type(own).__name__))

    def parameters(self, component: str) -> int:
        """The number of a component's weights, from the headers of its files."""
        folder = self.folder / component
        tensors = 0
        for path in weight_files(folder, self.variant):
            if path.suffix != ".safetensors":
                tensors += path.stat().st_size // 4
                continue
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    tensors += (end - begin) // TYPES.get(entry["dtype"], 1)
        return tensors


def no_progress_bars() -> None:
    """Loading says how long it took; the libraries' bars would only cut the lines."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def weight_files(folder: pathlib.Path, variant: str | None) -> list[pathlib.Path]:
    """The files that hold a component's weights: safetensors, or what there is."""
    for suffix in (".safetensors", ".bin"):
        files = [p for p in sorted(folder.glob(f"*{suffix}")) if (f".{variant}." in p.name if variant else p.name.count(".") == 1)]
        if files:
            return files
    return []


def download(name: str, revision: str | None, variant: str | None) -> pathlib.Path:
    """Brings a pipeline from the hub, into its cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise SystemExit(f"`{name}` is neither a folder nor a hub name such as `Wan-AI/Wan2.1-T2V-1.3B-Diffusers`")
    from diffusers import DiffusionPipeline

    print(f"downloading {name} (or finding it in the cache)", flush=True)
    try:
        return pathlib.Path(DiffusionPipeline.download(name, revision=revision, variant=variant))
    except Exception as error:
        raise SystemExit(f"`{name}` can't be had from the hub: {error}") from error
