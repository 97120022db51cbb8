"""The ways into a notebook, and the README's code as it stands there, each in a real Jupyter kernel."""
import json
import re
import shutil

import jupytext
import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

import variational_autoencoder
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


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def result(cell):
    return json.loads(printed(cell).split('RESULT')[1].splitlines()[0])


def readme(section):
    """The Python code of a section of the README, block by block."""
    text = (script.parent / 'README.md').read_text()
    text = text.split(f'\n## {section}\n')[1].split('\n## ')[0]
    return re.findall(r'```python\n(.*?)```', text, re.DOTALL)


@pytest.fixture(autouse=True)
def inline_figures(monkeypatch):
    monkeypatch.delenv('MPLBACKEND')


def test_pasted_whole(folder):
    text = script.read_text().replace('no_epochs = 100', 'no_epochs = 3')
    notebook = execute(folder, DOWNLOAD.format(digits=folder / 'digits.npz'), text, RESULT,
                       'no_epochs = 1.5\ntry:\n    main()\nexcept ValueError as error:\n    print(error)')
    drawn = {path.name for path in (folder / 'outputs' / 'original').iterdir()}
    assert drawn - {'latent_space_zoom.png'} == {
        'decoded_digits.png', 'history.csv', 'latent_space.png', 'loss.png', 'vae_weights.h5'}
    assert pictures(notebook.cells[1]) == len([name for name in drawn if name.endswith('.png')])
    assert result(notebook.cells[2]) == ['encoder', 'decoder', 'vae', 26345, 3]
    assert 'epochs is 1.5' in printed(notebook.cells[3])


def test_cell_by_cell_twice(folder):
    cells = [cell for cell in jupytext.read(script).cells if cell.cell_type == 'code']
    titles = [cell.metadata.get('title', '') for cell in cells]
    titles = [title for title in titles if title]
    assert titles[0] == 'Before TensorFlow is imported'
    assert [title for title in titles[1:] if not title.startswith('Not in the post: ')] == [
        'Model imports', 'Loading data', 'Model configuration', 'Data preprocessing', 'Creating the encoder',
        'Creating the decoder', 'Creating the whole VAE', 'Defining custom VAE loss function', 'Compilation & training',
        'Visualizing inputs mapped onto latent space', 'Visualizing samples from the latent space', 'Time to run it!']
    for cell in cells:
        if cell.metadata.get('title') == 'Model configuration':
            for default, changed in [("no_epochs = 100", "no_epochs = 2"), ("[8, 16]", "[4, 8, 12]"),
                                     ("[16, 8]", "[12, 8, 4]")]:
                assert default in cell.source
                cell.source = cell.source.replace(default, changed)
    first = nbformat.v4.new_code_cell(DOWNLOAD.format(digits=folder / 'digits.npz'))
    last = nbformat.v4.new_code_cell(RESULT + 'print([l.filters for l in encoder.layers if hasattr(l, "filters")])')
    again = [nbformat.v4.new_code_cell(cell.source) for cell in [*cells, last]]
    notebook = execute(folder, cells=[first, *cells, last, *again])
    for end in (len(cells) + 1, len(notebook.cells) - 1):
        assert pictures(notebook.cells[end - 1]) >= 3
        assert result(notebook.cells[end])[::4] == ['encoder', 2]
        assert '[4, 8, 12]' in printed(notebook.cells[end])


def test_run_magic(folder):
    notebook = execute(folder, '%run variational_autoencoder.py --epochs 1 --data digits.npz --output-dir run', RESULT,
                       'try:\n    get_ipython().run_line_magic("run", "variational_autoencoder.py --epochs -1")\n'
                       'except ValueError as error:\n    print("refused:", error)')
    assert pictures(notebook.cells[0]) >= 3
    assert result(notebook.cells[1])[-1] == 1
    assert (folder / 'run' / 'vae_weights.h5').exists()
    shown = str(notebook.cells[2].outputs)
    assert 'epochs is -1' in shown and 'SystemExit' not in shown


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


def test_step_by_step(mnist, folder):
    steps, = readme('In a notebook')
    few = folder / 'few.npz'  # one batch an epoch, for there are 100 of them
    np.savez(few, x_train=mnist['x_train'][:160], y_train=mnist['y_train'][:160],
             x_test=mnist['x_test'][:200], y_test=mnist['y_test'][:200])
    notebook = execute(folder, DOWNLOAD.format(digits=few), steps, RESULT,
                       'print([round(loss) for loss in vae.history.history["loss"]])')
    text = printed(notebook.cells[1])
    assert re.findall(r'Total params: (\d+)', text) == ['17208', '9137', '26345']
    assert pictures(notebook.cells[1]) == 2
    assert result(notebook.cells[2]) == ['encoder', 'decoder', 'vae', 26345, 100]
    losses = json.loads(printed(notebook.cells[3]))
    assert losses[-1] < 0.7 * losses[0]


def test_what_to_do_with_it():
    """In the repository itself, whose weights it loads."""
    blocks = readme('What to do with it')
    notebook = execute(script.parent, *blocks, """
walk = decoder.predict(steps)
import json
print('RESULT', json.dumps([float(np.abs(reconstruction - input_test[0]).mean()),
                 float(np.abs(walk[0] - reconstruction[0]).max()),
                 float(np.abs(walk[-1] - input_test[3]).mean()), float(np.abs(walk[0] - input_test[3]).mean()),
                 len(walk), mu.tolist()]))""")
    assert [pictures(cell) for cell in notebook.cells[:5]] == [0, 0, 1, 1, 1]
    error, start, end, wrong, length, mu = result(notebook.cells[5])
    assert error < 0.08 and start < 1e-5 and end < 0.7 * wrong and length == 10
    place = [float(number) for number in re.findall(r'-?\d+\.\d+', printed(notebook.cells[1]))]
    np.testing.assert_allclose(place, mu[0], atol=1e-4)


def test_own_pictures(mnist, tmp_path, monkeypatch):
    for k in range(20):
        path = tmp_path / 'pictures' / str(mnist['y_train'][k]) / f'{k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mnist['x_train'][k]).save(path)
    monkeypatch.chdir(tmp_path)
    code, = readme('Your own images')
    exec(code, {})
    (input_train, _), (input_test, target_test) = variational_autoencoder.load_npz('pictures.npz')
    assert input_train.shape == (18, 48, 64, 3) and input_test.shape == (2, 48, 64, 3)
    assert set(target_test) <= set('0123456789')
    variational_autoencoder.main(['--data', 'pictures.npz', '--epochs', '1', '--output-dir', 'out'])
