"""The weights that the post's own run ended with, in the environment of its time, in this page.

tests/data/post.npz holds what Keras 2.3.1 on TensorFlow 1.15.5 made of them.
"""

import numpy as np
import pytest

from helpers import (
    POST,
    PROJECT,
    TRAINING,
    Page,
    code_blocks,
    link_reference,
    output_folder,
    printed_losses,
    run_script,
    script_flags,
)

DOCUMENT = POST / 'README.md'


@pytest.fixture(scope='module')
def expected():
    """What the post's code computes from its weights in its own environment."""
    with np.load(PROJECT / 'tests' / 'data' / 'post.npz') as file:
        return dict(file)


@pytest.fixture(scope='module')
def page(mnist, tmp_path_factory):
    """The page with the post's weights."""
    page = Page(tmp_path_factory.mktemp('post'), no_epochs=0, weights=str(POST / 'post_weights.h5'))
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


def test_test_loss(expected, tmp_path):
    """By the command of its README. The noise of z alone makes a difference of up to 0.1 there."""
    *_, command = code_blocks(DOCUMENT, "A run of the post's code in its own time", 'sh')
    (tmp_path / 'tests').symlink_to(PROJECT / 'tests')
    link_reference(tmp_path)
    status, output, errors = run_script(*script_flags(command), cwd=tmp_path)
    assert (status, errors) == (0, [])
    loss, kl = printed_losses(output)
    assert loss == pytest.approx(float(expected['test_loss']), abs=0.15)
    assert kl == pytest.approx(float(expected['test_kl_loss']), abs=0.006)
    # MNIST comes from the repository, and nothing was trained
    assert 'Downloading' not in output
    assert 'Epoch' not in output
    assert {path.name for path in output_folder(tmp_path).iterdir()} == {
        'latent_space.png',
        'decoded_digits.png',
    }
