"""The weights that the post's own run ended with, in the environment of its time, in this page.

tests/data/post.npz holds what Keras 2.3.1 on TensorFlow 1.15.5 made of them.
"""

import numpy as np
import pytest

from helpers import ERRORS, POST_WEIGHTS, PROJECT, TRAINING, Page, block, flags, kl_divergence


@pytest.fixture(scope='module')
def expected():
    """What the post's code computes from its weights in its own environment."""
    with np.load(PROJECT / 'tests' / 'data' / 'post.npz') as file:
        return dict(file)


@pytest.fixture(scope='module')
def page(mnist, tmp_path_factory):
    """The page with the post's weights."""
    page = Page(tmp_path_factory.mktemp('post'), no_epochs=0, weights=str(POST_WEIGHTS))
    page.use(mnist['x_train'][:10], mnist['x_test'][:10])
    return page.run(last=TRAINING)


def test_layers(page, expected):
    layers = page['encoder'].layers + page['decoder'].layers
    assert [type(layer).__name__ for layer in layers] == list(expected['names'])


def test_mu_and_sigma(page, expected):
    mu, sigma, _ = page['encoder'].predict(page['input_test'])
    np.testing.assert_allclose(mu, expected['mu'], atol=1e-5)
    np.testing.assert_allclose(sigma, expected['sigma'], atol=1e-5)


def test_pictures(page, expected):
    pictures = page['decoder'].predict(expected['points'])[:, :, :, 0]
    np.testing.assert_allclose(pictures, expected['pictures'], atol=1e-5)


def test_test_loss(page, mnist, expected):
    """The noise of z alone makes a difference of up to 0.1."""
    images = mnist['x_test'][..., np.newaxis].astype('float32') / 255
    loss = page['vae'].evaluate(images, images, batch_size=128, verbose=0)
    assert loss == pytest.approx(float(expected['test_loss']), abs=0.15)
    mu, sigma, _ = page['encoder'].predict(images)
    assert kl_divergence(mu, sigma) == pytest.approx(float(expected['test_kl_loss']), abs=0.006)


def test_command_of_the_document():
    """It loads these weights; 'Look', the same command with others, is tested as a command."""
    arguments = flags(block(ERRORS, '--weights'))
    assert arguments == ['--epochs', '0', '--weights', str(POST_WEIGHTS.relative_to(PROJECT))]
