"""The script as a command: its output, its files, its flags, Ctrl-C."""

import os
import signal
import sys

import pexpect
import pyte
import pytest

from helpers import CONFIGURATION, IMPORTS, SCRIPT, WEIGHTS, Page, complaints, edited, output_folder
from helpers import printed_loss, read_arrays, run_script, same_arrays, start_script, write_mnist

FILES = {'latent_space.png', 'decoded_digits.png', 'loss.png', 'history.csv', 'vae_weights.h5'}

# In the place of a window: says how many figures it would show
COUNTING_BACKEND = """
from matplotlib.backends.backend_agg import FigureCanvas
from matplotlib.pyplot import get_fignums
def show(*args, **settings):
    print('Shown:', len(get_fignums()))
"""


@pytest.fixture(scope='module')
def two_runs(mnist, tmp_path_factory):
    """Two runs of two epochs at the same time: what each wrote to its outputs, and its folder.

    The first one says how many figures it shows; the second one shows TensorFlow's log.
    """
    folders = [tmp_path_factory.mktemp('run') for _ in range(2)]
    (folders[0] / 'counting.py').write_text(COUNTING_BACKEND)
    counting = {'MPLBACKEND': 'module://counting', 'PYTHONPATH': str(folders[0])}
    processes = []
    for folder, environment in zip(folders, [counting, {'TF_CPP_MIN_LOG_LEVEL': '0'}]):
        write_mnist(folder, mnist, 640, 200)
        processes.append(start_script('--epochs', 2, cwd=folder, environment=environment))
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [(stdout, stderr, folder) for (stdout, stderr), folder in zip(outputs, folders)]


def test_output(two_runs):
    """A log has the three summaries, a line for each epoch, the test loss, and where the results are."""
    stdout, stderr, folder = two_runs[0]
    for total in ('17208', '9137', '26345'):
        assert f'Total params: {total} ' in stdout
    epochs = [line for line in stdout.splitlines() if ' - loss: ' in line]
    assert len(epochs) == 2
    assert all(' - val_loss: ' in line for line in epochs)
    assert '[==' not in stdout
    assert 0 < printed_loss(stdout) < 600
    end = f'\nThe results are in {output_folder(folder).relative_to(folder)}\nShown: 3\n'
    assert stdout.endswith(end)
    assert complaints(stderr) == []


def test_files(two_runs):
    _, _, folder = two_runs[1]
    assert {path.name for path in folder.iterdir()} == {'tests', 'outputs'}
    assert {path.name for path in output_folder(folder).iterdir()} == FILES


def test_the_same_seed_gives_the_same_network(two_runs):
    """Bit for bit, with as many threads as the machine has cores."""
    first, second = [output_folder(folder) / 'vae_weights.h5' for _, _, folder in two_runs]
    assert same_arrays(first, second)


def test_log_of_tensorflow(two_runs):
    """It is shown on request."""
    _, stderr, _ = two_runs[1]
    assert 'cpu_feature_guard' in stderr


def test_bar_keeps_to_its_line(mnist_folder):
    """In a terminal of 80 columns; the end of an epoch's last state, with val_loss, takes a second one."""
    process = pexpect.spawn(
        sys.executable,
        [str(SCRIPT), '--epochs', '2'],
        cwd=mnist_folder,
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


def test_help(mnist_folder):
    status, stdout, _ = run_script('--help', cwd=mnist_folder)
    assert status == 0
    assert '--epochs' in stdout
    assert 'default: 100' in stdout
    assert '--weights' in stdout


def test_a_flag_that_is_no_number(mnist_folder):
    status, stdout, errors = run_script('--epochs', 'ten', cwd=mnist_folder)
    assert (status, stdout) == (2, '')
    assert "argument --epochs: invalid int value: 'ten'" in errors[-1]
    assert not (mnist_folder / 'outputs').exists()


def test_edited_and_renamed(mnist_folder):
    """Settings count as they stand in the file, a flag goes before them, and verbosity 0 is silent."""
    text = edited(SCRIPT.read_text(), 'no_epochs = 100\n', 'no_epochs = 1\n')
    text = edited(text, 'verbosity = 1\n', 'verbosity = 0\n')
    (mnist_folder / 'my_vae.py').write_text(text)
    status, stdout, errors = run_script(script='my_vae.py', cwd=mnist_folder)
    assert (status, errors) == (0, [])
    assert ' - loss: ' not in stdout
    assert printed_loss(stdout) > 300
    first = output_folder(mnist_folder)
    assert len((first / 'history.csv').read_text().splitlines()) == 1 + 1

    (mnist_folder / 'my_vae.py').write_text(edited(text, 'weights = None', f'weights = {str(WEIGHTS)!r}'))
    status, stdout, errors = run_script('--epochs', 0, script='my_vae.py', cwd=mnist_folder)
    assert (status, errors) == (0, [])
    assert 100 < printed_loss(stdout) < 170
    (second,) = {*(mnist_folder / 'outputs').iterdir()} - {first}
    assert {path.name for path in second.iterdir()} == {'latent_space.png', 'decoded_digits.png'}


@pytest.mark.parametrize('file', [str(SCRIPT), None], ids=['imported', 'notebook'])
def test_flags_of_another_program_are_left_alone(mnist_folder, monkeypatch, file):
    monkeypatch.setattr(sys, 'argv', ['other_program.py', '--epochs', '7', '--unknown'])
    page = Page(mnist_folder)
    if file:
        page.names['__file__'] = file
    page.run(last=CONFIGURATION)
    assert (page['no_epochs'], page['verbosity']) == (100, 1)


@pytest.mark.parametrize('set_before, expected', [(None, ['3', '1']), ('0', ['0', '0'])])
def test_settings_of_tensorflow(mnist_folder, monkeypatch, set_before, expected):
    """Its log is hidden, and oneDNN is on, unless the environment says otherwise."""
    names = 'TF_CPP_MIN_LOG_LEVEL', 'TF_ENABLE_ONEDNN_OPTS'
    for name in names:
        monkeypatch.setenv(name, set_before) if set_before else monkeypatch.delenv(name)
    Page(mnist_folder).run(last=IMPORTS)
    assert [os.environ[name] for name in names] == expected


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL], ids=['Ctrl-C', 'kill'])
def test_stopped_from_outside(mnist_folder, number):
    """Ctrl-C ends in figures, and both leave a file with all weights."""
    process = start_script('--epochs', 10_000, cwd=mnist_folder)
    try:
        for line in process.stdout:
            if line.startswith('Epoch 3/'):
                break
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    folder = output_folder(mnist_folder)
    arrays = read_arrays(folder / 'vae_weights.h5').values()
    assert sum(array.size for array in arrays) == 26345
    if number == signal.SIGINT:
        assert (process.returncode, complaints(stderr)) == (0, [])
        assert '\nStopped\n' in stdout
        assert printed_loss(stdout) > 0
        assert {path.name for path in folder.iterdir()} == FILES
