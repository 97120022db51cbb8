"""The ways into a notebook, each in a real Jupyter kernel."""
import json
import shutil

import jupytext
import nbclient
import nbformat
import pytest

from conftest import FILES, save, script

# What a reader does not see: a kernel without a network, and an MNIST small enough to wait for
DOWNLOAD = '''
import numpy
from tf_keras.datasets import mnist
file = numpy.load(r"{digits}")
mnist.load_data = lambda: ((file["x_train"], file["y_train"]), (file["x_test"], file["y_test"]))
'''
RESULT = '''
import json
print("RESULT", json.dumps([encoder.name, decoder.name, vae.name, vae.count_params(), len(vae.history.epoch),
                            vae.history.history["loss"][:2], [layer.name for layer in encoder.layers]]))
'''

@pytest.fixture(scope='module')
def folder(mnist, tmp_path_factory):
    """A copy of the script outside its repository, as a reader has it, and some digits."""
    folder = tmp_path_factory.mktemp('notebook')
    save(folder, mnist, 640, 200)
    shutil.copy(script, folder)
    return folder

def execute(folder, *sources, errors=False):
    """Run these cells in a kernel that draws inline, and return them."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata.kernelspec = dict(name='python3', display_name='Python 3')
    client = nbclient.NotebookClient(notebook, timeout=200, resources={'metadata': {'path': str(folder)}},
                                     allow_errors=errors)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('MPLBACKEND')
        return client.execute().cells

def pictures(cell):
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)

def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')

def result(cell):
    return json.loads(printed(cell).split('RESULT')[1].splitlines()[0])

def changed(source):
    """Two settings, as a reader changes them."""
    return source.replace('no_epochs = 100', 'no_epochs = 2').replace('[8, 16], [16, 8]', '[4, 8, 12], [12, 8, 4]')

def test_one_kernel(folder):
    """The page pasted whole, then cell by cell; run, with flags and with a wrong one; stopped by the stop button's signal."""
    stop = '''
import os, signal, threading, time
def stop():
    while not os.path.exists('stopped/history.csv'):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
'''
    run = '%run variational_autoencoder.py --data digits.npz'
    single = [changed(cell.source) for cell in jupytext.read(script).cells if cell.cell_type == 'code']
    _, pasted, first, *cells = execute(
        folder, DOWNLOAD.format(digits=folder / 'digits.npz'), changed(script.read_text()), RESULT, *single, RESULT,
        f'{run} --epochs 1 --output-dir run', RESULT, f'{run} --epochs -1', stop,
        f'{run} --epochs 1000 --output-dir stopped', RESULT, errors=True)
    drawn = {path.name for path in (folder / 'outputs' / 'original').iterdir()}
    assert drawn - {'latent_space_zoom.png'} == FILES
    pngs = len([name for name in drawn if name.endswith('.png')])
    assert pictures(pasted) == sum(map(pictures, cells[:len(single)])) == pngs
    assert '512/512 [====' in printed(pasted)
    # The second run is like the first
    assert result(first) == result(cells[len(single)]) and result(first)[4] == 2 and 'conv2d_2' in result(first)[6]
    with_flags, after_it, wrong, _, stopped, last = cells[len(single) + 1:]
    assert pictures(with_flags) >= 3 and result(after_it)[3:5] == [26345, 1]
    assert (folder / 'run' / 'vae_weights.h5').exists()
    assert 'error: epochs: -1 found' in printed(wrong) and 'Traceback' not in str(wrong.outputs)
    assert 'Interrupted with ' in printed(stopped) and 'Test loss: ' in printed(stopped)
    assert pictures(stopped) >= 3 and result(last)[4] < 1000
