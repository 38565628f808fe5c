"""The VAE class, compared with quadrature, with one or two latent dimensions."""

import pytest
import torch

from bitsperdim.estimators.log_weights import log_mean_exp
from bitsperdim.models import vae
from bitsperdim.models.vae import VAE
from support import laws

SIZES = {"latent_size": 2, "hidden_sizes": [3], "deeper": [], "doubly_reparameterized": False}
HEADS = [
    (2, "bernoulli", 1),
    (2, "categorical", 1),
    (3, "categorical", 1),
    (2, "logistic", 1),
    (3, "logistic", 1),
    (3, "logistic", 2),
    (3, "normal", 1),
    (3, "coupled_logistic", 2),
]


def widen(model: VAE) -> None:
    """Make the proposal wider than the prior; this bounds the weights, so their spread is a valid error estimate."""
    for layer in model.encoders:
        layer.to_mean.weight.data.mul_(0.5)
        layer.to_log_scale.weight.data.mul_(0.2)
        layer.to_log_scale.bias.data.fill_(0.4)


def small_vae(latent_size: int, n_levels: int = 2, likelihood: str = "bernoulli", n_mixtures: int = 1) -> VAE:
    with torch.random.fork_rng():
        torch.manual_seed(latent_size)
        head = {"likelihood": likelihood, "n_mixtures": n_mixtures}
        shape = (3, 1, 1) if likelihood == "coupled_logistic" else (1, 2, 2)
        sizes = {"latent_size": latent_size, "hidden_sizes": [5, 4], "deeper": []}
        model = VAE(shape, n_levels, **sizes, **head, doubly_reparameterized=False).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
        widen(model)
    return model.eval()


@pytest.mark.parametrize("latent_size", [1, 2])
@pytest.mark.parametrize(("n_levels", "likelihood", "n_mixtures"), HEADS)
@torch.no_grad()
def test_weights_average_to_the_mass(
    latent_size: int, n_levels: int, likelihood: str, n_mixtures: int, generator: torch.Generator
) -> None:
    model = small_vae(latent_size, n_levels, likelihood, n_mixtures)
    images = laws.all_images(model.image_shape, n_levels)
    masses = laws.masses_by_quadrature(model, images)
    assert abs(masses.sum().item() - 1) < 1e-10
    laws.weights_average_to(model, images, masses, generator)


@torch.no_grad()
def test_the_elbo_is_below_and_the_bound_closes(generator: torch.Generator) -> None:
    """K = 1 is below log P(x); K = 5,000 is within five standard errors of it (one seed in 100,000 fails)."""
    model = small_vae(2)
    images = laws.all_images((1, 2, 2), 2)
    log_p = laws.masses_by_quadrature(model, images).log()
    log_w = model.log_weights(images, 5_000, generator=generator)
    error = log_w.exp().std(0) / log_w.exp().mean(0) / 5_000**0.5
    elbo = log_w.mean(0)
    assert (elbo < log_p).all()
    assert ((log_mean_exp(log_w) - log_p).abs() < 5 * error + 1e-9).all()


@pytest.mark.processor
def test_the_gradient_is_that_of_the_bound(generator: torch.Generator) -> None:
    """Autograd agrees with central differences through encoder, noise and decoder, with the same noise."""
    model = small_vae(2)
    images = laws.all_images((1, 2, 2), 2)

    def loss() -> torch.Tensor:
        return -log_mean_exp(model.log_weights(images, 3, generator=torch.Generator().manual_seed(4))).mean()

    loss().backward()
    step = 1e-5
    for parameter in model.parameters():
        assert parameter.grad is not None
        flat, index = parameter.data.view(-1), int(parameter.grad.abs().argmax())
        flat[index] += step
        above = loss().item()
        flat[index] -= 2 * step
        below = loss().item()
        flat[index] += step
        assert parameter.grad.view(-1)[index].item() == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_the_start_is_the_marginal(generator: torch.Generator) -> None:
    """Before training, with the output weights at zero, each sub-pixel has its share of each level."""
    for n_levels, likelihood in ((2, "bernoulli"), (4, "categorical")):
        model = VAE((1, 2, 2), n_levels, **SIZES, likelihood=likelihood, n_mixtures=1).double()
        images = torch.randint(n_levels, (30, 1, 2, 2), generator=generator).to(torch.uint8)
        model.initialise(images)
        model.to_outputs.weight.data.zero_()
        decoded = model.decode(torch.zeros(1, 1, 2, dtype=torch.float64))
        for level in range(n_levels):
            masses = decoded.log_prob(torch.full((1, 1, 1, 2, 2), level)).exp()[0, 0]
            expected = ((images == level).sum(0).double() + 1) / (30 + n_levels)
            torch.testing.assert_close(masses, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("likelihood", ["logistic", "normal"])
def test_a_density_starts_at_mean_and_spread(likelihood: str, generator: torch.Generator) -> None:
    """Before training, a sub-pixel has the mean and, up to the variance inside a cell, the spread of the images."""
    images = (100 + 20 * torch.randn(4000, 1, 2, 2, generator=generator)).round().clamp(0, 255).to(torch.uint8)
    model = VAE((1, 2, 2), 256, **SIZES, likelihood=likelihood, n_mixtures=1).double()
    model.initialise(images)
    model.to_outputs.weight.data.zero_()
    decoded = model.decode(torch.zeros(1, 1, 2, dtype=torch.float64))
    levels = torch.arange(256)[:, None, None, None]
    masses = decoded.log_prob(levels[:, None, None]).exp()  # (256, 1, 1, C, H, W)
    values = levels[:, None, None].double()
    mean = (masses * values).sum(0)[0, 0]
    spread = ((masses * values.square()).sum(0)[0, 0] - mean.square()).sqrt()
    torch.testing.assert_close(mean, images.double().mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(spread, images.double().std(0), rtol=0.01, atol=0)


def test_reconstructions_are_means_of_the_likelihood(generator: torch.Generator) -> None:
    model = small_vae(2, 3, "categorical")
    x = torch.randint(3, (4, 1, 2, 2), generator=generator).to(torch.uint8)
    code = model.encode(x).mean
    expected = sum(level * model.decode(code[None]).log_prob(torch.tensor(level)).exp()[0] for level in range(3))
    torch.testing.assert_close(model.reconstruct(x), expected, rtol=0, atol=1e-12)


def test_reconstructions_of_coupled_channels_are_their_middle(generator: torch.Generator) -> None:
    """With 256 levels and three channels, the mean would be a sum over 65,536 values for each pixel."""
    head = {"likelihood": "coupled_logistic", "n_mixtures": 2}
    model = VAE((3, 2, 2), 256, **SIZES, **head)
    x = torch.randint(256, (4, 3, 2, 2), generator=generator).to(torch.uint8)
    model.initialise(x)
    torch.testing.assert_close(model.reconstruct(x), model.decode(model.encode(x).mean[None]).central[0])
    assert (model.reconstruct(x) >= 0).all()
    assert (model.reconstruct(x) <= 255).all()


def test_the_encoder_sees_the_image_minus_the_mean_training_image() -> None:
    """At the mean training image, the encoder gets zeros, with any weights."""
    images = torch.randint(5, (40, 1, 2, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[1::2] = 4 - images[::2]  # pairs that add up to 4: the mean is 2 everywhere
    model = VAE((1, 2, 3), 5, **SIZES, likelihood="categorical", n_mixtures=1).double()
    model.initialise(images)
    code = model.encode(torch.full((1, 1, 2, 3), 2, dtype=torch.uint8))
    (encoder,) = model.encoders
    torch.testing.assert_close(code.mean, encoder(torch.zeros(1, 6, dtype=torch.float64)).mean)
    other = model.encode(images[:1]).mean
    scaled = (images[:1].double() - 2) / 2  # (x - mean) / ((L-1)/2)
    torch.testing.assert_close(other, encoder(scaled.flatten(1)).mean)


def layered_vae(**changes: object) -> VAE:
    """Return a VAE with two stochastic layers of one unit each and changed weights."""
    sizes = {"latent_size": 1, "hidden_sizes": [5, 4], "deeper": [{"latent_size": 1, "hidden_sizes": [3]}]}
    options = {"likelihood": "bernoulli", "n_mixtures": 1, "doubly_reparameterized": False, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = VAE((1, 2, 2), 2, **sizes, **options).double()  # type: ignore[arg-type]
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        for layer in model.decoders:  # otherwise quadrature would need a wide range
            layer.to_log_scale.weight.data.mul_(0.2)
            layer.to_log_scale.bias.data.mul_(0.2)
        widen(model)
    return model.eval()


@torch.no_grad()
def test_two_layers_average_to_the_mass(generator: torch.Generator) -> None:
    """The average agrees with quadrature over both layers; the masses sum to one."""
    model = layered_vae()
    images = laws.all_images((1, 2, 2), 2)
    masses = laws.masses_by_quadrature(model, images, half_width=12, n_nodes=121)
    assert abs(masses.sum().item() - 1) < 1e-10
    laws.weights_average_to(model, images, masses, generator)
    flat = SIZES | {"likelihood": "bernoulli", "n_mixtures": 1}
    assert model.n_parameters != VAE((1, 2, 2), 2, **flat).n_parameters


@torch.no_grad()
def test_layers_depend_on_the_one_before(generator: torch.Generator) -> None:
    """In the proposal, z_2 depends on the image only through z_1; in the prior, z_1 depends on z_2; x only on z_1."""
    model = layered_vae()
    x = laws.all_images((1, 2, 2), 2)[[0, 15]]
    q, p = model.encode(x), model.prior()
    z = torch.tensor([[0.3, -1.0], [0.3, -1.0]], dtype=torch.float64)
    first = q.log_prob(z) - model.encoders[1](z[:, :1]).log_prob(z[:, 1:])
    torch.testing.assert_close(first, model.encoders[0](model.scaled(x).flatten(1) - model.centre).log_prob(z[:, :1]))
    expected = -0.5 * (z[:, 1].square() + torch.tensor(2 * torch.pi).log()) + model.decoders[0](z[:, 1:]).log_prob(
        z[:, :1]
    )
    torch.testing.assert_close(p.log_prob(z), expected)
    moved = z + torch.tensor([0.0, 1.0])
    assert torch.equal(model.log_p_x_given_z(x, z[None]), model.log_p_x_given_z(x, moved[None]))
    assert not torch.isclose(p.log_prob(z), p.log_prob(moved)).any()
    draws = p.rsample(200_000, generator=generator)  # E[z_2] = 0, and E[z_1] is that of its mean over z_2
    assert abs(draws[:, 1].mean()) < laws.FAR / 200_000**0.5
    means = model.decoders[0](draws[:, 1:])
    residual = (draws[:, :1] - means.mean) * torch.exp(-means.log_scale)
    assert abs(residual.mean()) < laws.FAR / 200_000**0.5
    assert abs(residual.square().mean() - 1) < laws.FAR * (2 / 200_000) ** 0.5


@pytest.mark.processor
@torch.no_grad()
def test_three_layers_are_a_chain() -> None:
    """Checks the written-out densities, the flat order of the layers, and the widths of the networks between them."""
    deeper = [{"latent_size": 2, "hidden_sizes": [5, 7]}, {"latent_size": 1, "hidden_sizes": [6]}]
    options = {"likelihood": "bernoulli", "n_mixtures": 1, "doubly_reparameterized": False}
    model = VAE((1, 2, 2), 2, latent_size=3, hidden_sizes=[4], deeper=deeper, **options).double().eval()  # type: ignore[arg-type]
    widths = [[len(layer.bias) for layer in part.hidden[::2]] for part in (*model.encoders, *model.decoders)]
    assert widths == [[4], [5, 7], [6], [7, 5], [6]]  # decoders to z_1 and to z_2, each from above, mirrored
    x = laws.all_images((1, 2, 2), 2)[[3, 9]]
    z = torch.randn(5, 2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second, third = z.split([3, 2, 1], dim=-1)
    to_first, to_second = model.decoders
    standard = torch.distributions.Normal(torch.zeros(1).double(), 1.0).log_prob(third).sum(-1)
    expected = standard + to_second(third).log_prob(second) + to_first(second).log_prob(first)
    torch.testing.assert_close(model.prior().log_prob(z), expected, rtol=1e-12, atol=0)
    of_image, of_first, of_second = model.encoders
    expected = of_image(model.scaled(x).flatten(1) - model.centre).log_prob(first)
    expected = expected + of_first(first).log_prob(second) + of_second(second).log_prob(third)
    torch.testing.assert_close(model.encode(x).log_prob(z), expected, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(1)
    averages = model.encode(x).mean_of_each(20_000, generator=generator)
    drawn = model.encode(x).rsample(20_000, generator=torch.Generator().manual_seed(2))
    error = drawn.std(0) / 20_000**0.5
    assert ((averages - drawn.mean(0)).abs() < laws.FAR * 1.5 * error + 1e-12).all()


def gradients(model: VAE, x: torch.Tensor, n_samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the derivatives of the bound with respect to all weights of the encoders, and of the decoders."""
    model.zero_grad()
    log_mean_exp(model.log_weights(x, n_samples, generator=torch.Generator().manual_seed(seed))).mean().backward()
    parts: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        parts[name.startswith("encoders")].append(parameter.grad.flatten())
    return torch.cat(parts[True]), torch.cat(parts[False])


@pytest.mark.parametrize("n_samples", [1, 3, 64])
def test_the_doubly_reparameterized_gradient_has_the_same_mean(n_samples: int) -> None:
    """Two stochastic layers, 400 draws: within 4.9 standard errors of the paired difference for each of 87 weights.

    The derivatives of the decoders are equal; with many samples, those of the encoders have a smaller variance.
    """
    plain, twice = layered_vae().train(), layered_vae(doubly_reparameterized=True).train()
    x = laws.all_images((1, 2, 2), 2)[[1, 6, 11]]
    pairs = [(gradients(plain, x, n_samples, seed), gradients(twice, x, n_samples, seed)) for seed in range(400)]
    first = torch.stack([one[0] for one, _ in pairs])
    second = torch.stack([other[0] for _, other in pairs])
    difference = first - second
    error = difference.std(0) / len(pairs) ** 0.5
    assert (difference.mean(0).abs() <= laws.FAR * error + 1e-12).all()
    assert (error > 0).sum() > 40
    for (_, one), (_, other) in pairs[:5]:
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    if n_samples == 64:
        assert second.var(0).sum() < 0.5 * first.var(0).sum()


def test_the_doubly_reparameterized_gradient_is_its_formula() -> None:
    """For one layer, it is the sum over samples of squared shares times d log w / dz times the derivative of z."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = SIZES | {"doubly_reparameterized": True}
        model = VAE((1, 2, 2), 2, **sizes, likelihood="bernoulli", n_mixtures=1).double().train()  # type: ignore[arg-type]
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
    x = laws.all_images((1, 2, 2), 2)[[5]]
    found, _ = gradients(model, x, 4, seed=2)
    q = model.encode(x)
    z = q.rsample(4, generator=torch.Generator().manual_seed(2))
    free = z.detach().requires_grad_()
    fixed = type(q)(q.mean.detach(), q.log_scale.detach())
    log_w = model.log_joint(x, free) - fixed.log_prob(free)
    (by_z,) = torch.autograd.grad(log_w.sum(), free)
    shares = torch.softmax(log_w.detach(), 0)[..., None]
    weights = [weight for name, weight in model.named_parameters() if name.startswith("encoders")]
    expected = torch.autograd.grad((z * (shares.square() * by_z)).sum(), weights)
    torch.testing.assert_close(found, torch.cat([each.flatten() for each in expected]))


def test_nothing_is_doubly_reparameterized_in_evaluation() -> None:
    plain, twice = layered_vae().train(), layered_vae(doubly_reparameterized=True).eval()
    x = laws.all_images((1, 2, 2), 2)[[1]]
    torch.testing.assert_close(gradients(plain, x, 5, 0)[0], gradients(twice, x, 5, 0)[0], rtol=1e-12, atol=0)


@pytest.mark.processor
@pytest.mark.parametrize("n_rows", [1, 48, 10_000])
def test_the_fused_evaluation_is_that_of_the_head(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is that of the head in evaluation and in training, for 1, 3 or all of 50 samples at a time."""
    monkeypatch.setattr(vae, "ROWS_AT_ONCE", n_rows)
    model = layered_vae()
    x = laws.all_images((1, 2, 2), 2)
    z = torch.randn(50, 16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        evaluated = model.log_p_x_given_z(x, z)
    trained = model.log_p_x_given_z(x, z).detach()
    of_head = model.decode(z).log_prob_of_images(x).detach()
    torch.testing.assert_close(evaluated, of_head, rtol=1e-12, atol=0)
    torch.testing.assert_close(trained, of_head, rtol=1e-12, atol=0)
