"""The network of the post: its tables, names and settings, its sample, its wiring and its loss."""

import numpy as np
import pytest
from tf_keras import backend as K

from helpers import LOSS, Page, parameters, write_mnist

ENCODER_TABLE = [
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
DECODER_TABLE = [
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
# All that the post's own code leaves behind
NAMES = """
    keras Conv2D Conv2DTranspose Input Flatten Dense Lambda Reshape BatchNormalization Model mnist
    binary_crossentropy K np plt input_train target_train input_test target_test img_width img_height
    batch_size no_epochs validation_split verbosity latent_dim num_channels input_shape i cx x mu sigma
    conv_shape sample_z z encoder d_i o decoder vae_outputs vae kl_reconstruction_loss
""".split()


@pytest.fixture(scope='module')
def page(mnist, tmp_path_factory):
    """The page, run up to its loss function; only the last test changes it."""
    folder = tmp_path_factory.mktemp('network')
    write_mnist(folder, mnist, 100, 20)
    return Page(folder).run(last=LOSS)


def rows(model):
    """The rows of a model's summary: the kind of each layer, its output and its parameters."""
    shapes = [layer.output_shape for layer in model.layers]
    shapes = [shape[0] if isinstance(shape, list) else shape for shape in shapes]  # a list, of an input
    kinds = [type(layer).__name__ for layer in model.layers]
    counts = [layer.count_params() for layer in model.layers]
    return list(zip(kinds, [shape[1:] for shape in shapes], counts))


def activations(model):
    return [layer.activation.__name__ for layer in model.layers if hasattr(layer, 'activation')]


def test_tables_of_the_post(page):
    assert rows(page['encoder']) == ENCODER_TABLE
    assert rows(page['decoder']) == DECODER_TABLE
    assert parameters(page) == ([17208, 9137, 26345], 24641)


def test_activations_of_the_post(page):
    """Those of mu and sigma are linear, and the last one is a sigmoid."""
    assert activations(page['encoder']) == ['relu', 'relu', 'relu', 'linear', 'linear']
    assert activations(page['decoder']) == ['relu', 'relu', 'relu', 'sigmoid']


def test_names_of_the_post(page):
    encoder, decoder, vae = page['encoder'], page['decoder'], page['vae']
    assert [model.name for model in (encoder, decoder, vae)] == ['encoder', 'decoder', 'vae']
    names = [layer.name for layer in encoder.layers]
    assert [names[0], *names[-3:]] == ['encoder_input', 'latent_mu', 'latent_sigma', 'z']
    names = [layer.name for layer in decoder.layers]
    assert [names[0], names[-1]] == ['decoder_input', 'decoder_output']
    assert [layer.name for layer in vae.layers] == ['encoder_input', 'encoder', 'decoder']
    assert set(NAMES) <= set(page.names)


def test_settings_of_the_post(page):
    names = 'batch_size no_epochs validation_split verbosity latent_dim num_channels'.split()
    assert [page[name] for name in names] == [128, 100, 0.2, 1, 2, 1]
    assert [page[name] for name in ('weights', 'seed')] == [None, 42]


def test_digits(page, mnist):
    """Each set is where it belongs, with pixels from 0 to 1."""
    for ours, theirs in [('input_train', 'x_train'), ('input_test', 'x_test')]:
        expected = mnist[theirs][: 100 if ours == 'input_train' else 20, :, :, np.newaxis] / np.float32(255)
        assert page[ours].dtype == 'float32'
        np.testing.assert_allclose(page[ours], expected, rtol=1e-6)
    np.testing.assert_array_equal(page['target_train'], mnist['y_train'][:100])
    np.testing.assert_array_equal(page['target_test'], mnist['y_test'][:20])


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


def test_wiring(page):
    """The encoder gives mu, sigma and z; the loss reads these mu and sigma; the decoder gets this z."""
    images = page['input_test']
    layers = {layer.name: layer.output for layer in page['encoder'].layers}
    outputs = [layers['latent_mu'], layers['latent_sigma']]
    expected_mu, expected_sigma = K.function([page['encoder'].input], outputs)([images])
    tensors = [page[name] for name in ('vae_mu', 'vae_sigma', 'vae_z')] + [page['vae'].output]
    compute = K.function([page['vae'].input], tensors)
    mu, sigma, z, decoded = compute([images])
    np.testing.assert_allclose(mu, expected_mu, atol=1e-5)
    np.testing.assert_allclose(sigma, expected_sigma, atol=1e-5)
    np.testing.assert_allclose(decoded, page['decoder'].predict(z), atol=1e-5)
    samples = np.array([compute([images])[2] for _ in range(500)])
    np.testing.assert_allclose(samples.mean(axis=0), mu, atol=0.3)
    np.testing.assert_allclose(samples.std(axis=0), np.exp(sigma / 2), rtol=0.2)
    for output, expected in zip(page['encoder'].predict(images), [mu, sigma]):
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_encoder_runs_once_in_a_step(page):
    """The moving means have moved once after the first step; the post's move twice."""
    page['vae'].compile(optimizer='adam', loss=page['kl_reconstruction_loss'])
    layers = [layer for layer in page['encoder'].layers if 'BatchNormalization' in type(layer).__name__]
    images = page['input_train'][:8]
    inputs = K.function([page['encoder'].input, K.learning_phase()], [layer.input for layer in layers])
    batches = inputs([images, 1])
    page['vae'].train_on_batch(images, images)
    for layer, batch in zip(layers, batches):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        once = 0.01 * mean  # a hundredth, by Keras's default
        np.testing.assert_allclose(K.get_value(layer.moving_mean), once, rtol=1e-3, atol=1e-6)
