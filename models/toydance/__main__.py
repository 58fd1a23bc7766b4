"""Make the small networks: `python -m steadydancer.models.toydance PART --out DIR`, in the order of `STEPS`.

`pose` sees a third of its frames through the autoencoder; `decoder` trains the autoencoder's decoder on. `clips` writes
the videos that base and stages are trained on. `ship` writes the folder that the package ships.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ..components import load_components
from .autoencoder import fit_autoencoder, fit_decoder, open_pools
from .base import fit_base
from .encoders import fit_encoders
from .pose import fit_pose
from .shipping import ship
from .training_clips import write_training_clips

STEPS = {"autoencoder": 7000, "pose": 4000, "decoder": 4000, "encoders": 1200, "base": 1000}
LEARNING_RATES = {"autoencoder": 1.2e-3, "pose": 2e-3, "decoder": 1e-3, "encoders": 2e-3, "base": 3e-3}


def main() -> None:
    """Fit one part, or resume it; the components are written to `--out/components` when it is finished."""
    parser = argparse.ArgumentParser(prog="python -m steadydancer.models.toydance", description=__doc__)
    parser.add_argument("part", choices=[*STEPS, "clips", "ship"], help="what to make")
    parser.add_argument("--out", type=Path, default=Path("build/toydance"), help="folder of states and components")
    parser.add_argument("--latents", type=Path, help="latents folder, for `base`")
    parser.add_argument("--stages", type=Path, help="folder of the training runs, for `ship`")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: those of the shipped weights)")
    parser.add_argument("--minutes", type=float, default=140.0, help="stop after this time; run again to resume")
    options = parser.parse_args()
    if options.part == "clips":
        write_training_clips(options.out / "clips")
        return
    if options.part == "ship":
        if options.stages is None:
            parser.error("ship: give --stages, the folder with the training runs of stage 1, 2, 3 and the control")
        size = ship(options.out, options.stages, options.out / "package")
        print(json.dumps({"part": "ship", "folder": str(options.out / "package"), "bytes": size}))
        return
    torch.set_num_threads(1)  # the order of sums, and so the bits, depend on the number of threads
    steps = options.steps or STEPS[options.part]
    settings = {"steps": steps, "learning_rate": LEARNING_RATES[options.part], "minutes": options.minutes}
    folder, components = options.out / options.part, options.out / "components"
    match options.part:
        case "autoencoder":
            vae = fit_autoencoder(folder, open_pools(options.out / "pools"), **settings)
            made = vae and {"vae": vae.half()}
        case "decoder":
            fitted = load_components(str(components), ("vae",))["vae"]
            vae = fit_decoder(fitted, folder, open_pools(options.out / "pools"), **settings)
            made = vae and {"vae": vae.half()}
        case "encoders":
            made = fit_encoders(folder, **settings)
            made = made and {name: part.half() if hasattr(part, "half") else part for name, part in made.items()}
        case "pose":
            made = {} if fit_pose(folder, components, **settings) else None
        case _:
            if options.latents is None:
                parser.error("base: give --latents, a folder that `steadydancer cache --preset toydance` wrote")
            base = fit_base(folder, options.latents, **settings)
            made = base and {"transformer": base.half()}
    if made is None:
        print(json.dumps({"part": options.part, "finished": False, "next": "run the same command again"}))
        return
    for name, component in made.items():
        component.save_pretrained(components / name)


if __name__ == "__main__":
    main()
