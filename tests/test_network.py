"""The network: the post's tables, its sample and its loss."""

import numpy as np
import pytest
from tf_keras import backend as K

from helpers import LOSS, Page

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


def rows(model):
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


def convolutions(page):
    """The layers of the network that are convolutions, but for the last one, which makes the image."""
    layers = page['encoder'].layers + page['decoder'].layers
    return [layer for layer in layers if 'Conv2D' in type(layer).__name__][:-1]


def test_tables_of_the_post(built_page):
    assert rows(built_page['encoder']) == ENCODER
    assert rows(built_page['decoder']) == DECODER
    assert parameters(built_page) == ([17208, 9137, 26345], 24641)
    assert {layer.activation.__name__ for layer in convolutions(built_page)} == {'relu'}
    assert {layer.kernel_size for layer in convolutions(built_page)} == {(3, 3)}


def test_names_of_the_post(built_page):
    encoder, decoder, vae = built_page['encoder'], built_page['decoder'], built_page['vae']
    assert [model.name for model in (encoder, decoder, vae)] == ['encoder', 'decoder', 'vae']
    names = [layer.name for layer in encoder.layers]
    assert [names[0], *names[-3:]] == ['encoder_input', 'latent_mu', 'latent_sigma', 'z']
    names = [layer.name for layer in decoder.layers]
    assert [names[0], names[-1]] == ['decoder_input', 'decoder_output']
    assert [layer.name for layer in vae.layers] == ['encoder_input', 'encoder', 'decoder']


def test_settings_of_the_post(built_page):
    names = 'batch_size no_epochs validation_split verbosity latent_dim num_channels'.split()
    assert [built_page[name] for name in names] == [128, 100, 0.2, 1, 2, 1]
    assert [built_page[name] for name in ('architecture', 'weights', 'seed')] == ['original', None, 42]


def test_sample(built_page):
    """z has the mean mu and the standard deviation exp(sigma / 2) in independent dimensions."""
    mu = np.tile(np.float32([-1.5, 0.25]), (200_000, 1))
    sigma = np.tile(np.float32([-2, 1]), (200_000, 1))
    z = built_page['sample_z']([K.constant(mu), K.constant(sigma)])
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
    page = Page(tmp_path)
    page.use(images, images)
    page.run(last=LOSS)

    vae, true = page['vae'], page['input_test']
    loss = page['kl_reconstruction_loss'](vae.input, vae.output)
    tensors = [page['vae_mu'], page['vae_sigma'], vae.output, loss]
    mu, sigma, pred, loss = K.function([vae.input], tensors)([true])
    cross_entropy = -np.sum(true * np.log(pred) + (1 - true) * np.log(1 - pred), axis=(1, 2, 3))
    divergence = np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1) / 2
    assert true.shape == (20, 24, 28, channels)
    np.testing.assert_allclose(loss, np.mean(cross_entropy + divergence), rtol=1e-5)


def test_encoder_runs_once_in_a_step(digits):
    """The moving means have moved once after the first step; the post's move twice."""
    page = Page(digits).run(last=LOSS)
    page['vae'].compile(optimizer='adam', loss=page['kl_reconstruction_loss'])
    layers = [layer for layer in page['encoder'].layers if 'BatchNormalization' in type(layer).__name__]
    images = page['input_train'][:8]
    inputs = K.function([page['encoder'].input, K.learning_phase()], [layer.input for layer in layers])
    batches = inputs([images, 1])
    page['vae'].train_on_batch(images, images)
    for layer, batch in zip(layers, batches):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        once = (1 - layer.momentum) * mean
        np.testing.assert_allclose(K.get_value(layer.moving_mean), once, rtol=1e-3, atol=1e-6)


def test_deeper_network(digits):
    """Its parameters are those of the post's list, and it is cropped, so that the loss can be computed."""
    page = Page(digits, architecture='dcgan').run(last=LOSS)
    assert parameters(page) == ([17298104, 43457025, 60755129], 60739217)
    filters = [layer.filters for layer in convolutions(page)]
    assert filters == [128, 256, 512, 1024, 1024, 512, 256, 128]
    assert {layer.activation.__name__ for layer in convolutions(page)} == {'relu'}
    assert {layer.kernel_size for layer in convolutions(page)} == {(5, 5)}
    crops = [layer.cropping for layer in page['decoder'].layers if type(layer).__name__ == 'Cropping2D']
    assert crops == [((2, 2), (2, 2))]
    page['vae'].compile(optimizer='adam', loss=page['kl_reconstruction_loss'])
    images = page['input_test'][:2]
    assert np.isfinite(page['vae'].evaluate(images, images, verbose=0))
