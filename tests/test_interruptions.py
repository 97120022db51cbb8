"""Whatever ends a run, what was learnt is on the disk. Real signals to a real process."""
import json
import re
import signal
import time

import h5py
import numpy as np
import pytest

from conftest import command, finish, rows, train, weights


@pytest.fixture(scope='module')
def data(mnist, tmp_path_factory):
    """Digits for epochs of about half a second."""
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    np.savez(path, x_train=mnist['x_train'][:3200], x_test=mnist['x_test'][:500], y_test=mnist['y_test'][:500])
    return path


def start(data, folder, epochs_in, *more):
    """Start a long training, and wait until it has finished so many epochs."""
    process = command('--data', data, '--epochs', 1000, '--output-dir', folder, *more)
    seen = 0
    for line in process.stdout:
        seen += ' - val_loss: ' in line
        if line.startswith('Epoch') and seen == epochs_in:
            return process
    raise AssertionError(process.stderr.read())


def whole_epochs(folder):
    """The number of epochs in the weights, and so in history.csv, after a look at every number in both."""
    assert all(np.isfinite(array).all() for array in weights(folder / 'vae_weights.h5').values())
    with h5py.File(folder / 'vae_weights.h5') as file:
        losses = json.loads(file['losses'][()])
    assert losses == (rows(folder) if losses else []) and [row['epoch'] for row in losses] == list(range(len(losses)))
    return len(losses)


def steps(folder):
    with h5py.File(folder / 'vae_weights.h5') as file:
        return file['optimizer/0'][()]


@pytest.mark.parametrize('epochs_in, seconds, batch_size', [(0, 3, 2), (2, 0.02, 128)])
def test_interrupt(data, tmp_path, epochs_in, seconds, batch_size):
    process = start(data, tmp_path, epochs_in, '--batch-size', batch_size)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (0, '')
    said = int(re.search(r'Interrupted with (\d+) whole epochs in', out)[1])
    assert said == whole_epochs(tmp_path) >= epochs_in
    assert 'Test loss: ' in out.split('Interrupted')[1]
    # The broken epoch is kept, and its number run again
    before = steps(tmp_path)
    assert before > said * 20 or batch_size == 2
    assert go_on(data, tmp_path) == said + 1
    assert {path.name for path in tmp_path.iterdir()} - {'history.csv', 'loss.png', 'latent_space_zoom.png'} == {
        'decoded_digits.png', 'latent_space.png', 'vae_weights.h5'}


def go_on(data, folder):
    """Run one more epoch; how many there are then."""
    train(data, folder, 1, '--weights', folder / 'vae_weights.h5')
    return whole_epochs(folder)


@pytest.fixture
def ctrl_c_is_heard():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


NOW = "        if len(training['losses']) == {epochs}:\n            signal.raise_signal(signal.SIGINT)\n"
PLACES = {  # where it comes, and how many steps and whole epochs there are then
    'while Keras prepares to validate': ('    def on_train_batch_end', '    def on_test_begin(self, logs=None):\n'
                                         + NOW.format(epochs=1), 2 * 20, 1),
    'while validating': ('    def on_train_batch_end', '    def on_test_batch_begin(self, batch, logs=None):\n'
                         + NOW.format(epochs=1), 2 * 20, 1),
    'while saving': ('        os.replace(part, weights_file)\n', NOW.format(epochs=2), 2 * 20 + 1, 2)}


@pytest.mark.parametrize('place', PLACES)
def test_interrupt_in_an_epochs_last_moments(data, tmp_path, capsys, ctrl_c_is_heard, place):
    """The epoch's steps are kept; it counts as a whole one if it was validated."""
    before, code, steps_made, whole = PLACES[place]
    train(data, tmp_path, 4, changes=[(before, code + '\n' * code.startswith('    def') + before)])
    assert f'Interrupted with {whole} whole epochs in' in capsys.readouterr().out
    assert steps(tmp_path) == steps_made and whole_epochs(tmp_path) == whole


def test_kill(data, tmp_path):
    process = start(data, tmp_path, 2)
    process.kill()
    status, out, _ = finish(process)
    assert status == -signal.SIGKILL
    # start() has read two epochs' lines; a line is printed right after its epoch is saved
    printed = 2 + out.count(' - val_loss: ')
    with h5py.File(tmp_path / 'vae_weights.h5') as file:
        saved = len(json.loads(file['losses'][()]))
    assert printed <= saved <= printed + 1
    assert go_on(data, tmp_path) == saved + 1


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGKILL])
def test_less_than_an_epoch_replaces_nothing(data, tmp_path, end):
    for name in ('vae_weights.h5', 'history.csv'):
        (tmp_path / name).write_text('an earlier run')
    process = start(data, tmp_path, 0)
    process.send_signal(end)
    status, out, err = finish(process)
    assert status == (0 if end == signal.SIGINT else -signal.SIGKILL)
    assert ('not saved over' in out) == (end == signal.SIGINT)
    assert err.startswith('note: ') and str(tmp_path / 'vae_weights.h5') in err and len(err.splitlines()) == 1
    for name in ('vae_weights.h5', 'history.csv'):
        assert (tmp_path / name).read_text() == 'an earlier run'


def test_two_trainings_in_one_folder(digits, tmp_path):
    """Each file that one of them saves is whole."""
    both = [start(digits, tmp_path, 1, '--seed', seed) for seed in (1, 2)]
    for _ in range(40):
        with h5py.File(tmp_path / 'vae_weights.h5') as file:
            assert len(file['optimizer']) == 61 and json.loads(file['losses'][()])
        time.sleep(0.05)
    assert all(process.poll() is None for process in both)
