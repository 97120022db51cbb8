import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')

import numpy as np
import pytest

script = Path(__file__).resolve().parent.parent / 'variational_autoencoder.py'
sys.path.insert(0, str(script.parent))
import variational_autoencoder as script_module


def pytest_configure(config):
    config.addinivalue_line('filterwarnings', 'ignore:.Model.state_updates')  # as in the script


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
    layers = script_module.architectures[architecture]
    encoder, conv_shape = script_module.create_encoder(
        input_shape, layers['encoder_filters'], layers['kernel_size'])
    decoder = script_module.create_decoder(
        conv_shape, input_shape, layers['decoder_filters'], layers['kernel_size'])
    return encoder, decoder, *script_module.create_vae(encoder, decoder)


def command(*arguments, **settings):
    """Start the script as a user does; standard output and error come as text."""
    environment = {name: value for name, value in os.environ.items() if name != 'MPLBACKEND'}
    environment.update(settings.pop('env', {}))
    return subprocess.Popen([sys.executable, str(settings.pop('path', script)), *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **settings)


def finish(process, timeout=120):
    """Wait for it; its exit status, standard output, and what of standard error is not TensorFlow's start-up."""
    out, err = process.communicate(timeout=timeout)
    # TensorFlow from 2.17 on prints these before any of its switches can silence them
    err = '\n'.join(line for line in err.splitlines()
                    if 'absl::InitializeLog' not in line and not line[:5] in ('I0000', 'W0000', 'E0000'))
    return process.returncode, out, err
