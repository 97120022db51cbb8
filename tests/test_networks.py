"""The tables, the sample and the loss of the post."""
import numpy as np
import pytest
import tensorflow as tf
from tf_keras import backend as K

import variational_autoencoder as script
from conftest import build

ENCODER = [
    ('InputLayer', (28, 28, 1), 0), ('Conv2D', (14, 14, 8), 80), ('BatchNormalization', (14, 14, 8), 32),
    ('Conv2D', (7, 7, 16), 1168), ('BatchNormalization', (7, 7, 16), 64), ('Flatten', (784,), 0),
    ('Dense', (20,), 15700), ('BatchNormalization', (20,), 80), ('Dense', (2,), 42), ('Dense', (2,), 42),
    ('Lambda', (2,), 0)]
DECODER = [
    ('InputLayer', (2,), 0), ('Dense', (784,), 2352), ('BatchNormalization', (784,), 3136), ('Reshape', (7, 7, 16), 0),
    ('Conv2DTranspose', (14, 14, 16), 2320), ('BatchNormalization', (14, 14, 16), 64),
    ('Conv2DTranspose', (28, 28, 8), 1160), ('BatchNormalization', (28, 28, 8), 32),
    ('Conv2DTranspose', (28, 28, 1), 73)]


def table(model):
    shapes = [layer.output_shape for layer in model.layers]
    return [(type(layer).__name__, (shape[0] if isinstance(shape, list) else shape)[1:], layer.count_params())
            for layer, shape in zip(model.layers, shapes)]


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.fixture(scope='module')
def original():
    return build('original', (28, 28, 1))


def test_encoder_table(original):
    encoder = original[0]
    assert table(encoder) == ENCODER
    assert (encoder.name, encoder.count_params(), trainable(encoder)) == ('encoder', 17208, 17120)
    assert [layer.name for layer in encoder.layers if layer.name.startswith(('encoder_', 'latent_', 'z'))] == [
        'encoder_input', 'latent_mu', 'latent_sigma', 'z']
    assert [layer.strides for layer in encoder.layers if hasattr(layer, 'strides')] == [(2, 2)] * 2
    assert [layer.kernel_size for layer in encoder.layers if hasattr(layer, 'kernel_size')] == [(3, 3)] * 2


def test_decoder_table(original):
    decoder = original[1]
    assert table(decoder) == DECODER
    assert (decoder.name, decoder.count_params(), trainable(decoder)) == ('decoder', 9137, 7521)
    assert (decoder.layers[0].name, decoder.layers[-1].name) == ('decoder_input', 'decoder_output')
    assert [layer.activation.__name__ for layer in decoder.layers if hasattr(layer, 'activation')] == [
        'relu', 'relu', 'relu', 'sigmoid']


def test_vae_table(original):
    encoder, decoder, vae, _, _ = original
    assert [layer.name for layer in vae.layers] == ['encoder_input', 'encoder', 'decoder']
    assert vae.layers[1:] == [encoder, decoder]
    assert [shape[1:] for shape in encoder.output_shape] == [(2,)] * 3
    assert (vae.name, vae.count_params(), trainable(vae)) == ('vae', 26345, 24641)
    assert vae.output_shape == vae.input_shape == (None, 28, 28, 1)


@pytest.mark.parametrize('architecture, encoder_total, decoder_total, total, trainable_total, cropped', [
    ('dcgan', 17298104, 43457025, 60755129, None, True),
    ('dcgan-as-published', 4044984, 4683521, 8728505, 8324753, False)])
def test_dcgan_like_tables(architecture, encoder_total, decoder_total, total, trainable_total, cropped):
    with tf.Graph().as_default():
        encoder, decoder, vae, _, _ = build(architecture, (28, 28, 1))
        assert (encoder.count_params(), decoder.count_params(), vae.count_params()) == (
            encoder_total, decoder_total, total)
        assert trainable_total is None or trainable(vae) == trainable_total
        assert total - trainable(vae) == 403752 or trainable_total is None
        assert ['Cropping2D' == row[0] for row in table(decoder)].count(True) == cropped
        assert decoder.layers[-1].name == 'decoder_output'
        assert vae.output_shape == (None, 28, 28, 1)


@pytest.mark.parametrize('height, width', [(28, 28), (1, 1), (30, 45), (100, 100), (17, 64)])
@pytest.mark.parametrize('channels', [1, 3])
def test_output_fits_any_image(height, width, channels):
    with tf.Graph().as_default():
        _, decoder, vae, _, _ = build('original', (height, width, channels))
        assert vae.output_shape == (None, height, width, channels)
        cropped = any(type(layer).__name__ == 'Cropping2D' for layer in decoder.layers)
        assert cropped == bool(height % 4 or width % 4)


def test_too_few_decoder_filters():
    encoder, conv_shape = script.create_encoder((28, 28, 1), [8, 16], 3)
    with pytest.raises(script.UserError, match='14 by 14 pixels, short of 28 by 28'):
        script.create_decoder(conv_shape, (28, 28, 1), [16], 3)


def test_graph_mode():
    assert not tf.executing_eagerly()


def test_sample():
    mu = np.tile(np.float32([[-1.5, 0.25]]), (200000, 1))
    sigma = np.tile(np.float32([[-2, 1]]), (200000, 1))
    z = script.sample_z([K.constant(mu), K.constant(sigma)])
    first, second = K.eval(z), K.eval(z)
    assert first.shape == mu.shape
    np.testing.assert_allclose(first.mean(axis=0), mu[0], atol=0.02)
    np.testing.assert_allclose(first.std(axis=0), np.exp(sigma[0] / 2), rtol=0.01)
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.02
    assert not np.any(first == second)


def test_gradients_reach_mu_and_sigma(original, mnist):
    encoder, _, vae, mu, sigma = original
    loss, _ = script.create_loss(mu, sigma)
    gradients = K.gradients(K.sum(vae.output), [mu, sigma])
    for gradient in K.function([vae.input], gradients)([script.scale(mnist['x_train'][:16], 'x')]):
        assert gradient.shape == (16, 2)
        assert np.all(gradient != 0)


@pytest.mark.parametrize('start', [0, 1000, 5000])
def test_loss_equals_numpy(mnist, start):
    random = np.random.default_rng(start)
    true = script.scale(mnist['x_train'][start:start + 64], 'x')
    pred = random.uniform(0.001, 0.999, true.shape).astype('float32')
    mu, sigma = random.normal(size=(2, 64, 2)).astype('float32')
    loss, parts = script.create_loss(K.constant(mu), K.constant(sigma))
    loss, reconstruction, kl = (K.eval(part(K.constant(true), K.constant(pred))) for part in [loss, *parts])

    t, p, m, s = (array.astype('float64') for array in (true, pred, mu, sigma))
    cross_entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    divergence = -0.5 * (1 + s - m ** 2 - np.exp(s)).sum(axis=1)
    np.testing.assert_allclose(reconstruction, cross_entropy.sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(kl, divergence, rtol=1e-4, atol=1e-5)
    # As the post has it: the mean over the flattened batch times the pixels, plus the KL term's mean
    np.testing.assert_allclose(loss, cross_entropy.mean() * 28 * 28 + divergence.mean(), rtol=1e-5)


def test_loss_of_the_network_equals_numpy(original, mnist):
    _, decoder, vae, mu, sigma = original
    loss, parts = script.create_loss(mu, sigma)
    tensors = [mu, sigma, vae.output, loss(vae.input, vae.output), *(part(vae.input, vae.output) for part in parts)]
    images = script.scale(mnist['x_test'][:128], 'x')
    m, s, p, loss, reconstruction, kl = (
        array.astype('float64') for array in map(np.asarray, K.function([vae.input], tensors)([images])))
    t = images.astype('float64')
    np.testing.assert_allclose(
        loss, -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean() * 784
        - 0.5 * (1 + s - m ** 2 - np.exp(s)).sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, (reconstruction + kl).mean(), rtol=1e-5)


def test_loss_counts_every_channel():
    true, pred = np.zeros((2, 5, 7, 3), 'float32'), np.full((2, 5, 7, 3), 0.5, 'float32')
    zeros = K.constant(np.zeros((2, 2)))
    loss, _ = script.create_loss(zeros, zeros)
    np.testing.assert_allclose(K.eval(loss(K.constant(true), K.constant(pred))), 5 * 7 * 3 * np.log(2), rtol=1e-5)


def test_loss_at_its_limits(mnist):
    true = script.scale(mnist['x_train'][:8], 'x')
    zeros = K.constant(np.zeros((8, 2)))
    loss, (_, kl_loss) = script.create_loss(zeros, zeros)
    for pred in (0, 1):
        assert np.isfinite(K.eval(loss(K.constant(true), K.constant(np.full(true.shape, pred)))))
    assert np.all(K.eval(kl_loss(None, None)) == 0)


def test_encoder_runs_once_in_a_step(mnist):
    encoder, _, vae, mu, sigma = build('original', (28, 28, 1))
    loss, _ = script.create_loss(mu, sigma)
    vae.compile(optimizer='adam', loss=loss)
    normalisations = [layer for layer in encoder.layers if type(layer).__name__ == 'BatchNormalization']
    images = script.scale(mnist['x_train'][:128], 'x')
    inputs = K.function([encoder.input, K.learning_phase()], [layer.input for layer in normalisations])([images, 1])
    vae.train_on_batch(images, images)
    for layer, batch in zip(normalisations, inputs):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        moving_mean = K.get_value(layer.moving_mean)
        np.testing.assert_allclose(moving_mean, (1 - layer.momentum) * mean, rtol=1e-3, atol=1e-6)
