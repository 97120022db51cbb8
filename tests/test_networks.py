"""The tables, the sample and the loss of the post."""
import numpy as np
import pytest
import tensorflow as tf
from tf_keras import backend as K

from conftest import train

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


def build(data, folder, architecture='original', epochs=0):
    names = train(data, folder, epochs, '--architecture', architecture, '--batch-size', 8)
    return [names[name] for name in ('encoder', 'decoder', 'vae')]


def table(model):
    shapes = [layer.output_shape for layer in model.layers]
    return [(type(layer).__name__, (shape[0] if isinstance(shape, list) else shape)[1:], layer.count_params())
            for layer, shape in zip(model.layers, shapes)]


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.fixture
def few(mnist, tmp_path):
    """A batch to train on, and a few digits more."""
    path = tmp_path / 'few.npz'
    np.savez(path, x_train=mnist['x_train'][:10], x_test=mnist['x_test'][:2])
    return path


def test_original_tables(few, tmp_path):
    encoder, decoder, vae = build(few, tmp_path)
    assert table(encoder) == ENCODER
    assert (encoder.name, encoder.count_params(), trainable(encoder)) == ('encoder', 17208, 17120)
    assert [layer.name for layer in encoder.layers if layer.name.startswith(('encoder_', 'latent_', 'z'))] == [
        'encoder_input', 'latent_mu', 'latent_sigma', 'z']
    assert [layer.strides for layer in encoder.layers if hasattr(layer, 'strides')] == [(2, 2)] * 2
    assert [layer.kernel_size for layer in encoder.layers if hasattr(layer, 'kernel_size')] == [(3, 3)] * 2
    assert table(decoder) == DECODER
    assert (decoder.name, decoder.count_params(), trainable(decoder)) == ('decoder', 9137, 7521)
    assert (decoder.layers[0].name, decoder.layers[-1].name) == ('decoder_input', 'decoder_output')
    assert [layer.activation.__name__ for layer in decoder.layers if hasattr(layer, 'activation')] == [
        'relu', 'relu', 'relu', 'sigmoid']
    assert [layer.name for layer in vae.layers] == ['encoder_input', 'encoder', 'decoder']
    assert vae.layers[1:] == [encoder, decoder]
    assert [shape[1:] for shape in encoder.output_shape] == [(2,)] * 3
    assert (vae.name, vae.count_params(), trainable(vae)) == ('vae', 26345, 24641)
    assert vae.output_shape == vae.input_shape == (None, 28, 28, 1)


@pytest.mark.parametrize('architecture, encoder_total, decoder_total, total, trainable_total, cropped', [
    ('dcgan', 17298104, 43457025, 60755129, 60739217, True),
    ('dcgan-as-published', 4044984, 4683521, 8728505, 8324753, False)])
def test_dcgan_like_networks(few, tmp_path, architecture, encoder_total, decoder_total, total, trainable_total,
                             cropped):
    """Their tables, and that they train: a step moves the weights."""
    encoder, decoder, vae = build(few, tmp_path / 'before', architecture)
    assert (encoder.count_params(), decoder.count_params(), vae.count_params()) == (
        encoder_total, decoder_total, total)
    assert trainable(vae) == trainable_total
    assert ['Cropping2D' == row[0] for row in table(decoder)].count(True) == cropped
    assert decoder.layers[-1].name == 'decoder_output'
    assert vae.output_shape == (None, 28, 28, 1)
    before = encoder.get_layer('latent_mu').get_weights()[0]
    encoder, _, vae = build(few, tmp_path / 'after', architecture, epochs=1)
    assert np.isfinite(vae.history.history['val_loss'][0])
    assert np.any(encoder.get_layer('latent_mu').get_weights()[0] != before)


@pytest.fixture(scope='module')
def names(digits, tmp_path_factory):
    """What a page leaves that was trained for an epoch."""
    return train(digits, tmp_path_factory.mktemp('names'), 1)


def test_graph_mode(names):
    assert not tf.executing_eagerly()


def test_sample(names):
    mu = np.tile(np.float32([[-1.5, 0.25]]), (200000, 1))
    sigma = np.tile(np.float32([[-2, 1]]), (200000, 1))
    z = names['sample_z']([K.constant(mu), K.constant(sigma)])
    first, second = K.eval(z), K.eval(z)
    assert first.shape == mu.shape
    np.testing.assert_allclose(first.mean(axis=0), mu[0], atol=0.02)
    np.testing.assert_allclose(first.std(axis=0), np.exp(sigma[0] / 2), rtol=0.01)
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.02
    assert not np.any(first == second)


def test_loss_of_the_network_equals_numpy(names):
    vae, images = names['vae'], names['input_test'][:128]
    parts = [names[name](vae.input, vae.output)
             for name in ('kl_reconstruction_loss', 'reconstruction_loss', 'kl_loss')]
    m, s, p, loss, reconstruction, kl = (array.astype('float64') for array in map(
        np.asarray, K.function([vae.input], [names['mu'], names['sigma'], vae.output, *parts])([images])))
    t = images.astype('float64')
    cross_entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    divergence = -0.5 * (1 + s - m ** 2 - np.exp(s)).sum(axis=1)
    np.testing.assert_allclose(reconstruction, cross_entropy.sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(kl, divergence, rtol=1e-4, atol=1e-5)
    # As the post has it: the mean over the flattened batch times the pixels, plus the KL term's mean
    np.testing.assert_allclose(loss, cross_entropy.mean() * 28 * 28 + divergence.mean(), rtol=1e-5)


def test_loss_where_the_sigmoid_saturates(names):
    """It is finite, and has a gradient, which the post's has not."""
    logits = K.constant(np.full((1, 2, 2, 1), -50.))
    loss = names['reconstruction_loss'](K.ones((1, 2, 2, 1)), tf.sigmoid(logits))
    gradient, = K.gradients(loss, [logits])
    np.testing.assert_allclose(K.eval(loss), [200], rtol=1e-5)
    np.testing.assert_allclose(K.eval(gradient), -1, rtol=1e-5)


def test_encoder_runs_once_in_a_step(few, tmp_path):
    """The moving means have moved once after one step; the post's move twice."""
    names = train(few, tmp_path, 0, '--batch-size', 8)
    encoder, images = names['encoder'], names['input_train'][:8]
    normalisations = [layer for layer in encoder.layers if type(layer).__name__ == 'BatchNormalization']
    inputs = K.function([encoder.input, K.learning_phase()], [layer.input for layer in normalisations])([images, 1])
    names['vae'].train_on_batch(images, images)
    for layer, batch in zip(normalisations, inputs):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        moving_mean = K.get_value(layer.moving_mean)
        np.testing.assert_allclose(moving_mean, (1 - layer.momentum) * mean, rtol=1e-3, atol=1e-6)
