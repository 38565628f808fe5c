"""Estimate the test likelihood of one model by importance sampling, and draw pictures."""

from pathlib import Path

from tqdm import tqdm

from bitsperdim import evaluation, latent, models, stage
from bitsperdim.data import preparation
from bitsperdim.device import described, set_up_device
from bitsperdim.errors import InputError
from bitsperdim.files import write_csv, write_json
from bitsperdim.params import Params
from bitsperdim.units import bits_per_dim


def main(params: Params, name: str, folder: str, dequantized: str, results: str) -> dict[str, str]:
    """Read ``folder``/<seed> and the test images; write metrics, per-image values, bounds and pictures."""
    prepared = preparation.load(Path(dequantized), ("test",))
    description, out = prepared.description, Path(results)
    trained = {seed: models.load(Path(folder) / str(seed)) for seed in params.seeds}
    estimates, device = {}, set_up_device()
    for seed, model in trained.items():
        with tqdm(total=description.n_images["test"], desc=f"evaluate {name} seed {seed}", disable=None) as bar:

            def show(n_done: int, log_p: float, bar: tqdm = bar) -> None:
                bar.set_postfix_str(f"{bits_per_dim(log_p, description.image_shape):.4f} bits/dim ({-log_p:.2f} nats)")
                bar.update(n_done - bar.n)

            try:
                estimates[seed] = evaluation.evaluate_seed(model, prepared, params.evaluate, seed, device, show)
            except FloatingPointError as error:
                raise InputError(f"Evaluating {name} (seed {seed}) stopped: {error}; train it again.") from error
    first = trained[params.seeds[0]]
    result = evaluation.summarise(estimates, first, description, params.evaluate.proposal)
    leak = evaluation.largest_leak(trained, prepared, params.evaluate)
    code = latent.of_the_code(first, prepared, estimates[params.seeds[0]], params.evaluate, device)
    evaluation.draw_pictures(out / "pictures", first, prepared, params.evaluate, device)
    write_csv(out / "per_image.csv", evaluation.PER_IMAGE_COLUMNS, result.per_image)
    write_csv(out / "bound_against_k.csv", evaluation.BOUND_COLUMNS, result.bound)
    write_json(out / "metrics.json", result.metrics | leak | code)
    sign = {"exact": "=", "lower": "<=", "density": "density, not a likelihood,"}[result.metrics["kind"]]
    print(
        f"{name}: test {sign} {result.metrics['bpd']:.4f} +- {result.metrics['bpd_standard_error']:.4f} bits/dim "
        f"({result.metrics['nll_nats']:.2f} nats), {result.metrics['kind']}, K = {result.metrics['n_samples']}"
    )
    return described(device)


stage.run("evaluate", main, "model", "folder", "dequantized", "results")
