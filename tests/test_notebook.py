"""The page in a Jupyter kernel, and the executed notebook among the references."""

import re
import shutil

import jupytext
import nbformat
import pytest

from conftest import REFERENCE, SCRIPT, code_cells, pictures, printed, run_notebook, save_digits

NOTEBOOK = REFERENCE / 'original' / 'variational_autoencoder.ipynb'

# In the place of Keras's download: a small MNIST
DOWNLOAD = """
import numpy
import tf_keras.datasets.mnist
digits = numpy.load('digits.npz')
tf_keras.datasets.mnist.load_data = lambda: (
    (digits['x_train'], digits['y_train']), (digits['x_test'], digits['y_test'])
)
"""
# Jupyter's stop button, pressed once the first epoch is saved
STOP = """
import os, pathlib, signal, threading, time
def stop():
    while not pathlib.Path('stopped/vae_weights.h5').exists():
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
"""


@pytest.fixture
def folder(mnist, tmp_path):
    """A folder with only the script and some digits."""
    shutil.copy(SCRIPT, tmp_path)
    save_digits(tmp_path, mnist, 640, 200)
    return tmp_path


def test_pasted(folder):
    """Whole, then cell by cell, with an edited number of epochs."""
    old, new = 'no_epochs = 100 if', 'no_epochs = 2 if'
    script = SCRIPT.read_text()
    assert script.count(old) == 1
    cells = [source.replace(old, new) for _, source in code_cells()]
    losses = 'print(losses, len(losses))'
    _, whole, losses_of_whole, *parts, losses_of_parts = run_notebook(
        folder, DOWNLOAD, script.replace(old, new), losses, *cells, losses
    )
    figures = len(list((folder / 'outputs' / 'original').glob('*.png')))
    assert figures >= 3
    assert pictures(whole) == sum(map(pictures, parts)) == figures
    assert printed(losses_of_whole) == printed(losses_of_parts)
    assert printed(losses_of_whole).endswith(' 2\n')
    assert '512/512 [====' in printed(whole)  # a progress bar


def test_run_magic_and_stop_button(folder):
    """%run takes flags; a wrong one ends it, and so does the stop button, with figures."""
    run = '%run variational_autoencoder.py --data digits.npz'
    with_flags, parameters, wrong, _, stopped = run_notebook(
        folder,
        f'{run} --epochs 1 --output-dir run',
        'print(vae.count_params(), len(losses))',
        f'{run} --epochs -1',
        STOP,
        f'{run} --epochs 10000 --output-dir stopped',
        allow_errors=True,
    )
    assert pictures(with_flags) >= 3
    assert printed(parameters) == '26345 1\n'
    assert 'error: --epochs must be at least 0' in printed(wrong)
    assert 'Traceback' not in str(wrong.outputs)
    assert re.search(r'Stopped; complete epochs: \d+', printed(stopped))
    assert 'Test loss: ' in printed(stopped)
    assert pictures(stopped) >= 3


@pytest.fixture(scope='module')
def executed():
    """The executed notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def test_executed_notebook_is_the_page(executed):
    """If not, execute it again, by the commands in outputs/reference/README.md."""
    cells = [(cell.cell_type, cell.source) for cell in executed.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in jupytext.read(SCRIPT).cells]
    assert executed.metadata.kernelspec.name == 'python3'


def test_executed_notebook_ran_from_top_to_bottom(executed):
    cells = [cell for cell in executed.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = ''.join(map(printed, cells))
    assert re.findall(r'Total params: (\d+)', text) == ['17208', '9137', '26345']
    epochs = re.findall(r'^48000/48000 .* - val_loss: ', text, re.MULTILINE)
    assert len(epochs) == 100
    assert '\x08' not in text  # a line for each epoch, not for each state of its bar
    assert float(re.search(r'Test loss: (\S+)', text)[1]) <= 153
    assert sum(map(pictures, cells)) == 3
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {'stream', 'display_data'}


def test_executed_notebook_names_no_machine():
    assert not re.search(r'/(home|root|tmp|work|Users)/|[IWE]0000 ', NOTEBOOK.read_text())
