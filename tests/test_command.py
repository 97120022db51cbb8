"""The script as a user starts it: what it prints and writes, its mistakes, Ctrl-C."""

import signal
import sys

import numpy as np
import pexpect
import pyte
import pytest

from conftest import (
    SCRIPT,
    complaints,
    printed_losses,
    read_arrays,
    read_history,
    run_script,
    start_script,
)

FIGURES = {'latent_space.png', 'decoded_digits.png', 'loss.png'}
FILES = {*FIGURES, 'history.csv', 'vae_weights.h5'}


def files_in(folder):
    """What a run wrote, except the figure that is only drawn if digits lie far outside."""
    return {path.name for path in folder.iterdir()} - {'latent_space_zoom.png'}


@pytest.fixture(scope='module')
def finished(digits, tmp_path_factory):
    """A run of two epochs into a log, started in a folder of its own: its output, and that folder."""
    folder = tmp_path_factory.mktemp('finished')
    status, output, errors = run_script('--data', digits, '--epochs', 2, cwd=folder)
    assert (status, errors) == (0, [])
    return output, folder


def test_output(finished):
    """A log has the three summaries, a line for each epoch, and the test loss."""
    output, folder = finished
    for total in ('17208', '9137', '26345'):
        assert f'Total params: {total} ' in output
    epochs = [line for line in output.splitlines() if ' - loss: ' in line]
    assert len(epochs) == 2
    assert all(' - val_loss: ' in line for line in epochs)
    assert '[==' not in output
    loss, reconstruction, kl = printed_losses(output)
    assert loss == pytest.approx(reconstruction + kl, abs=0.02)
    assert output.endswith('\nThe figures are in outputs/original\n')


def test_files(finished):
    output, folder = finished
    folder = folder / 'outputs' / 'original'
    assert files_in(folder) == FILES
    assert all((folder / figure).stat().st_size > 10_000 for figure in FIGURES)
    history = read_history(folder)
    assert list(history[:, 0]) == [1, 2]
    assert f'loss: {history[1, 1]:.4f} - val_loss: {history[1, 2]:.4f}' in output


def test_weights_file(finished):
    """It has all weights. Under the name vae.weights.h5, Keras would write none, and say nothing."""
    _, folder = finished
    arrays = read_arrays(folder / 'outputs' / 'original' / 'vae_weights.h5')
    optimizer = {name: array for name, array in arrays.items() if name.startswith('optimizer/')}
    history = arrays.pop('history')
    weights = [array for name, array in arrays.items() if name not in optimizer]
    assert sum(array.size for array in weights) == 26345
    assert history.shape == (2, 3)
    # Adam has the number of its steps, 4 in each epoch, and two moments of each trainable weight
    assert optimizer['optimizer/0'] == 8
    assert sum(array.size for array in optimizer.values()) == 1 + 2 * 24641


def test_progress_bar_keeps_to_its_line(mnist, tmp_path):
    """In a terminal of 80 columns, with as many images as MNIST has, which are small for speed."""
    path = tmp_path / 'small.npz'
    np.savez(path, x_train=mnist['x_train'][:, ::7, ::7], x_test=mnist['x_test'][:, ::7, ::7])
    flags = f'--data {path} --epochs 3 --batch-size 1000 --output-dir {tmp_path}'
    process = pexpect.spawn(
        sys.executable,
        [str(SCRIPT), *flags.split()],
        dimensions=(24, 80),
        encoding='utf-8',
        timeout=120,
    )
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0

    screen = pyte.HistoryScreen(80, 24, history=10_000)
    pyte.Stream(screen).feed(process.before)
    scrolled_away = [''.join(row[column].data for column in range(80)) for row in screen.history.top]
    lines = scrolled_away + screen.display
    (first,) = [number for number, line in enumerate(lines) if line.startswith('Epoch 1/3')]
    (last,) = [number for number, line in enumerate(lines) if line.startswith('Test loss')]
    bars = [line for line in lines[first:last] if line.startswith('48000/48000 [=====')]
    assert len(bars) == 3
    # For each epoch its title, its bar, and the end of the bar's last state, with val_loss
    assert last - first == 3 * 3


def test_flags_and_the_folder_of_an_architecture(digits, tmp_path):
    """There is nothing to draw, and the error says where it was looked for."""
    flags = ['--architecture', 'dcgan-9m', '--seed', 7, '--epochs', 0, '--data', digits]
    status, output, errors = run_script(*flags, cwd=tmp_path)
    assert status == 2
    assert 'Total params: 8728505 ' in output
    assert 'outputs/dcgan-9m/vae_weights.h5' in errors[-1]


def test_help():
    status, output, errors = run_script('--help')
    assert (status, errors) == (0, [])
    flags = '--architecture --epochs --batch-size --data --weights --seed --output-dir'.split()
    assert all(f'\n  {flag} ' in output for flag in flags)


def test_a_mistake(tmp_path):
    """It ends with one line below argparse's usage, before anything is written."""
    status, output, errors = run_script('--data', 'missing.npz', cwd=tmp_path)
    *usage, error = errors
    assert (status, output) == (2, '')
    assert usage[0].startswith('usage: variational_autoencoder.py')
    assert error.startswith('variational_autoencoder.py: error: cannot use missing.npz')
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def long_training(more_digits, tmp_path):
    """A run of the script that has finished two epochs, and would go on for hours."""
    process = start_script('--data', more_digits, '--epochs', 10_000, '--output-dir', tmp_path)
    try:
        epochs = 0
        for line in process.stdout:
            if ' - val_loss: ' in line:
                epochs += 1
            if epochs == 2:
                break
        else:
            pytest.fail(process.stderr.read())
        yield process
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_ends_in_figures(long_training, tmp_path):
    long_training.send_signal(signal.SIGINT)
    output, stderr = long_training.communicate(timeout=120)
    assert (long_training.returncode, complaints(stderr)) == (0, [])
    assert len(printed_losses(output)) == 3
    assert FILES <= files_in(tmp_path)
    epochs = len(read_history(tmp_path))
    assert epochs >= 2
    assert f'Stopped; complete epochs: {epochs}' in output


def test_kill_leaves_a_whole_file(long_training, tmp_path):
    long_training.kill()
    long_training.communicate()
    arrays = read_arrays(tmp_path / 'vae_weights.h5')
    assert len(arrays['history']) >= 2
    assert arrays['optimizer/0'] == 10 * len(arrays['history'])
    assert all(np.isfinite(array).all() for array in arrays.values())
