import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')
# Two tests run side by side, so that each has one core
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
os.environ.setdefault('TF_NUM_INTEROP_THREADS', '1')

import numpy as np
import pytest

script = Path(__file__).resolve().parent.parent / 'variational_autoencoder.py'
sys.path.insert(0, str(script.parent))
import variational_autoencoder as script_module

processes = []


def pytest_configure(config):
    config.addinivalue_line('filterwarnings', 'ignore:.Model.state_updates')  # as in the script


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    script_module.plt.close('all')


@pytest.fixture(scope='session')
def mnist():
    """The raw digits: x_train, y_train, x_test, y_test."""
    with np.load(script.parent / 'tests' / 'data' / 'mnist.npz') as arrays:
        return dict(arrays)


@pytest.fixture(scope='session')
def digits(mnist, tmp_path_factory):
    """A file of 640 training and 200 test digits, for runs of which nothing is expected but to run."""
    path = tmp_path_factory.mktemp('digits') / 'digits.npz'
    np.savez(path, x_train=mnist['x_train'][:640], x_test=mnist['x_test'][:200], y_test=mnist['y_test'][:200])
    return path


def build(architecture, input_shape):
    """The encoder, decoder and VAE of an architecture, with the VAE's mu and sigma."""
    encoder, conv_shape = script_module.create_encoder(input_shape, architecture)
    decoder = script_module.create_decoder(conv_shape, input_shape, architecture)
    return encoder, decoder, *script_module.create_vae(encoder, decoder)


def train(data, folder, epochs, *more):
    """main() without the figures that need the networks, for tests that do not look at them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('viz_latent_space', 'viz_zoom', 'viz_decoded'):
            patch.setattr(script_module, name, lambda *arguments: None)
        return script_module.main(['--data', str(data), '--epochs', str(epochs), '--output-dir', str(folder),
                                   *map(str, more)])


def own_signals():
    """Let a child hear Ctrl-C, whatever the shell that started the tests had it ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(*arguments, **settings):
    """Start the script as a user does, for three minutes at the most; output and errors come as text."""
    environment = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
    environment.update(settings.pop('env', {}))
    settings = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, **settings}
    if os.name == 'posix':
        settings.setdefault('preexec_fn', own_signals)
    process = subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment, **settings)
    processes.append(process)
    limit = threading.Timer(180, process.kill)
    limit.daemon = True
    limit.start()
    return process


def complaints(err):
    """What of standard error is not TensorFlow's start-up, which from 2.17 on none of its switches can silence."""
    return '\n'.join(line for line in err.splitlines()
                     if 'absl::InitializeLog' not in line and line[:5] not in ('I0000', 'W0000', 'E0000'))


def finish(process):
    """Wait for it; its exit status, standard output, and what it complains of."""
    out, err = process.communicate(timeout=180)
    return process.returncode, out, complaints(err)


def run(*arguments, **settings):
    """A run of the script that must end well and complain of nothing; its output."""
    status, out, err = finish(command(*arguments, **settings))
    assert (status, err) == (0, '')
    return out
