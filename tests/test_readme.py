"""The README's code, block by block as it stands there, in a copy of the repository; its lines to change the page."""
import re
import shutil

import jupytext
import nbformat
import numpy as np
import pytest
from PIL import Image
from tf_keras import backend as K

from conftest import REFERENCE, page, rows, script
from test_notebooks import execute, pictures, printed, result

README = (script.parent / 'README.md').read_text()

def section(name):
    return README.split(f'\n## {name}\n')[1].split('\n## ')[0]

def test_what_to_do_with_it(tmp_path):
    blocks = re.findall(r'```python\n(.*?)```', section('What to do with it'), re.DOTALL)
    project = shutil.copytree(script.parent, tmp_path / 'project', ignore=shutil.ignore_patterns('.*'))
    *cells, last = execute(project, *blocks, """
import json
print('RESULT', json.dumps(float(np.abs(reconstructed - input_test[:10]).mean())))""")
    assert [pictures(cell) for cell in cells] == [3, 1, 0]
    assert result(last) < 0.1

@pytest.mark.parametrize('row', [row for row in section('Change it').splitlines() if row.count('`') == 2])
def test_each_line_to_change(runner, code, mnist, tmp_path, monkeypatch, row):
    """Under the heading that is named, in its cell after a whole run; all cells below are run again."""
    _, heading, line = [part.strip(' `') for part in row.split('|')[1:-1]]
    start = re.match(r"return \S+|vae.compile|'?\w+'?(?: =|=|:)", line)[0]
    (k, old), *_ = [(k, old.strip()) for k, cell in enumerate(code) for old in cell.splitlines() if old.strip().startswith(start)]
    assert re.findall('^# ##+ (.*)$', script.read_text().split(old)[0], re.MULTILINE)[-1].endswith(heading)
    K.clear_session()
    names = runner(range(len(code)))
    if start == 'given =':  # in a notebook, which is no file
        monkeypatch.delitem(names, '__file__')
        monkeypatch.chdir(tmp_path)
        np.savez('pictures.npz', x_train=mnist['x_train'][:20, 2:], x_test=mnist['x_train'][:9, 2:])
    runner(range(k, len(code)), (old, line))
    assert names['input_shape'] == ((26, 28, 1) if start == 'given =' else (28, 28, 1))
    assert len(names['losses']) >= len(names['vae'].history.epoch) > 0

def test_own_pictures(mnist, tmp_path, monkeypatch):
    for k in range(20):
        path = tmp_path / 'pictures' / str(mnist['y_train'][k]) / f'{k}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mnist['x_train'][k]).save(path)
    monkeypatch.chdir(tmp_path)
    code, = re.findall(r'```python\n(.*?)```', section('Your own images'), re.DOTALL)
    exec(code, {})
    names = page('--data', 'pictures.npz', '--epochs', '1', '--output-dir', 'out')
    assert names['input_train'].shape == (18, 48, 64, 3) and names['input_test'].shape == (2, 48, 64, 3)
    assert set(names['target_test']) <= set('0123456789') and np.ptp(names['input_train']) == 1

def test_the_executed_page():
    """Its cells are the script's; it has run from top to bottom, and holds no path of a machine."""
    path = REFERENCE / 'variational_autoencoder.ipynb'
    notebook = nbformat.read(path, 4)
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = ''.join(printed(cell) for cell in code)
    assert re.findall(r'Total params: (\d+)', text) == ['17208', '9137', '26345']
    assert len(re.findall(r'^48000/48000 .* - val_loss: ', text, re.MULTILINE)) == 100 and '\x08' not in text
    assert float(re.search(r'Test loss: (\S+)', text)[1]) <= 150.8
    assert sum(pictures(cell) for cell in code) == 3
    assert all(output.output_type in ('stream', 'display_data') for cell in code for output in cell.outputs)
    assert not re.search(r'/(?:home|root|tmp|work|Users)/|I0000|oneDNN custom', path.read_text())
    assert path.stat().st_size < 3_000_000
    assert len(README.split()) <= 1400

def test_requirements():
    """The block that `uv run` reads asks for what requirements.txt does."""
    block = re.search(r'^# /// script\n((?:# .*\n)+?)# ///$', script.read_text(), re.MULTILINE)[1]
    text = re.sub('^# ', '', block, flags=re.MULTILINE)
    lines = (script.parent / 'requirements.txt').read_text().splitlines()
    assert sorted(re.findall(r'"(\w[^"]*)"', text.split('dependencies')[1])) == sorted(
        line for line in lines if not line.startswith('#'))
    assert 'requires-python = ">=3.10,<3.14"' in text and 'Python 3.10 to 3.13' in README
    assert len(README.split()) <= 1400

def test_gallery_tells_the_histories():
    gallery = (REFERENCE.parent / 'README.md').read_text()
    for name in ('original', 'dcgan-as-published', 'dcgan'):
        assert f"{rows(REFERENCE.parent / name)[4]['val_loss']:.1f} (`{name}`)" in gallery
        assert list(rows(REFERENCE.parent / name)[0])[:4] == ['epoch', 'loss', 'reconstruction_loss', 'kl_loss']
    assert f"`original` comes to {rows(REFERENCE)[-1]['val_loss']:.1f} after its 100" in gallery
