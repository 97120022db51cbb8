"""The ways into a notebook, each in a real Jupyter kernel."""
import json
import shutil

import jupytext
import nbclient
import nbformat
import numpy as np
import pytest

from conftest import script

# What a reader does not see: a kernel without a network, and an MNIST small enough to wait for
DOWNLOAD = '''
import numpy
from tf_keras.datasets import mnist as _mnist
def _load_data():
    with numpy.load(r"{digits}") as arrays:
        return ((arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]))
_mnist.load_data = _load_data
'''
RESULT = '''
import json
print("RESULT", json.dumps([encoder.name, decoder.name, vae.name, vae.count_params(), len(vae.history.epoch),
                            vae.history.history["loss"][:2], [l.filters for l in encoder.layers if hasattr(l, "filters")]]))
'''


@pytest.fixture(scope='module')
def folder(mnist, tmp_path_factory):
    """A copy of the script outside its repository, as a reader has it, and some digits."""
    folder = tmp_path_factory.mktemp('notebook')
    np.savez(folder / 'digits.npz', x_train=mnist['x_train'][:640], y_train=mnist['y_train'][:640],
             x_test=mnist['x_test'][:200], y_test=mnist['y_test'][:200])
    shutil.copy(script, folder)
    return folder


def execute(folder, *sources, cells=(), errors=False):
    """Run a notebook of these sources, or cells, and return it."""
    notebook = nbformat.v4.new_notebook(cells=list(cells) or [nbformat.v4.new_code_cell(text) for text in sources])
    notebook.metadata.kernelspec = dict(name='python3', display_name='Python 3')
    nbclient.NotebookClient(notebook, timeout=200, resources={'metadata': {'path': str(folder)}},
                            allow_errors=errors).execute()
    return notebook


def pictures(cell):
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def result(cell):
    return json.loads(printed(cell).split('RESULT')[1].splitlines()[0])


@pytest.fixture(autouse=True)
def inline_figures(monkeypatch):
    monkeypatch.delenv('MPLBACKEND')


def test_pasted_whole(folder):
    """It shows its figures, and an own one of the reader's stays open."""
    text = script.read_text().replace('no_epochs = 100', 'no_epochs = 3')
    notebook = execute(folder, DOWNLOAD.format(digits=folder / 'digits.npz'), text, RESULT)
    drawn = {path.name for path in (folder / 'outputs' / 'original').iterdir()}
    assert drawn - {'latent_space_zoom.png'} == {
        'decoded_digits.png', 'history.csv', 'latent_space.png', 'loss.png', 'vae_weights.h5'}
    assert pictures(notebook.cells[1]) == len([name for name in drawn if name.endswith('.png')])
    assert result(notebook.cells[2])[:5] == ['encoder', 'decoder', 'vae', 26345, 3]
    assert '512/512 [====' in printed(notebook.cells[1])


def test_cell_by_cell_twice(folder):
    """The second run is like the first."""
    cells = [cell for cell in jupytext.read(script).cells if cell.cell_type == 'code']
    for default, changed in [('no_epochs = 100', 'no_epochs = 2'), ('[8, 16], [16, 8]', '[4, 8, 12], [12, 8, 4]')]:
        cell, = [cell for cell in cells if default in cell.source]
        cell.source = cell.source.replace(default, changed)
    first = nbformat.v4.new_code_cell(DOWNLOAD.format(digits=folder / 'digits.npz'))
    last = nbformat.v4.new_code_cell(RESULT)
    again = [nbformat.v4.new_code_cell(cell.source) for cell in [*cells, last]]
    notebook = execute(folder, cells=[first, *cells, last, *again])
    half = len(cells) + 1
    for end in (half, len(notebook.cells) - 1):
        assert sum(pictures(cell) for cell in notebook.cells[end - half + 1:end]) >= 3
        assert result(notebook.cells[end])[4] == 2
        assert result(notebook.cells[end])[6] == [4, 8, 12]
    assert result(notebook.cells[half]) == result(notebook.cells[-1])


def test_run_magic(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    notebook = execute(folder, '%run variational_autoencoder.py --epochs 1 --data digits.npz --output-dir "~/run"', RESULT,
                       '%run variational_autoencoder.py --epochs -1 --data digits.npz', errors=True)
    assert pictures(notebook.cells[0]) >= 3
    assert result(notebook.cells[1])[4] == 1
    assert (tmp_path / 'run' / 'vae_weights.h5').exists() and not (folder / '~').exists()
    assert 'error: epochs: -1 found; it must be at least 0' in printed(notebook.cells[2])
    assert 'Traceback' not in str(notebook.cells[2].outputs)


def test_stop_button(folder):
    """Jupyter's stop button sends the kernel this signal."""
    stop = ('''
import os, signal, threading, time
def stop():
    while not os.path.exists('stopped/history.csv'):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
''')
    notebook = execute(folder, stop, '%run variational_autoencoder.py --epochs 1000 --data digits.npz --output-dir stopped',
                       RESULT)
    text = printed(notebook.cells[1])
    assert 'Interrupted with ' in text and 'Test loss: ' in text
    assert pictures(notebook.cells[1]) >= 3
    assert result(notebook.cells[2])[0] == 'encoder'
