"""The page in a Jupyter kernel, and the executed notebook among the references."""

import ast
import re
import shutil
import subprocess
import sys

import jupytext
import nbformat
import pytest

from helpers import REFERENCE, SCRIPT, TESTS, block, code_cells, edited, figures, printed, run_notebook
from helpers import write_mnist

NOTEBOOK = REFERENCE / 'original' / SCRIPT.with_suffix('.ipynb').name

# A smaller grid, which is faster
SMALL_GRID = 'num_samples = 15', 'num_samples = 2'

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
    (tmp_path / SCRIPT.name).write_text(edited(SCRIPT.read_text(), *SMALL_GRID))
    return tmp_path


def test_pasted(folder):
    """Whole, then cell by cell, with an edited number of epochs."""
    epochs = 'no_epochs = 100\n', 'no_epochs = 2\n'
    script = edited((folder / SCRIPT.name).read_text(), *epochs)
    cells = [source.replace(*epochs).replace(*SMALL_GRID) for _, source in code_cells()]
    losses = "print(vae.history.history['loss'], vae.history.epoch)"
    _, whole, losses_of_whole, *parts, losses_of_parts = run_notebook(
        folder, DOWNLOAD, script, losses, *cells, losses
    )
    assert figures(whole) == sum(map(figures, parts)) == 3
    assert printed(losses_of_whole) == printed(losses_of_parts)
    assert printed(losses_of_whole).endswith(' [0, 1]\n')
    assert '512/512 [====' in printed(whole)  # a progress bar
    assert len(list((folder / 'outputs').iterdir())) == 2


def test_run_magic_and_stop_button(folder):
    """Flags count after %run, wrong pixels are refused, and what was learnt before a stop is drawn."""
    run = '%run variational_autoencoder.py --epochs'
    remove = 'import shutil\nshutil.rmtree("outputs")'
    wrong = "(digits['x_test'] / 255, None), (digits['x_test'] / 1, None)"
    _, with_flags, parameters, _, wrong_pixels, _, stopped = run_notebook(
        folder,
        DOWNLOAD,
        f'{run} 1',
        'print(vae.count_params(), len(vae.history.epoch))',
        remove,
        edited(SCRIPT.read_text(), 'mnist.load_data()', wrong),
        STOP,
        f'{run} 10000',
        allow_errors=True,
    )
    assert figures(with_flags) == 3
    assert printed(parameters) == '26345 1\n'
    assert wrong_pixels.outputs[-1].ename == 'ValueError'
    assert wrong_pixels.outputs[-1].evalue.startswith('input_test goes from 0.0 to 255.0; expected 0 to 1')
    assert 'Stopped' in printed(stopped)
    assert 'Test loss: ' in printed(stopped)
    assert figures(stopped) == 3


@pytest.fixture(scope='module')
def executed():
    """The executed notebook."""
    return nbformat.read(NOTEBOOK, as_version=4)


def sources(notebook, kind):
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_executed_code_is_that_of_the_page(executed):
    """But for comments and layout. If not, execute it again; tests/README.md says how."""
    codes = [sources(notebook, 'code') for notebook in (executed, jupytext.read(SCRIPT))]
    trees = [[ast.dump(ast.parse(source)) for source in code] for code in codes]
    assert trees[0] == trees[1]


@pytest.mark.parametrize('kind', ['code', 'markdown'])
def test_text_of_the_notebook_is_that_of_the_page(executed, kind):
    """If only this fails, bring it up to date, by the command in tests/README.md; nothing is run."""
    assert sources(executed, kind) == sources(jupytext.read(SCRIPT), kind)


def test_text_of_the_notebook_can_be_updated(tmp_path):
    """A changed text or comment is brought into the notebook, which keeps its outputs."""
    command = block(TESTS, 'jupytext --to notebook --update')
    notebook = tmp_path / NOTEBOOK.relative_to(REFERENCE.parent.parent)
    notebook.parent.mkdir(parents=True)
    shutil.copy(NOTEBOOK, notebook)
    script = edited(SCRIPT.read_text(), '# ## Loading data\n', '# ## Loading the data\n')
    script = edited(script, '# Train autoencoder\n', '# Train the autoencoder\n')
    (tmp_path / SCRIPT.name).write_text(script)
    flags = command.replace('\\\n', '').split()[1:]
    subprocess.run([sys.executable, '-m', 'jupytext', *flags], cwd=tmp_path, check=True, capture_output=True)
    before, after = [nbformat.read(file, as_version=4) for file in (NOTEBOOK, notebook)]
    assert '## Loading the data' in ''.join(sources(after, 'markdown'))
    assert '# Train the autoencoder' in ''.join(sources(after, 'code'))
    outputs = [cell.outputs for cell in before.cells if cell.cell_type == 'code']
    assert [cell.outputs for cell in after.cells if cell.cell_type == 'code'] == outputs
    assert after.metadata.kernelspec == before.metadata.kernelspec


def test_executed_notebook_ran_from_top_to_bottom(executed):
    cells = [cell for cell in executed.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = ''.join(map(printed, cells))
    assert re.findall(r'Total params: (\d+)', text) == ['17208', '9137', '26345']
    epochs = re.findall(r'^48000/48000 .* - val_loss: ', text, re.MULTILINE)
    assert len(epochs) == 100
    assert '\x08' not in text  # a line for each epoch, not for each state of its bar
    assert float(re.search(r'Test loss: (\S+)', text)[1]) <= 153
    assert sum(map(figures, cells)) == 3
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {'stream', 'display_data'}
    assert executed.metadata.kernelspec.name == 'python3'


def test_executed_notebook_names_no_machine():
    assert not re.search(r'/(home|root|tmp|work|Users)/|[IWE]0000 ', NOTEBOOK.read_text())
