"""What the tests share: three ways to run the page, and what they read from files.

'The page' is variational_autoencoder.py, as cells.

- Page runs its cells within the test's process, in one namespace, as a notebook does. There is one
  Page at a time: a new one clears Keras's session, so that an earlier one cannot be used any more (an
  error says so). It draws a grid of 2 by 2 points, which is faster, unless it gets num_samples=15.
- run_script and start_script run the page as a command, in a process of its own.
- run_notebook runs cells in a Jupyter kernel.
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
import nbclient
import nbformat
import numpy as np
import pytest
from tf_keras import backend as K

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = PROJECT / 'variational_autoencoder.py'
MNIST = PROJECT / 'tests' / 'data' / 'mnist.npz'
REFERENCE = PROJECT / 'outputs' / 'reference'
WEIGHTS = REFERENCE / 'original' / 'vae_weights.h5'
POST_WEIGHTS = REFERENCE / 'post' / 'post_weights.h5'

# The documents
README = PROJECT / 'README.md'
GALLERY = REFERENCE / 'README.md'
RECIPES = REFERENCE / 'recipes.md'
PICTURES = REFERENCE / 'pictures' / 'README.md'
ERRORS = REFERENCE / 'post' / 'README.md'
TESTS = PROJECT / 'tests' / 'README.md'

# The headings of the page that tests name
IMPORTS = 'Model imports'
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
CALLING = 'Calling the visualizers'


def code_cells(text=None):
    """Return (heading, source) for each code cell of the page, or of another text of its form."""
    cells = []
    heading = None
    for cell in jupytext.reads(text or SCRIPT.read_text(), fmt='py:percent').cells:
        if cell.cell_type == 'markdown':
            headings = re.findall('^#+ (.*)$', cell.source, re.MULTILINE)
            heading = headings[-1] if headings else heading
        else:
            cells.append((heading, cell.source))
    return cells


def edited(text, old, new):
    """The text with an old part replaced, which must stand in it exactly once."""
    assert text.count(old) == 1, f'{text.count(old)} times: {old}'
    return text.replace(old, new)


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


@contextlib.contextmanager
def inside(folder):
    """Make a folder the current one."""
    previous = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(previous)


class Page:
    """The cells of the page, run in one namespace; page['vae'] is its vae."""

    latest = None

    def __init__(self, folder, num_samples=2, **settings):
        """Read the page, to be run in a folder, with settings such as no_epochs=1."""
        K.clear_session()
        Page.latest = self
        self.folder = folder
        self.names = {'__name__': '__main__'}
        cells = code_cells()
        self.headings = [heading for heading, _ in cells]
        self.sources = [source for _, source in cells]
        self.edit('num_samples = 15', f'num_samples = {num_samples}')
        for name, value in settings.items():
            self.set(name, value)

    def __getitem__(self, name):
        self.check_that_it_is_the_latest()
        return self.names[name]

    def check_that_it_is_the_latest(self):
        assert self is Page.latest, 'a newer Page has cleared the networks of this one; make it later'

    def cells_under(self, heading):
        """The numbers of the code cells under a heading."""
        numbers = [number for number, name in enumerate(self.headings) if name == heading]
        assert numbers, f'no heading {heading}'
        return numbers

    def cell_with(self, text):
        """The number of the only code cell that has a text."""
        (number,) = [number for number, source in enumerate(self.sources) if text in source]
        return number

    def edit(self, old, new):
        """Replace a text, as a reader does; it must stand on the page exactly once."""
        number = self.cell_with(old)
        self.sources[number] = edited(self.sources[number], old, new)

    def set(self, name, value):
        """Set a name under 'Model configuration' to another value."""
        text = '\n'.join(self.sources[number] for number in self.cells_under(CONFIGURATION))
        (line,) = re.findall(f'^{name} = .*$', text, re.MULTILINE)
        self.edit(line, f'{name} = {value!r}')

    def use(self, input_train, input_test, target_test=None):
        """Replace the cell that loads MNIST by one that sets these arrays."""
        self.names['arrays'] = input_train, input_test, target_test
        (number,) = self.cells_under(LOADING)
        self.sources[number] = 'input_train, input_test, target_test = arrays'

    def run_code(self, code):
        """Run code in the page's folder and namespace, as a new cell."""
        self.check_that_it_is_the_latest()
        # TensorFlow looks up the source of the functions that it is given
        file = f'<cell {hash(code)}>'
        linecache.cache[file] = len(code), None, code.splitlines(keepends=True), file
        with inside(self.folder):
            exec(compile(code, file, 'exec'), self.names)

    def run_cell(self, number):
        self.run_code(self.sources[number])

    def run(self, first=None, last=None):
        """Run the cells from the first heading to the last one, both included."""
        begin = self.cells_under(first)[0] if first else 0
        end = self.cells_under(last)[-1] if last else len(self.sources) - 1
        for number in range(begin, end + 1):
            self.run_cell(number)
        return self

    def train(self):
        """Run only the cell that trains."""
        self.run_cell(self.cell_with('vae.fit('))

    @property
    def output(self):
        """The folder of the latest run."""
        return self.folder / self['output_dir']


def parameters(page):
    """The parameters of encoder, decoder and VAE, and how many of the VAE's are trained."""
    trainable = sum(np.prod(weight.shape) for weight in page['vae'].trainable_weights)
    return [page[name].count_params() for name in ('encoder', 'decoder', 'vae')], trainable


def kl_divergence(mu, sigma):
    """The mean of Kingma & Welling, appendix B, with NumPy."""
    return np.mean(np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1)) / 2


def parts_of_the_loss(page):
    """The loss of the test images by the page's function, and its two parts by NumPy."""
    vae, true = page['vae'], page['input_test']
    loss = page['kl_reconstruction_loss'](vae.input, vae.output)
    tensors = [loss, page['vae_mu'], page['vae_sigma'], vae.output]
    loss, mu, sigma, pred = K.function([vae.input], tensors)([true])
    reconstruction = -np.sum(true * np.log(pred) + (1 - true) * np.log(1 - pred)) / len(true)
    return {'loss': loss, 'reconstruction': reconstruction, 'kl': kl_divergence(mu, sigma)}


# What the tests set for themselves, and a reader does not
OURS = [
    'MPLBACKEND',
    'TF_NUM_INTRAOP_THREADS',
    'TF_NUM_INTEROP_THREADS',
    'TF_CPP_MIN_LOG_LEVEL',
    'TF_ENABLE_ONEDNN_OPTS',
]


def start_script(*arguments, script=SCRIPT, environment=None, **settings):
    """Start the script as a command, as a reader does; its output can be read line by line."""
    readers = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.Popen(
        [sys.executable, '-u', script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**readers, **(environment or {})},
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
    always = re.compile('WARNING: All log messages before absl|[IWE]0000 .*(oneDNN|cuda|cuFFT|cuDNN|cuBLAS)')
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


def figures(cell):
    """The number of figures that a cell of a notebook shows."""
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)


def printed_loss(output):
    """The test loss that a run prints at its end."""
    return float(re.search(r'^Test loss: (\S+)$', output, re.MULTILINE)[1])


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


def block(document, text):
    """The only block of code in a document that has a text."""
    blocks = re.findall(r'^```\w+\n(.*?)^```$', document.read_text(), re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if text in block]
    assert len(found) == 1, f'{len(found)} blocks with: {text}'
    return found[0]


def table(document, title):
    """The cells of the table whose head begins with a title, row by row, without its head."""
    (rows,) = re.findall(rf'^\| {re.escape(title)} \|.*\n\| ---.*\n((?:\|.*\n)+)', document.read_text(), re.M)
    return [row.strip('| ').split(' | ') for row in rows.splitlines()]


def flags(command):
    """The flags of the script in a command of a document."""
    return command.replace('\\\n', '').split('variational_autoencoder.py')[1].split()


def edits(diff):
    """The parts of a document's diff, between blank lines: each is a text of the page, and its new text."""
    for part in diff.strip('\n').split('\n\n'):
        lines = part.splitlines()
        old = '\n'.join(line[1:] for line in lines if line[0] != '+')
        new = '\n'.join(line[1:] for line in lines if line[0] != '-')
        yield old, new
