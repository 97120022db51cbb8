import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')
# oneDNN as in the page, which comes too late where a test has imported TensorFlow; and a core for each of two tests
for name in ('TF_ENABLE_ONEDNN_OPTS', 'TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS'):
    os.environ.setdefault(name, '1')

import h5py
import jupytext
import matplotlib.pyplot as plt
import numpy as np
import pytest
from tf_keras import backend as K

script = Path(__file__).resolve().parent.parent / 'variational_autoencoder.py'
REFERENCE = script.parent / 'outputs' / 'reference' / 'original'
POST = REFERENCE.parent / 'post'
FILES = {'decoded_digits.png', 'history.csv', 'latent_space.png', 'loss.png', 'vae_weights.h5'}  # of every training
processes = []

@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()
    plt.close('all')

@pytest.fixture(scope='session')
def mnist():
    """The raw digits: x_train, y_train, x_test, y_test."""
    with np.load(script.parent / 'tests' / 'data' / 'mnist.npz') as arrays:
        return dict(arrays)

def save(folder, mnist, train, test):
    """A file of the first digits."""
    np.savez(folder / 'digits.npz', **{name: array[:train if 'train' in name else test] for name, array in mnist.items()})
    return folder / 'digits.npz'

@pytest.fixture(scope='session')
def digits(mnist, tmp_path_factory):
    """For runs of which nothing is expected but to run."""
    return save(tmp_path_factory.mktemp('digits'), mnist, 640, 200)

@pytest.fixture(scope='session')
def more_digits(mnist, tmp_path_factory):
    """For epochs of about half a second, in which something is learnt: 10 steps."""
    return save(tmp_path_factory.mktemp('more'), mnist, 1600, 500)

def page(*arguments, changes=(), until='# the end'):
    """Run the page in this process, with pairs of texts replaced, up to a heading; return the names that it leaves."""
    K.clear_session()  # as in a new process
    text, _, _ = script.read_text().partition(f'# %% [markdown]\n# ## {until}')
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    names = {'__name__': '__main__', '__file__': str(script)}
    with tempfile.NamedTemporaryFile('w', suffix='.py', delete=False) as source:  # TensorFlow reads its functions
        source.write(text)
    pipe = signal.getsignal(signal.SIGPIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        try:
            exec(compile(text, source.name, 'exec'), names)
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGPIPE, pipe)
            os.unlink(source.name)
    return names

@pytest.fixture(scope='module')
def cells():
    return jupytext.read(script).cells

@pytest.fixture(scope='module')
def code(cells):
    return [cell.source for cell in cells if cell.cell_type == 'code']

@pytest.fixture(scope='module')
def runner(code, mnist, tmp_path_factory):
    """A function that runs cells by their numbers, with texts replaced, in the names of one whole run, as in a notebook."""
    folder = tmp_path_factory.mktemp('cells')
    digits = save(folder, mnist, 320, 100)
    names = {'__name__': '__main__', '__file__': str(script)}
    sources = [folder / f'cell{k}.py' for k in range(len(code))]
    for cell, source in zip(code, sources):
        source.write_text(cell)  # TensorFlow reads its functions

    def run(numbers, *changes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(plt.rcParams, 'figure.dpi', 20)  # drawn faster
            patch.setattr('sys.argv', [str(script), *map(str, ['--data', digits, '--epochs', 1, '--output-dir', folder])])
            pipe, interrupt = signal.getsignal(signal.SIGPIPE), signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                for k in numbers:
                    cell = code[k]
                    for old, new in changes:
                        cell = cell.replace(old, new)
                    exec(compile(cell, sources[k], 'exec'), names)
            finally:
                signal.signal(signal.SIGPIPE, pipe)
                left = signal.signal(signal.SIGINT, interrupt)
                plt.close('all')
                assert left is signal.default_int_handler  # after an exception, too
        return names

    run(range(len(code)))
    return run

def untrained(data, folder, *more, changes=()):
    """The names that the page leaves before it trains, its VAE ready to be trained."""
    names = page('--data', data, '--output-dir', folder, *more, changes=changes, until='Compilation & training')
    names['vae'].compile('adam', names['kl_reconstruction_loss'], [names['reconstruction_loss'], names['kl_loss']])
    return names

def train(data, folder, epochs, *more, changes=()):
    """Run the page without its figures."""
    return page('--data', data, '--epochs', epochs, '--output-dir', folder, *more,
                changes=changes, until='Visualizing inputs')

def command(*arguments, **settings):
    """Start the script as a user does; output and errors come as text."""
    environment = {**os.environ, **settings.pop('env', {})}
    settings = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, **settings}
    process = subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **settings)
    processes.append(process)
    return process

def complaints(err):
    """What of standard error is not TensorFlow's start-up, which from 2.17 on none of its switches can silence."""
    return '\n'.join(line for line in err.splitlines()
                     if 'absl::InitializeLog' not in line and line[:5] not in ('I0000', 'W0000', 'E0000'))

def finish(process):
    """Wait for it; its exit status, standard output, and what it complains of."""
    out, err = process.communicate(timeout=180)
    return process.returncode, out, complaints(err)

def run(*arguments, **settings):
    """A run of the script that must end well and complain of nothing; its output."""
    status, out, err = finish(command(*arguments, **settings))
    assert (status, err) == (0, '')
    return out

def rows(folder):
    """The epochs of a history.csv, as numbers."""
    header, *lines = (folder / 'history.csv').read_text().splitlines()
    return [dict(zip(header.split(','), map(float, line.split(',')), strict=True)) for line in lines]

def weights(path):
    """Every array of a weights file, by its name."""
    arrays = {}

    def read(name, item):
        if isinstance(item, h5py.Dataset) and name != 'losses':
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(read)
    return arrays

def same(one, other):
    """Whether two weights files hold the same arrays."""
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
