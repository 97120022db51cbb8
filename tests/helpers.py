"""What the tests share: three ways to run the page, and what they read from it, README and gallery.

Page runs the page cell by cell in one namespace, within the test's process; run_script and
start_script run it as a command; run_notebook runs cells in a Jupyter kernel.
"""

import contextlib
import linecache
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

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
MNIST = PROJECT / 'tests' / 'data' / 'mnist.npz'
README = PROJECT / 'README.md'
REFERENCE = PROJECT / 'outputs' / 'reference'
GALLERY = REFERENCE / 'README.md'
ORIGINAL = REFERENCE / 'original'
POST = REFERENCE / 'post'

# The headings of the page that tests name
LOADING = 'Loading data'
CONFIGURATION = 'Model configuration'
PREPROCESSING = 'Data preprocessing'
ENCODER = 'Encoder definition'
TRICK = 'Reparameterization trick'
ENCODER_MODEL = 'Encoder instantiation'
DECODER = 'Decoder definition'
DECODER_MODEL = 'Decoder instantiation'
VAE = 'Creating the whole VAE'
LOSS = 'Defining custom VAE loss function'
TRAINING = 'Compilation & training'
SCATTER = 'Visualizing inputs mapped onto latent space'
GRID = 'Visualizing samples from the latent space'
FIGURES = 'Calling the visualizers'


# Tests that do not look at the grid draw a smaller one, which is faster
SMALL_GRID = 'num_samples = 15', 'num_samples = 2'


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


def fit_number(sources):
    """The number of the cell that trains."""
    (number,) = [number for number, source in enumerate(sources) if 'vae.fit(' in source]
    return number


def write_mnist(folder, mnist, train, test):
    """Write the first digits of MNIST where a page that is started in the folder reads them."""
    (folder / 'tests' / 'data').mkdir(parents=True)
    np.savez(
        folder / 'tests' / 'data' / 'mnist.npz',
        x_train=mnist['x_train'][:train],
        y_train=mnist['y_train'][:train],
        x_test=mnist['x_test'][:test],
        y_test=mnist['y_test'][:test],
    )


def link_reference(folder):
    """Put outputs/reference, with its weights, into a folder where commands of the documents may write."""
    (folder / 'outputs').mkdir()
    (folder / 'outputs' / 'reference').symlink_to(REFERENCE)


class Page:
    """The cells of the page, run in one namespace as a notebook does; page['vae'] is its vae.

    A new Page clears Keras's session, as a new process would: the networks of earlier ones are gone.
    """

    def __init__(self, folder, **settings):
        """Read the page, to be run in a folder, with settings such as no_epochs=1."""
        K.clear_session()
        self.folder = folder
        self.names = {'__name__': '__main__'}
        cells = code_cells()
        self.headings = [heading for heading, _ in cells]
        self.sources = [source for _, source in cells]
        for name, value in settings.items():
            self.set(name, value)
        self.edit(GRID, *SMALL_GRID)

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

    def set(self, name, value):
        """Set a name under 'Model configuration' to another value, as a reader edits its line."""
        text = '\n'.join(self.sources[number] for number in self.cells_under(CONFIGURATION))
        (line,) = re.findall(f'^{name} = .*$', text, re.MULTILINE)
        self.edit(CONFIGURATION, line, f'{name} = {value!r}')

    def use(self, input_train, input_test, target_test=None):
        """Replace the cell that loads MNIST by one that sets these arrays."""
        self.names['arrays'] = input_train, input_test, target_test
        (number,) = self.cells_under(LOADING)
        self.sources[number] = 'input_train, input_test, target_test = arrays'

    @contextlib.contextmanager
    def inside(self):
        """Make its folder the current one."""
        previous = Path.cwd()
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(previous)

    def run_cell(self, number):
        source, file = self.sources[number], f'<cell {number}>'
        # Where TensorFlow looks up the source of the functions that it is given
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        with self.inside():
            exec(compile(source, file, 'exec'), self.names)

    def run(self, first=None, last=None):
        """Run the cells from the first heading to the last one, both included."""
        begin = self.cells_under(first)[0] if first else 0
        end = self.cells_under(last)[-1] if last else len(self.sources) - 1
        for number in range(begin, end + 1):
            self.run_cell(number)
        return self

    @property
    def output(self):
        """The folder of the latest run."""
        return self.folder / self['output_dir']


def check_grid(page):
    """Draw the whole grid, and check digits, their places and the ticks; return its axes."""
    page.edit(GRID, *reversed(SMALL_GRID))
    page.run(first=GRID, last=GRID)
    with page.inside():
        page['viz_decoded'](page['encoder'], page['decoder'], None)
    (axes,) = plt.gcf().axes
    height, width, channels = page['input_shape']
    image = np.reshape(axes.images[0].get_array(), (15 * height, 15 * width, channels))
    grid = np.linspace(-4, 4, 15)
    for row, column in [(0, 0), (0, 14), (14, 0), (3, 11)]:
        tile = image[row * height :, column * width :][:height, :width]
        point = np.zeros((1, page['latent_dim']))
        point[0, 0] = grid[column]
        point[0, 1] = -grid[row]
        np.testing.assert_allclose(tile, page['decoder'].predict(point)[0], atol=1e-5)
    assert axes.get_ylim() == (15 * height - 0.5, -0.5)  # the first row is at the top

    assert list(axes.get_xticks()) == [width // 2 + column * width for column in range(15)]
    assert list(axes.get_yticks()) == [height // 2 + row * height for row in range(15)]
    x_labels = [float(label.get_text()) for label in axes.get_xticklabels()]
    y_labels = [float(label.get_text()) for label in axes.get_yticklabels()]
    np.testing.assert_allclose(x_labels, grid, atol=0.051)
    np.testing.assert_allclose(y_labels, -grid, atol=0.051)
    return axes


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


def complaints(stderr):
    """The lines of standard error, except those that TensorFlow always writes as it starts."""
    always = re.compile(
        'WARNING: All log messages before absl|I0000 |[EW]0000 .*(cuda|cuFFT|computation_placer)'
    )
    return [line for line in stderr.splitlines() if not always.match(line)]


def run_notebook(folder, *sources, allow_errors=False):
    """Run cells in a new Jupyter kernel, which draws inline; return them with their outputs."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {'name': 'python3', 'display_name': 'Python 3'}
    resources = {'metadata': {'path': str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=200, allow_errors=allow_errors, resources=resources)
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
    """What a run prints at its end: the test loss, and the KL divergence in it."""
    line = re.search(r'Test loss: (\S+) \(KL divergence: (\S+)\)', output)
    return [float(number) for number in line.groups()]


def output_folder(folder):
    """The folder that the only run in a folder has written to."""
    (output,) = (folder / 'outputs').glob('20*')
    return output


def read_arrays(path):
    """All arrays of a weights file by their names."""
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


def section(document, heading):
    """The text under a heading of the README or the gallery."""
    return document.read_text().split(f'\n## {heading}\n')[1].split('\n## ')[0]


def code_blocks(document, heading, language):
    """The blocks of code under a heading."""
    return re.findall(rf'```{language}\n(.*?)```', section(document, heading), re.DOTALL)


def table(document, heading):
    """The cells of the table under a heading, row by row, without its head."""
    rows = [line for line in section(document, heading).splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in row.split(' | ')] for row in (row.strip('| ') for row in rows[2:])]


def script_flags(command):
    """The flags of the script in a command of the README or the gallery."""
    return command.replace('\\\n', '').split('variational_autoencoder.py')[1].split()
