"""The three ways in which the tests run the page, and the digits that they give it.

Page runs it cell by cell in one namespace, within the test's process; run_script and start_script
run it as a command; run_notebook runs cells in a Jupyter kernel.
"""

import linecache
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

# Figures need no window, and each of the two test processes gets a core of its own
os.environ['MPLBACKEND'] = 'Agg'
os.environ['TF_NUM_INTRAOP_THREADS'] = '1'
os.environ['TF_NUM_INTEROP_THREADS'] = '1'
# As in the page, which sets it too late where a test has imported TensorFlow before
os.environ['TF_ENABLE_ONEDNN_OPTS'] = '1'

import h5py
import jupytext
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pytest
from tf_keras import backend as K

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = PROJECT / 'variational_autoencoder.py'
REFERENCE = PROJECT / 'outputs' / 'reference'
MNIST = PROJECT / 'tests' / 'data' / 'mnist.npz'

# Headings of the page that several tests name, and the line that a notebook user replaces
COMMAND_LINE = 'Not in the post: the command line'
SAVING = 'Not in the post: saving and continuing the training'
LOSS = 'Defining custom VAE loss function'
TRAINING = 'Compilation & training'
FLAGS = 'flags = vars(parser.parse_args()) if is_program else {}'


def code_cells():
    """Return (heading, source) for each code cell of the page."""
    cells = []
    heading = None
    for cell in jupytext.read(SCRIPT).cells:
        if cell.cell_type == 'markdown':
            headings = re.findall('^#+ (.*)$', cell.source, re.MULTILINE)
            heading = headings[-1] if headings else heading
        else:
            cells.append((heading, cell.source))
    return cells


class Page:
    """The cells of the page, run in one namespace as a notebook does; page['vae'] is its vae.

    A new Page clears Keras's session, as a new process would: the networks of earlier ones are gone.
    """

    def __init__(self, folder, **flags):
        """Read the page, to be run with these flags; what it writes goes into the folder."""
        K.clear_session()
        self.folder = folder
        self.names = {'__name__': '__main__'}
        self.headings = [heading for heading, _ in code_cells()]
        self.sources = [source for _, source in code_cells()]
        flags = {'output_dir': str(folder), **flags}
        self.flags_line = f'flags = {flags}'
        self.edit(COMMAND_LINE, FLAGS, self.flags_line)

    def __getitem__(self, name):
        return self.names[name]

    def cells_under(self, heading):
        """The numbers of the code cells under a heading."""
        numbers = [number for number, name in enumerate(self.headings) if name == heading]
        assert numbers, f'no heading {heading}'
        return numbers

    def edit(self, heading, old, new):
        """Replace a text in the cells under a heading, where it must stand exactly once."""
        cells = self.cells_under(heading)
        assert sum(self.sources[number].count(old) for number in cells) == 1, old
        for number in cells:
            self.sources[number] = self.sources[number].replace(old, new)

    def run_cell(self, number):
        source, file = self.sources[number], f'<cell {number}>'
        # Where TensorFlow looks up the source of the functions that it is given
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        exec(compile(source, file, 'exec'), self.names)

    def run(self, first=None, last=None):
        """Run the cells from the first heading to the last one, both included."""
        begin = self.cells_under(first)[0] if first else 0
        end = self.cells_under(last)[-1] if last else len(self.sources) - 1
        for number in range(begin, end + 1):
            self.run_cell(number)
        return self


def complaints(stderr):
    """The lines of standard error, except those that TensorFlow always writes as it starts."""
    start = re.compile('WARNING: All log messages before absl|[IWE]0000 ')
    return [line for line in stderr.splitlines() if not start.match(line)]


def start_script(*arguments, **settings):
    """Start the script as a command; its output can be read line by line."""
    return subprocess.Popen(
        [sys.executable, '-u', SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Pytest's workers may ignore Ctrl-C, and would pass that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **settings,
    )


def run_script(*arguments, **settings):
    """Run the script as a command to its end; return its exit status, its output and its complaints."""
    process = start_script(*arguments, **settings)
    try:
        stdout, stderr = process.communicate(timeout=180)
    finally:
        process.kill()
    return process.returncode, stdout, complaints(stderr)


def run_notebook(folder, *sources, allow_errors=False):
    """Run cells in a new Jupyter kernel, which draws inline; return them with their outputs."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3'}
    resources = {'metadata': {'path': str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=200, allow_errors=allow_errors, resources=resources
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('MPLBACKEND')
        client.execute()
    return notebook.cells


def printed(cell):
    """The text that a cell of a notebook printed."""
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def pictures(cell):
    """The number of figures that a cell of a notebook shows."""
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)


def printed_losses(output):
    """What a run prints at its end: the test loss, its reconstruction and its KL divergence."""
    line = re.search(r'Test loss: (\S+) \(reconstruction (\S+), KL (\S+)\)', output)
    return [float(number) for number in line.groups()]


def check_grid(page):
    """Draw the grid, and check each digit, its place and its ticks."""
    page['viz_decoded'](page['encoder'], page['decoder'], page['data'])
    (axes,) = plt.gcf().axes
    height, width, channels = page['input_shape']
    image = np.reshape(axes.images[0].get_array(), (15 * height, 15 * width, channels))
    grid = np.linspace(-4, 4, 15)
    for row, column in [(0, 0), (0, 14), (14, 0), (3, 11)]:
        tile = image[row * height :, column * width :][:height, :width]
        decoded = page['decoder'].predict(np.array([[grid[column], -grid[row]]]))
        np.testing.assert_allclose(tile, decoded[0], atol=1e-5)
    assert axes.get_ylim() == (15 * height - 0.5, -0.5)  # the first row is at the top

    assert list(axes.get_xticks()) == [width // 2 + column * width for column in range(15)]
    assert list(axes.get_yticks()) == [height // 2 + row * height for row in range(15)]
    x_labels = [float(label.get_text()) for label in axes.get_xticklabels()]
    y_labels = [float(label.get_text()) for label in axes.get_yticklabels()]
    np.testing.assert_allclose(x_labels, grid, atol=0.051)
    np.testing.assert_allclose(y_labels, -grid, atol=0.051)
    return axes


def read_history(folder):
    """The rows of history.csv: the number of the epoch, its loss and its validation loss."""
    return np.loadtxt(folder / 'history.csv', delimiter=',', skiprows=1, ndmin=2)


def read_arrays(path):
    """All arrays of a weights file by their names: weights, optimizer's state and losses."""
    arrays = {}

    def read(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(read)
    return arrays


def same_arrays(one, other):
    """Whether two weights files hold the same, bit for bit."""
    one, other = read_arrays(one), read_arrays(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope='session')
def mnist():
    """The arrays of mnist.npz: x_train, y_train, x_test and y_test."""
    with np.load(MNIST) as file:
        return dict(file)


def save_digits(folder, mnist, train, test):
    """Save the first digits of MNIST in a file, and return its path."""
    path = folder / 'digits.npz'
    np.savez(
        path,
        x_train=mnist['x_train'][:train],
        y_train=mnist['y_train'][:train],
        x_test=mnist['x_test'][:test],
        y_test=mnist['y_test'][:test],
    )
    return str(path)


@pytest.fixture(scope='session')
def digits(mnist, tmp_path_factory):
    """A file of 640 digits to train with, an epoch of 4 steps, and 200 to test."""
    return save_digits(tmp_path_factory.mktemp('digits'), mnist, 640, 200)


@pytest.fixture(scope='session')
def more_digits(mnist, tmp_path_factory):
    """A file of 1,600 digits to train with, an epoch of 10 steps in which something is learnt."""
    return save_digits(tmp_path_factory.mktemp('more_digits'), mnist, 1600, 500)


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close('all')
