"""Judges an exported package: python -m papercut.evaluate [PART ...] [--package DIR] [--quick] [--json]

The package alone is run, in ONNX Runtime; detectors trained on renders of the same world name what its videos show. Parts:

  attributes   do videos show what prompts name, in both languages, on combinations that training never saw
  codec        the autoencoder on unseen renders
  consistency  warping error, seams, parallax, diversity, a minute without drift
  shapes       eight sizes, single pictures and one second
  steps        the figures at 1, 2, 4, 8, 16 and 32 steps, with a plot
  given        a picture as prompt, forwards, backwards, loop, join
  sheets       contact sheets of the six prompts, every place and every camera move
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time

from .evaluation import attributes, codec, consistency, formats, given, sheets, steps
from .evaluation.bench import open_bench

PARTS = {"attributes": attributes, "codec": codec, "consistency": consistency, "shapes": formats, "steps": steps, "given": given, "sheets": sheets}
SECONDS = {"attributes": 420, "codec": 60, "consistency": 900, "shapes": 240, "steps": 700, "given": 20, "sheets": 60}  # on two idle cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="which parts (default: all)")
    parser.add_argument("--package", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "papercut", help="folder of the package (default: %(default)s)")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path(os.environ.get("LATENTFLOW_WORK", os.path.expanduser("~/.cache/latentflow"))),
                        help="folder that keeps the detectors (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("evaluation"), help="folder for pictures and results (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: to see whether it runs, not to quote")
    parser.add_argument("--effort", type=float, default=1., help="share of the full size to do (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes, of one thread each (default: one a core, %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="added to the seed of every video (default: %(default)s)")
    parser.add_argument("--plugin", type=pathlib.Path, metavar="FOLDER", help="make the contact sheets through GStreamer, with the plugin in this folder")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"no part `{part}`; there are {', '.join(PARTS)}")
    chosen = args.parts or list(PARTS)
    effort = .1 if args.quick else args.effort
    say = lambda text: print(text, file=sys.stderr, flush=True)
    say(f"about {sum(SECONDS[p] for p in chosen) * effort / 60 + .5:.0f} minutes on two idle cores, and a few more the first time, for the detectors")
    args.out.mkdir(parents=True, exist_ok=True)
    start, results, texts = time.time(), {}, []
    bench = open_bench(args.package, args.work, args.processes, out=args.out, effort=effort, seed=args.seed, plugin=args.plugin)
    for part in chosen:
        results[part] = PARTS[part].measure(bench)
        texts.append(f"### {part}\n\n{PARTS[part].markdown(results[part])}\n")
        (args.out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))
        (args.out / "results.md").write_text("\n".join(texts))
        say(f"{part} done, {(time.time() - start) / 60:.1f} minutes so far; results in {args.out}")
    print(json.dumps(results, indent=1, ensure_ascii=False) if args.json else "\n".join(texts))


if __name__ == "__main__":
    main()
