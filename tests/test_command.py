"""The script as a user starts it."""
import csv
import os
import re
import shutil
import subprocess
import sys

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest

from conftest import command, finish, script


def weights(path):
    """Every array of a weights file, by its name."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return arrays


def equal(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def rows(folder):
    with open(folder / 'history.csv') as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope='module')
def run(digits, tmp_path_factory):
    """Two epochs from another working folder, into one with a space and letters outside ASCII, in the C locale."""
    folder = tmp_path_factory.mktemp('run') / 'größe 1'
    status, out, err = finish(command('--epochs', 2, '--data', digits, '--output-dir', folder,
                                      cwd=digits.parent, env={'LC_ALL': 'C'}))
    return status, out, err, folder


def test_run(run):
    status, out, err, folder = run
    assert (status, err) == (0, '')
    for total in ('17208', '9137', '26345'):
        assert re.search(rf'Total params: {total}\b', out)
    # No terminal: a line for each epoch, with both parts of the loss, and no bar
    epochs = [line for line in out.splitlines() if ' - loss: ' in line]
    assert len(epochs) == 2 and '\x08' not in out and '[==' not in out
    for name in ('reconstruction_loss', 'kl_loss', 'val_loss', 'val_reconstruction_loss', 'val_kl_loss'):
        assert f' {name}: ' in epochs[0]
    loss, reconstruction, kl = map(float, re.search(
        r'Test loss: (.*) \(reconstruction (.*), KL (.*)\)', out).groups())
    assert loss == pytest.approx(reconstruction + kl, abs=0.02)


def test_files(run):
    folder = run[-1]
    assert sorted(path.name for path in folder.iterdir()) == [
        'decoded_digits.png', 'history.csv', 'latent_space.png', 'vae_weights.h5']
    for name in ('decoded_digits.png', 'latent_space.png'):
        assert (folder / name).read_bytes().startswith(b'\x89PNG')
        assert (folder / name).stat().st_size > 30_000
    assert [row['epoch'] for row in rows(folder)] == ['0', '1']
    assert set(rows(folder)[0]) == {'epoch', 'loss', 'reconstruction_loss', 'kl_loss',
                                    'val_loss', 'val_reconstruction_loss', 'val_kl_loss'}
    # Under another name Keras would write a file without any arrays, and say nothing
    assert sum(array.size for array in weights(folder / 'vae_weights.h5').values()) == 26345


def test_seed(run, digits, tmp_path):
    for seed in (42, 7):
        status, _, err = finish(command('--epochs', 2, '--data', digits, '--seed', seed, '--output-dir', tmp_path / str(seed)))
        assert (status, err) == (0, '')
    assert equal(run[-1] / 'vae_weights.h5', tmp_path / '42' / 'vae_weights.h5')
    assert not equal(run[-1] / 'vae_weights.h5', tmp_path / '7' / 'vae_weights.h5')


def test_weights_go_on(run, digits, tmp_path):
    shutil.copytree(run[-1], tmp_path, dirs_exist_ok=True)
    status, out, err = finish(command('--epochs', 1, '--data', digits, '--output-dir', tmp_path,
                                      '--weights', tmp_path / 'vae_weights.h5'))
    assert (status, err) == (0, '')
    assert 'Epoch 3/3' in out
    assert rows(tmp_path)[:2] == rows(run[-1])
    assert [row['epoch'] for row in rows(tmp_path)] == ['0', '1', '2']
    # Going on, not starting over
    assert float(rows(tmp_path)[2]['loss']) < float(rows(tmp_path)[1]['loss'])


@pytest.fixture(scope='module')
def committed(tmp_path_factory):
    """outputs/original as it is committed: a run of the reader's own may stand in its place."""
    folder = tmp_path_factory.mktemp('committed')
    for name in ('decoded_digits.png', 'history.csv', 'latent_space.png', 'vae_weights.h5'):
        shown = subprocess.run(['git', 'show', f'HEAD:outputs/original/{name}'], cwd=script.parent, capture_output=True)
        if shown.returncode:
            pytest.skip('this is no git repository')
        (folder / name).write_bytes(shown.stdout)
    return folder


def test_committed_weights_draw_the_committed_figures(committed, tmp_path):
    for name in ('vae_weights.h5', 'history.csv'):
        shutil.copy(committed / name, tmp_path)
    status, out, err = finish(command('--epochs', 0, '--weights', tmp_path / 'vae_weights.h5', '--output-dir', tmp_path))
    assert (status, err) == (0, '')
    for name in ('vae_weights.h5', 'history.csv'):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes()
    assert sorted(path.name for path in tmp_path.glob('*.png')) == sorted(path.name for path in committed.glob('*.png'))
    for path in committed.glob('*.png'):
        # Other versions of matplotlib place a letter or a point a pixel off
        drawn, expected = (plt.imread(file)[..., :3] for file in (tmp_path / path.name, path))
        assert drawn.shape == expected.shape
        assert np.mean(np.abs(drawn - expected)) < 0.02
    assert float(re.search(r'Test loss: (\S+)', out)[1]) <= 153


def test_committed_history(committed):
    history = rows(committed)
    assert [int(row['epoch']) for row in history] == list(range(100))
    assert float(history[-1]['val_loss']) < 153


def test_help():
    status, out, err = finish(command('--help'))
    assert (status, err) == (0, '')
    text = ' '.join(out.split())
    for flag in ('--architecture NAME', '--epochs N', '--batch-size N', '--data FILE.npz', '--weights FILE',
                 '--seed N', '--output-dir DIR'):
        assert flag in text
    assert '100 for original, 5 for dcgan, 5 for dcgan-as-published' in text
    assert text.count('default: ') == 7


def test_import_does_nothing(tmp_path):
    done = subprocess.run([sys.executable, '-c', 'import sys; sys.path.insert(0, sys.argv[1])\n'
                           'import variational_autoencoder as script\n'
                           'assert not hasattr(script, "input_train") and not hasattr(script, "vae")\n'
                           'assert not script.plt.get_fignums()', str(script.parent)],
                          cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ''), done.stderr
    assert not list(tmp_path.iterdir())


SCREEN = '''
import os
from matplotlib import pyplot
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg

class FigureManager(FigureManagerBase):
    @classmethod
    def pyplot_show(cls, *, block=None):
        print('SHOWN', len(pyplot.get_fignums()), sorted(name for name in os.listdir('out') if name.endswith('.png')))

class FigureCanvas(FigureCanvasAgg):
    manager_class = FigureManager
'''


@pytest.mark.parametrize('backend, shown', [('module://a_screen', 1), ('TkAgg', 0)])
def test_figures_are_saved_and_where_there_is_a_screen_shown(digits, tmp_path, backend, shown):
    (tmp_path / 'a_screen.py').write_text(SCREEN)
    environment = dict(MPLBACKEND=backend, PYTHONPATH=str(tmp_path), DISPLAY='')
    status, out, err = finish(command('--data', digits, '--epochs', 0, '--output-dir', 'out',
                                      cwd=tmp_path, env=environment))
    assert (status, err) == (0, '')
    assert out.count("SHOWN 2 ['decoded_digits.png', 'latent_space.png']") == shown
    for name in ('decoded_digits.png', 'latent_space.png'):
        assert (tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG')


def test_progress_bar_on_a_terminal(digits, tmp_path):
    terminal, line = os.openpty()
    process = subprocess.Popen([sys.executable, str(script), '--data', str(digits), '--epochs', '1',
                                '--output-dir', str(tmp_path)], stdout=line, stderr=subprocess.DEVNULL)
    os.close(line)
    text = b''
    while True:
        try:
            text += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    assert b'512/512 [=====' in text and b' - kl_loss: ' in text and b' - val_reconstruction_loss: ' in text
