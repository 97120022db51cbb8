"""The code and the commands of the gallery, as they stand there."""

import re
import shutil
import subprocess
import sys
from textwrap import dedent

import matplotlib.pyplot as plt
import nbformat
import pytest

from helpers import (
    GALLERY,
    LOSS,
    ORIGINAL,
    REFERENCE,
    SCATTER,
    SCRIPT,
    Page,
    code_blocks,
    code_cells,
    fit_number,
    printed,
    run_notebook,
    write_mnist,
)
from test_network import convolutions, parameters


def edits(diff):
    """The edits of a diff: each is a text of the page, and what it becomes."""
    edits = []
    for part in diff.strip('\n').split('\n\n'):
        lines = part.splitlines()
        old = '\n'.join(line[1:] for line in lines if line[0] != '+')
        new = '\n'.join(line[1:] for line in lines if line[0] != '-')
        edits.append((old, new))
    return edits


def edited(sources, edits):
    """The cells after the edits; each text to edit must stand exactly once."""
    for old, new in edits:
        assert sum(source.count(old) for source in sources) == 1, old
        sources = [source.replace(old, new) for source in sources]
    return sources


def test_network_of_the_summary(digits):
    """The diff makes it of dcgan, with the parameters that the post's summary has."""
    (diff,) = code_blocks(GALLERY, 'The commands', 'diff')
    page = Page(digits, architecture='dcgan')
    page.sources = edited(page.sources, edits(diff))
    page.run(last=LOSS)
    assert parameters(page) == ([4044984, 4683521, 8728505], 8324753)
    assert [layer.filters for layer in convolutions(page)] == [1024, 128]


def test_zoom(digits):
    (zoom,) = code_blocks(GALLERY, 'The test digits in the latent space', 'python')
    page = Page(digits).run(last=LOSS)
    page.names['output_dir'] = digits
    page.names['data'] = page['input_test'], page['target_test']
    page.run(first=SCATTER, last=SCATTER)
    exec(zoom, page.names)
    assert plt.gcf().axes[0].axis() == (-4, 4, -4, 4)


def test_text_of_the_notebook_can_be_updated(tmp_path):
    """A changed text cell is brought into the notebook, which keeps its outputs."""
    command = code_blocks(GALLERY, 'The commands', 'sh')[1]
    assert command.startswith('.venv/bin/jupytext ')
    notebook = tmp_path / 'outputs' / 'reference' / 'original' / 'variational_autoencoder.ipynb'
    notebook.parent.mkdir(parents=True)
    shutil.copy(ORIGINAL / notebook.name, notebook)
    before = nbformat.read(notebook, as_version=4)
    old, new = '# ## Loading data', '# ## Loading the data'
    (tmp_path / SCRIPT.name).write_text(SCRIPT.read_text().replace(old, new))
    flags = command.replace('\\\n', '').split()[1:]
    subprocess.run([sys.executable, '-m', 'jupytext', *flags], cwd=tmp_path, check=True, capture_output=True)
    after = nbformat.read(notebook, as_version=4)
    assert '## Loading the data' in ''.join(cell.source for cell in after.cells)
    outputs = [cell.outputs for cell in before.cells if cell.cell_type == 'code']
    assert [cell.outputs for cell in after.cells if cell.cell_type == 'code'] == outputs
    assert after.metadata.kernelspec == before.metadata.kernelspec


def test_several_gpus(mnist, tmp_path):
    """The edits, on two logical devices of this machine's processor."""
    (diff,) = code_blocks(GALLERY, 'Several GPUs', 'diff')
    diff = diff.replace('MirroredStrategy()', "MirroredStrategy(['CPU:0', 'CPU:1'])")
    epochs = ('no_epochs = 100', 'no_epochs = 2')
    sources = [source for _, source in code_cells()]
    cells = edited(sources[: fit_number(sources) + 1], [*edits(diff), epochs])
    write_mnist(tmp_path, mnist, 1000, 200)
    two_devices = """
        import tensorflow as tf
        (processor,) = tf.config.list_physical_devices('CPU')
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(processor, [device, device])
    """
    numbers = "print(tf.distribute.get_strategy().num_replicas_in_sync, *vae.history.history['loss'])"
    *_, last = run_notebook(tmp_path, dedent(two_devices), *cells, numbers)
    devices, first, second = map(float, printed(last).split())
    assert devices == 2
    assert second < first - 10


@pytest.mark.parametrize('name', ['original', 'dcgan', 'dcgan-9m'])
def test_last_losses(name):
    """The table's validation losses after five epochs are those of the histories."""
    lines = (REFERENCE / name / 'history.csv').read_text().splitlines()
    loss = float(lines[5].split(',')[2])
    assert re.search(rf'{loss:.1f}\s\(`{name}`\)', GALLERY.read_text())


def test_letters(tmp_path):
    """The program draws as many letters as it is asked for, into a folder for each."""
    (code,) = code_blocks(GALLERY, 'Letters', 'python')
    subprocess.run([sys.executable, '-c', code, '30'], cwd=tmp_path, check=True)
    files = list((tmp_path / 'pictures').glob('?/*.png'))
    assert len(files) == 30
    assert all(plt.imread(file).min() < 0.3 < 0.9 < plt.imread(file).max() for file in files)
