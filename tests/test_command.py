"""The script as a command: its output, its files, its flags, Ctrl-C."""

import os
import signal
import sys

import pexpect
import pyte
import pytest

from helpers import (
    ORIGINAL,
    SCRIPT,
    complaints,
    output_folder,
    printed_losses,
    read_arrays,
    run_script,
    same_arrays,
    start_script,
    write_mnist,
)

FIGURES = {'latent_space.png', 'decoded_digits.png', 'loss.png'}
FILES = {*FIGURES, 'history.csv', 'vae_weights.h5'}


def start(mnist, folder):
    """Start a run of two epochs as a reader does, with no setting of the tests, and with TensorFlow's log."""
    write_mnist(folder, mnist, 640, 200)
    ours = 'MPLBACKEND', 'TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'TF_ENABLE_ONEDNN_OPTS'
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return start_script('--epochs', 2, cwd=folder, env={**environment, 'TF_CPP_MIN_LOG_LEVEL': '0'})


@pytest.fixture(scope='module')
def two_runs(mnist, tmp_path_factory):
    """Two runs at the same time: what each printed and logged, and its folder."""
    folders = [tmp_path_factory.mktemp('run') for _ in range(2)]
    processes = [start(mnist, folder) for folder in folders]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [(output, log, folder) for (output, log), folder in zip(outputs, folders)]


def test_output(two_runs):
    """A log has the three summaries, a line for each epoch, the test loss, and where the results are."""
    output, _, folder = two_runs[0]
    for total in ('17208', '9137', '26345'):
        assert f'Total params: {total} ' in output
    epochs = [line for line in output.splitlines() if ' - loss: ' in line]
    assert len(epochs) == 2
    assert all(' - val_loss: ' in line for line in epochs)
    assert '[==' not in output
    loss, kl = printed_losses(output)
    assert 0 < kl < loss
    assert output.endswith(f'\nThe results are in {output_folder(folder).relative_to(folder)}\n')


def test_files(two_runs):
    _, _, folder = two_runs[0]
    assert {path.name for path in folder.iterdir()} == {'tests', 'outputs'}
    assert {path.name for path in output_folder(folder).iterdir()} == FILES


def test_the_same_seed_gives_the_same_network(two_runs):
    """Bit for bit, with as many threads as the machine has cores."""
    first, second = [output_folder(folder) / 'vae_weights.h5' for _, _, folder in two_runs]
    assert same_arrays(first, second)


def test_onednn_is_on(two_runs):
    """TensorFlow leaves it off on many processors."""
    _, log, _ = two_runs[0]
    assert 'oneDNN custom operations are on' in log


def test_bar_keeps_to_its_line(digits):
    """In a terminal of 80 columns; the end of an epoch's last state, with val_loss, takes a second one."""
    process = pexpect.spawn(
        sys.executable,
        [str(SCRIPT), '--epochs', '2'],
        cwd=digits,
        dimensions=(24, 80),
        encoding='utf-8',
        timeout=120,
    )
    process.expect(pexpect.EOF)
    process.close()
    assert process.exitstatus == 0
    screen = pyte.HistoryScreen(80, 24, history=10_000)
    pyte.Stream(screen).feed(process.before)
    scrolled_away = [''.join(row[column].data for column in range(80)) for row in screen.history.top]
    lines = scrolled_away + screen.display
    (first,) = [number for number, line in enumerate(lines) if line.startswith('Epoch 1/2')]
    (last,) = [number for number, line in enumerate(lines) if line.startswith('Test loss')]
    assert sum(line.startswith('512/512 [=====') for line in lines[first:last]) == 2
    assert last - first == 2 * 3


def test_a_flag_that_is_no_number(digits):
    status, output, errors = run_script('--epochs', 'ten', cwd=digits)
    assert (status, output) == (2, '')
    assert "argument --epochs: invalid int value: 'ten'" in errors[-1]
    assert not (digits / 'outputs').exists()


def test_weights_of_another_network(digits):
    """The deeper network is built, and the weights are refused in one sentence."""
    weights = ORIGINAL / 'vae_weights.h5'
    status, output, errors = run_script('--architecture', 'dcgan', '--weights', weights, cwd=digits)
    assert status == 1
    assert 'Total params: 60755129 ' in output
    assert errors[-1].startswith(f'ValueError: {weights} does not fit the dcgan network for images of ')
    assert sum(line.startswith('Traceback') for line in errors) == 1
    assert not (digits / 'outputs').exists()


def test_ctrl_c_ends_in_figures(digits):
    process = start_script('--epochs', 10_000, cwd=digits)
    try:
        for line in process.stdout:
            if line.startswith('Epoch 3/'):
                break
        process.send_signal(signal.SIGINT)
        output, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, complaints(stderr)) == (0, [])
    assert '\nStopped\n' in output
    assert len(printed_losses(output)) == 2
    assert {path.name for path in output_folder(digits).iterdir()} == FILES
    assert (
        sum(array.size for array in read_arrays(output_folder(digits) / 'vae_weights.h5').values()) == 26345
    )
