"""The fixtures that several files of tests share, and the settings of each test process."""

import os

# Figures need no window, and each of the two test processes gets a core of its own
os.environ['MPLBACKEND'] = 'Agg'
os.environ['TF_NUM_INTRAOP_THREADS'] = '1'
os.environ['TF_NUM_INTEROP_THREADS'] = '1'
# As in the page, which sets these too late where a test has imported TensorFlow before
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
os.environ['TF_ENABLE_ONEDNN_OPTS'] = '1'

import matplotlib.pyplot as plt
import numpy as np
import pytest

pytest.register_assert_rewrite('helpers')

from helpers import MNIST, write_mnist


@pytest.fixture(scope='session')
def mnist():
    """The arrays of mnist.npz: x_train, y_train, x_test and y_test."""
    with np.load(MNIST) as file:
        return dict(file)


@pytest.fixture
def mnist_folder(mnist, tmp_path):
    """A folder to run the page in, with 640 digits to train with, an epoch of 4 steps, and 200 to test."""
    write_mnist(tmp_path, mnist, 640, 200)
    return tmp_path


@pytest.fixture(autouse=True)
def no_figure_is_left():
    yield
    plt.close('all')
