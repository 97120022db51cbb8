"""The commands, the changes and the numbers of README, gallery and recipes, as they stand there."""

import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest
from tf_keras import backend as K

from helpers import (
    CONFIGURATION,
    ENCODER,
    GALLERY,
    LOADING,
    LOSS,
    PROJECT,
    README,
    RECIPES,
    REFERENCE,
    SCATTER,
    SCRIPT,
    TRAINING,
    VAE,
    Page,
    block,
    code_cells,
    edited,
    edits,
    flags,
    output_folder,
    printed,
    printed_loss,
    run_notebook,
    run_script,
    table,
    write_mnist,
)


@pytest.fixture
def new_page(mnist, tmp_path):
    """The page with a few digits, not run yet."""
    write_mnist(tmp_path, mnist, 320, 100)
    return Page(tmp_path, no_epochs=1)


def test_the_factor_of_kl_is_raised(new_page):
    """It begins with 0, and is 1 after ten epochs; the loss has it."""
    for old, new in edits(block(RECIPES, 'kl_factor')):
        new_page.edit(old, new)
    new_page.set('no_epochs', 12)
    new_page.set('batch_size', 256)
    new_page.run(last=TRAINING)
    assert K.get_value(new_page['kl_factor']) == 1
    vae = new_page['vae']
    loss = new_page['kl_reconstruction_loss'](vae.input, vae.output)
    compute = K.function([vae.input], [loss, new_page['vae_mu'], new_page['vae_sigma'], vae.output])
    for factor in (0, 0.5):
        K.set_value(new_page['kl_factor'], factor)
        true = new_page['input_test']
        loss, mu, sigma, pred = compute([true])
        kl = np.mean(np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1)) / 2
        cross_entropy = -np.sum(true * np.log(pred) + (1 - true) * np.log(1 - pred)) / len(true)
        assert loss == pytest.approx(cross_entropy + factor * kl, rel=1e-4)


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


# 'Change it': the heading of each row stands on the page, and its line takes the place of a line there


def change_epochs(page):
    page.run(last=CONFIGURATION)
    assert page['no_epochs'] == 20


def change_batch_size(page):
    page.run(last=TRAINING)
    assert K.get_value(page['vae'].optimizer.iterations) == 256 / 64


def change_latent_dimensions(page):
    page.run(last=LOSS)
    assert page['encoder'].output_shape == [(None, 8)] * 3
    assert page['decoder'].input_shape == (None, 8)


def change_seed(page):
    page.run(last=VAE)
    with_7 = page['vae'].get_weights()[0]
    page.names['seed'] = 42
    page.run(first=ENCODER, last=VAE)
    with_42 = page['vae'].get_weights()[0]
    page.names['seed'] = 7
    page.run(first=ENCODER, last=VAE)
    np.testing.assert_array_equal(page['vae'].get_weights()[0], with_7)
    assert not np.array_equal(with_7, with_42)


def change_layer(page):
    page.run(last=VAE)
    assert [layer.units for layer in page['encoder'].layers if hasattr(layer, 'units')] == [50, 2, 2]


def change_factor_of_kl(page):
    page.run(last=LOSS)
    vae = page['vae']
    loss = page['kl_reconstruction_loss'](vae.input, vae.output)
    page.run_code('def kl_reconstruction_loss(true, pred): pass')
    tensors = [loss, page['vae_mu'], page['vae_sigma'], vae.output]
    true = page['input_test']
    loss, mu, sigma, pred = K.function([vae.input], tensors)([true])
    kl = np.mean(np.sum(mu**2 + np.exp(sigma) - sigma - 1, axis=1)) / 2
    cross_entropy = -np.sum(true * np.log(pred) + (1 - true) * np.log(1 - pred)) / len(true)
    assert loss == pytest.approx(cross_entropy + 4 * kl, rel=1e-5)


def change_learning_rate(page):
    page.run(last=TRAINING)
    assert K.get_value(page['vae'].optimizer.lr) == pytest.approx(1e-4)


def change_when_to_stop(page):
    """A loss that stays as it is ends the training five epochs after the first."""
    page.set('no_epochs', 100)
    page.run(last=VAE)
    with pytest.MonkeyPatch.context() as patch:
        stopping = page['keras'].callbacks.EarlyStopping
        patch.setattr(stopping, 'get_monitor_value', lambda self, logs: 200.0)
        page.run(first=LOSS, last=TRAINING)
    assert len(page['vae'].history.epoch) == 1 + 5


def change_colours(page):
    page.run(last=LOSS)
    page.names['output_dir'] = page.folder
    page.run(first=SCATTER, last=SCATTER)
    page.run_code('viz_latent_space(encoder, (input_test, target_test))')
    assert plt.gcf().axes[0].collections[0].get_cmap().name == 'tab10'


# What a row says is changed: the page's line, and the check of the changed page
CHANGES = {
    'the number of epochs': ('no_epochs = 1', change_epochs),
    'the batch size': ('batch_size = 128', change_batch_size),
    'the latent dimensions (two or more)': ('latent_dim = 2', change_latent_dimensions),
    'the random numbers': ('seed = 42', change_seed),
    'a layer': ("x = Dense(20, activation='relu')(x)", change_layer),
    'the factor of the KL divergence': ('return K.mean(reconstruction_loss + kl_loss)', change_factor_of_kl),
    'the learning rate': ("vae.compile(optimizer='adam', loss=kl_reconstruction_loss)", change_learning_rate),
    'when to stop': ('keras.callbacks.TerminateOnNaN(),', change_when_to_stop),
    'the colours of the classes': ('plt.scatter(mu[:, 0], mu[:, 1], c=target_data)', change_colours),
}
ROWS = {what: (heading, line.strip('`')) for what, heading, line in table(README, 'to change')}


def test_every_row_of_change_it_is_tested():
    assert list(ROWS) == list(CHANGES)


@pytest.mark.parametrize('what', CHANGES)
def test_change_it(new_page, what):
    """The row's line in the place of the page's line has the effect that the row names."""
    heading, new = ROWS[what]
    old, check = CHANGES[what]
    assert new_page.cell_with(old) in new_page.cells_under(heading)
    new_page.edit(old, new)
    check(new_page)


def run_command(document, text, folder):
    """Run the script with the flags of a document's command, in a folder with the references."""
    (folder / 'tests').symlink_to(PROJECT / 'tests')
    (folder / 'outputs').mkdir()
    (folder / 'outputs' / 'reference').symlink_to(REFERENCE)
    status, stdout, errors = run_script(*flags(block(document, text)), cwd=folder)
    assert (status, errors) == (0, [])
    return stdout


def test_look(tmp_path):
    """The command draws the committed figures, and prints the test loss that the README names."""
    stdout = run_command(README, '--epochs 0', tmp_path)
    promised = re.search(r'is printed, (\S+) in\s+the run shown', README.read_text())[1]
    assert printed_loss(stdout) == pytest.approx(float(promised), abs=0.15)  # z is random
    for name in ('latent_space.png', 'decoded_digits.png'):
        drawn = plt.imread(output_folder(tmp_path) / name)[..., :3]
        committed = plt.imread(REFERENCE / 'original' / name)[..., :3]
        assert drawn.shape == committed.shape
        # Other versions of matplotlib draw a letter or a point a pixel further on
        coloured = np.ptp(committed, axis=2) > 0.1
        assert np.abs(drawn - committed)[coloured].mean() < 0.1


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
    assert [page[model].count_params() for model in ('encoder', 'decoder', 'vae')] == counts
    assert sum(np.prod(weight.shape) for weight in page['vae'].trainable_weights) == trainable
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
