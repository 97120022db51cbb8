"""The page in a Jupyter kernel, and the executed notebook among the references."""

import re
import shutil

import jupytext
import nbformat
import pytest

from helpers import ORIGINAL, SCRIPT, SMALL_GRID, code_cells, pictures, printed, run_notebook, write_mnist

NOTEBOOK = ORIGINAL / 'variational_autoencoder.ipynb'

# In the place of Keras's download: a small MNIST
DOWNLOAD = """
import numpy
import tf_keras.datasets.mnist
digits = numpy.load('digits.npz')
tf_keras.datasets.mnist.load_data = lambda: (
    (digits['x_train'], digits['y_train']), (digits['x_test'], digits['y_test'])
)
"""
# Jupyter's stop button, pressed after two epochs
STOP = """
import os, pathlib, signal, threading, time
def stop():
    while not [file for file in pathlib.Path('outputs').glob('*/history.csv') if '\\n1,' in file.read_text()]:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
"""


@pytest.fixture
def folder(mnist, tmp_path):
    """A folder with only the script and some digits."""
    write_mnist(tmp_path, mnist, 640, 200)
    shutil.move(tmp_path / 'tests' / 'data' / 'mnist.npz', tmp_path / 'digits.npz')
    shutil.rmtree(tmp_path / 'tests')
    (tmp_path / SCRIPT.name).write_text(SCRIPT.read_text().replace(*SMALL_GRID))
    return tmp_path


def test_pasted(folder):
    """Whole, then cell by cell, with an edited number of epochs."""
    old, new = 'no_epochs = 100\n', 'no_epochs = 2\n'
    script = (folder / SCRIPT.name).read_text()
    assert script.count(old) == 1
    cells = [source.replace(old, new).replace(*SMALL_GRID) for _, source in code_cells()]
    losses = "print(vae.history.history['loss'], vae.history.epoch)"
    _, whole, losses_of_whole, *parts, losses_of_parts = run_notebook(
        folder, DOWNLOAD, script.replace(old, new), losses, *cells, losses
    )
    assert pictures(whole) == sum(map(pictures, parts)) == 3
    assert printed(losses_of_whole) == printed(losses_of_parts)
    assert printed(losses_of_whole).endswith(' [0, 1]\n')
    assert '512/512 [====' in printed(whole)  # a progress bar
    assert len(list((folder / 'outputs').iterdir())) == 2


def test_run_magic_and_stop_button(folder):
    """Flags count after %run, mistakes are seen, and what was learnt before a stop is drawn."""
    run = '%run variational_autoencoder.py --epochs'
    _, with_flags, parameters, wrong, dark, _, stopped = run_notebook(
        folder,
        DOWNLOAD,
        f'{run} 1',
        'print(vae.count_params(), len(vae.history.epoch))\nimport shutil\nshutil.rmtree("outputs")',
        f'{run} ten',
        SCRIPT.read_text().replace('mnist.load_data()', '(input_test, None), (input_test // 255, None)'),
        STOP,
        f'{run} 10000',
        allow_errors=True,
    )
    assert pictures(with_flags) == 3
    assert printed(parameters) == '26345 1\n'
    assert "argument --epochs: invalid int value: 'ten'" in printed(wrong)
    assert dark.outputs[-1].ename == 'ValueError'
    assert dark.outputs[-1].evalue.startswith('input_test has pixels from 0 to 1; expected the whole range')
    assert 'Stopped' in printed(stopped)
    assert 'Test loss: ' in printed(stopped)
    assert pictures(stopped) == 3


@pytest.fixture(scope='module')
def executed():
    """The executed notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def sources(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_executed_code_is_that_of_the_page(executed):
    """If not, execute it again, by the commands in outputs/reference/README.md."""
    assert sources(executed, 'code') == sources(jupytext.read(SCRIPT), 'code')


def test_text_of_the_notebook_is_that_of_the_page(executed):
    """If only this fails, update the text, by the command in outputs/reference/README.md; nothing is run."""
    assert sources(executed, 'markdown') == sources(jupytext.read(SCRIPT), 'markdown')


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
    assert executed.metadata.kernelspec.name == 'python3'


def test_executed_notebook_names_no_machine():
    assert not re.search(r'/(home|root|tmp|work|Users)/|[IWE]0000 ', NOTEBOOK.read_text())
