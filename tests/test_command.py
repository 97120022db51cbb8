"""The script as a user starts it."""
import os
import re
import time
from contextlib import suppress

import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import FILES, REFERENCE, command, complaints, rows, run, same, script, train, weights

@pytest.fixture(scope='module')
def first(digits, tmp_path_factory):
    """Two epochs from another working folder, into one with two spaces and letters outside ASCII, in the C locale."""
    folder = tmp_path_factory.mktemp('run') / 'größe  1'
    out = run('--epochs', 2, '--data', digits, '--output-dir', folder, cwd=digits.parent, env={'LC_ALL': 'C'})
    return out, folder

def test_run(first):
    out, folder = first
    assert re.findall(r'Total params: (\d+)', out) == ['17208', '9137', '26345']
    # No terminal: a line for each epoch, with both parts of the loss, and no bar
    epochs = [line for line in out.splitlines() if ' - loss: ' in line]
    assert len(epochs) == 2 and '\x08' not in out and '[==' not in out
    for name in ('reconstruction_loss', 'kl_loss', 'val_loss', 'val_reconstruction_loss', 'val_kl_loss'):
        assert f' {name}: ' in epochs[0]
    loss, reconstruction, kl = map(float, re.search(
        r'Test loss: (\S+) reconstruction_loss: (\S+) kl_loss: (\S+)', out).groups())
    assert loss == pytest.approx(reconstruction + kl, abs=0.02)
    assert out.splitlines()[-1].endswith(str(folder))

def test_files(first):
    _, folder = first
    assert {path.name for path in folder.iterdir()} - {'latent_space_zoom.png'} == FILES
    assert all(path.stat().st_size > 30_000 for path in folder.glob('*.png'))
    assert [row['epoch'] for row in rows(folder)] == [0, 1]
    assert set(rows(folder)[0]) == {'epoch', 'loss', 'reconstruction_loss', 'kl_loss',
                                    'val_loss', 'val_reconstruction_loss', 'val_kl_loss'}
    # Under another name Keras would write a file without any arrays, and say nothing
    saved = weights(folder / 'vae_weights.h5')
    assert sum(array.size for name, array in saved.items() if not name.startswith('optimizer/')) == 26345
    # The number of steps, two epochs of 512 digits in batches of 128; and two moments for each trainable weight
    assert saved['optimizer/0'] == 8
    assert sum(array.size for name, array in saved.items() if name.startswith('optimizer/')) == 1 + 2 * 24641

def test_seed(first, digits, tmp_path):
    for seed in (42, 7):
        train(digits, tmp_path / str(seed), 2, '--seed', seed)
    ours, again, other = (folder / 'vae_weights.h5' for folder in (first[1], tmp_path / '42', tmp_path / '7'))
    assert same(ours, again) and not same(ours, other)

@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """The folder of the README's command that only draws the committed weights, and what it printed."""
    folder = tmp_path_factory.mktemp('drawn')
    line, = re.findall(r'^\.venv/bin/python variational_autoencoder.py (--epochs 0 .*)$',
                       (script.parent / 'README.md').read_text(), re.MULTILINE)
    return folder, run(*line.split(), '--output-dir', folder, cwd=script.parent)

@pytest.mark.parametrize('name', ['latent_space.png', 'decoded_digits.png', 'loss.png'])
def test_committed_weights_draw_the_committed_figures(drawn, name):
    drawn, expected = (plt.imread(folder / name)[..., :3] for folder in (drawn[0], REFERENCE))
    # All that has a colour, but for the dark around the digits. Other versions of matplotlib place a letter or
    # a point a pixel off
    dark = plt.get_cmap('viridis')(0)[:3]
    painted = (np.ptp(expected, axis=2) > 0.1) & np.any(np.abs(expected - dark) > 0.1, axis=2)
    assert drawn.shape == expected.shape and np.abs(drawn - expected)[painted].mean() < 0.1

def test_nothing_is_trained_with_no_epochs(drawn):
    folder, out = drawn
    assert sorted(path.name for path in folder.iterdir()) == ['decoded_digits.png', 'latent_space.png', 'loss.png']
    assert float(re.search(r'Test loss: (\S+)', out)[1]) <= 150.8

def test_help():
    began = time.perf_counter()
    text = ' '.join(run('--help').split())
    assert time.perf_counter() - began < 2  # TensorFlow alone takes longer
    for flag in ('architecture NAME', 'epochs N', 'batch-size N', 'data FILE.npz', 'weights FILE', 'seed N', 'output-dir DIR'):
        assert re.search(f'--{flag} .*?default: ', text)
    assert '(default: 100, 5 for both dcgan)' in text

def test_progress_bar_on_a_terminal(digits, tmp_path):
    terminal, line = os.openpty()
    process = command('--data', digits, '--epochs', 1, '--output-dir', tmp_path, stdout=line)
    os.close(line)
    text = b''
    with suppress(OSError):  # the other end is closed
        while True:
            text += os.read(terminal, 4096)
    assert process.wait(timeout=60) == 0
    assert b'512/512 [=====' in text and b' - kl_loss: ' in text and b' - val_reconstruction_loss: ' in text

@pytest.mark.parametrize('last_line, trained', [('Model: "encoder"', False), (' - val_loss: ', True)])
def test_closed_pipe(digits, tmp_path, last_line, trained):
    """As with `... | head`, before the training and in it."""
    process = command('--data', digits, '--epochs', 1000, '--output-dir', tmp_path, env={'PYTHONUNBUFFERED': '1'})
    next(line for line in process.stdout if last_line in line)
    process.stdout.close()
    assert complaints(process.stderr.read()) == ''
    assert process.wait(timeout=60) == -13  # 141 to a shell
    assert (tmp_path / 'vae_weights.h5').exists() == trained
