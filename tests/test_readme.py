"""The code and the commands of the README and the gallery, as they stand there."""

import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from conftest import (
    FLAGS,
    PROJECT,
    REFERENCE,
    SCRIPT,
    Page,
    code_cells,
    complaints,
    pictures,
    printed,
    run_notebook,
    run_script,
    save_digits,
)

README = PROJECT / 'README.md'
GALLERY = REFERENCE / 'README.md'
ORIGINAL = REFERENCE / 'original'
ENCODER = 'Creating the encoder'


def section(page, heading):
    """The text under a heading of the README or the gallery."""
    return page.read_text().split(f'\n## {heading}\n')[1].split('\n## ')[0]


def code_blocks(page, heading, language):
    """The blocks of code under a heading."""
    return re.findall(rf'```{language}\n(.*?)```', section(page, heading), re.DOTALL)


def table(page, heading):
    """The cells of the table under a heading, row by row, without its head."""
    rows = [line for line in section(page, heading).splitlines() if line.startswith('|')]
    return [
        [cell.removeprefix(' ').removesuffix(' ') for cell in row.split('|')[1:-1]] for row in rows[2:]
    ]


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A copy of the repository, in which the code of the README may write."""
    folder = tmp_path_factory.mktemp('clone') / 'project'
    return shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns('.*'))


def test_figures_without_training(project):
    """The command draws the committed figures, and prints the test loss that the README names."""
    (command,) = code_blocks(README, 'See the figures without training', 'sh')
    command = command.replace('.venv/bin/python', sys.executable)
    process = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True)
    assert (process.returncode, complaints(process.stderr)) == (0, [])
    test_loss = float(re.search(r'Test loss: (\S+)', process.stdout)[1])
    (promised,) = re.findall(r'which is (\S+) in the run shown', README.read_text())
    assert test_loss == pytest.approx(float(promised), abs=0.15)  # z is drawn

    for name in ('latent_space.png', 'decoded_digits.png', 'loss.png'):
        drawn = plt.imread(project / 'outputs' / 'look' / name)[..., :3]
        committed = plt.imread(ORIGINAL / name)[..., :3]
        assert drawn.shape == committed.shape
        # Other versions of matplotlib draw a letter or a point a pixel further on
        coloured = np.ptp(committed, axis=2) > 0.1
        assert np.abs(drawn - committed)[coloured].mean() < 0.1


def test_what_to_do_with_it(project):
    blocks = code_blocks(README, 'What to do with it', 'python')
    numbers = (
        'print(np.abs(decoded - input_test[:10]).mean(), errors[oddest].min() >= np.median(errors))'
    )
    run, new, again, oddest, walk, save, numbers = run_notebook(project, *blocks, numbers)
    assert pictures(run) == 3
    assert [pictures(cell) for cell in (new, again, oddest, walk)] == [1, 1, 1, 1]
    difference, odd = printed(numbers).split()
    assert float(difference) < 0.1
    assert odd == 'True'
    with Image.open(project / 'walk.gif') as animation:
        assert animation.n_frames == 32
    assert (project / 'walk.gif').stat().st_size < 300_000
    assert (project / 'decoder.h5').exists()


@pytest.fixture
def page(digits, tmp_path):
    """The page after a whole run, as a reader has it who then changes a line."""
    return Page(tmp_path, data=digits, epochs=1).run()


def change(page, row):
    """Put the line of a row of 'Change it' into the page, in the place of the line that it changes."""
    _, heading, line = table(README, 'Change it')[row]
    line = line.strip('`')
    begin = re.match(
        r'flags =|\w+ = Dense|\w+ =|return \S+|vae\.compile|plt\.scatter.*c=|callbacks', line
    )[0]
    (old,) = [
        old.strip()
        for number in page.cells_under(heading)
        for old in page.sources[number].splitlines()
        if old.strip().startswith(begin)
    ]
    assert old != line
    page.edit(heading, old, line)
    return heading


def test_change_the_epochs(digits, tmp_path):
    page = Page(tmp_path, data=digits)
    change(page, 0)
    page.run()
    assert page['vae'].history.epoch == list(range(20))
    assert len(page['losses']) == 20


def test_change_the_latent_dimensions(page):
    page.run(first=change(page, 1))
    assert page['decoder'].input_shape == (None, 8)
    assert page['test_mu'].shape == (200, 8)


def test_change_a_layer(page):
    change(page, 2)
    page.run(first=ENCODER)
    assert 50 in [layer.output_shape[-1] for layer in page['encoder'].layers[1:]]
    assert len(page['losses']) == 1


def test_change_the_weight_of_the_kl_divergence(page):
    heading = change(page, 3)
    before = page['kl_reconstruction_loss']
    page.run(first=heading, last=heading)
    true, pred = page['vae'].input, page['vae'].output
    tensors = [before(true, pred), page['kl_reconstruction_loss'](true, pred)]
    tensors += [page['vae_mu'], page['vae_sigma']]
    once, fourfold, mu, sigma = page['K'].function([true], tensors)([page['input_test']])
    divergence = np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1) / 2
    np.testing.assert_allclose(fourfold - once, 3 * divergence.mean(), rtol=1e-3, atol=1e-3)


def test_change_the_learning_rate(page):
    epochs = len(page['losses'])
    page.run(first=change(page, 4))
    assert page['K'].get_value(page['vae'].optimizer.lr) == pytest.approx(1e-4)
    assert len(page['losses']) == epochs + 1


def test_change_when_to_stop(page, monkeypatch):
    """A loss that stays as it is ends the training five epochs after the first."""
    stopping = page['keras'].callbacks.EarlyStopping
    monkeypatch.setattr(stopping, 'get_monitor_value', lambda self, logs: 200.0)
    heading = change(page, 5)
    page.names['no_epochs'] = 100
    page.run(first=heading, last=heading)
    assert len(page['vae'].history.epoch) == 1 + 5


def test_change_the_colours(page):
    page.run(first=change(page, 6), last='Visualizing samples from the latent space')
    page['viz_latent_space'](page['encoder'], page['data'])
    assert plt.gcf().axes[0].collections[0].get_cmap().name == 'tab10'


def test_change_the_images(mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = mnist['x_train'][:20, 2:]
    np.savez('pictures.npz', x_train=images, x_test=images)
    page = Page(tmp_path)
    page.edit('Not in the post: the command line', f"flags = {{'output_dir': '{tmp_path}'}}", FLAGS)
    page.run(last=change(page, 7))
    page.run(first='Not in the post: your own images', last='Data preprocessing')
    assert page['input_train'].shape == (20, 26, 28, 1)


@pytest.fixture
def own_pictures(tmp_path, monkeypatch):
    """A folder with pictures of several formats and sizes, turned and transparent ones among them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / 'pictures' / ('cat', 'dog')[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (80, 100 + number, 3)).astype('uint8')
        picture = Image.fromarray(pixels)
        picture.save(folder / f'{number}.{("png", "jpg", "JPEG")[number % 3]}')
    Image.new('RGBA', (90, 70), (0, 0, 0, 0)).save(tmp_path / 'pictures' / 'cat' / 'clear.png')
    Image.new('L', (90, 70), 9).save(tmp_path / 'pictures' / 'cat' / 'grey.png')
    (tmp_path / 'pictures' / 'cat' / 'notes.txt').write_text('no picture')
    return tmp_path


def test_own_pictures(own_pictures):
    (code,) = code_blocks(README, 'Your own images', 'python')
    names = {}
    exec(code, names)
    clear = names['read'](own_pictures / 'pictures' / 'cat' / 'clear.png')
    assert clear.shape == (64, 64, 3)
    assert clear.min() == 255  # white, not black
    (command,) = code_blocks(README, 'Your own images', 'sh')
    arguments = command.replace('\\\n', '').split('variational_autoencoder.py')[1].split()
    status, output, errors = run_script(*arguments, '--epochs', 1, cwd=own_pictures)
    assert (status, errors) == (0, [])
    with np.load('pictures.npz') as file:
        assert file['x_train'].shape == (38, 64, 64, 3)
        assert file['x_test'].shape == (4, 64, 64, 3)
        assert set(file['y_test']) <= {'cat', 'dog'}
    assert (own_pictures / 'outputs' / 'pictures' / 'decoded_digits.png').exists()


def test_several_gpus(mnist, tmp_path):
    """The gallery's edits, on two logical devices of this machine's processor."""
    cells = code_cells()
    edits = [
        [heading, *[text.strip('`') for text in texts]]
        for heading, *texts in table(GALLERY, 'Several GPUs')
    ]
    edits.append(
        ['Not in the post: the command line', FLAGS, "flags = {'data': 'digits.npz', 'epochs': 2}"]
    )
    for heading, old, new in edits:
        assert sum(source.count(old) for name, source in cells if name == heading) == 1
        new = new.replace('MirroredStrategy()', "MirroredStrategy(['CPU:0', 'CPU:1'])")
        cells = [
            (name, source.replace(old, new) if name == heading else source) for name, source in cells
        ]
    save_digits(tmp_path, mnist, 2000, 400)
    two_devices = """
        import tensorflow as tf
        (processor,) = tf.config.list_physical_devices('CPU')
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(processor, [device, device])
    """
    numbers = 'print(tf.distribute.get_strategy().num_replicas_in_sync, losses[0][1] - losses[1][1])'
    *_, last = run_notebook(tmp_path, two_devices, *[source for _, source in cells], numbers)
    devices, learnt = printed(last).split()
    assert devices == '2'
    assert float(learnt) > 10


def test_requirements():
    """What `uv run` reads at the end of the script is requirements.txt."""
    block = re.search(r'^# /// script\n(.*?)^# ///$', SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[1]
    in_script = re.findall(r'^#     "(.*)",$', block, re.MULTILINE)
    lines = (PROJECT / 'requirements.txt').read_text().splitlines()
    assert in_script == [line for line in lines if not line.startswith('#')]
