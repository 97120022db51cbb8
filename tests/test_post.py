"""The weights that the post's own run ended with, in the environment of its time, in this page.

tests/data/post.npz holds what Keras 2.3.1 on TensorFlow 1.15.5 made of them.
"""

import numpy as np
import pytest

from conftest import LOSS, MNIST, PROJECT, REFERENCE, Page, printed_losses, run_script

WEIGHTS = REFERENCE / 'post' / 'post_weights.h5'


@pytest.fixture(scope='module')
def expected():
    """What the post's code computes from its weights in its own environment."""
    with np.load(PROJECT / 'tests' / 'data' / 'post.npz') as file:
        return dict(file)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The page with the post's weights and the whole of MNIST."""
    folder = tmp_path_factory.mktemp('post')
    page = Page(folder, data=str(MNIST), epochs=0, weights=str(WEIGHTS))
    return page.run(last=LOSS)


def test_layers(page, expected):
    layers = page['encoder'].layers + page['decoder'].layers
    assert [type(layer).__name__ for layer in layers] == list(expected['names'])


def test_mu_and_sigma(page, expected):
    mu, sigma, _ = page['encoder'].predict(page['input_test'][:10])
    np.testing.assert_allclose(mu, expected['mu'], atol=1e-5)
    np.testing.assert_allclose(sigma, expected['sigma'], atol=1e-5)


def test_pictures(page, expected):
    pictures = page['decoder'].predict(expected['points'])[:, :, :, 0]
    np.testing.assert_allclose(pictures, expected['pictures'], atol=1e-5)


def test_test_loss(expected, tmp_path):
    """The noise of z alone makes a difference of up to 0.1 between two evaluations there."""
    status, output, errors = run_script(
        '--epochs', 0, '--weights', WEIGHTS, '--output-dir', 'out', cwd=tmp_path
    )
    assert (status, errors) == (0, [])
    loss, reconstruction, kl = printed_losses(output)
    assert loss == pytest.approx(float(expected['test_loss']), abs=0.15)
    assert kl == pytest.approx(float(expected['test_kl_loss']), abs=0.006)
    assert reconstruction == pytest.approx(loss - kl, abs=0.02)

    # MNIST comes from the repository; and the post's weights bring no losses to draw
    assert 'Downloading' not in output
    assert 'Epoch' not in output
    files = {path.name for path in (tmp_path / 'out').iterdir()}
    assert files == {'latent_space.png', 'decoded_digits.png'}
