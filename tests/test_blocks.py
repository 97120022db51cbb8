"""The post's blocks can be pasted over the cells of their headings, the VAE together with its loss.

Here they are written in other words: they do the same as the post's blocks, and leave the same names.
"""

from textwrap import dedent

import pytest

from helpers import (
    CONFIGURATION,
    DECODER,
    DECODER_MODEL,
    ENCODER,
    ENCODER_MODEL,
    FIGURES,
    GRID,
    LOSS,
    PREPROCESSING,
    SCATTER,
    TRAINING,
    TRICK,
    VAE,
    Page,
    write_mnist,
)

BLOCKS = {
    CONFIGURATION: """
        img_width = img_height = 28
        num_channels = 1
        latent_dim = 2
        batch_size, no_epochs, validation_split, verbosity = 32, 3, 0.2, 1
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
    GRID: """
        def viz_decoded(encoder, decoder, data):
            plt.imshow(decoder.predict(np.zeros((1, 2)))[0])
            plt.show()
    """,
    FIGURES: """
        data = input_test, target_test
        viz_latent_space(encoder, data)
        viz_decoded(encoder, decoder, data)
    """,
}


# What only cells have that the post does not have
NEW = 'architecture = ', 'output_dir = ', 'test_loss = '


def paste(page, heading):
    """Put a block into the first code cell under its heading, and nothing into the post's other cells."""
    first, *others = page.cells_under(heading)
    page.sources[first] = dedent(BLOCKS[heading])
    for number in others:
        if not any(name in page.sources[number] for name in NEW):
            page.sources[number] = ''


# In the first two, each block stands between cells of the page
SOME = [CONFIGURATION, ENCODER, DECODER, DECODER_MODEL, TRAINING, GRID]
OTHERS = [PREPROCESSING, TRICK, ENCODER_MODEL, VAE, LOSS, SCATTER, FIGURES]


@pytest.mark.parametrize('headings', [SOME, OTHERS, list(BLOCKS)], ids=['some', 'others', 'all'])
def test_blocks(mnist, tmp_path, headings):
    """The network learns to draw, and the figures are drawn, whether by the page or by the block."""
    write_mnist(tmp_path, mnist, 1600, 100)
    page = Page(tmp_path, no_epochs=3, batch_size=32)
    for heading in headings:
        paste(page, heading)
    page.run()
    assert page['vae'].count_params() == 26345
    first, *_, last = page['vae'].history.history['loss']
    assert 100 < last < 0.7 * first
    assert page['test_loss'] < first
