"""The post's blocks can be pasted over the cells of their headings.

Two go together with another one: the encoder's layers with conv_shape, and the VAE with its loss. Here the
blocks are written in other words: they do the same as the post's, and leave the same names.
"""

from textwrap import dedent

import matplotlib.pyplot as plt
import pytest

from helpers import CALLING, CONFIGURATION, DECODER, DECODER_MODEL, ENCODER, ENCODER_MODEL, GRID, IMPORTS
from helpers import LOADING, LOSS, PREPROCESSING, SCATTER, TRAINING, TRICK, VAE, Page, write_mnist

BLOCKS = {
    # With tf_keras in the place of keras
    IMPORTS: """
        import tf_keras as keras, numpy as np, matplotlib.pyplot as plt
        from tf_keras import Model, backend as K
        from tf_keras.layers import BatchNormalization, Conv2D, Conv2DTranspose, Dense, Flatten
        from tf_keras.layers import Input, Lambda, Reshape
        from tf_keras.losses import binary_crossentropy
        from tf_keras.datasets import mnist
    """,
    LOADING: """
        (input_train, target_train), (input_test, target_test) = mnist.load_data()
    """,
    CONFIGURATION: """
        img_width = img_height = 28
        num_channels = 1
        latent_dim = 2
        batch_size, no_epochs, validation_split, verbosity = 40, 3, 0.2, 1
    """,
    PREPROCESSING: """
        input_shape = 28, 28, 1
        input_train = np.float32(input_train / 255).reshape(-1, *input_shape)
        input_test = np.float32(input_test / 255).reshape(-1, *input_shape)
    """,
    ENCODER: """
        def halve(cx, filters):
            return BatchNormalization()(Conv2D(filters, 3, 2, 'same', activation='relu')(cx))
        i = Input(input_shape, name='encoder_input')
        cx = halve(halve(i, 8), 16)
        x = BatchNormalization()(Dense(20, 'relu')(Flatten()(cx)))
        mu, sigma = [Dense(latent_dim, name=name)(x) for name in ('latent_mu', 'latent_sigma')]
        conv_shape = cx.shape
    """,
    TRICK: """
        def sample_z(args):
            mu, sigma = args
            return mu + K.sqrt(K.exp(sigma)) * K.random_normal(K.shape(mu))
        z = Lambda(sample_z, name='z')([mu, sigma])
    """,
    ENCODER_MODEL: """
        encoder = Model(inputs=i, outputs=(mu, sigma, z), name='encoder')
    """,
    DECODER: """
        def double(cx, filters):
            return BatchNormalization()(Conv2DTranspose(filters, 3, 2, 'same', activation='relu')(cx))
        d_i = Input([latent_dim], name='decoder_input')
        x = Reshape((7, 7, 16))(BatchNormalization()(Dense(784, 'relu')(d_i)))
        cx = double(double(x, 16), 8)
        o = Conv2DTranspose(1, 3, padding='same', activation='sigmoid', name='decoder_output')(cx)
    """,
    DECODER_MODEL: """
        decoder = Model(inputs=d_i, outputs=o, name='decoder')
    """,
    VAE: """
        vae_outputs = decoder(encoder(i)[-1])
        vae = Model(inputs=i, outputs=vae_outputs, name='vae')
    """,
    LOSS: """
        def kl_reconstruction_loss(true, pred):
            divergence = K.sum(K.exp(sigma) + mu ** 2 - sigma - 1, axis=1) / 2
            crossentropy = binary_crossentropy(K.flatten(true), K.flatten(pred))
            return img_width * img_height * K.mean(crossentropy) + K.mean(divergence)
    """,
    TRAINING: """
        vae.compile('adam', kl_reconstruction_loss)
        vae.fit(input_train, input_train, batch_size, no_epochs, validation_split=validation_split)
    """,
    SCATTER: """
        def viz_latent_space(encoder, data):
            plt.scatter(*encoder.predict(data[0])[0].T, c=data[1])
            plt.show()
    """,
    # With as many ticks as labels
    GRID: """
        def viz_decoded(encoder, decoder, data):
            grid = np.linspace(-4, 4, 15)
            rows = [[decoder.predict(np.array([[x, y]]))[0] for x in grid] for y in -grid]
            plt.figure(figsize=(10, 10))
            ticks = np.arange(img_width // 2, 15 * img_width, img_width)
            plt.xticks(ticks, np.round(grid, 1))
            plt.yticks(ticks, np.round(-grid, 1))
            plt.imshow(np.vstack([np.hstack(row) for row in rows]).reshape(420, 420))
            plt.show()
    """,
    CALLING: """
        data = input_test, target_test
        viz_latent_space(encoder, data)
        viz_decoded(encoder, decoder, data)
    """,
}


# What the page's other cells have that the post does not have
NEW = 'weights = ', 'output_dir = ', 'test_loss = '


def paste(page, heading):
    """Put a block into the first code cell under its heading, and nothing into the post's other cells."""
    first, *others = page.cells_under(heading)
    page.sources[first] = dedent(BLOCKS[heading])
    for number in others:
        if not any(name in page.sources[number] for name in NEW):
            page.sources[number] = ''


# What the imports of the post do not have, and the page's cells need
REST = """
import sys
from datetime import datetime
from pathlib import Path
import tensorflow as tf
"""

# In the first two, each block stands between cells of the page
SOME = [CONFIGURATION, ENCODER, DECODER, DECODER_MODEL, TRAINING, GRID]
OTHERS = [LOADING, PREPROCESSING, TRICK, ENCODER_MODEL, VAE, LOSS, SCATTER, CALLING]


@pytest.mark.parametrize('headings', [SOME, OTHERS, list(BLOCKS)], ids=['some', 'others', 'all'])
def test_blocks(mnist, tmp_path, monkeypatch, headings):
    """The network learns to draw, and the figures are drawn, whether by the page or by the block."""
    write_mnist(tmp_path, mnist, 1600, 100)
    train, test = (mnist['x_train'][:1600], mnist['y_train'][:1600]), (mnist['x_test'][:100], None)
    monkeypatch.setattr('tf_keras.datasets.mnist.load_data', lambda: (train, test))
    page = Page(tmp_path, no_epochs=3, batch_size=40, num_samples=15)
    for heading in headings:
        paste(page, heading)
    page.sources[0] += REST
    page.run()
    assert page['vae'].count_params() == 26345
    first, *_, last = page['vae'].history.history['loss']
    assert 100 < last < 0.7 * first
    assert page['test_loss'] < first
    scatter, grid = [plt.figure(number).axes[0] for number in plt.get_fignums()[-2:]]
    assert len(scatter.collections[0].get_offsets()) == 100
    assert grid.images[0].get_array().shape[:2] == (420, 420)
    assert len(grid.get_xticks()) == len(grid.get_yticks()) == 15
