"""Whatever ends a run, what was learnt is on the disk."""
import json
import re
import signal

import h5py
import numpy as np
import pytest

from conftest import FILES, command, finish, rows, train, weights

def start(data, folder):
    """Start a long training, and wait until it has finished two epochs."""
    process = command('--data', data, '--epochs', 1000, '--output-dir', folder)
    seen = 0
    for line in process.stdout:
        seen += ' - val_loss: ' in line
        if seen == 2:
            return process
    raise AssertionError(process.stderr.read())

def steps_and_epochs(folder):
    """How many are in the weights file, after a look at every number there and in history.csv."""
    arrays = weights(folder / 'vae_weights.h5')
    assert all(np.isfinite(array).all() for array in arrays.values())
    with h5py.File(folder / 'vae_weights.h5') as file:
        losses = json.loads(file['losses'][()])
    assert losses == (rows(folder) if losses else []) and [row['epoch'] for row in losses] == list(range(len(losses)))
    return arrays['optimizer/0'], len(losses)

def test_ctrl_c(more_digits, tmp_path):
    process = start(more_digits, tmp_path)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (0, '')
    said = int(re.search(r'Interrupted with (\d+) whole epochs in', out)[1])
    assert 'Test loss: ' in out.split('Interrupted')[1]
    assert {path.name for path in tmp_path.iterdir()} - {'latent_space_zoom.png'} == FILES
    # The broken epoch is kept, and its number run again
    steps, epochs = steps_and_epochs(tmp_path)
    assert epochs == said and steps > said * 10
    train(more_digits, tmp_path, 1, '--weights', tmp_path / 'vae_weights.h5')
    assert steps_and_epochs(tmp_path) == (steps + 10, epochs + 1)

def test_kill(more_digits, tmp_path):
    process = start(more_digits, tmp_path)
    process.kill()
    status, out, _ = finish(process)
    assert status == -signal.SIGKILL
    # A line is printed right after its epoch is saved
    printed = 2 + out.count(' - val_loss: ')
    with h5py.File(tmp_path / 'vae_weights.h5') as file:
        assert len(json.loads(file['losses'][()])) in (printed, printed + 1)
    train(more_digits, tmp_path, 0, '--weights', tmp_path / 'vae_weights.h5')

@pytest.fixture
def interrupted(more_digits, tmp_path):
    """A function: train with a Ctrl-C in this method of the callback, after so many whole epochs."""
    def interrupted(method, epochs):
        now = f"if len(losses) == {epochs}:\n            signal.raise_signal(signal.SIGINT)\n"
        if method == 'on_epoch_end':  # which saves
            before = '        memory = io.BytesIO()\n'
            changes = [(before, f'        {now}{before}')]
        else:
            before = '    def on_train_batch_end'
            changes = [(before, f'    def {method}(self, batch=None, logs=None):\n        {now}\n{before}')]
        train(more_digits, tmp_path, 4, changes=changes)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    pytest_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield interrupted
    signal.signal(signal.SIGINT, pytest_handler)

@pytest.mark.parametrize('method, epochs, steps', [
    ('on_train_batch_begin', 0, 1), ('on_test_begin', 1, 2 * 10), ('on_test_batch_begin', 1, 2 * 10),
    ('on_epoch_end', 2, 2 * 10 + 1)])
def test_ctrl_c_at_any_moment(tmp_path, capsys, interrupted, method, epochs, steps):
    """An epoch's steps are kept; it counts as a whole one if it was validated."""
    interrupted(method, epochs)
    assert f'Interrupted with {epochs} whole epochs in' in capsys.readouterr().out
    assert steps_and_epochs(tmp_path) == (steps, epochs)

def test_less_than_an_epoch_replaces_nothing(tmp_path, capsys, interrupted):
    (tmp_path / 'vae_weights.h5').write_text('an earlier run')
    interrupted('on_train_batch_begin', 0)
    out, err = capsys.readouterr()
    assert 'not saved over' in out
    assert err.startswith('note: ') and str(tmp_path / 'vae_weights.h5') in err and len(err.splitlines()) == 1
    assert (tmp_path / 'vae_weights.h5').read_text() == 'an earlier run' and not (tmp_path / 'history.csv').exists()

def test_two_trainings_in_one_folder(digits, tmp_path):
    """Each file that one of them saves is whole, and neither fails."""
    other = start(digits, tmp_path)
    after = '            os.replace(part, weights_file)\n'
    whole = "            assert len(h5py.File(weights_file, locking=False)['optimizer']) == 61\n"
    train(digits, tmp_path, 9, changes=[(after, after + whole)])
    assert other.poll() is None

@pytest.mark.parametrize('handler', [signal.SIG_IGN, lambda number, frame: None])
def test_another_programs_handler_stays(digits, tmp_path, handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        train(digits, tmp_path, 1)
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
