"""The training: its settings, what it saves, and how it ends."""

import re

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
from tf_keras import backend as K
from tf_keras.callbacks import Callback

from helpers import (
    FIGURES,
    LOSS,
    SCATTER,
    TRAINING,
    VAE,
    Page,
    fit_number,
    read_arrays,
    same_arrays,
    write_mnist,
)


@pytest.fixture
def page(mnist, tmp_path):
    """The page with 800 digits, of which two epochs have 20 steps each, in which something is learnt."""
    write_mnist(tmp_path, mnist, 800, 100)
    return Page(tmp_path, no_epochs=2, batch_size=32)


def history(page):
    """The rows of history.csv: the epoch, its loss and its validation loss."""
    return np.genfromtxt(page.output / 'history.csv', delimiter=',', skip_header=1, ndmin=2)


def add_callback(page, name):
    """Pass a callback of the test to fit, after those of the page."""
    page.edit(TRAINING, 'keras.callbacks.TerminateOnNaN(),', f'keras.callbacks.TerminateOnNaN(), {name},')


def is_in_file(page):
    """Whether the file holds the weights of the network."""
    page['vae'].save_weights(page.folder / 'network.h5')
    return same_arrays(page.folder / 'network.h5', page.output / 'vae_weights.h5')


def fit_again(page):
    page.run_cell(fit_number(page.sources))


def test_settings(page):
    """Of 800 digits, the first half is trained on in batches of 32, and the other half validates."""
    page.set('validation_split', 0.5)
    page.set('verbosity', 2)
    page.run(last=TRAINING)
    assert K.get_value(page['vae'].optimizer.iterations) == 2 * 13
    half = page['input_train'][400:]
    validation_loss = page['vae'].history.history['val_loss'][-1]
    assert page['vae'].evaluate(half, half, verbose=0) == pytest.approx(validation_loss, rel=1e-3)


def test_files_of_a_training(page):
    """The losses and the figure of them; all weights, which load again; nothing in another folder."""
    page.run(last=TRAINING)
    losses = page['vae'].history.history
    assert losses['loss'][1] < losses['loss'][0]
    np.testing.assert_allclose(history(page), [[k, losses['loss'][k], losses['val_loss'][k]] for k in (0, 1)])

    (axes,) = plt.gcf().axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['loss', 'val_loss']
    assert axes.get_xlabel() == 'epoch'
    for line in axes.lines:
        np.testing.assert_array_equal(line.get_xdata(), [1, 2])
        np.testing.assert_allclose(line.get_ydata(), losses[line.get_label()])
        assert line.get_marker() == '.'  # seen after one epoch, too
    assert (page.output / 'loss.png').stat().st_size > 10_000

    arrays = read_arrays(page.output / 'vae_weights.h5')
    assert sum(array.size for array in arrays.values()) == 26345
    assert is_in_file(page)
    assert page.output.parent == page.folder / 'outputs'
    assert re.match(r'\d{4}-\d\d-\d\d-\d{6}-\d{6}$', page.output.name)


def test_each_run_has_a_folder_of_its_own(page):
    page.set('no_epochs', 1)
    page.run(last=TRAINING)
    first, before = page.output, (page.output / 'vae_weights.h5').read_bytes()
    page.run(first=TRAINING, last=TRAINING)
    assert page.output != first
    assert (first / 'vae_weights.h5').read_bytes() == before
    assert len(history(page)) == 1


def test_file_and_network_are_the_best_epoch(page):
    """Here that is the first one, since the second one has the first weights again, and stays there."""

    class BackToTheBeginning(Callback):
        def on_train_begin(self, logs=None):
            self.weights = self.model.get_weights()

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.best = self.model.get_weights()
                self.model.set_weights(self.weights)
                K.set_value(self.model.optimizer.lr, 0)

    page.names['back'] = BackToTheBeginning()
    add_callback(page, 'back')
    page.run(last=TRAINING)
    first, second = page['vae'].history.history['loss']
    assert first < second
    assert is_in_file(page)
    for array, best in zip(page['vae'].get_weights(), page['back'].best, strict=True):
        np.testing.assert_array_equal(array, best)


def interrupt(page, epoch, batch):
    """Have Ctrl-C pressed in a batch of an epoch."""

    class Interrupt(Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, number, logs=None):
            if (self.epoch, number) == (epoch, batch):
                raise KeyboardInterrupt

    page.names['interrupt'] = Interrupt()
    add_callback(page, 'interrupt')


def test_ctrl_c_keeps_the_best_epoch(page, capsys):
    interrupt(page, epoch=1, batch=10)
    page.run(last=FIGURES)
    assert len(history(page)) == 1
    assert is_in_file(page)
    assert page['test_loss'] < history(page)[0, 1]
    assert '\nStopped\n' in capsys.readouterr().out
    assert (page.output / 'decoded_digits.png').exists()


def test_ctrl_c_in_the_first_epoch_saves_what_was_learnt(page):
    interrupt(page, epoch=0, batch=18)
    page.run(last=FIGURES)
    assert is_in_file(page)
    assert page['test_loss'] < 540  # of an untrained network
    assert (page.output / 'decoded_digits.png').exists()


def test_ctrl_c_while_the_file_is_written(page, monkeypatch):
    """The file is only half written then. It is written anew, and nothing is lost."""
    page.run(last=VAE)
    vae, save = page['vae'], page['vae'].save_weights
    calls = []

    def save_weights(path, **settings):
        save(path, **settings)
        calls.append(path)
        if len(calls) == 2:
            with h5py.File(path, 'a') as file:
                del file['decoder']
            raise KeyboardInterrupt

    monkeypatch.setattr(vae, 'save_weights', save_weights)
    page.run(first=LOSS, last=TRAINING)
    assert len(calls) == 3
    assert is_in_file(page)
    assert page['test_loss'] < history(page)[0, 1]


def test_loss_that_is_not_finite(page, capsys):
    """It ends the training, and the epochs before it stay."""
    page.set('no_epochs', 1)
    page.run(last=TRAINING)
    before = (page.output / 'vae_weights.h5').read_bytes()
    page['vae'].optimizer.lr = 1e9
    page.names['no_epochs'] = 50
    fit_again(page)
    assert 'Invalid loss, terminating training' in capsys.readouterr().out
    assert len(history(page)) < 50
    assert (page.output / 'vae_weights.h5').read_bytes() == before
    assert is_in_file(page)
    page.run(first=SCATTER, last=FIGURES)
    assert (page.output / 'decoded_digits.png').exists()


def test_loss_that_is_not_finite_in_the_first_epoch(page):
    page.edit(TRAINING, "optimizer='adam'", 'optimizer=keras.optimizers.legacy.Adam(1e9)')
    with pytest.raises(ValueError, match='not finite in the first epoch; try a smaller learning rate'):
        page.run(last=TRAINING)
    assert not (page.output / 'vae_weights.h5').exists()


@pytest.mark.parametrize('validation', ['none', 'infinite'])
def test_the_validation_loss_does_not_decide(page, validation):
    """Without validation, or with a single odd image that makes its loss infinite, epochs are saved."""
    if validation == 'none':
        page.set('validation_split', 0)
    else:
        loss = 'return K.mean(reconstruction_loss + kl_loss)'
        infinite = 'K.in_train_phase(kl_loss, kl_loss + np.inf)'
        page.edit(LOSS, loss, loss.replace('kl_loss', infinite))
    page.run(last=TRAINING)
    losses = page['vae'].history.history
    assert losses['loss'][1] < losses['loss'][0]
    assert np.isfinite(losses.get('val_loss', [])).all() == (validation == 'none')
    assert page['checkpoint'].best == losses['loss'][1]
    assert is_in_file(page)


def test_weights_start_a_training(page):
    page.run(last=TRAINING)
    weights, last = page.output / 'vae_weights.h5', page['vae'].history.history['loss'][1]
    before = weights.read_bytes()
    again = Page(page.folder, no_epochs=1, batch_size=32, weights=str(weights))
    again.run(last=TRAINING)
    assert again['vae'].history.history['loss'][0] < last
    assert weights.read_bytes() == before
