"""The tables, the sample and the loss of the post."""
import numpy as np
import pytest
import tensorflow as tf
from tf_keras import backend as K
from tf_keras.layers import BatchNormalization, Conv2D, Conv2DTranspose, Dense, Flatten, Input, Lambda, Reshape
from tf_keras.losses import binary_crossentropy
from tf_keras.models import Model

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


def test_too_few_decoder_filters(monkeypatch):
    monkeypatch.setitem(script.architectures['original'], 'decoder_filters', [16])
    encoder, conv_shape = script.create_encoder()
    with pytest.raises(script.UserError, match='14 by 14 pixels, short of 28 by 28'):
        script.create_decoder(conv_shape)


@pytest.mark.parametrize('architecture', ['dcgan', 'dcgan-as-published'])
def test_dcgan_like_networks_take_a_step(mnist, architecture):
    images = script.preprocess(mnist['x_train'][:4])
    with tf.Graph().as_default():
        _, _, vae, mu, sigma = build(architecture, (28, 28, 1))
        script.compile_vae(vae, *script.create_loss(mu, sigma))
        before = vae.get_layer('encoder').get_layer('latent_mu').get_weights()[0]
        losses = vae.train_on_batch(images, images)
        after = vae.get_layer('encoder').get_layer('latent_mu').get_weights()[0]
    assert np.all(np.isfinite(losses)) and np.any(before != after)


def the_posts_layers():
    """The post's network, written out as the post writes it, but for the VAE's own input."""
    i = Input(shape=(28, 28, 1), name='encoder_input')
    cx = Conv2D(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(i)
    cx = BatchNormalization()(cx)
    cx = Conv2D(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
    x = Flatten()(cx)
    x = Dense(20, activation='relu')(x)
    x = BatchNormalization()(x)
    mu = Dense(2, name='latent_mu')(x)
    sigma = Dense(2, name='latent_sigma')(x)
    conv_shape = K.int_shape(cx)
    z = Lambda(script.sample_z, output_shape=(2, ), name='z')([mu, sigma])
    encoder = Model(i, [mu, sigma, z], name='encoder')
    d_i = Input(shape=(2, ), name='decoder_input')
    x = Dense(conv_shape[1] * conv_shape[2] * conv_shape[3], activation='relu')(d_i)
    x = BatchNormalization()(x)
    x = Reshape((conv_shape[1], conv_shape[2], conv_shape[3]))(x)
    cx = Conv2DTranspose(filters=16, kernel_size=3, strides=2, padding='same', activation='relu')(x)
    cx = BatchNormalization()(cx)
    cx = Conv2DTranspose(filters=8, kernel_size=3, strides=2, padding='same', activation='relu')(cx)
    cx = BatchNormalization()(cx)
    o = Conv2DTranspose(filters=1, kernel_size=3, activation='sigmoid', padding='same', name='decoder_output')(cx)
    decoder = Model(d_i, o, name='decoder')
    return (encoder, decoder, *script.create_vae(encoder, decoder))


def the_posts_loss(mu, sigma):
    def kl_reconstruction_loss(true, pred):
        reconstruction_loss = binary_crossentropy(K.flatten(true), K.flatten(pred)) * 28 * 28
        kl_loss = 1 + sigma - K.square(mu) - K.exp(sigma)
        kl_loss = K.sum(kl_loss, axis=-1)
        kl_loss *= -0.5
        return K.mean(reconstruction_loss + kl_loss)
    return kl_reconstruction_loss


def loss_and_gradients(vae, loss, weights, images):
    vae.set_weights(weights)
    value = loss(vae.input, vae.output)
    gradients = K.gradients(value, vae.trainable_weights)
    return K.function([vae.input, K.learning_phase()], [value, *gradients])([images, 1])


def test_the_posts_own_layers_loss_and_gradients(mnist):
    """Ours beside the post's: same configuration; for the same weights the same loss and gradients."""
    images = script.preprocess(mnist['x_train'][:32])
    with tf.Graph().as_default():
        encoder, decoder, vae, mu, sigma = the_posts_layers()
        configurations = encoder.get_config(), decoder.get_config()
        # So small a variance that z is as good as mu, whatever eps is drawn
        kernel, bias = encoder.get_layer('latent_sigma').get_weights()
        encoder.get_layer('latent_sigma').set_weights([0 * kernel, bias - 40])
        # No pixel so near to black or white that the post's clipping would change its logarithm
        kernel, bias = decoder.get_layer('decoder_output').get_weights()
        decoder.get_layer('decoder_output').set_weights([0.1 * kernel, bias])
        weights = vae.get_weights()
        theirs = loss_and_gradients(vae, the_posts_loss(mu, sigma), weights, images)
    with tf.Graph().as_default():
        encoder, decoder, vae, mu, sigma = build('original', (28, 28, 1))
        assert (encoder.get_config(), decoder.get_config()) == configurations
        kl_reconstruction_loss, _ = script.create_loss(mu, sigma)
        ours = loss_and_gradients(vae, kl_reconstruction_loss, weights, images)
    for post, here in zip(theirs, ours):
        np.testing.assert_allclose(here, post, rtol=1e-3, atol=1e-3)


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
    for gradient in K.function([vae.input], gradients)([script.preprocess(mnist['x_train'][:16])]):
        assert gradient.shape == (16, 2)
        assert np.all(gradient != 0)


@pytest.mark.parametrize('start', [0, 1000, 5000])
def test_loss_equals_numpy(mnist, start):
    random = np.random.default_rng(start)
    true = script.preprocess(mnist['x_train'][start:start + 64])
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
    images = script.preprocess(mnist['x_test'][:128])
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
    true = script.preprocess(mnist['x_train'][:8])
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
    images = script.preprocess(mnist['x_train'][:128])
    inputs = K.function([encoder.input, K.learning_phase()], [layer.input for layer in normalisations])([images, 1])
    vae.train_on_batch(images, images)
    for layer, batch in zip(normalisations, inputs):
        mean = batch.reshape(-1, batch.shape[-1]).mean(axis=0)
        moving_mean = K.get_value(layer.moving_mean)
        np.testing.assert_allclose(moving_mean, (1 - layer.momentum) * mean, rtol=1e-3, atol=1e-6)
