"""The network: the post's tables, its sample and its loss, the seed."""

import numpy as np
import pytest
from tf_keras import backend as K

from conftest import LOSS, TRAINING, Page, read_arrays, same_arrays

ENCODER = [
    ('InputLayer', (28, 28, 1), 0),
    ('Conv2D', (14, 14, 8), 80),
    ('BatchNormalization', (14, 14, 8), 32),
    ('Conv2D', (7, 7, 16), 1168),
    ('BatchNormalization', (7, 7, 16), 64),
    ('Flatten', (784,), 0),
    ('Dense', (20,), 15700),
    ('BatchNormalization', (20,), 80),
    ('Dense', (2,), 42),
    ('Dense', (2,), 42),
    ('Lambda', (2,), 0),
]
DECODER = [
    ('InputLayer', (2,), 0),
    ('Dense', (784,), 2352),
    ('BatchNormalization', (784,), 3136),
    ('Reshape', (7, 7, 16), 0),
    ('Conv2DTranspose', (14, 14, 16), 2320),
    ('BatchNormalization', (14, 14, 16), 64),
    ('Conv2DTranspose', (28, 28, 8), 1160),
    ('BatchNormalization', (28, 28, 8), 32),
    ('Conv2DTranspose', (28, 28, 1), 73),
]


def table(model):
    """The rows of a model's summary: the kind of each layer, its output and its parameters."""
    rows = []
    for layer in model.layers:
        shape = layer.output_shape
        if isinstance(shape, list):  # of an input
            shape = shape[0]
        rows.append((type(layer).__name__, shape[1:], layer.count_params()))
    return rows


def parameters(page):
    """The parameters of encoder, decoder and VAE, and how many of the VAE's are trained."""
    trainable = sum(np.prod(weight.shape) for weight in page['vae'].trainable_weights)
    counts = [page[name].count_params() for name in ('encoder', 'decoder', 'vae')]
    return counts, trainable


@pytest.fixture
def page(digits, tmp_path):
    """The page, ready to be trained."""
    page = Page(tmp_path, data=digits).run(last=LOSS)
    page['vae'].compile(optimizer='adam', loss=page['kl_reconstruction_loss'])
    return page


def test_tables_of_the_post(page):
    assert table(page['encoder']) == ENCODER
    assert table(page['decoder']) == DECODER
    assert parameters(page) == ([17208, 9137, 26345], 24641)


def test_names_of_the_post(page):
    encoder, decoder, vae = page['encoder'], page['decoder'], page['vae']
    assert [model.name for model in (encoder, decoder, vae)] == ['encoder', 'decoder', 'vae']
    names = [layer.name for layer in encoder.layers]
    assert [names[0], *names[-3:]] == ['encoder_input', 'latent_mu', 'latent_sigma', 'z']
    names = [layer.name for layer in decoder.layers]
    assert [names[0], names[-1]] == ['decoder_input', 'decoder_output']
    assert [layer.name for layer in vae.layers] == ['encoder_input', 'encoder', 'decoder']


@pytest.mark.parametrize(
    'architecture, counts, trainable, filters',
    [
        (
            'dcgan',
            [17298104, 43457025, 60755129],
            60739217,
            [128, 256, 512, 1024, 1024, 512, 256, 128, 1],
        ),
        ('dcgan-9m', [4044984, 4683521, 8728505], 8324753, [1024, 128, 1]),
    ],
)
def test_deeper_networks(digits, tmp_path, architecture, counts, trainable, filters):
    page = Page(tmp_path, data=digits, architecture=architecture)
    page.run(last=LOSS)
    assert parameters(page) == (counts, trainable)
    layers = page['encoder'].layers + page['decoder'].layers
    convolutions = [layer for layer in layers if 'Conv2D' in type(layer).__name__]
    assert [layer.filters for layer in convolutions] == filters
    assert {layer.activation.__name__ for layer in convolutions[:-1]} == {'relu'}
    assert {layer.kernel_size for layer in convolutions[:-1]} == {(5, 5)}
    assert page['no_epochs'] == 5

    # The output fits the images, cropped by as much on each side, so that the loss can be computed
    crops = [layer.cropping for layer in layers if type(layer).__name__ == 'Cropping2D']
    assert crops == ([((2, 2), (2, 2))] if architecture == 'dcgan' else [])
    page['vae'].compile(optimizer='adam', loss=page['kl_reconstruction_loss'])
    images = page['input_test'][:2]
    assert np.isfinite(page['vae'].evaluate(images, images, verbose=0))


def test_sample(page):
    """z has the mean mu and the standard deviation exp(sigma / 2) in independent dimensions."""
    mu = np.tile(np.float32([-1.5, 0.25]), (200_000, 1))
    sigma = np.tile(np.float32([-2, 1]), (200_000, 1))
    z = page['sample_z']([K.constant(mu), K.constant(sigma)])
    first, second = K.eval(z), K.eval(z)
    np.testing.assert_allclose(first.mean(axis=0), [-1.5, 0.25], atol=0.02)
    np.testing.assert_allclose(first.std(axis=0), np.exp([-1, 0.5]), rtol=0.01)
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.02
    assert np.mean(first == second) < 0.001


@pytest.mark.parametrize('channels', [1, 3])
def test_loss_is_that_of_numpy(mnist, tmp_path, channels):
    """Kingma & Welling, equation 10, negated: a sum for each image, averaged over the images."""
    images = mnist['x_train'][: 20 * channels, 4:]
    images = images.reshape(20, channels, 24, 28).transpose(0, 2, 3, 1)
    path = tmp_path / 'images.npz'
    np.savez(path, x_train=images, x_test=images)
    page = Page(tmp_path, data=str(path)).run(last=LOSS)

    vae, true = page['vae'], page['input_test']
    loss = page['kl_reconstruction_loss'](vae.input, vae.output)
    tensors = [page['vae_mu'], page['vae_sigma'], vae.output, loss]
    mu, sigma, pred, loss = K.function([vae.input], tensors)([true])
    cross_entropy = -np.sum(true * np.log(pred) + (1 - true) * np.log(1 - pred), axis=(1, 2, 3))
    divergence = np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1) / 2
    assert true.shape == (20, 24, 28, channels)
    np.testing.assert_allclose(loss, np.mean(cross_entropy + divergence), rtol=1e-5)


def test_loss_has_a_gradient_where_the_sigmoid_saturates(page):
    """If all pixels are white, and decoded as black: the post clips there, and its gradient is 0."""
    layer = page['decoder'].get_layer('decoder_output')
    kernel, bias = layer.get_weights()
    layer.set_weights([0 * kernel, 0 * bias - 50])
    loss = page['kl_reconstruction_loss'](K.ones((8, 28, 28, 1)), page['vae'].output)
    gradient = K.function([page['vae'].input], K.gradients(loss, [layer.bias]))
    np.testing.assert_allclose(gradient([page['input_test'][:8]])[0], [-784], rtol=1e-5)


def test_encoder_runs_once_in_a_step(page):
    """The moving means have moved once after the first step; the post's move twice."""
    layers = [layer for layer in page['encoder'].layers if 'BatchNormalization' in type(layer).__name__]
    images = page['input_train'][:8]
    inputs = K.function([page['encoder'].input, K.learning_phase()], [layer.input for layer in layers])
    batches = inputs([images, 1])
    page['vae'].train_on_batch(images, images)
    for layer, batch in zip(layers, batches):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        once = (1 - layer.momentum) * mean
        np.testing.assert_allclose(K.get_value(layer.moving_mean), once, rtol=1e-3, atol=1e-6)


def test_seed(digits, tmp_path):
    """Equal seeds give the same weights bit for bit, and different seeds different ones."""
    for name, seed in [('first', 42), ('again', 42), ('other', 7)]:
        folder = tmp_path / name
        Page(folder, data=digits, epochs=1, seed=seed).run(last=TRAINING)
    first, again, other = [tmp_path / name / 'vae_weights.h5' for name in ('first', 'again', 'other')]
    assert same_arrays(first, again)
    kernel = 'encoder/latent_mu/kernel:0'
    assert not np.array_equal(read_arrays(first)[kernel], read_arrays(other)[kernel])


def test_settings_of_the_training(digits, tmp_path):
    """Of 640 digits, the first half is trained on in 5 batches of 64, and the other half validates."""
    page = Page(tmp_path, data=digits, epochs=1, batch_size=64)
    page.edit('Model configuration', 'validation_split = 0.2', 'validation_split = 0.5')
    page.run(last=TRAINING)
    assert K.get_value(page['vae'].optimizer.iterations) == 5
    half = page['input_train'][320:]
    ((_, _, validation_loss),) = page['losses']
    assert page['vae'].evaluate(half, half, verbose=0) == pytest.approx(validation_loss, rel=1e-3)
