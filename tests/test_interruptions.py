"""Whatever ends a run, what was learnt is on the disk. Real signals to a real process."""
import csv
import re
import resource
import signal
import time

import h5py
import numpy as np
import pytest
from tf_keras.src import backend

from conftest import command, finish, script_module, train


@pytest.fixture(scope='module')
def data(mnist, tmp_path_factory):
    """Digits for epochs of about half a second."""
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    np.savez(path, x_train=mnist['x_train'][:3200], x_test=mnist['x_test'][:500], y_test=mnist['y_test'][:500])
    return path


def start(data, folder, epochs_in, *more):
    """Start a long training, and wait until it has finished so many epochs."""
    process = command('--data', data, '--epochs', 1000, '--output-dir', folder, *more)
    wait_for(process, epochs_in)
    return process


def wait_for(process, epochs_in):
    seen = 0
    for line in process.stdout:
        seen += ' - val_loss: ' in line
        if line.startswith('Epoch') and seen == epochs_in:
            return
    raise AssertionError(process.stderr.read())


def whole_epochs(folder):
    """The number of epochs in the weights, and so in history.csv, after a look at every number in both."""
    with h5py.File(folder / 'vae_weights.h5') as file:
        file.visititems(lambda name, item: item[()] if isinstance(item, h5py.Dataset) else None)
        epochs = file.attrs['epochs']
    if epochs == 0:
        return 0
    text = (folder / 'history.csv').read_text()
    assert text.endswith('\n')
    rows = list(csv.DictReader(text.splitlines()))
    assert [row['epoch'] for row in rows] == [str(number) for number in range(epochs)]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    return epochs


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
    assert {path.name for path in tmp_path.iterdir()} - {'history.csv', 'loss.png', 'latent_space_zoom.png'} == {
        'decoded_digits.png', 'latent_space.png', 'vae_weights.h5'}


def test_broken_epoch_is_kept_and_its_number_run_again(data, tmp_path):
    process = start(data, tmp_path, 2)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 0
    epochs, before = whole_epochs(tmp_path), steps(tmp_path)
    assert before >= epochs * 20  # of 2,560 digits in batches of 128
    drawn = (tmp_path / 'decoded_digits.png').read_bytes()
    script_module.main(['--data', str(data), '--epochs', '0', '--output-dir', str(tmp_path),
                        '--weights', str(tmp_path / 'vae_weights.h5')])
    assert (tmp_path / 'decoded_digits.png').read_bytes() == drawn
    assert go_on(data, tmp_path) == epochs + 1
    assert steps(tmp_path) == before + 20


def go_on(data, folder):
    """Run one more epoch; how many there are then."""
    train(data, folder, 1, '--weights', folder / 'vae_weights.h5')
    return whole_epochs(folder)


def test_interrupt_before_the_first_step_keeps_what_it_went_on_from(data, tmp_path):
    train(data, tmp_path, 1)
    process = command('--data', data, '--epochs', 1000, '--output-dir', tmp_path, '--weights', tmp_path / 'vae_weights.h5')
    for line in process.stdout:
        if line.startswith('Train on'):
            break
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert (status, err) == (0, '')
    assert steps(tmp_path) >= 21 and whole_epochs(tmp_path) == 1


@pytest.fixture
def ctrl_c_is_heard():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('place', ['is_variable_initialized', 'variables_initializer'])
def test_interrupt_while_keras_sets_up_its_variables(digits, tmp_path, monkeypatch, ctrl_c_is_heard, place):
    """A KeyboardInterrupt there had Keras take for initialized what was not."""
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return original(*arguments)
    original = getattr(backend.tf.compat.v1, place)
    monkeypatch.setattr(backend.tf.compat.v1, place, interrupted)
    train(digits, tmp_path, 1)
    assert steps(tmp_path) == 1 and whole_epochs(tmp_path) == 0


def test_interrupt_while_validating(data, tmp_path, monkeypatch, capsys, ctrl_c_is_heard):
    """The epoch's steps are kept, but it does not count as a whole one."""
    def interrupted(self, *arguments):
        if len(self.rows) == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)
    original = script_module.SaveTraining.on_test_batch_end
    monkeypatch.setattr(script_module.SaveTraining, 'on_test_batch_end', interrupted)
    train(data, tmp_path, 3)
    assert 'Interrupted with 1 whole epochs in' in capsys.readouterr().out
    assert steps(tmp_path) == 2 * 20 and whole_epochs(tmp_path) == 1


def test_interrupt_while_saving(data, tmp_path):
    """An epoch's line is printed when it is saved: a signal then must cost no row."""
    process = start(data, tmp_path, 1)
    while ' - val_loss: ' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (0, '')
    assert int(re.search(r'Interrupted with (\d+) whole', out)[1]) == whole_epochs(tmp_path) == 2


def test_second_interrupt(data, tmp_path):
    process = start(data, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    for line in process.stdout:
        if line.startswith('Interrupted'):
            break
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status, _, err = finish(process)
    assert (status, err) == (-signal.SIGINT, '')
    assert time.monotonic() - began < 10
    assert whole_epochs(tmp_path) >= 1


def ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_ignored_interrupt(data, tmp_path):
    """As in the background of a shell script."""
    process = command('--data', data, '--epochs', 1000, '--output-dir', tmp_path, preexec_fn=ignore_interrupts)
    wait_for(process, 1)
    process.send_signal(signal.SIGINT)
    wait_for(process, 2)


@pytest.mark.parametrize('seconds', [0.01, 0.3])
def test_kill(data, tmp_path, seconds):
    process = start(data, tmp_path, 2)
    time.sleep(seconds)
    process.kill()
    status, out, _ = finish(process)
    assert status == -signal.SIGKILL
    # start() has read two epochs' lines; a line may be printed right before or right after its epoch is saved
    printed = 2 + out.count(' - val_loss: ')
    saved = whole_epochs(tmp_path)
    assert abs(saved - printed) <= 1
    assert go_on(data, tmp_path) == saved + 1


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGKILL])
def test_less_than_an_epoch_replaces_nothing(data, tmp_path, end):
    for name in ('vae_weights.h5', 'history.csv'):
        (tmp_path / name).write_text('an earlier run')
    process = start(data, tmp_path, 0)
    process.send_signal(end)
    assert finish(process)[0] == (0 if end == signal.SIGINT else -signal.SIGKILL)
    for name in ('vae_weights.h5', 'history.csv'):
        assert (tmp_path / name).read_text() == 'an earlier run'


@pytest.mark.skipif(not hasattr(resource, 'prlimit'), reason='limits of another process are a matter of Linux')
def test_full_disk(data, tmp_path):
    """A limit on the size of files, set and lifted during the training, stands in for the disk."""
    process = start(data, tmp_path, 1)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    wait_for(process, 3)
    saved = whole_epochs(tmp_path)
    assert saved <= 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(process, 2)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert status == 0
    assert re.search(r'warning: .* cannot be saved now .*vae_weights.h5 stays as it was', err)
    assert 'Traceback' not in err and not list(tmp_path.glob('*part*'))
    assert whole_epochs(tmp_path) > 3  # with the rows of the epochs that could not be saved in their time
