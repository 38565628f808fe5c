"""Estimate the test likelihood of one model by importance sampling, and draw pictures."""

from pathlib import Path
from typing import Any

from bitsperdim import models
from bitsperdim.config.params import Params
from bitsperdim.core import made_with
from bitsperdim.core.errors import InputError
from bitsperdim.core.files import remove_leftovers, write_json
from bitsperdim.data.prepared import load_prepared
from bitsperdim.evaluation import pictures, scoring, seeds, training_images
from bitsperdim.runtime import finished, stage
from bitsperdim.runtime.device import described, set_up_device
from bitsperdim.runtime.distributed import is_first, joined, world_size


def main(params: Params, name: str, folder: str, dequantized: str, results: str) -> dict[str, Any]:
    """Read ``folder``/<seed> and the test images; write metrics, per-image values, bounds and pictures."""
    section = params.evaluate
    out = Path(results)
    device = set_up_device()
    family, code = params.section(name).family, params.section(name).code
    is_fitted = section.noise == "fitted" and issubclass(models.MODELS[family], models.DensityModel)
    prepared = load_prepared(Path(dequantized), ("train", "test") if is_fitted else ("test",))
    folders = {seed: Path(folder) / str(seed) for seed in params.seeds}
    seen = training_images.seen(params.section(name), prepared)
    trained = {seed: models.load(path, family) for seed, path in folders.items()}
    decides = (family, prepared, section)
    places = {seed: scoring.checkpoint_of(path, *decides, seed, device, code) for seed, path in folders.items()}
    finished.clear(keep={place.folder for place in places.values()})
    first = trained[params.seeds[0]]
    try:
        with joined(device):
            writes = is_first()
            used = {**described(device), "n_processes": world_size()}
            scored = seeds.score_seeds(name, trained, prepared, section, places, device)
        if not writes:
            return used
        remove_leftovers(out)
    except FloatingPointError as error:
        raise InputError(f"The evaluation of {name} stopped: {error}; train the model again.") from error
    result = seeds.summarised(scored, first, prepared, section, seen)
    pictures.draw_pictures(out / "pictures", first, prepared, section, device)
    result.write(out)
    write_json(out / made_with.FILES["evaluate"], used)
    for place in places.values():
        place.finish()
    print(f"{name}: test {result.metrics.sentence}")
    return used


stage.run("evaluate", main, "model", "folder", "dequantized", "results")
