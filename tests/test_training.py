"""The training: its settings, what it saves, and how it ends."""

import re
from datetime import datetime

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tf_keras import backend as K
from tf_keras.callbacks import Callback, EarlyStopping

from helpers import CALLING, LOSS, SCATTER, TRAINING, Page, read_arrays, same_arrays, write_mnist
from test_figures import check_that_it_is_saved


@pytest.fixture
def page(mnist, tmp_path):
    """The page, not run yet, with 800 digits: two epochs have 20 steps each, in which something is learnt."""
    write_mnist(tmp_path, mnist, 800, 100)
    return Page(tmp_path, no_epochs=2, batch_size=32)


def history(page):
    """The rows of history.csv: the epoch, its loss and its validation loss."""
    return np.genfromtxt(page.output / 'history.csv', delimiter=',', skip_header=1, ndmin=2)


def add_callback(page, callback):
    """Pass a callback to fit, after those of the page."""
    page.names['callback'] = callback
    page.edit('keras.callbacks.TerminateOnNaN(),', 'keras.callbacks.TerminateOnNaN(), callback,')


def save_network(page, name):
    """Save the network's weights beside the page; return the file."""
    page['vae'].save_weights(page.folder / name)
    return page.folder / name


def is_in_file(page):
    """Whether the file holds the weights of the network."""
    return same_arrays(save_network(page, 'network.h5'), page.output / 'vae_weights.h5')


class AfterBatch(Callback):
    """Does something after a batch of an epoch."""

    def __init__(self, epoch, batch, action):
        super().__init__()
        self.when, self.action = (epoch, batch), action

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.when:
            self.action()


def press_ctrl_c():
    raise KeyboardInterrupt


def test_settings(page):
    """Of 800 digits, the first half is trained on in batches of 50, and the other half validates."""
    page.set('validation_split', 0.5)
    page.set('batch_size', 50)
    page.run(last=TRAINING)
    optimizer = page['vae'].optimizer
    assert K.get_value(optimizer.iterations) == 2 * 8
    assert isinstance(optimizer, page['keras'].optimizers.legacy.Adam)
    assert K.get_value(optimizer.lr) == pytest.approx(0.001)
    half = page['input_train'][400:]
    validation_loss = page['vae'].history.history['val_loss'][-1]
    assert page['vae'].evaluate(half, half, verbose=0) == pytest.approx(validation_loss, rel=1e-3)
    test_loss = page['vae'].evaluate(page['input_test'], page['input_test'], verbose=0)
    assert page['test_loss'] == pytest.approx(test_loss, rel=1e-3)


def test_files_of_a_training(page, capsys):
    """The losses and the figure of them; the last weights, which load again; nothing in another folder."""
    page.run(last=TRAINING)
    losses = page['vae'].history.history
    assert losses['loss'][1] < losses['loss'][0]
    np.testing.assert_allclose(history(page), [[k, losses['loss'][k], losses['val_loss'][k]] for k in (0, 1)])

    assert f'\nTest loss: {page["test_loss"]:.2f}'.rstrip('0') in capsys.readouterr().out
    (axes,) = plt.gcf().axes
    assert tuple(axes.figure.get_size_inches()) == (8, 5)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ['loss', 'val_loss']
    assert axes.get_xlabel() == 'epoch'
    for line in axes.lines:
        np.testing.assert_array_equal(line.get_xdata(), [1, 2])
        np.testing.assert_allclose(line.get_ydata(), losses[line.get_label()])
        assert line.get_marker() == '.'  # seen after one epoch, too
    check_that_it_is_saved(axes.figure, page.output / 'loss.png')

    arrays = read_arrays(page.output / 'vae_weights.h5')
    assert sum(array.size for array in arrays.values()) == 26345
    assert is_in_file(page)
    assert page.output.parent == page.folder / 'outputs'
    assert re.match(r'\d{4}-\d\d-\d\d-\d{6}$', page.output.name)


def test_a_run_never_writes_into_the_folder_of_another(page):
    class Frozen(datetime):
        @classmethod
        def now(cls):
            return cls(2026, 11, 27, 0, 3, 9)

    page.set('no_epochs', 0)
    page.run(last=LOSS)
    page.names['datetime'] = Frozen
    page.run(first=TRAINING, last=TRAINING)
    assert page.output.name == '2026-11-27-000309'
    with pytest.raises(FileExistsError):
        page.run(first=TRAINING, last=TRAINING)


def test_the_last_epoch_is_kept(page):
    """Also if it is not the best: the second one has the first weights again, and stays there."""

    class BackToTheBeginning(Callback):
        def on_train_begin(self, logs=None):
            self.weights = self.model.get_weights()

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights(self.weights)
                K.set_value(self.model.optimizer.lr, 0)

    add_callback(page, BackToTheBeginning())
    page.run(last=TRAINING)
    first, second = page['vae'].history.history['loss']
    assert first < second
    assert is_in_file(page)


@pytest.mark.parametrize('epoch', [0, 1])
def test_ctrl_c(page, epoch, capsys):
    """What was learnt until then is drawn and in the file."""
    add_callback(page, AfterBatch(epoch, 10, press_ctrl_c))
    page.run(last=CALLING)
    assert len(page['vae'].history.epoch) == epoch
    assert is_in_file(page)
    assert (page.output / 'loss.png').exists() == (epoch > 0)
    assert K.get_value(page['vae'].optimizer.iterations) == 20 * epoch + 11
    assert '\nStopped\n' in capsys.readouterr().out
    assert (page.output / 'decoded_digits.png').exists()


@pytest.mark.parametrize('times', [1, 2])
def test_ctrl_c_amid_a_save(page, monkeypatch, times):
    """Until a save is complete, the file has the epoch before; also after a second Ctrl-C, or a kill."""
    page.set('no_epochs', 1)
    page.run(last=TRAINING)
    file = page.output / 'vae_weights.h5'
    before = file.read_bytes()
    save = page['vae'].save_weights
    halves = []

    def save_half(path):
        if len(halves) < times:
            halves.append(path.write_bytes(b'half a file'))
            assert file.read_bytes() == before
            press_ctrl_c()
        save(path)

    monkeypatch.setattr(page['vae'], 'save_weights', save_half)
    if times == 1:
        page.train()
        assert is_in_file(page)
        assert file.read_bytes() != before
    else:
        with pytest.raises(KeyboardInterrupt):
            page.train()
        assert file.read_bytes() == before
    assert len(halves) == times


def test_loss_that_is_not_finite(page, capsys):
    """Keras ends the training and says so, and the file has the last epoch before."""
    page.set('no_epochs', 1)
    page.run(last=TRAINING)
    before = save_network(page, 'before.h5')
    page['vae'].optimizer.lr = 1e9
    page.names['no_epochs'] = 50
    page.train()
    assert 'Invalid loss, terminating training' in capsys.readouterr().out
    assert len(history(page)) < 50
    assert same_arrays(before, page.output / 'vae_weights.h5')
    page.run(first=SCATTER, last=CALLING)
    assert (page.output / 'decoded_digits.png').exists()


def test_loss_that_is_not_finite_in_the_first_epoch(page):
    page.edit("optimizer='adam'", 'optimizer=keras.optimizers.legacy.Adam(1e9)')
    page.run(last=TRAINING)
    assert not (page.output / 'vae_weights.h5').exists()


def test_the_last_step_of_an_epoch_breaks_the_weights(page):
    """The loss of that epoch is still finite, and the file has the epoch before."""
    before = []

    def break_weights():
        before.append((page.output / 'vae_weights.h5').read_bytes())
        vae = page['vae']
        vae.set_weights([np.nan * array for array in vae.get_weights()])

    add_callback(page, AfterBatch(1, 19, break_weights))
    page.run(last=TRAINING)
    assert np.isfinite(page['vae'].history.history['loss']).all()
    arrays = read_arrays(page.output / 'vae_weights.h5').values()
    assert all(np.isfinite(array).all() for array in arrays)
    assert [(page.output / 'vae_weights.h5').read_bytes()] == before


@pytest.mark.parametrize('validation', ['none', 'infinite'])
def test_the_validation_loss_does_not_decide(page, validation):
    """Without validation, or with a single odd image that makes its loss infinite, epochs are saved."""
    if validation == 'none':
        page.set('validation_split', 0)
    else:
        loss = 'return K.mean(reconstruction_loss + kl_loss)'
        page.edit(loss, loss.replace('kl_loss', 'K.in_train_phase(kl_loss, kl_loss + np.inf)'))
    page.run(last=TRAINING)
    losses = page['vae'].history.history
    assert losses['loss'][1] < losses['loss'][0]
    assert np.isfinite(losses.get('val_loss', [])).all() == (validation == 'none')
    assert is_in_file(page)


def test_early_stopping_that_restores(page):
    """What it restores, here the first epoch, is drawn and in the file."""
    epochs = []

    class EarlierIsBetter(EarlyStopping):
        def get_monitor_value(self, logs):
            epochs.append(save_network(page, f'epoch_{len(epochs)}.h5'))
            return len(epochs)

    add_callback(page, EarlierIsBetter(patience=1, restore_best_weights=True))
    page.set('no_epochs', 3)
    page.run(last=TRAINING)
    assert len(epochs) == 2
    assert same_arrays(epochs[0], page.output / 'vae_weights.h5')
    assert is_in_file(page)


def test_metrics(page, capsys):
    """The test loss then has several numbers."""
    loss = 'loss=kl_reconstruction_loss)'
    page.edit(loss, loss.replace(')', ", metrics=['mse'])"))
    page.run(last=TRAINING)
    loss, error = page['test_loss']
    assert 0 < error < 1 < loss
    assert 'Test loss: [' in capsys.readouterr().out


def test_weights_start_a_training(page):
    page.run(last=TRAINING)
    weights, last = page.output / 'vae_weights.h5', page['vae'].history.history['loss'][1]
    before = weights.read_bytes()
    again = Page(page.folder, no_epochs=1, batch_size=32, weights=str(weights))
    again.run(last=TRAINING)
    assert again['vae'].history.history['loss'][0] < last
    assert weights.read_bytes() == before
