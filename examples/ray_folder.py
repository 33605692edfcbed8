"""Encode or decode a folder on a Ray cluster: python examples/ray_folder.py encode photos/ coded/ --quality 6 --workers 64

Every node needs `pip install 'priorcodec[ray]'` and must see both folders under the same paths. RAY_ADDRESS selects the cluster;
without it this machine is used. Outputs that are there and right are kept, so the same command continues after a stop.
"""

import argparse
import sys
from pathlib import Path

from priorcodec import PriorCodecError
from priorcodec.batch import ray, runner
from priorcodec.batch.tasks import Decode, Encode
from priorcodec.config import decode_config
from priorcodec.core.container import SUFFIX


def main() -> None:
    cli = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cli.add_argument("command", choices=["encode", "decode", "preview"])
    cli.add_argument("source", type=Path, help="folder of images or of .gic files")
    cli.add_argument("target", type=Path, help="folder to write")
    cli.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="as of priorcodec: backbone=sdxl, device=cuda, ..."
    )
    cli.add_argument("--quality", type=float, default=6.0)
    cli.add_argument("--workers", type=int, default=2, help="processes, at most; default 2")
    cli.add_argument("--cpus", type=float, default=1, help="processor cores for each; default 1")
    cli.add_argument("--gpus", type=float, default=0, help="GPUs for each; 0.5 for two workers on one")
    cli.add_argument("--force", action="store_true", help="replace outputs that are not what this run would write")
    args = cli.parse_intermixed_args()  # settings may stand behind options
    config = decode_config(args.settings)
    if args.command == "encode":
        task = Encode(config=config, quality=args.quality, skip=True, force=args.force)
        suffixes, ending = runner.IMAGES, SUFFIX
    else:
        task = Decode(config=config, preview=args.command == "preview", skip=True, force=args.force)
        suffixes, ending = (SUFFIX,), task.ending
    source, target = args.source.absolute(), args.target.absolute()
    target.mkdir(parents=True, exist_ok=True)
    jobs = runner.list_jobs(
        [source], target, suffixes=suffixes, ending=ending, outputs=[Path(ending).suffix], force=True
    )
    outcome = ray.run_jobs(jobs, task, workers=args.workers, cpus=args.cpus, gpus=args.gpus)
    left = sum("skipped" in row for row in outcome.rows)
    print(f"{len(outcome.rows) - left} written, {left} up to date, {len(outcome.failures)} failed")
    sys.exit("\n".join(reason for _, reason in outcome.failures) or 0)


if __name__ == "__main__":
    try:
        main()
    except PriorCodecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
