"""The code and the commands of the README and the gallery, as they stand there."""

import re
import shutil
from textwrap import dedent

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import ExifTags, Image

from conftest import (
    FLAGS,
    PROJECT,
    REFERENCE,
    SCRIPT,
    Page,
    code_cells,
    pictures,
    printed,
    printed_losses,
    run_notebook,
    run_script,
    save_digits,
)

README = PROJECT / 'README.md'
GALLERY = REFERENCE / 'README.md'
ORIGINAL = REFERENCE / 'original'


def section(document, heading):
    """The text under a heading of the README or the gallery."""
    return document.read_text().split(f'\n## {heading}\n')[1].split('\n## ')[0]


def code_blocks(document, heading, language):
    """The blocks of code under a heading."""
    return re.findall(rf'```{language}\n(.*?)```', section(document, heading), re.DOTALL)


def arguments(heading):
    """The arguments of the script in the command under a heading of the README."""
    (command,) = code_blocks(README, heading, 'sh')
    return command.replace('\\\n', '').split('variational_autoencoder.py')[1].split()


def table(document, heading):
    """The cells of the table under a heading, row by row, without its head."""
    rows = [line for line in section(document, heading).splitlines() if line.startswith('|')]
    return [
        [cell.removeprefix(' ').removesuffix(' ') for cell in row.split('|')[1:-1]] for row in rows[2:]
    ]


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A copy of what the README's code needs of the repository, in which it may write."""
    folder = tmp_path_factory.mktemp('project')
    shutil.copy(SCRIPT, folder)
    shutil.copytree(SCRIPT.parent / 'tests' / 'data', folder / 'tests' / 'data')
    shutil.copytree(REFERENCE, folder / 'outputs' / 'reference')
    return folder


def test_figures_without_training(project):
    """The command draws the committed figures, and prints the test loss that the README names."""
    status, output, errors = run_script(*arguments('See the figures without training'), cwd=project)
    assert (status, errors) == (0, [])
    test_loss, _, _ = printed_losses(output)
    (promised,) = re.findall(r'which is (\S+) in the run shown', README.read_text())
    assert test_loss == pytest.approx(float(promised), abs=0.15)  # z is random

    assert (project / 'outputs' / 'look' / 'loss.png').exists()
    for name in ('latent_space.png', 'decoded_digits.png'):
        drawn = plt.imread(project / 'outputs' / 'look' / name)[..., :3]
        committed = plt.imread(ORIGINAL / name)[..., :3]
        assert drawn.shape == committed.shape
        # Other versions of matplotlib draw a letter or a point a pixel further on
        coloured = np.ptp(committed, axis=2) > 0.1
        assert np.abs(drawn - committed)[coloured].mean() < 0.1


def test_what_to_do_with_it(project):
    blocks = code_blocks(README, 'What to do with it', 'python')
    results = """
        print(np.abs(decoded - input_test[:10]).mean())
        print(np.sum(errors > errors[oddest].min()))
    """
    run, new, again, oddest, walk, save, numbers = run_notebook(project, *blocks, dedent(results))
    assert pictures(run) == 3
    assert [pictures(cell) for cell in (new, again, oddest, walk)] == [1, 1, 1, 1]
    difference, more_odd = printed(numbers).split()
    assert float(difference) < 0.1
    assert more_odd == '9'
    with Image.open(project / 'walk.gif') as animation:
        assert animation.n_frames == 32
    assert (project / 'walk.gif').stat().st_size < 300_000
    assert (project / 'decoder.h5').exists()


@pytest.fixture
def page(digits, tmp_path):
    """The page after a whole run, as a reader has it who then changes a line."""
    return Page(tmp_path, data=digits, epochs=1).run()


def change(page, what, old):
    """Put the line of a row of 'Change it' into the place of an old line; return its heading."""
    ((heading, new),) = [row[1:] for row in table(README, 'Change it') if row[0] == what]
    page.edit(heading, old, new.strip('`'))
    return heading


def test_change_the_epochs(digits, tmp_path):
    page = Page(tmp_path, data=digits)
    change(page, 'the number of epochs', "no_epochs = 100 if architecture == 'original' else 5")
    page.run()
    assert page['vae'].history.epoch == list(range(20))


def test_change_the_latent_dimensions(page):
    page.run(first=change(page, 'the latent dimensions', 'latent_dim = 2'))
    assert page['decoder'].input_shape == (None, 8)
    assert page['test_mu'].shape == (200, 8)


def test_change_a_layer(page):
    change(page, 'a layer', "x = Dense(20, activation='relu')(x)")
    page.run(first='Creating the encoder')
    assert [layer.units for layer in page['encoder'].layers if hasattr(layer, 'units')] == [50, 2, 2]
    assert len(page['losses']) == 1


def test_change_the_weight_of_the_kl_divergence(page):
    loss_before = page['kl_reconstruction_loss']
    heading = change(
        page, 'the weight of the KL divergence', 'return K.mean(reconstruction_loss + kl_loss)'
    )
    page.run(first=heading, last=heading)
    true, pred = page['vae'].input, page['vae'].output
    tensors = [loss_before(true, pred), page['kl_reconstruction_loss'](true, pred)]
    tensors += [page['vae_mu'], page['vae_sigma']]
    once, fourfold, mu, sigma = page['K'].function([true], tensors)([page['input_test']])
    divergence = np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1) / 2
    np.testing.assert_allclose(fourfold - once, 3 * divergence.mean(), rtol=1e-3, atol=1e-3)


def test_change_the_learning_rate(page):
    old = "vae.compile(optimizer='adam', loss=kl_reconstruction_loss)"
    page.run(first=change(page, 'the learning rate', old))
    assert page['K'].get_value(page['vae'].optimizer.lr) == pytest.approx(1e-4)
    assert len(page['losses']) == 2  # the network goes on training


def test_change_when_to_stop(page, monkeypatch):
    """A loss that stays as it is ends the training five epochs after the first."""
    stopping = page['keras'].callbacks.EarlyStopping
    monkeypatch.setattr(stopping, 'get_monitor_value', lambda self, logs: 200.0)
    page.names['no_epochs'] = 100
    old = 'callbacks=[keras.callbacks.TerminateOnNaN(), SaveTraining()],'
    heading = change(page, 'when to stop', old)
    page.run(first=heading, last=heading)
    assert len(page['vae'].history.epoch) == 1 + 5


def test_change_the_colours(page):
    heading = change(page, 'the colours of the classes', 'plt.scatter(mu[:, 0], mu[:, 1], c=colors)')
    page.run(first=heading, last=heading)
    page['viz_latent_space'](page['encoder'], page['data'])
    assert plt.gcf().axes[0].collections[0].get_cmap().name == 'tab10'


def test_change_the_images(mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = mnist['x_train'][:20, 2:]
    np.savez('pictures.npz', x_train=images, x_test=images)
    page = Page(tmp_path)
    change(page, 'the images, in a notebook', page.flags_line)
    page.run(last='Data preprocessing')
    assert page['input_train'].shape == (20, 26, 28, 1)
    assert page['batch_size'] == 16
    assert str(page['output_dir']) == 'outputs/pictures'


@pytest.fixture
def own_pictures(tmp_path, monkeypatch):
    """A folder with pictures of several formats and sizes: black cats and white dogs."""
    monkeypatch.chdir(tmp_path)
    for label in ('cat', 'dog'):
        (tmp_path / 'pictures' / label).mkdir(parents=True)
    endings = ['png', 'jpg', 'JPEG', 'jpeg']
    for number in range(40):
        label, colour = [('cat', 'black'), ('dog', 'white')][number % 2]
        picture = Image.new('RGB', (60 + number, 80), colour)
        picture.save(f'pictures/{label}/{number}.{endings[number % 4]}')
    Image.new('L', (90, 70), 'white').save('pictures/dog/grey.png')
    Image.new('RGBA', (90, 70), (0, 0, 0, 0)).save('pictures/dog/transparent.png')
    (tmp_path / 'pictures' / 'dog' / 'notes.txt').write_text('no picture')


def test_own_pictures(own_pictures, tmp_path):
    (code,) = code_blocks(README, 'Your own images', 'python')
    names = {}
    exec(code, names)
    with np.load('pictures.npz') as file:
        assert file['x_train'].shape == (38, 64, 64, 3)
        assert file['x_test'].shape == (4, 64, 64, 3)
        # What is transparent is white, and each picture has its own label
        for picture, label in zip(file['x_test'], file['y_test']):
            assert label == ('cat' if picture.mean() < 100 else 'dog')

    # Half black and half white, and stored upside down, as a camera may do
    upside_down = Image.new('L', (64, 64))
    upside_down.paste(255, (0, 32, 64, 64))
    exif = upside_down.getexif()
    exif[ExifTags.Base.Orientation] = 3
    upside_down.save('upside_down.jpg', exif=exif)
    picture = names['read']('upside_down.jpg')
    assert picture[:28].mean() > 250
    assert picture[36:].mean() < 5

    status, _, errors = run_script(*arguments('Your own images'), '--epochs', 1, cwd=tmp_path)
    assert (status, errors) == (0, [])
    assert (tmp_path / 'outputs' / 'pictures' / 'decoded_digits.png').exists()


def test_several_gpus(mnist, tmp_path):
    """The gallery's edits, on two logical devices of this machine's processor."""
    (diff,) = code_blocks(GALLERY, 'Several GPUs', 'diff')
    edits = [(FLAGS, "flags = {'data': 'digits.npz', 'epochs': 2}")]
    diff = diff.replace('MirroredStrategy()', "MirroredStrategy(['CPU:0', 'CPU:1'])")
    for edit in diff.split('\n\n'):
        lines = edit.splitlines()
        old = '\n'.join(line[1:] for line in lines if line[0] != '+')
        new = '\n'.join(line[1:] for line in lines if line[0] != '-')
        edits.append((old, new))
    cells = [source for _, source in code_cells()]
    for old, new in edits:
        assert sum(source.count(old) for source in cells) == 1
        cells = [source.replace(old, new) for source in cells]
    save_digits(tmp_path, mnist, 2000, 400)
    two_devices = """
        import tensorflow as tf
        (processor,) = tf.config.list_physical_devices('CPU')
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(processor, [device, device])
    """
    numbers = 'print(tf.distribute.get_strategy().num_replicas_in_sync, losses[0][1] - losses[1][1])'
    *_, last = run_notebook(tmp_path, dedent(two_devices), *cells, numbers)
    devices, learnt = printed(last).split()
    assert devices == '2'
    assert float(learnt) > 10


def test_requirements():
    """What `uv run` reads at the end of the script is requirements.txt."""
    block = re.search(r'^# /// script\n(.*?)^# ///$', SCRIPT.read_text(), re.MULTILINE | re.DOTALL)[1]
    in_script = re.findall(r'^#     "(.*)",$', block, re.MULTILINE)
    lines = (PROJECT / 'requirements.txt').read_text().splitlines()
    assert in_script == [line for line in lines if not line.startswith('#')]
