"""The commands, the changes and the numbers of README, gallery and recipes, as they stand there."""

import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tf_keras import backend as K

from helpers import CALLING, CONFIGURATION, ENCODER_MODEL, GALLERY, LOADING, LOSS, PROJECT, README, RECIPES
from helpers import REFERENCE, SCRIPT, TRAINING, Page, block, code_cells, edited, edits, flags, output_folder
from helpers import parameters, parts_of_the_loss, printed, printed_loss, run_notebook, run_script, table
from helpers import write_mnist


@pytest.fixture
def new_page(mnist, tmp_path):
    """The page with a few digits, not run yet."""
    write_mnist(tmp_path, mnist, 320, 100)
    return Page(tmp_path, no_epochs=1)


def test_the_factor_of_kl_is_raised(new_page, monkeypatch):
    """It begins with 0, and is 1 after ten epochs; the loss has it."""
    set_value, factors = K.set_value, []

    def record(variable, value):
        if variable is new_page['kl_factor']:
            factors.append(value)
        set_value(variable, value)

    monkeypatch.setattr(K, 'set_value', record)
    for old, new in edits(block(RECIPES, 'kl_factor')):
        new_page.edit(old, new)
    new_page.set('no_epochs', 12)
    new_page.set('batch_size', 256)
    new_page.run(last=LOSS)
    assert K.get_value(new_page['kl_factor']) == 0
    new_page.run(first=TRAINING, last=TRAINING)
    assert factors == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1])
    K.set_value(new_page['kl_factor'], 0.5)
    parts = parts_of_the_loss(new_page)
    assert parts['loss'] == pytest.approx(parts['reconstruction'] + 0.5 * parts['kl'], rel=1e-4)


def test_several_gpus(mnist, tmp_path):
    """The changes, on two logical devices of this machine's processor."""
    script = edited(SCRIPT.read_text(), 'no_epochs = 100', 'no_epochs = 2')
    for old, new in edits(block(RECIPES, 'MirroredStrategy')):
        script = edited(script, old, new)
    script = edited(script, 'MirroredStrategy())', "MirroredStrategy(['CPU:0', 'CPU:1']))")
    script = script.split('test_loss = ')[0]
    write_mnist(tmp_path, mnist, 1000, 200)
    two_devices = (
        'import tensorflow as tf\n'
        "(processor,) = tf.config.list_physical_devices('CPU')\n"
        'device = tf.config.LogicalDeviceConfiguration()\n'
        'tf.config.set_logical_device_configuration(processor, [device, device])\n'
    )
    numbers = "print(tf.distribute.get_strategy().num_replicas_in_sync, *vae.history.history['loss'])"
    *_, last = run_notebook(tmp_path, two_devices, script, numbers)
    devices, first, second = map(float, printed(last).split())
    assert devices == 2
    assert second < first - 10


def test_images_as_an_array(mnist, new_page):
    np.save(new_page.folder / 'images.npy', mnist['x_train'][:300])
    (number,) = new_page.cells_under(LOADING)
    new_page.sources[number] = block(README, "np.load('images.npy')")
    new_page.run(last=TRAINING)
    expected = np.float32(mnist['x_train'][200:300]) / 255
    np.testing.assert_array_equal(new_page['input_test'][..., 0], expected)
    assert new_page['target_test'] is None


# For each row of 'Change it': the page's line, the last heading that is run, and what must hold then
CHANGES = {
    'the number of epochs': ('no_epochs = 1', CONFIGURATION, 'no_epochs == 20'),
    'the batch size': ('batch_size = 128', TRAINING, 'K.get_value(vae.optimizer.iterations) == 256 / 64'),
    'the latent dimensions (two or more)': (
        'latent_dim = 2',
        LOSS,
        'encoder.output_shape == [(None, 8)] * 3 and decoder.input_shape == (None, 8)',
    ),
    'the random numbers': ('seed = 42', CONFIGURATION, 'seed == 7'),
    'a layer': ("x = Dense(20, activation='relu')(x)", ENCODER_MODEL, 'encoder.layers[6].units == 50'),
    'the factor of the KL divergence': (
        'return K.mean(reconstruction_loss + kl_loss)',
        LOSS,
        'np.isclose(loss, reconstruction + 4 * kl)',
    ),
    'the learning rate': (
        "vae.compile(optimizer='adam', loss=kl_reconstruction_loss)",
        TRAINING,
        'np.isclose(K.get_value(vae.optimizer.lr), 1e-4)',
    ),
    'when to stop': ('keras.callbacks.TerminateOnNaN(),', TRAINING, 'len(vae.history.epoch) == 1 + 5'),
    'the colours of the classes': (
        'plt.scatter(mu[:, 0], mu[:, 1], c=target_data)',
        CALLING,
        "plt.figure(2).axes[0].collections[0].get_cmap().name == 'tab10'",
    ),
}
ROWS = {what: (heading, line.strip('`')) for what, heading, line in table(README, 'to change')}


def test_every_row_of_change_it_is_tested():
    assert list(ROWS) == list(CHANGES)


@pytest.mark.parametrize('what', CHANGES)
def test_change_it(new_page, what, monkeypatch):
    """The row's line in the place of the page's line has the effect that the row names."""
    heading, new = ROWS[what]
    old, last, holds = CHANGES[what]
    assert new_page.cell_with(old) in new_page.cells_under(heading)
    new_page.edit(old, new)
    if what == 'when to stop':  # a loss that stays as it is ends the training
        new_page.set('no_epochs', 100)
        stopping = 'tf_keras.callbacks.EarlyStopping.get_monitor_value'
        monkeypatch.setattr(stopping, lambda self, logs: 200.0)
    new_page.run(last=last)
    if what == 'the factor of the KL divergence':
        new_page.names.update(parts_of_the_loss(new_page))
    assert eval(holds, new_page.names)


def test_look(tmp_path):
    """The command draws the committed figures, and prints the test loss that the README names."""
    (tmp_path / 'tests').symlink_to(PROJECT / 'tests')
    (tmp_path / 'outputs').mkdir()
    (tmp_path / 'outputs' / 'reference').symlink_to(REFERENCE)
    status, stdout, errors = run_script(*flags(block(README, '--epochs 0')), cwd=tmp_path)
    assert (status, errors) == (0, [])
    promised = re.search(r'is printed, (\S+) in\s+the run shown', README.read_text())[1]
    assert printed_loss(stdout) == pytest.approx(float(promised), abs=0.15)  # z is random
    for name in ('latent_space.png', 'decoded_digits.png'):
        drawn = plt.imread(output_folder(tmp_path) / name)[..., :3]
        committed = plt.imread(REFERENCE / 'original' / name)[..., :3]
        assert drawn.shape == committed.shape
        # Other versions of matplotlib draw a letter or a point a pixel further on
        coloured = np.ptp(committed, axis=2) > 0.1
        assert np.abs(drawn - committed)[coloured].mean() < 0.1


def test_lines_for_the_trained_network():
    """They do in a notebook what 'Look' does."""
    names = {}
    exec(block(README, 'no_epochs = 0\n'), names)
    expected = ['--epochs', str(names['no_epochs']), '--weights', names['weights']]
    assert flags(block(README, '--epochs 0')) == expected


def convolutions(page):
    """The layers of the network that are convolutions, but for the last one, which makes the image."""
    layers = page['encoder'].layers + page['decoder'].layers
    return [layer for layer in layers if 'Conv2D' in type(layer).__name__][:-1]


@pytest.mark.parametrize(
    'name, filters, counts, trainable',
    [
        (
            'dcgan',
            [128, 256, 512, 1024, 1024, 512, 256, 128],
            [17298104, 43457025, 60755129],
            60739217,
        ),
        ('dcgan-9m', [1024, 128], [4044984, 4683521, 8728505], 8324753),
    ],
)
def test_deeper_networks(mnist_folder, name, filters, counts, trainable):
    """Each is a patch, for patch as for git; it has the parameters, and its loss can be computed."""
    diff = f'outputs/reference/{name}/{name}.diff'
    shutil.copy(SCRIPT, mnist_folder)
    command = ['git', 'apply', '--unsafe-paths', PROJECT / diff]
    subprocess.run(command, cwd=mnist_folder, check=True, env={'GIT_DIR': '/nonexistent'})
    patched = (mnist_folder / SCRIPT.name).read_text()
    if shutil.which('patch'):
        command = f'patch -s -o {name}.py {SCRIPT} {PROJECT / diff}'
        subprocess.run(command.split(), cwd=mnist_folder, check=True)
        assert (mnist_folder / f'{name}.py').read_text() == patched

    page = Page(mnist_folder)
    page.sources = [source for _, source in code_cells(patched)]
    page.run(last=LOSS)
    assert parameters(page) == (counts, trainable)
    assert all(f'{count:,}' in GALLERY.read_text() for count in [*counts, trainable])
    assert [layer.filters for layer in convolutions(page)] == filters
    assert {layer.activation.__name__ for layer in convolutions(page)} == {'relu'}
    assert {layer.kernel_size for layer in convolutions(page)} == {(5, 5)}
    page['vae'].compile(optimizer='sgd', loss=page['kl_reconstruction_loss'])
    images = page['input_test'][:2]
    assert np.isfinite(page['vae'].evaluate(images, images, verbose=0))


def test_the_patch_makes_the_lines_that_the_page_lists():
    listed = re.findall(r'^#     (cx = .*)$', SCRIPT.read_text(), re.MULTILINE)
    diff = (REFERENCE / 'dcgan' / 'dcgan.diff').read_text()
    assert re.findall(r'^[+ ](cx = .*)$', diff, re.MULTILINE) == listed
    assert len(listed) == 16


@pytest.mark.parametrize('name', ['original', 'post', 'dcgan', 'dcgan-9m'])
def test_validation_losses_of_the_gallery(name):
    """After five epochs and at the end, they are those of the histories, which count from 0."""
    column = ['original', 'post', 'dcgan', 'dcgan-9m'].index(name) + 1
    history = np.genfromtxt(REFERENCE / name / 'history.csv', delimiter=',', names=True)
    text = GALLERY.read_text()
    for row, loss in [('after 5 epochs', history['val_loss'][4]), ('at the end', history['val_loss'][-1])]:
        (line,) = [line for line in text.splitlines() if line.startswith(f'| validation loss {row} |')]
        assert line.strip('| ').split(' | ')[column] == f'{loss:.1f}'
    assert history['epoch'][0] == 0


@pytest.mark.parametrize('epochs', [20, 100])
def test_validation_losses_of_the_readme(epochs):
    history = np.genfromtxt(REFERENCE / 'original' / 'history.csv', delimiter=',', names=True)
    (row,) = [row for row in table(README, 'epochs') if row[0].startswith(f'{epochs},')]
    assert row[2] == f'{history["val_loss"][epochs - 1]:.1f}'


def test_links():
    """Each file and heading that a document links exists."""
    documents = [README, *REFERENCE.rglob('*.md'), *(PROJECT / 'tests').glob('*.md')]
    for document in documents:
        text = re.sub(r'```.*?```', '', document.read_text(), flags=re.DOTALL)
        for link in re.findall(r'\]\((?!https?:)([^)]+)\)', text):
            file, _, anchor = link.partition('#')
            target = document.parent / file if file else document
            assert target.exists(), f'{document}: {link}'
            if anchor:
                headings = re.findall(r'^#+ (.*)$', target.read_text(), re.MULTILINE)
                anchors = [re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings]
                assert anchor in anchors, f'{document}: {link}'
