"""Whatever ends a run, what was learnt is on the disk. Real signals to a real process."""
import csv
import re
import resource
import signal
import time

import h5py
import numpy as np
import pytest

from conftest import command, finish


@pytest.fixture(scope='module')
def data(mnist, tmp_path_factory):
    """Digits for epochs of about half a second."""
    path = tmp_path_factory.mktemp('data') / 'digits.npz'
    np.savez(path, x_train=mnist['x_train'][:3200], x_test=mnist['x_test'][:2000], y_test=mnist['y_test'][:2000])
    return path


def start(data, folder, epochs_in):
    """Start a training without end, and wait until it has finished so many epochs."""
    process = command('--data', data, '--epochs', 100000, '--output-dir', folder)
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
    """The number of rows in history.csv, all of them whole, after a look into the weights."""
    with h5py.File(folder / 'vae_weights.h5') as file:
        file.visititems(lambda name, item: item[()] if isinstance(item, h5py.Dataset) else None)
    if not (folder / 'history.csv').exists():
        return 0
    text = (folder / 'history.csv').read_text()
    assert text.endswith('\n')
    rows = list(csv.DictReader(text.splitlines()))
    assert [row['epoch'] for row in rows] == [str(number) for number in range(len(rows))]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    return len(rows)


@pytest.mark.parametrize('epochs_in, seconds', [(0, 0), (0, 0.5), (2, 0.02), (3, 0.3)])
def test_interrupt(data, tmp_path, epochs_in, seconds):
    process = start(data, tmp_path, epochs_in)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (0, '')
    said = int(re.search(r'Interrupted with (\d+) whole epochs in', out)[1])
    assert said == whole_epochs(tmp_path) >= epochs_in
    assert 'Test loss: ' in out.split('Interrupted')[1]
    assert {path.name for path in tmp_path.iterdir()} - {'history.csv', 'latent_space_zoom.png'} == {
        'decoded_digits.png', 'latent_space.png', 'vae_weights.h5'}
    if epochs_in == 3:
        drawn = (tmp_path / 'decoded_digits.png').read_bytes()
        status, out, err = finish(command('--data', data, '--epochs', 0, '--output-dir', tmp_path,
                                          '--weights', tmp_path / 'vae_weights.h5'))
        assert (status, err) == (0, '')
        assert (tmp_path / 'decoded_digits.png').read_bytes() == drawn


def test_interrupt_while_saving(data, tmp_path):
    """An epoch's line is printed right before it is saved: a signal then must cost no row."""
    process = start(data, tmp_path, 1)
    while ' - val_loss: ' not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (0, '')
    assert int(re.search(r'Interrupted with (\d+) whole', out)[1]) == whole_epochs(tmp_path) == 2


@pytest.mark.parametrize('pause', [0, 0.5])
def test_second_interrupt(data, tmp_path, pause):
    process = start(data, tmp_path, 1)
    process.send_signal(signal.SIGINT)
    time.sleep(pause)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status, _, err = finish(process)
    # Two signals as one are one
    assert (status, err) == (130, '') or (pause == 0 and status == 0)
    assert time.monotonic() - began < 10
    assert whole_epochs(tmp_path) >= 1


@pytest.mark.parametrize('seconds', [0.01, 0.3])
def test_kill(data, tmp_path, seconds):
    process = start(data, tmp_path, 2)
    time.sleep(seconds)
    process.kill()
    status, out, _ = finish(process)
    assert status == -signal.SIGKILL
    # An epoch's line is printed before it is saved; start() has read two
    printed = 2 + out.count(' - val_loss: ')
    assert printed - 1 <= whole_epochs(tmp_path) <= printed


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
    assert re.search(r'warning: the weights cannot be saved now \(.*vae_weights.h5 stays as it was, and training goes on', err)
    assert 'Traceback' not in err and not list(tmp_path.glob('*part*'))
    with open(tmp_path / 'history.csv') as file:
        epochs = [int(row['epoch']) for row in csv.DictReader(file)]
    assert epochs[:saved] == list(range(saved)) and epochs[-1] > 3
