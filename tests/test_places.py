"""Where Python runs the page other than as a command in a terminal."""
import io
import os
import runpy
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

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

def test_flags_count_where_the_page_is_the_program(tmp_path, monkeypatch):
    """Started by a link it is the page in its own folder; run by another program, which has flags of its own, it has none."""
    text, _, _ = script.read_text().partition('# %% [markdown]\n# ## Data preprocessing')
    own, link = tmp_path / 'page.py', tmp_path / 'other' / 'page.py'
    own.write_text(text.replace('= load_data()', '= (np.zeros((9, 28, 28)), None), (np.zeros((9, 28, 28)), None)'))
    link.parent.mkdir()
    link.symlink_to(own)
    pipe = signal.getsignal(signal.SIGPIPE)
    monkeypatch.setattr(sys, 'argv', [str(link), '--seed', '7'])
    names = runpy.run_path(str(link), run_name='__main__')
    signal.signal(signal.SIGPIPE, pipe)
    assert names['given'] == {'seed': 7} and names['output_dir'] == tmp_path / 'outputs' / 'original'
    monkeypatch.setattr(sys, 'argv', ['kernel', '-f', 'kernel.json'])
    assert runpy.run_path(str(link))['given'] == {}
    names = {'__name__': '__main__'}
    monkeypatch.chdir(link.parent)
    exec(own.read_text(), names)
    assert names['given'] == {} and str(names['output_dir']) == 'outputs/original'
