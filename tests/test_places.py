"""Where Python runs the page other than as a command in a terminal."""
import io
import os
import runpy
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from tf_keras.src.backend import get_session

from conftest import FILES, complaints, page, script


def test_no_output_and_the_backend_of_a_notebook(digits, tmp_path):
    """A command in a notebook inherits a backend that this environment may lack; `>&-` leaves no standard output."""
    flags = f'--data {digits} --epochs 1 --output-dir {tmp_path}'
    process = subprocess.run(f'exec {sys.executable} {script} {flags} >&-', shell=True, stderr=subprocess.PIPE, text=True,
                             env={**os.environ, 'MPLBACKEND': 'module://matplotlib_inline.not_here'})
    assert (process.returncode, complaints(process.stderr)) == (0, '')
    assert FILES <= {path.name for path in tmp_path.iterdir()}


def test_a_thread_and_an_output_that_can_only_write(digits, tmp_path, monkeypatch):
    out, left = io.StringIO(), {}
    monkeypatch.setattr(sys, 'stdout', SimpleNamespace(write=out.write, flush=out.flush))
    thread = threading.Thread(target=lambda: left.update(page('--data', digits, '--epochs', 1, '--output-dir', tmp_path)))
    thread.start()
    thread.join()
    assert 'Test loss: ' in out.getvalue() and 'val_loss' in out.getvalue()
    assert len(left['losses']) == 1 and FILES <= {path.name for path in tmp_path.iterdir()}


def test_fit_in_a_thread(digits, tmp_path):
    """As in the README: another thread needs the session of this one."""
    text = script.read_text()
    fit, = [cell for cell in text.split('# %%\n') if cell.startswith('bar = ')]
    fit = fit.split('# %% [markdown]')[0]
    names = page('--data', digits, '--epochs', 1, '--output-dir', tmp_path, until='Visualizing inputs')
    session = get_session()

    def train():
        with session.graph.as_default(), session.as_default():
            exec(compile(fit, 'fit', 'exec'), names)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert [row['epoch'] for row in names['losses']] == [0, 1]


@pytest.fixture
def beginning(tmp_path):
    """A copy of the page up to its settings, in a folder of its own, and a link to it in another."""
    text, _, _ = script.read_text().partition('# %% [markdown]\n# ## Data preprocessing')
    text = text.replace('= load_data()', '= (np.zeros((9, 28, 28)), None), (np.zeros((9, 28, 28)), None)')
    for name in ('own', 'other'):
        (tmp_path / name).mkdir()
    (tmp_path / 'own' / 'page.py').write_text(text)
    (tmp_path / 'other' / 'page.py').symlink_to(tmp_path / 'own' / 'page.py')
    return tmp_path


def test_flags_count_where_the_page_is_the_program(beginning, monkeypatch):
    """Started by a link it is the page in its own folder; run by another program, which has flags of its own, it has none."""
    link = str(beginning / 'other' / 'page.py')
    pipe = signal.getsignal(signal.SIGPIPE)
    monkeypatch.setattr(sys, 'argv', [link, '--seed', '7'])
    names = runpy.run_path(link, run_name='__main__')
    signal.signal(signal.SIGPIPE, pipe)
    assert names['given'] == {'seed': 7} and names['output_dir'] == beginning / 'own' / 'outputs' / 'original'
    monkeypatch.setattr(sys, 'argv', ['kernel', '-f', 'kernel.json'])
    assert runpy.run_path(link)['given'] == {}
    names = {'__name__': '__main__'}
    monkeypatch.chdir(beginning)
    exec((beginning / 'own' / 'page.py').read_text(), names)
    assert names['given'] == {} and names['output_dir'] == beginning / 'outputs' / 'original'
