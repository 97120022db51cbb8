"""The post's own run, in the environment of its time, against the page: outputs/reference/post."""
import re

import h5py
import numpy as np
import pytest

from conftest import POST, page, rows, same, script, untrained, weights


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


def test_its_history():
    losses = rows(POST)
    assert [row['epoch'] for row in losses] == list(range(100))
    assert np.mean([row['val_loss'] for row in losses[-5:]]) < 149


def test_what_is_saved_here_has_the_form_of_the_posts(digits, tmp_path):
    """The same groups and shapes in the same order, so that Keras 2.3.1 can load it."""
    names = untrained(digits, tmp_path)
    with h5py.File(tmp_path / 'ours.h5', 'w') as file:
        names['hdf5_format'].save_weights_to_hdf5_group(file, names['vae'])

    def form(path):
        with h5py.File(path) as file:
            layers = [name for name in file.attrs['layer_names']]
            return layers, [file[name][weight].shape for name in layers for weight in file[name].attrs['weight_names']]
    ours, theirs = form(tmp_path / 'ours.h5'), form(POST / 'post_weights.h5')
    assert [name.decode() if isinstance(name, bytes) else name for name in ours[0]] == ['encoder_input', 'encoder', 'decoder']
    assert ours[1] == theirs[1] and len(weights(POST / 'post_weights.h5')) == len(ours[1]) == 42
    assert not same(tmp_path / 'ours.h5', POST / 'post_weights.h5')
