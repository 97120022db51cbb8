"""The post's own run, in the environment of its time, against the page: outputs/reference/post."""
import re

import numpy as np
import pytest

from conftest import POST, page, script

@pytest.fixture(scope='module')
def expected():
    """What Keras 2.3.1 on TensorFlow 1.15.5 computed from post_weights.h5, for ten test digits and five points."""
    with np.load(script.parent / 'tests' / 'data' / 'post.npz') as arrays:
        return dict(arrays)

@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    """The page's names after a run with the post's weights, and what it printed."""
    folder = tmp_path_factory.mktemp('post')
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr('builtins.print', lambda *words, **settings: printed.append(' '.join(map(str, words))))
        names = page('--epochs', 0, '--weights', POST / 'post_weights.h5', '--output-dir', folder)
    return names, '\n'.join(printed), folder

def test_same_values_as_in_keras_2_3_1(loaded, expected):
    names, _, _ = loaded
    mu, sigma, _ = names['encoder'].predict(names['input_test'][:10])
    np.testing.assert_allclose(mu, expected['mu'], atol=1e-5)
    np.testing.assert_allclose(sigma, expected['sigma'], atol=1e-5)
    np.testing.assert_allclose(names['decoder'].predict(expected['points'])[..., 0], expected['pictures'], atol=1e-5)
    vae, K = names['vae'], names['K']
    kl = K.function([vae.input], [names['kl_loss'](vae.input, vae.output)])([names['input_test'][:10]])[0]
    np.testing.assert_allclose(kl, expected['kl_loss'], rtol=1e-4)
    layers = [type(layer).__name__ for model in ('encoder', 'decoder') for layer in names[model].layers]
    assert layers == list(expected['names'])

def test_same_test_loss(loaded, expected):
    """To within the noise of z, which is 0.1 at most in ten evaluations there."""
    _, printed, folder = loaded
    loss, kl = map(float, re.search(r'Test loss: (\S+) .*kl_loss: (\S+)', printed).groups())
    assert loss == pytest.approx(float(expected['test_loss']), abs=0.15)
    assert kl == pytest.approx(float(expected['test_kl_loss']), abs=0.006)
    assert 'post_weights.h5' in printed and not (folder / 'loss.png').exists()  # it has no losses
