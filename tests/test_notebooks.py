"""The three ways into a notebook, each in a real Jupyter kernel."""
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
print("RESULT", json.dumps([encoder.name, decoder.name, vae.name, vae.count_params(), len(vae.history.epoch)]))
'''


@pytest.fixture(scope='module')
def folder(mnist, tmp_path_factory):
    """A copy of the script outside its repository, as a reader has it, and some digits."""
    folder = tmp_path_factory.mktemp('notebook')
    np.savez(folder / 'digits.npz', x_train=mnist['x_train'][:640], y_train=mnist['y_train'][:640],
             x_test=mnist['x_test'][:200], y_test=mnist['y_test'][:200])
    shutil.copy(script, folder)
    return folder


def execute(folder, *sources, cells=()):
    """Run a notebook of these sources, or cells, and return it."""
    notebook = nbformat.v4.new_notebook(cells=list(cells) or [nbformat.v4.new_code_cell(text) for text in sources])
    notebook.metadata.kernelspec = dict(name='python3', display_name='Python 3')
    nbclient.NotebookClient(notebook, timeout=200, resources={'metadata': {'path': str(folder)}},
                            allow_errors=False).execute()
    return notebook


def pictures(cell):
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)


def result(cell):
    text = ''.join(output.text for output in cell.outputs if output.output_type == 'stream')
    return json.loads(text.split('RESULT')[1].splitlines()[0])


@pytest.fixture(autouse=True)
def inline_figures(monkeypatch):
    monkeypatch.delenv('MPLBACKEND')


def test_pasted_whole(folder):
    text = script.read_text().replace('no_epochs = 100', 'no_epochs = 3')
    notebook = execute(folder, DOWNLOAD.format(digits=folder / 'digits.npz'), text, RESULT,
                       'no_epochs = 1.5\ntry:\n    main()\nexcept ValueError as error:\n    print(error)')
    assert pictures(notebook.cells[1]) == 2
    assert result(notebook.cells[2]) == ['encoder', 'decoder', 'vae', 26345, 3]
    assert 'the number of epochs is 1.5' in notebook.cells[3].outputs[0].text
    assert sorted(path.name for path in (folder / 'outputs' / 'original').iterdir()) == [
        'decoded_digits.png', 'history.csv', 'latent_space.png', 'vae_weights.h5']


def test_cell_by_cell_twice(folder):
    cells = [cell for cell in jupytext.read(script).cells if cell.cell_type == 'code']
    titles = [cell.metadata.get('title', '') for cell in cells]
    assert [title for title in titles if title] == [
        'Model imports', 'Loading data', 'Model configuration', 'Data preprocessing', 'Creating the encoder',
        'Creating the decoder', 'Creating the whole VAE', 'Defining custom VAE loss function', 'Compilation & training',
        'Visualizing inputs mapped onto latent space', 'Visualizing samples from the latent space', 'Time to run it!']
    for cell in cells:
        if cell.metadata.get('title') == 'Model configuration':
            cell.source = (cell.source.replace('no_epochs = 100', 'no_epochs = 2')
                           .replace('encoder_filters=[8, 16]', 'encoder_filters=[4, 8, 12]')
                           .replace('decoder_filters=[16, 8]', 'decoder_filters=[12, 8, 4]'))
    first = nbformat.v4.new_code_cell(DOWNLOAD.format(digits=folder / 'digits.npz'))
    last = nbformat.v4.new_code_cell(RESULT + 'print([l.filters for l in encoder.layers if hasattr(l, "filters")])')
    again = [nbformat.v4.new_code_cell(cell.source) for cell in [*cells, last]]
    notebook = execute(folder, cells=[first, *cells, last, *again])
    for end in (len(cells) + 1, len(notebook.cells) - 1):
        assert pictures(notebook.cells[end - 1]) == 2
        assert result(notebook.cells[end])[::4] == ['encoder', 2]
        assert '[4, 8, 12]' in notebook.cells[end].outputs[0].text


def test_run_magic(folder):
    notebook = execute(folder, '%run variational_autoencoder.py --epochs 1 --data digits.npz --output-dir run', RESULT,
                       'try:\n    get_ipython().run_line_magic("run", "variational_autoencoder.py --epochs -1")\n'
                       'except ValueError as error:\n    print("refused:", error)')
    assert pictures(notebook.cells[0]) == 2
    assert result(notebook.cells[1])[-1] == 1
    assert (folder / 'run' / 'vae_weights.h5').exists()
    shown = str(notebook.cells[2].outputs)
    assert 'the number of epochs is -1; it must be a whole number' in shown and 'SystemExit' not in shown


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
    notebook = execute(folder, stop, '%run variational_autoencoder.py --epochs 100000 --data digits.npz --output-dir stopped',
                       RESULT)
    text = ''.join(output.text for output in notebook.cells[1].outputs if output.output_type == 'stream')
    assert 'Interrupted with ' in text and 'Test loss: ' in text
    assert pictures(notebook.cells[1]) == 2
    assert result(notebook.cells[2])[0] == 'encoder'
