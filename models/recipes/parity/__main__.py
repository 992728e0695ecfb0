"""Makes the fixtures of tests/parity.rs: for every family a tiny pipeline with random weights, saved, run by diffusers as it
is, exported as a user would export it, and packed with diffusers' numbers into one archive.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

RECIPES = Path(__file__).resolve().parent.parent
ARCHIVES = RECIPES.parent.parent / "tests/data/parity"
# Tiny videos are too small for what the real models can do.
TINY = [f"--set=video.{side}.min=16" for side in ("width", "height")]


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="parity.sh", description=__doc__, epilog="Example: parity.sh wan2.1-t2v")
    p.add_argument("names", metavar="INSTANCE", nargs="*", help="instances to make (default: all)")
    p.add_argument("--list", action="store_true", help="name the instances and their cases, and end")
    p.add_argument("--out", type=Path, default=ARCHIVES, help="folder of the archives (default: tests/data/parity)")
    p.add_argument("--work", type=Path, default=Path(os.environ.get("TMPDIR", "/tmp")) / "latentflow-parity",
                   help="folder for pipelines, packages and numbers (default: %(default)s)")
    p.add_argument("--keep-packages", action="store_true", help="export only what was never exported; else also what has changed")
    return p


def main() -> None:
    args = parser().parse_args()
    quiet()
    from parity.instances import INSTANCES

    if args.list:
        for instance in INSTANCES.values():
            print(f"{instance.name}: {', '.join(case.name for case in instance.cases)}")
        return
    if unknown := [name for name in args.names if name not in INSTANCES]:
        sys.exit(f"`{unknown[0]}` is no instance; these are: {', '.join(INSTANCES)}")
    for name in args.names or INSTANCES:
        make(INSTANCES[name], args.work / name, args.out, args.keep_packages)


def make(instance, work: Path, out: Path, keep_package: bool) -> None:
    """Makes the archive of one instance."""
    from diffusers import DiffusionPipeline

    from open_models import scheduler
    from parity import archive, record

    start = time.time()
    print(instance.name, flush=True)
    saved = work / instance.name  # the exporter names the package after it
    shutil.rmtree(saved, ignore_errors=True)
    instance.pipeline().save_pretrained(saved)
    pipeline = DiffusionPipeline.from_pretrained(saved)
    report = record.record(instance, pipeline, work / "reference", lambda used: scheduler.table(used.scheduler))
    for case, words in report.items():
        print(f"  {case}: {words}", flush=True)
    export(saved, work / "package", keep_package)
    size = archive.pack([work / "package", work / "reference"], out / f"{instance.name}.tar.xz")
    print(f"  {size / 1e3:.0f} kB, {time.time() - start:.0f} s", flush=True)


def export(saved: Path, package: Path, keep: bool) -> None:
    """Exports a pipeline, if it or the exporter has changed since the last time."""
    stamp = package.with_name("package.stamp")
    sources = [f for folder in (saved, RECIPES / "open_models") for f in sorted(folder.rglob("*")) if f.suffix in (".py", ".json", ".safetensors")]
    digest = hashlib.sha256(b"".join(hashlib.sha256(f.read_bytes()).digest() for f in sources)).hexdigest()
    if package.is_dir() and stamp.exists() and (keep or stamp.read_text() == digest):
        print("  the package is as it was", flush=True)
        return
    command = [sys.executable, "-m", "open_models.cli", str(saved), str(package), "--check", "--force", *TINY]
    subprocess.run(command, check=True, cwd=RECIPES)
    stamp.write_text(digest)


def quiet() -> None:
    """Leaves out what the libraries print on the way."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    warnings.filterwarnings("ignore")
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    main()
