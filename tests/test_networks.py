"""The tables, the sample and the loss of the post."""
import numpy as np
import pytest
import tensorflow as tf
from tf_keras import backend as K

from conftest import save, train, untrained

ENCODER = [
    ('InputLayer', (28, 28, 1), 0), ('Conv2D', (14, 14, 8), 80), ('BatchNormalization', (14, 14, 8), 32),
    ('Conv2D', (7, 7, 16), 1168), ('BatchNormalization', (7, 7, 16), 64), ('Flatten', (784,), 0),
    ('Dense', (20,), 15700), ('BatchNormalization', (20,), 80), ('Dense', (2,), 42), ('Dense', (2,), 42), ('Lambda', (2,), 0)]
DECODER = [
    ('InputLayer', (2,), 0), ('Dense', (784,), 2352), ('BatchNormalization', (784,), 3136), ('Reshape', (7, 7, 16), 0),
    ('Conv2DTranspose', (14, 14, 16), 2320), ('BatchNormalization', (14, 14, 16), 64),
    ('Conv2DTranspose', (28, 28, 8), 1160), ('BatchNormalization', (28, 28, 8), 32), ('Conv2DTranspose', (28, 28, 1), 73)]

def table(model):
    shapes = [layer.output_shape for layer in model.layers]
    return [(type(layer).__name__, (shape[0] if isinstance(shape, list) else shape)[1:], layer.count_params())
            for layer, shape in zip(model.layers, shapes)]

def totals(names):
    """The parameters of each model, and how many of them are trained."""
    return [(names[model].count_params(), sum(int(np.prod(weight.shape)) for weight in names[model].trainable_weights))
            for model in ('encoder', 'decoder', 'vae')]

@pytest.fixture(scope='module')
def few(mnist, tmp_path_factory):
    """A batch to train on, and a few digits more."""
    return save(tmp_path_factory.mktemp('few'), mnist, 10, 8)

@pytest.fixture(scope='module')
def names(few, tmp_path_factory):
    """What a page leaves before any training."""
    return untrained(few, tmp_path_factory.mktemp('names'), '--batch-size', 8)

def test_original_tables(names):
    encoder, decoder, vae = names['encoder'], names['decoder'], names['vae']
    assert table(encoder) == ENCODER and table(decoder) == DECODER
    assert totals(names) == [(17208, 17120), (9137, 7521), (26345, 24641)]
    assert {'encoder_input', 'latent_mu', 'latent_sigma', 'z'} <= {layer.name for layer in encoder.layers}
    assert (decoder.layers[0].name, decoder.layers[-1].name) == ('decoder_input', 'decoder_output')
    assert [layer.name for layer in vae.layers] == ['encoder_input', 'encoder', 'decoder']
    assert vae.layers[1:] == [encoder, decoder] and vae.output_shape == vae.input_shape == (None, 28, 28, 1)

def test_sample(names):
    assert not tf.executing_eagerly()
    mu = np.tile(np.float32([[-1.5, 0.25]]), (200000, 1))
    sigma = np.tile(np.float32([[-2, 1]]), (200000, 1))
    z = names['sample_z']([K.constant(mu), K.constant(sigma)])
    first, second = K.eval(z), K.eval(z)
    np.testing.assert_allclose(first.mean(axis=0), mu[0], atol=0.02)
    np.testing.assert_allclose(first.std(axis=0), np.exp(sigma[0] / 2), rtol=0.01)
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.02 and not np.any(first == second)

def test_loss_of_the_network_equals_numpy(names):
    vae, images = names['vae'], names['input_test']
    parts = [names[name](vae.input, vae.output)
             for name in ('kl_reconstruction_loss', 'reconstruction_loss', 'kl_loss')]
    mu, sigma, _ = names['encoder'].get_output_at(-1)
    m, s, p, loss, reconstruction, kl = (array.astype('float64') for array in map(
        np.asarray, K.function([vae.input], [mu, sigma, vae.output, *parts])([images])))
    t = images.astype('float64')
    cross_entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    divergence = (m ** 2 + np.exp(s) - s - 1).sum(axis=1) / 2
    np.testing.assert_allclose(reconstruction, cross_entropy.sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(kl, divergence, rtol=1e-4, atol=1e-5)
    # As the post has it: the mean over the flattened batch times the pixels, plus the KL term's mean
    np.testing.assert_allclose(loss, cross_entropy.mean() * 28 * 28 + divergence.mean(), rtol=1e-5)

def test_loss_counts_every_channel_and_has_a_gradient_where_the_sigmoid_saturates(names, monkeypatch):
    monkeypatch.setitem(names, 'num_channels', 3)
    logits = K.constant(np.full((1, 2, 2, 3), -50.))
    loss = names['reconstruction_loss'](K.ones((1, 2, 2, 3)), tf.sigmoid(logits))
    np.testing.assert_allclose(K.eval(loss), [2 * 2 * 3 * 50], rtol=1e-5)
    np.testing.assert_allclose(K.eval(K.gradients(loss, [logits])[0]), -1, rtol=1e-5)

def test_encoder_runs_once_in_a_step(names):
    """The moving means have moved once after one step; the post's move twice."""
    encoder, images = names['encoder'], names['input_train'][:8]
    normalisations = [layer for layer in encoder.layers if type(layer).__name__ == 'BatchNormalization']
    inputs = K.function([encoder.input, K.learning_phase()], [layer.input for layer in normalisations])([images, 1])
    names['vae'].train_on_batch(images, images)
    for layer, batch in zip(normalisations, inputs):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        np.testing.assert_allclose(K.get_value(layer.moving_mean), (1 - layer.momentum) * mean, rtol=1e-3, atol=1e-6)

@pytest.mark.parametrize('architecture, expected, trained, cropped', [
    ('dcgan', [17298104, 43457025, 60755129], 60739217, True),  # an epoch of it would take half a minute
    ('dcgan-as-published', [4044984, 4683521, 8728505], 8324753, False)])
def test_dcgan_like_networks(few, tmp_path, architecture, expected, trained, cropped):
    """Their tables, and that they can be trained: a step moves the biases, which begin at 0."""
    arguments = few, tmp_path, *([] if cropped else [1]), '--architecture', architecture, '--batch-size', 8
    names = (untrained if cropped else train)(*arguments)
    assert [total for total, _ in totals(names)] == expected and totals(names)[2][1] == trained
    assert ('Cropping2D' in [row[0] for row in table(names['decoder'])]) == cropped
    assert names['vae'].output_shape == (None, 28, 28, 1)
    assert np.all((names['encoder'].get_layer('latent_mu').get_weights()[1] == 0) == cropped)
